"""Records between machines: nothing lost, nothing overwritten, nothing damaged taken in."""

import errno
import os
import random
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lbp.errors import LbpError
from lbp.lab import archive
from lbp.lab.archive import merge, pack, unpack
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from lbp.lab.store import Store
from tests import toys

CONFIG = RunConfig(lr=0.01)
KEY = CONFIG.key


def record(*errors: float, seed: int = 0) -> Record:
    return toys.record(replace(CONFIG, seed=seed), errors or [60.0, 50.0])


def texts(store: Store) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(store.folder.glob("*.json"))}


def told(act: Callable[[], object]) -> str:
    with pytest.raises(LbpError) as error:
        act()
    assert str(error.value).isprintable()  # one line, and no escape code
    return str(error.value)


# --- there and back


def test_records_travel(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    diverged = toys.record(replace(CONFIG, seed=5), [60.0, 90.0], diverged=True)
    for one in (record(), record(seed=1), diverged):
        here.put(one)
    path = tmp_path / "new" / "a.zip"
    assert pack(here, path) == 3
    merged = merge(unpack(path), there)
    assert (len(merged.added), merged.known, merged.different) == (3, [], [])
    assert texts(there) == texts(here)
    again = merge(unpack(path), there)
    assert (again.added, len(again.known), again.different) == ([], 3, [])
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]


