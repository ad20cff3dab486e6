"""Reading and writing files so that nothing is lost and every error is one line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from lbp.errors import LbpError


def user_path(text: str | Path) -> Path:
    """Return the absolute path that a user has named, in which ~ is a home folder.

    Raises:
        LbpError: If it names the home of nobody, or holds a null byte.
    """
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise LbpError(f"{str(text)!r} names a home folder that does not exist") from error
    if "\0" in str(path):
        raise LbpError(f"{str(text)!r} holds a null byte: name another path")
    return path


@contextlib.contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Turn errors of the file system into one line.

    Args:
        path: The file or folder, as the message names it.
        what: What could not be done with it, such as "cannot be read".
    """
    try:
        yield
    except LbpError:
        raise
    except UnicodeError as error:
        raise LbpError(f"{path} {what}: it is not text in UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise LbpError(f"{path} {what} ({reason})") from error


def read_text(path: Path) -> str | None:
    """Return a file's text, or None if there is no such file.

    Raises:
        LbpError: If it cannot be read, as a folder or a link that leads nowhere.
    """
    with told(path, "cannot be read"):
        try:
            return path.read_text("utf-8")
        except FileNotFoundError:
            if path.is_symlink():
                raise LbpError(f"{path} is a link that leads nowhere: remove it") from None
            return None


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield another path to write to; what is there afterwards takes the place of `path` at once.

    One process at a time may write to a path. What a killed one has left is overwritten.

    Raises:
        LbpError: If it cannot be written, as on a full disk.
    """
    part = path.with_name(f"{path.name}.part")
    with told(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, or not at all.

    Raises:
        LbpError: If it cannot be written.
    """
    with written_whole(path) as part:
        part.write_text(text, "utf-8", newline="\n")


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock within the block; the system frees that of a process that dies.

    The lock's file stays: to remove it could let two processes hold one lock.

    Args:
        path: The lock's file.
        wait: Whether to wait for another process that holds it.

    Yields:
        Whether the lock is held; if not, another process holds it.

    Raises:
        LbpError: If there can be no such lock, as on some network file systems.
    """
    with told(path, "cannot be locked"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without this, filelock takes a file for a lock where the system has none: it would outlive
        # a process that is killed.
        lock = FileLock(path, preserve_lock_file=True)
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=-1 if wait else 0)
    try:
        yield lock.is_locked
    finally:
        lock.release()
