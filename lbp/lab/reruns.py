"""Readers' reruns: the book's runs, trained by others on their devices, a store for each reader."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lbp.errors import LbpError, short
from lbp.lab import archive, files, paths
from lbp.lab.record import Record
from lbp.lab.store import Store

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Found:
    """What lies in a place: a record, or the reason why it is none."""

    place: str
    record: Record | None = None
    fault: str = ""


def is_name(text: str) -> bool:
    """Whether a reader's folder may have this name."""
    return bool(_NAME.fullmatch(text))


def store_of(name: str) -> Store:
    """Return the store of a reader's reruns.

    Raises:
        LbpError: If the name is not of lower-case letters, digits and hyphens.
    """
    if not is_name(name):
        raise LbpError(
            f"the name {short(name)} of a rerun is not allowed: choose up to 40 lower-case "
            "letters, digits and hyphens, such as ada-m2"
        )
    return Store(paths.reruns() / name)


def found_at(path: Path) -> list[Found]:
    """Read every record of an archive, a file or a folder and those below it.

    Raises:
        LbpError: If there is nothing at the path, or the archive is damaged.
    """
    if path.is_dir() and not path.is_symlink():
        return [_found(file) for file in _files_below(path)]
    if path.suffix == ".json":
        if not path.exists() and not path.is_symlink():
            raise LbpError(f"{path!s:.200} does not exist: name a record, a folder or an archive")
        return [_found(path)]
    return [Found(f"{path}, {r.config.key}.json", r) for r in archive.unpack(path)]


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder but folders and the locks of stores; links are not followed.

    Raises:
        LbpError: If a folder cannot be read.
    """
    with files.told(folder, "cannot be read"):
        paths_here = sorted(folder.iterdir())
    for path in paths_here:
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path)
        elif path.name != ".lock":
            yield path


def _found(path: Path) -> Found:
    try:
        return Found(str(path), _read(path))
    except LbpError as error:
        return Found(str(path), fault=str(error))


def _read(path: Path) -> Record:
    with files.told(path, "cannot be read"):
        if path.is_symlink() or not path.is_file() or path.suffix != ".json":
            raise LbpError("it is not a record's file")
        if path.stat().st_size > archive.LARGEST:
            raise LbpError("it is too large to be a record")
        record = Record.from_json(path.read_text("utf-8"))
    if path.stem != record.config.key:
        raise LbpError(f"it holds the run {record.config.key}")
    return record