def test_an_archive_without_records_is_not_written(tmp_path: Path) -> None:
    message = told(lambda: pack(Store(tmp_path / "none"), tmp_path / "a.zip"))
    assert message.startswith("there are no records to pack")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nowhere")]
)
def test_nothing_is_overwritten(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "a.zip"
    make(path)
    before = path.lstat()
    assert told(lambda: pack([record()], path)).startswith(f"{path} exists: ")
    assert path.lstat() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    path = tmp_path / "a.zip"
    message = f"{path} cannot be written (No space left on device)"
    assert told(lambda: pack([record()], path)) == message
    assert list(tmp_path.iterdir()) == []


def test_an_archive_cannot_lie_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written (" in told(lambda: pack([record()], tmp_path / "file" / "a.zip"))


# --- merging


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a run of two epochs."""
    store = Store(tmp_path / "store")
    store.put(record())
    return store


def held(store: Store) -> list[float]:
    found = store.get(CONFIG)
    assert found is not None
    return [row.test_error for row in found.epochs]


def elsewhere(one: Record) -> Record:
    """Return the same numbers as another machine would record them."""
    origin = replace(toys.ORIGIN, device="another", seconds=9.0)
    return replace(
        one,
        epochs=[replace(row, seconds=9.0) for row in one.epochs],
        stretches=[replace(stretch, origin=origin) for stretch in one.stretches],
    )


@pytest.mark.parametrize("replaces", [False, True])
def test_new_and_longer_records_are_added(store: Store, replaces: bool) -> None:
    arriving = [record(60.0, 50.0, 40.0), record(seed=1)]
    merged = merge(arriving, store, replace=replaces)
    assert (merged.added, merged.known, merged.different) == (arriving, [], [])
    assert held(store) == [60.0, 50.0, 40.0]
    assert len(list(store)) == 2


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("arriving", [record(60.0), record(), elsewhere(record())])
def test_shorter_and_equal_records_are_known(
    store: Store, replaces: bool, arriving: Record
) -> None:
    before = texts(store)
    merged = merge([arriving], store, replace=replaces)
    assert (merged.added, merged.known, merged.different) == ([], [arriving], [])
    assert texts(store) == before


@pytest.mark.parametrize(
    ("errors", "replaced"),
    [([61.0], False), ([60.0, 51.0], False), ([60.0, 51.0, 40.0], True), ([61.0] * 5, True)],
)
def test_other_numbers_stay_out_unless_a_longer_record_is_to_replace(
    store: Store, errors: list[float], replaced: bool
) -> None:
    before, other = texts(store), record(*errors)
    merged = merge([other], store)
    assert (merged.added, merged.known, merged.different) == ([], [], [other])
    assert texts(store) == before
    merged = merge([other], store, replace=True)
    assert (merged.added, merged.different) == (([other], []) if replaced else ([], [other]))
    assert held(store) == (errors if replaced else [60.0, 50.0])


@pytest.mark.parametrize("replaces", [False, True])
def test_a_stale_record_takes_the_place_of_no_other(store: Store, replaces: bool) -> None:
    before, longer = texts(store), record(60.0, 50.0, 40.0)
    stale = replace(longer, stretches=[replace(s, fingerprint="0" * 16) for s in longer.stretches])
    merged = merge([stale], store, replace=replaces)
    assert (merged.added, merged.known, merged.different) == ([], [], [])
    assert merged.stale == [stale]
    assert texts(store) == before


def test_a_run_that_diverged_here_and_went_on_elsewhere_is_different(store: Store) -> None:
    diverged = toys.record(CONFIG, [60.0, 50.0], diverged=True)
    assert merge([diverged], store).different == [diverged]
    longer = toys.record(CONFIG, [60.0, 50.0, 90.0], diverged=True)
    assert merge([longer], store).added == [longer]
    assert merge([record(60.0, 50.0, 90.0, 80.0)], store).added == []
    assert merge([toys.record(CONFIG, [60.0, 50.0, 90.0], diverged=True)], store).known


def test_one_archive_may_hold_a_run_twice(store: Store) -> None:
    merged = merge([record(60.0, 50.0, 40.0), record(60.0, 50.0, 40.0, 30.0), record()], store)
    assert [len(one) for one in merged.added] == [3, 4]
    assert [len(one) for one in merged.known] == [2]
    assert held(store) == [60.0, 50.0, 40.0, 30.0]


def test_a_damaged_record_here_is_told_and_stays(store: Store) -> None:
    store.path(CONFIG).write_text("{")
    assert "is damaged" in told(lambda: merge([record(60.0, 50.0, 40.0)], store))
    assert texts(store) == {f"{KEY}.json": "{"}


# --- what is not such an archive


def zipped(path: Path, entries: dict[str, str | bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)


GOOD = record().to_json()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"../evil.json": GOOD}, f"its entry '../evil.json' holds the run {KEY}"),
        ({f"/{KEY}.json": GOOD}, f"its entry '/{KEY}.json' holds the run {KEY}"),
        ({f"folder/{KEY}.json": GOOD}, "holds the run"),
        ({"0123456789abcdef.json": GOOD}, "holds the run"),
        ({"\x1b[2J\x07.json": GOOD}, r"its entry '\x1b[2J\x07.json' holds the run"),
        ({"\x1b]0;x\x07": ""}, r"its entry '\x1b]0;x\x07' is not a record"),
        ({f"{KEY}\u202e.json": GOOD}, rf"its entry '{KEY}\u202e.json' holds the run"),
        ({f"{KEY}.json": "{}"}, "is not a record: a record lacks config"),
        ({f"{KEY}.json": ""}, "is not a record: "),
        ({f"{KEY}.json": b"\xff\xfe"}, "is not a record: "),
        ({f"{KEY}.json": GOOD.replace("50.0", "40.0")}, "does not fit its digest"),
        ({f"{KEY}.json": '{"\x1b[2J": 1}'}, "is not a record: "),
        ({f"{KEY}.json": '{"\\u001b[2J": 1}'}, "is not a record: unknown entry of a record "),
        ({f"{KEY}.json": '{"outcome": "finished"}'}, "is not a record: it is of an older form"),
        ({f"{KEY}.json": "[" * 100_000}, "is not a record: "),
        ({"folder/": ""}, "its entry 'folder/' is not a record: "),
        ({f"{KEY}.json": GOOD, "README": "read me"}, "its entry 'README' is not a record: "),
    ],
)
def test_an_entry_that_is_no_record_is_named(
    tmp_path: Path, entries: dict[str, str | bytes], message: str
) -> None:
    path = tmp_path / "a.zip"
    zipped(path, entries)
    whole = told(lambda: unpack(path))
    assert whole.startswith(f"{path} is not a complete archive of records (")
    assert message in whole
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "it is not a file"),
        (lambda path: os.mkfifo(path), "it is not a file"),
        (lambda path: path.symlink_to("/nowhere"), "there is no such file"),
        (lambda path: path.touch(), "File is not a zip file"),
        (lambda path: path.write_bytes(b"not a zip"), "File is not a zip file"),
    ],
)
def test_a_file_that_is_no_archive_is_named(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "a.zip"
    make(path)
    assert told(lambda: unpack(path)) == (
        f"{path} is not a complete archive of records ({message})"
    )


def test_a_name_that_is_no_path_is_named() -> None:
    with pytest.raises(LbpError, match="is not a complete archive of records"):
        unpack(Path("a\0b.zip"))
    with pytest.raises(LbpError, match="is not a complete archive of records"):
        unpack(Path("a" * 5000))


def test_an_entry_too_large_for_a_record_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {f"{KEY}.json": GOOD}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    size = content.index(b"PK\x01\x02") + 24  # of the unpacked entry, in the directory
    content[size : size + 4] = struct.pack("<I", archive.LARGEST + 1)
    path.write_bytes(content)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *a: pytest.fail("it was unpacked"))
    assert "is too large to be a record" in told(lambda: unpack(path))


def test_an_entry_that_is_larger_than_it_says_is_not_unpacked_any_further(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {f"{KEY}.json": GOOD + " " * 10_000_000}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    size = content.index(b"PK\x01\x02") + 24
    content[size : size + 4] = struct.pack("<I", len(GOOD))
    path.write_bytes(content)
    assert "Bad CRC-32" in told(lambda: unpack(path))


@pytest.mark.parametrize("entries", [1, 3])
def test_a_truncated_archive_is_named(tmp_path: Path, entries: int) -> None:
    path = tmp_path / "a.zip"
    pack([record(seed=seed) for seed in range(entries)], path)
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        assert "is not a complete archive of records (" in told(lambda: unpack(path))


@pytest.mark.parametrize("tail", [2000, 350])  # the whole archive, or its directory alone
def test_a_flipped_bit_is_told_or_loses_nothing(tmp_path: Path, tail: int) -> None:
    path, draw = tmp_path / "a.zip", random.Random(0)
    records = [record(seed=seed) for seed in range(3)]
    pack(records, path)
    content = path.read_bytes()
    digests = repr([one.digest for one in records])
    for _ in range(700):
        damaged = bytearray(content)
        damaged[-draw.randint(1, min(tail, len(content)))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert outcome(path) in ("told", digests)


def outcome(path: Path) -> str:
    try:
        return repr([one.digest for one in unpack(path)])
    except LbpError as error:
        return "told" if str(error).isprintable() else str(error)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_packed_in_an_unusual_way_is_named(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {f"{KEY}.json": GOOD}, method)
    assert f"its entry '{KEY}.json' is packed in an unusual way" in told(lambda: unpack(path))


@pytest.mark.parametrize("method", [97, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED])
def test_an_archive_packed_in_another_way_than_it_says_is_named(
    tmp_path: Path, method: int
) -> None:
    path = tmp_path / "a.zip"
    pack([record()], path)
    content = bytearray(path.read_bytes())
    # The number of the method stands in the entry's own header and in the directory at the end.
    for header, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(header) + offset] = method
    path.write_bytes(content)
    assert "is not a complete archive of records (" in told(lambda: unpack(path))


def test_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    pack([record()], path)
    content = bytearray(path.read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + offset] |= 1
    path.write_bytes(content)
    message = told(lambda: unpack(path))
    assert re.search(r"is not a complete archive of records \(.*encrypted", message)
