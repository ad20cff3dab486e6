"""Records and their store: nothing lost, nothing overwritten, nothing damaged in silence."""

import errno
import json
import math
import multiprocessing
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.paths import RESULTS
from lbp.provenance import code_digest, fingerprint
from lbp.record import Epoch, Layers, Provenance, Record
from lbp.runner import glances
from lbp.store import Store

PROVENANCE = Provenance(
    commit="0" * 40, dirty=False, fingerprint="f" * 16, python="3.11", torch="2.11.0",
    torchvision="0.26.0", device="a processor, 2 cores", threads=2, precision="float32",
    finished="2026-01-01T00:00:00+00:00", seconds=1.5,
)  # fmt: skip

LAYERS = Layers(0, [0.5], [2.0], [1.5], [0.25], [1.0], [0.125])


def epoch(number: int, loss: float = 1.5) -> Epoch:
    return Epoch(number, loss, 50.0, 1.25, 60.0, 10.0, 59.0, 61.0, None, 3.5, 0.25)


def record(epochs: int = 2, **config) -> Record:
    rows = [epoch(number) for number in range(1, epochs + 1)]
    return Record(RunConfig(epochs=epochs, **config), "finished", rows, [LAYERS], PROVENANCE)


def test_a_record_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path / "new" / "folder")
    assert store.get(RunConfig(epochs=2)) is None
    assert store.add(record())
    assert store.get(RunConfig(epochs=2)) == record()
    assert list(store) == [record()]
    assert record().test_accuracy == [40.0, 40.0]


def test_a_diverged_record_comes_back(tmp_path):
    rows = [epoch(1), replace(epoch(2, math.nan), test_loss=math.inf)]
    layers = [LAYERS, replace(LAYERS, epoch=2, update=[math.inf], cosine=[math.nan])]
    Store(tmp_path).add(Record(RunConfig(epochs=9), "diverged", rows, layers, PROVENANCE))
    found = Store(tmp_path).get(RunConfig(epochs=9))
    assert found.layers[0] == LAYERS
    assert math.isnan(found.layers[1].cosine[0])
    assert found.layers[1].weight == LAYERS.weight
    assert found.outcome == "diverged"
    assert len(found.epochs) == 2
    assert math.isnan(found.epochs[1].train_loss)
    (path,) = tmp_path.iterdir()
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_first_result_of_a_run_stays(tmp_path):
    store = Store(tmp_path)
    assert store.add(record())
    other = replace(record(), provenance=replace(PROVENANCE, device="another"))
    assert not store.add(other)
    assert store.get(RunConfig(epochs=2)) == record()
    assert len(list(tmp_path.iterdir())) == 1  # no temporary file is left


def test_a_record_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.link", fail)
    path = Store(tmp_path).path(record().config)
    with pytest.raises(LbpError, match=f"the record {path} cannot be written .No space left"):
        Store(tmp_path).add(record())
    assert list(tmp_path.iterdir()) == []


def _add_many(folder, device: str) -> int:
    provenance = replace(PROVENANCE, device=device)
    return sum(
        Store(folder).add(replace(record(seed=seed), provenance=provenance)) for seed in range(40)
    )


@pytest.mark.slow
def test_two_processes_may_write_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        added = pool.starmap(_add_many, [(tmp_path, "a"), (tmp_path, "b")])
    assert sum(added) == 40  # each run was added by one of them
    assert len(list(Store(tmp_path))) == 40


DAMAGES = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not UTF-8": lambda text: text.encode() + b"\xff",
    "an epoch lost": lambda text: text.replace('"epoch": [1, 2]', '"epoch": [1]'),
    "epochs swapped": lambda text: text.replace('"epoch": [1, 2]', '"epoch": [2, 1]'),
    "a number lost": lambda text: text.replace("[60.0, 60.0]", '[60.0, "x"]'),
    "a column lost": lambda text: text.replace('"test_loss"', '"tset_loss"'),
    "another config": lambda text: text.replace('"lr": 0.001', '"lr": 0.002'),
    "an impossible config": lambda text: text.replace('"lr": 0.001', '"lr": -1'),
    "an outcome unknown": lambda text: text.replace('"finished"', '"fine"', 1),
    "a loss gone": lambda text: text.replace("[1.5, 1.5]", "[1.5, null]"),
    "a glance lost": lambda text: text.replace('"saturated": [[0.125]]', '"saturated": []'),
    "a layer's number lost": lambda text: text.replace("[[0.125]]", "[[true]]"),
    "a column of layers lost": lambda text: text.replace('"cosine"', '"sine"'),
    "no layers": lambda text: text.replace('"layers"', '"layer"'),
    "a list for a number": lambda text: text.replace("[60.0, 60.0]", "[60.0, [60.0]]"),
    "a number for a list": lambda text: text.replace('"cosine": [[0.25]]', '"cosine": [0.25]'),
    "no provenance": lambda text: text.replace('"commit"', '"comit"'),
    "a list": lambda text: "[]",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_record_is_named(tmp_path, damage):
    store = Store(tmp_path)
    store.add(record())
    (path,) = tmp_path.iterdir()
    changed = damage(path.read_text())
    assert changed != path.read_text()
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    for read in (lambda: store.get(RunConfig(epochs=2)), lambda: list(store)):
        with pytest.raises(LbpError) as error:
            read()
        assert re.match(rf"the record {path} is damaged \(.+\): restore it", str(error.value))
        assert "\n" not in str(error.value)


def test_every_committed_record_is_whole_and_says_where_it_comes_from():
    tracked = subprocess.run(
        ["git", "ls-files", f"{RESULTS.name}/*.json"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {Path(line).stem for line in tracked.stdout.splitlines()}
    records = [record for record in Store(RESULTS) if record.config.key in names]
    assert len(records) == len(names) > 0
    for found in records:
        assert re.fullmatch("[0-9a-f]{40}", found.provenance.commit)
        assert found.provenance.dirty is False
        assert found.provenance.seconds > 0
        assert found.config.dataset == "cifar10"
        looked = [glance.epoch for glance in found.layers]
        assert looked == sorted(e for e in glances(found.config.epochs) if e <= len(found.epochs))


CODE = '"""Doc."""\nx = 1\ndef f(a):\n    """Say."""\n    return a + 1\n'


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (("Doc.", "Other words."), False),
        (('    """Say."""\n', ""), False),
        (("x = 1", "x  =  1  # one"), False),
        (("a + 1", "a + 2"), True),
        (("x = 1", "x = 2"), True),
    ],
)
def test_the_fingerprint_ignores_comments_and_docstrings_only(change, counts):
    assert (code_digest(CODE.replace(*change)) != code_digest(CODE)) == counts
    assert re.fullmatch("[0-9a-f]{16}", fingerprint())


def test_the_fingerprint_is_the_same_under_every_python():
    """A known number: a Python whose syntax trees have other fields must not make records stale."""
    assert code_digest(CODE).hex()[:16] == "291a2f636c1e6e74"
