"""Records on their way between machines: one zip file, checked and merged on arrival."""

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lbp.errors import LbpError
from lbp.record import Record
from lbp.store import Store

LARGEST = 64 * 2**20  # bytes of one unpacked record; a run of 1000 epochs has some 100,000


@dataclass(frozen=True)
class Merged:
    """What became of the records of an archive."""

    added: list[Record]
    same: list[Record]  # the store has the same result already
    different: list[Record]  # the store has another result of the same run, which stays


def pack(records: Iterable[Record], path: Path) -> int:
    """Write records into a new zip file.

    Returns:
        How many there are.

    Raises:
        LbpError: If the file exists or cannot be written, or there are no records.
    """
    records = list(records)
    if not records:
        raise LbpError("there are no records to pack: `lbp status` lists what is recorded")
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
            for record in records:
                archive.writestr(f"{record.config.key}.json", record.to_json())
    except FileExistsError as error:
        raise LbpError(f"{path} exists: name another file, or delete it") from error
    except OSError as error:
        raise LbpError(f"{path} cannot be written: {error.strerror}") from error
    return len(records)


def unpack(path: Path) -> list[Record]:
    """Read every record of an archive.

    Raises:
        LbpError: If the file is missing, damaged or holds anything else than records.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = []
            for entry in archive.infolist():
                if entry.file_size > LARGEST:
                    raise LbpError(f"{entry.filename} is too large to be a record")
                record = Record.from_json(archive.read(entry).decode())
                if entry.filename != f"{record.config.key}.json":
                    raise LbpError(f"{entry.filename} holds the run {record.config.key}")
                records.append(record)
    except FileNotFoundError as error:
        raise LbpError(f"there is no file {path}") from error
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        UnicodeDecodeError,
        NotImplementedError,  # what zipfile raises for a way of packing that it does not know
        LbpError,
    ) as error:
        raise LbpError(f"{path} is no whole archive of records ({error}): pack it again") from error
    return records


def merge(records: Iterable[Record], store: Store) -> Merged:
    """Add records to a store; what is there stays as it is.

    Raises:
        LbpError: If a record in the store is damaged.
    """
    merged = Merged([], [], [])
    for record in records:
        here = store.get(record.config)
        if here is None and store.add(record):
            merged.added.append(record)
            continue
        here = here or store.get(record.config)  # another process was faster
        assert here is not None
        (merged.same if same_result(here, record) else merged.different).append(record)
    return merged


def same_result(first: Record, second: Record) -> bool:
    """Return whether two records hold the same numbers, whenever and wherever they were made."""

    def timeless(record: Record) -> str:
        epochs = [replace(row, seconds=0.0) for row in record.epochs]
        # As text, in which NaN equals NaN.
        return replace(record, epochs=epochs, provenance=first.provenance).to_json()

    return timeless(first) == timeless(second)
