"""The store of runs: one JSON file for each run, named by the run's key.

It stands between training, which makes its records longer, and figures, which only read them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lbp.errors import LbpError
from lbp.lab import files
from lbp.lab.config import RunConfig
from lbp.lab.record import Record


class Store:
    """The records in a folder.

    Args:
        folder: Where the files are; made when the first record is put there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, config: RunConfig) -> Path:
        """Return the file that holds, or would hold, a run's record."""
        return self.folder / f"{config.key}.json"

    def get(self, config: RunConfig) -> Record | None:
        """Return a run's record, or None if there is none.

        Raises:
            LbpError: If the record is damaged or cannot be read.
        """
        return self._read(self.path(config))

    def put(self, record: Record) -> bool:
        """Put a record in the place of a shorter one of the same run, or of none.

        The file changes at once or not at all, also with several processes at work.

        Returns:
            Whether it is there now; if not, the record there is as long or longer.

        Raises:
            LbpError: If the record there is damaged, or the new one cannot be written.
        """
        path = self.path(record.config)
        with files.locked(self.folder / ".lock", wait=True):
            there = self._read(path)
            if there is not None and len(there) >= len(record):
                return False
            files.write_text(path, record.to_json())
        return True

    def __iter__(self) -> Iterator[Record]:
        """Yield every record, in the order of the names.

        Raises:
            LbpError: If a record is damaged or cannot be read.
        """
        paths: list[Path] = []
        with files.told(self.folder, "cannot be read"), contextlib.suppress(FileNotFoundError):
            paths = sorted(self.folder.iterdir())
        for path in paths:
            if path.suffix == ".json" and (record := self._read(path)):
                yield record

    @staticmethod
    def _read(path: Path) -> Record | None:
        text = files.read_text(path)
        if text is None:
            return None
        try:
            record = Record.from_json(text)
            if record.config.key != path.stem:
                raise LbpError(f"it holds the run {record.config.key}")
        except LbpError as error:
            raise LbpError(
                f"the record {path} is damaged ({error}): restore it (git checkout), or delete it "
                "to train the run again"
            ) from error
        return record
