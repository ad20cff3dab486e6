"""Records on their way between machines: one zip file, checked and merged on arrival."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lbp.errors import LbpError
from lbp.lab import files
from lbp.lab.fingerprint import is_stale
from lbp.lab.record import Record
from lbp.lab.store import Store

LARGEST = 64 * 2**20  # bytes of one unpacked record; a run of 1000 epochs has some 150,000
LARGEST_TOGETHER = 8 * LARGEST  # bytes of all unpacked records of an archive
_END = struct.Struct("<10xH10x")  # the end of a zip file: the number of its entries


@dataclass(frozen=True)
class Merged:
    """What became of the records of an archive."""

    added: list[Record]  # they are new here, or longer than those that were here
    known: list[Record]  # the store has as many of their epochs, or more
    different: list[Record]  # the store has other numbers in the epochs that both have
    stale: list[Record]  # other numerical code made them, and not what the store has


def pack(records: Iterable[Record], path: Path) -> int:
    """Write records into a new zip file, whole or not at all.

    Returns:
        How many there are.

    Raises:
        LbpError: If the file exists or cannot be written, or there are no records.
    """
    records = list(records)
    if not records:
        raise LbpError("there are no records to pack: `lbp status` lists what is recorded")
    if path.exists() or path.is_symlink():
        raise LbpError(f"{path} exists: name another file, or delete it")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in records:
            archive.writestr(f"{record.config.key}.json", record.to_json())
    with files.written_whole(path) as part:
        part.write_bytes(packed.getvalue())
    return len(records)


def unpack(path: Path) -> list[Record]:
    """Read every record of an archive.

    Raises:
        LbpError: If the file is missing, damaged or holds anything else than records.
    """
    try:
        with files.told(path, "cannot be read"):
            if not path.is_file():
                raise LbpError("there is no such file" if not path.exists() else "it is not a file")
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                # zipfile takes a damaged directory for a shorter one.
                end = path.read_bytes()[-_END.size - len(archive.comment) :]
                if _END.unpack_from(end)[0] != len(entries):
                    raise LbpError("its directory of entries is damaged")
                if sum(entry.file_size for entry in entries) > LARGEST_TOGETHER:
                    raise LbpError("its entries together are too large to be records")
                return [_record(archive, entry) for entry in entries]
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        RuntimeError,  # an entry that is encrypted, or of a version that zipfile does not know
        LbpError,
    ) as error:
        raise LbpError(f"{path!s:.200} is not a complete archive of records ({error})") from error


def _record(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Record:
    name = ascii(entry.filename)  # from outside: no escape code of it reaches the terminal
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise LbpError(f"its entry {name} is packed in an unusual way")
    if entry.file_size > LARGEST:
        raise LbpError(f"its entry {name} is too large to be a record")
    try:
        record = Record.from_json(archive.read(entry).decode())
    except (LbpError, UnicodeDecodeError) as error:
        raise LbpError(f"its entry {name} is not a record: {error}") from error
    if entry.filename != f"{record.config.key}.json":
        raise LbpError(f"its entry {name} holds the run {record.config.key}")
    return record


def merge(records: Iterable[Record], store: Store, *, replace: bool = False) -> Merged:
    """Put records into a store where they are new or longer.

    A stale record never takes the place of one that is not.

    Args:
        records: The records.
        store: The store.
        replace: Whether a longer record may take the place of one from which it differs in the
            epochs that both have, as one from another device does.

    Raises:
        LbpError: If a record in the store is damaged.
    """
    merged = Merged([], [], [], [])
    for record in records:
        here = store.get(record.config)
        if here is not None and is_stale(record) and not is_stale(here):
            merged.stale.append(record)
            continue
        alike = here is None or here.begins_like(record)
        if alike or (replace and here is not None and len(record) > len(here)):
            (merged.added if store.put(record) else merged.known).append(record)
        else:
            merged.different.append(record)
    return merged
