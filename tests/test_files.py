"""Files whole at each moment, errors of one line, and locks that die with their process."""

import errno
import json
import os
import random
import re
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from lbp.errors import LbpError
from lbp.lab import files
from tests.processes import CONTEXT


def told(act: Callable[[], object]) -> str:
    with pytest.raises(LbpError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "f cannot be made (No space left on d"),
        (OSError("odd"), "f cannot be made (odd)"),
        (OSError(), "f cannot be made (OSError)"),
        (ValueError("embedded null byte"), "f cannot be made (embedded null byte)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "f cannot be made: it is not text in"),
        (LbpError("as it is"), "as it is"),
    ],
)
def test_errors_of_the_file_system_become_a_line(error: Exception, message: str) -> None:
    def act() -> None:
        with files.told(Path("f"), "cannot be made"):
            raise error

    assert told(act).startswith(message)


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), KeyboardInterrupt()])
def test_other_errors_stay_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)), files.told(Path("f"), "cannot be made"):
        raise error


# --- reading


def test_text_is_read_as_utf_8(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("a\nσ'(z)\n".encode())
    assert files.read_text(tmp_path / "f") == "a\nσ'(z)\n"
    assert files.read_text(tmp_path / "none") is None
    assert files.read_text(tmp_path / "no" / "folder") is None


def test_what_cannot_be_read_is_told_in_a_line(tmp_path: Path) -> None:
    bad, folder, link = tmp_path / "bad", tmp_path / "folder", tmp_path / "link"
    bad.write_bytes(b"ab\xff")
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    assert told(lambda: files.read_text(bad)) == f"{bad} cannot be read: it is not text in UTF-8"
    assert told(lambda: files.read_text(folder)) == f"{folder} cannot be read (Is a directory)"
    assert told(lambda: files.read_text(link)) == f"{link} is a link that leads nowhere: remove it"
    assert "cannot be read (Not a directory)" in told(lambda: files.read_text(bad / "f"))
    assert "cannot be read (embedded null byte)" in told(lambda: files.read_text(Path("a\0b")))


# --- writing


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "f"
    files.write_text(path, "a\nσ\n")
    assert path.read_bytes() == "a\nσ\n".encode()
    files.write_text(path, "b")
    assert path.read_bytes() == b"b"
    assert names(path.parent) == ["f"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), LbpError("x"), KeyError("x"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("old", ["old", None])
def test_an_error_while_writing_changes_nothing(
    tmp_path: Path, error: BaseException, old: str | None
) -> None:
    path = tmp_path / "f"
    if old is not None:
        path.write_text(old)

    def write() -> None:
        with files.written_whole(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(LbpError if isinstance(error, OSError) else type(error)):
        write()
    assert files.read_text(path) == old
    assert names(tmp_path) == ([] if old is None else ["f"])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_after_writing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "f"
    path.write_text("old")
    monkeypatch.setattr(os, step, fail)
    message = f"{path} cannot be written (Input/output error)"
    assert told(lambda: files.write_text(path, "new")) == message
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a machine that loses its power could keep the name and lose the content."""
    path, steps = tmp_path / "f", []
    replace = os.replace

    def note_fsync(handle: int) -> None:
        steps.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def note_replace(part: Path, whole: Path) -> None:
        steps.append("replace")
        replace(part, whole)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_text(path, "new")
    assert steps == [(path.stat().st_ino, 3), "replace"]


def test_what_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    assert f"{folder} cannot be written (Is a dir" in told(lambda: files.write_text(folder, "new"))
    assert "cannot be written (" in told(lambda: files.write_text(file / "f", "new"))
    assert "embedded null byte" in told(lambda: files.write_text(Path("a\0b"), "new"))
    assert "not text in UTF-8" in told(lambda: files.write_text(file, "\ud800"))
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file", "folder"]

    def forget() -> None:
        with files.written_whole(file):
            pass

    assert "cannot be written (No such file" in told(forget)
    assert file.read_text() == "old"


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "f.part").write_text("a longer text than the new one")
    files.write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"
    assert names(tmp_path) == ["f"]


def write_on_and_on(path: Path, begun: Event) -> None:
    for number in range(1_000_000):
        length = 1000 * (number % 997)
        files.write_text(path, json.dumps({"length": length, "text": "x" * length}))
        begun.set()


def test_a_file_is_whole_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    path, draw, halves = tmp_path / "f", random.Random(0), 0
    for _ in range(20):
        begun = CONTEXT.Event()
        writer = CONTEXT.Process(target=write_on_and_on, args=(path, begun))
        writer.start()
        assert begun.wait(60)
        time.sleep(draw.uniform(0, 0.05))
        writer.kill()
        writer.join()
        found = json.loads(path.read_text())
        assert len(found["text"]) == found["length"]
        halves += path.with_name("f.part").exists()
    assert halves > 0  # some were killed in the middle
    files.write_text(path, "new")
    assert names(tmp_path) == ["f"]


# --- locks


def is_free(path: Path) -> bool:
    with files.locked(path, wait=False) as held:
        return held


def hold(path: Path, holding: Event, end: Event) -> None:
    with files.locked(path, wait=True) as held:
        assert held
        holding.set()
        end.wait(60)


@pytest.mark.parametrize("killed", [True, False])
def test_a_lock_is_held_as_long_as_its_process_lives_or_its_block_lasts(
    tmp_path: Path, killed: bool
) -> None:
    path = tmp_path / "new" / "lock"
    holding, end = CONTEXT.Event(), CONTEXT.Event()
    holder = CONTEXT.Process(target=hold, args=(path, holding, end))
    holder.start()
    assert holding.wait(60)
    assert not is_free(path)
    inode = path.stat().st_ino
    if killed:
        holder.kill()
        holder.join()
    else:
        end.set()
        with files.locked(path, wait=True) as held:
            assert held
        holder.join()
        assert holder.exitcode == 0
    assert is_free(path)
    assert path.stat().st_ino == inode  # it stays


def test_an_error_in_the_block_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(KeyError), files.locked(path, wait=False):
        raise KeyError
    assert is_free(path)
    with files.locked(path, wait=False) as first:
        assert first
        assert not is_free(path)  # nor does it free that of the block around it
        assert not is_free(path)
    assert is_free(path)


def take_turns(path: Path, seed: int, turns: int) -> None:
    """End with an error if another process is in the block at the same time."""
    draw, inside = random.Random(seed), path.with_name("inside")
    while turns:
        with files.locked(path, wait=draw.random() < 0.5) as held:
            if held:
                inside.touch(exist_ok=False)
                time.sleep(draw.uniform(0, 0.002))
                inside.unlink()
                turns -= 1
        time.sleep(draw.uniform(0, 0.004))


def test_two_processes_never_hold_one_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    takers = [CONTEXT.Process(target=take_turns, args=(path, seed, 30)) for seed in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert [taker.exitcode for taker in takers] == [0] * 4
    assert names(tmp_path) == ["lock"]


def test_what_cannot_be_a_lock_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    message = re.escape(f"{tmp_path} cannot be locked (Is a directory)")
    assert re.match(message, told(lambda: is_free(tmp_path)))
    assert "cannot be locked (" in told(lambda: is_free(file / "lock"))
    assert "cannot be locked (embedded null byte)" in told(lambda: is_free(tmp_path / "a\0b"))

    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)  # as on some network file systems
    lock = tmp_path / "lock"
    message = f"{lock} cannot be locked (Function not implemented)"
    assert told(lambda: is_free(lock)) == message
