"""The store of runs: one JSON file per finished run, named by the hash of its config.

It stands between training, which only adds to it, and figures, which only read it.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.paths import RESULTS
from lbp.record import Record


class Store:
    """The records in a folder.

    Args:
        folder: Where the files are; made when the first record is added.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder

    def path(self, config: RunConfig) -> Path:
        """Return the file that holds, or would hold, a run's record."""
        return self.folder / f"{config.key}.json"

    def get(self, config: RunConfig) -> Record | None:
        """Return a run's record, or None if there is none.

        Raises:
            LbpError: If the record is damaged.
        """
        path = self.path(config)
        return self._read(path) if path.exists() else None

    def add(self, record: Record) -> bool:
        """Add a record, unless the run has one already: the first result of a run stays.

        The file appears whole or not at all, also with several processes at work.

        Returns:
            Whether the record was added.

        Raises:
            LbpError: If it cannot be written, as on a full disk.
        """
        path = self.path(record.config)
        try:
            return self._write(record, path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise LbpError(f"the record {path} cannot be written ({reason})") from error

    def _write(self, record: Record, path: Path) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(record.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.link(temporary, path)  # unlike a rename, this never replaces a file
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def __iter__(self) -> Iterator[Record]:
        """Yield every record, in the order of the names.

        Raises:
            LbpError: If a record is damaged.
        """
        for path in sorted(self.folder.glob("*.json")):
            yield self._read(path)

    @staticmethod
    def _read(path: Path) -> Record:
        try:
            record = Record.from_json(path.read_text("utf-8"))
            if record.config.key != path.stem:
                raise LbpError(f"its config has the name {record.config.key}")
        except (LbpError, UnicodeDecodeError) as error:
            raise LbpError(
                f"the record {path} is damaged ({error}): restore it (git checkout), or delete it "
                "to compute the run again"
            ) from error
        return record
