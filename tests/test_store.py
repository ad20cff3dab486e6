"""The store of runs: the longest record stays, whole, and every error is one line."""

import errno
import os
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lbp.errors import LbpError
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from lbp.lab.run import is_glance
from lbp.lab.store import Store
from tests import toys
from tests.processes import CONTEXT

ROOT = Path(__file__).resolve().parents[1]
CONFIG = RunConfig(lr=0.01)


def record(epochs: int = 2, config: RunConfig = CONFIG) -> Record:
    """Return a record whose error after an epoch is the same however long it is."""
    return toys.record(config, [90 - number for number in range(1, epochs + 1)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "new" / "folder")


def text(store: Store) -> str:
    return store.path(CONFIG).read_text("utf-8")


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    assert store.get(CONFIG) is None
    assert list(store) == []
    assert store.put(record())
    found = store.get(CONFIG)
    assert found is not None
    assert found.config == CONFIG
    assert found.digest == record().digest
    assert [one.digest for one in store] == [record().digest]
    assert store.get(replace(CONFIG, seed=1)) is None
    assert names(store.folder) == [".lock", f"{CONFIG.key}.json"]


def test_a_record_that_diverged_comes_back(store: Store) -> None:
    store.put(toys.record(CONFIG, [60.0, 90.0], diverged=True))
    found = store.get(CONFIG)
    assert found is not None
    assert found.diverged


def test_records_come_in_the_order_of_their_names(store: Store) -> None:
    for seed in range(6):
        store.put(record(1, replace(CONFIG, seed=seed)))
    (store.folder / "notes.txt").write_text("not a record")
    (store.folder / f"{CONFIG.key}.json.part").write_text("{")
    keys = [found.config.key for found in store]
    assert keys == sorted(replace(CONFIG, seed=seed).key for seed in range(6))


def test_a_longer_record_replaces_a_shorter_one_and_never_the_reverse(store: Store) -> None:
    assert store.put(record(2))
    assert store.put(record(3))
    assert text(store) == record(3).to_json()
    assert not store.put(record(2))
    assert text(store) == record(3).to_json()


def test_of_two_records_of_one_length_the_first_stays(store: Store) -> None:
    other = toys.record(CONFIG, [50.0, 40.0])
    store.put(record(2))
    assert not store.put(other)
    assert text(store) == record(2).to_json()
    assert not store.put(toys.record(CONFIG, [50.0, 90.0], diverged=True))
    assert text(store) == record(2).to_json()


# --- several processes


def lengths(seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(1, 60) for _ in range(15)]


def put_many(folder: Path, seed: int) -> list[int]:
    """Put records of one run; return the lengths of those that were taken."""
    return [length for length in lengths(seed) if Store(folder).put(record(length))]


def read_on_and_on(folder: Path, end: Path) -> list[int]:
    """Read the run until `end` exists; return the lengths that were seen."""
    seen = []
    while not end.exists():
        if found := Store(folder).get(CONFIG):
            assert found.digest == record(len(found)).digest
            seen.append(len(found))
    return seen


@pytest.mark.slow
def test_of_many_processes_that_put_at_once_the_longest_record_stays(tmp_path: Path) -> None:
    folder, end, seeds = tmp_path / "results", tmp_path / "end", range(4)
    with CONTEXT.Pool(5) as pool:
        reader = pool.apply_async(read_on_and_on, (folder, end))
        writers = [pool.apply_async(put_many, (folder, seed)) for seed in seeds]
        taken = [writer.get(60) for writer in writers]
        end.touch()
        seen = reader.get(60)
    longest = max(length for seed in seeds for length in lengths(seed))
    every = [length for mine in taken for length in mine]
    assert max(every) == longest
    assert len(set(every)) == len(every)  # each was longer than the one before
    assert all(mine == sorted(mine) for mine in [seen, *taken])
    assert len(set(seen)) > 1
    assert text(Store(folder)) == record(longest).to_json()
    assert names(folder) == [".lock", f"{CONFIG.key}.json"]


# --- what cannot be read or written


def told(act: Callable[[], object]) -> str:
    with pytest.raises(LbpError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def uses(store: Store) -> list[Callable[[], object]]:
    return [lambda: store.get(CONFIG), lambda: list(store), lambda: store.put(record(9))]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_record_that_cannot_be_written_leaves_the_old_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.put(record(2))
    monkeypatch.setattr(os, step, fail)
    message = f"{store.path(CONFIG)} cannot be written (No space left on device)"
    assert told(lambda: store.put(record(3))) == message
    assert text(store) == record(2).to_json()
    assert names(store.folder) == [".lock", f"{CONFIG.key}.json"]


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a number changed": lambda text: text.replace("[89.0, 88.0]", "[89.0, 87.0]"),
    "another run": lambda text: text.replace('"lr": 0.01', '"lr": 0.02'),
    "another run's, whole": lambda text: record(2, RunConfig(lr=0.02)).to_json(),
    "of an older form": lambda text: '{"config": {}, "outcome": "finished"}',
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_record_is_named_and_stays(store: Store, damage: Callable[[str], str]) -> None:
    store.put(record(2))
    changed = damage(text(store))
    assert changed != text(store)
    store.path(CONFIG).write_text(changed)
    for use in uses(store):
        start = rf"the record {re.escape(str(store.path(CONFIG)))} is damaged \(.+\): restore it"
        assert re.match(start, told(use))
    assert text(store) == changed


def test_a_record_under_another_name_is_named(store: Store) -> None:
    store.put(record(2))
    wrong = store.folder / "another.json"
    store.path(CONFIG).rename(wrong)
    message = told(lambda: list(store))
    assert message.startswith(f"the record {wrong} is damaged (it holds the run {CONFIG.key}): ")


def test_text_that_is_not_utf_8_is_named(store: Store) -> None:
    store.put(record(2))
    path = store.path(CONFIG)
    path.write_bytes(path.read_bytes() + b"\xff")
    for use in uses(store):
        assert told(use) == f"{path} cannot be read: it is not text in UTF-8"


def test_a_folder_or_a_link_in_the_place_of_a_record_is_named(store: Store) -> None:
    path = store.path(CONFIG)
    path.mkdir(parents=True)
    for use in uses(store):
        assert told(use) == f"{path} cannot be read (Is a directory)"
    path.rmdir()
    path.symlink_to(store.folder / "nowhere")
    for use in uses(store):
        assert told(use) == f"{path} is a link that leads nowhere: remove it"


def test_a_file_in_the_place_of_the_folder_is_named(store: Store) -> None:
    store.folder.parent.mkdir()
    store.folder.write_text("a file")
    for use in uses(store):
        assert str(store.folder) in told(use)
    assert store.folder.read_text() == "a file"


def test_a_folder_that_nobody_may_write_to_is_named(store: Store) -> None:
    """Even root may not write to /proc/self; reading there finds no record."""
    proc = Store(Path("/proc/self/results"))
    assert proc.get(CONFIG) is None
    assert list(proc) == []
    assert "/proc/self/results/.lock cannot be locked (" in told(lambda: proc.put(record(2)))


# --- the records of this repository


def test_every_committed_record_is_whole_and_says_where_it_comes_from() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "results/*.json"],
        cwd=ROOT / "data",
        capture_output=True,
        text=True,
        check=True,
    )
    keys = {Path(line).stem for line in tracked.stdout.splitlines()}
    records = [found for found in Store(ROOT / "data" / "results") if found.config.key in keys]
    assert len(records) == len(keys)
    for found in records:
        assert found.config.dataset == "cifar10"
        epochs = range(len(found) + 1)
        assert [glance.epoch for glance in found.layers] == [n for n in epochs if is_glance(n)]
        for stretch in found.stretches:
            assert re.fullmatch("[0-9a-f]{16}", stretch.fingerprint)
            assert re.fullmatch("[0-9a-f]{40}", stretch.origin.commit or "")
            assert stretch.origin.dirty is False
            assert stretch.origin.seconds > 0
