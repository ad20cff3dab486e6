"""Reruns on other devices: good ones appear with their distance, forged ones get one line."""

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lbp import cli
from lbp.experiments import EXPERIMENTS, reruns
from lbp.experiments.scales import NARROW
from lbp.experiments.style import run_label
from lbp.lab import archive, paths
from lbp.lab.record import Record
from lbp.lab.store import Store
from lbp.lab.train import Trainer
from tests import toys
from tests.test_cli import TINY

CONFIG = EXPERIMENTS["fig4_sweep"].goals(NARROW)[0].config
NEXT = EXPERIMENTS["fig4_sweep"].goals(NARROW)[1].config
ERRORS = [60.0, 50.0, 45.0]


@pytest.fixture
def store(clone: Path) -> Store:
    """The store of an empty clone, with a record of one run."""
    store = Store(clone / "data" / "results")
    store.put(toys.record(CONFIG, ERRORS))
    return store


def elsewhere(record: Record, device: str = "another device") -> Record:
    """Return a record as a training on another device would have left it."""
    origin = replace(toys.ORIGIN, device=device, finished="2026-02-02T00:00:00+00:00")
    stretches = [replace(s, origin=origin) for s in record.stretches]
    epochs = [replace(row, seconds=0.5) for row in record.epochs]
    return replace(record, epochs=epochs, stretches=stretches)


def shorter(record: Record) -> Record:
    """Return a record as it was an epoch ago, when its stretch had taken less time."""
    (stretch,) = record.stretches
    origin = replace(stretch.origin, seconds=1.0, finished="2025-12-31T00:00:00+00:00")
    earlier = record.until(len(record) - 1)
    return replace(earlier, stretches=[replace(s, origin=origin) for s in earlier.stretches])


def rerun(errors: list[float] = ERRORS, config=CONFIG, device="another device", **options):
    return elsewhere(toys.record(config, errors, **options), device)


def put(record: Record, reader: str = "ada", name: str = "") -> Path:
    """Write a record, valid or not, into a reader's folder."""
    path = paths.reruns() / reader / (name or f"{record.config.key}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.to_json())
    return path


def lbp(capsys, *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert err.count("\n") == (status == 2)
    return status, out, err


# --- good ones


def test_archives_of_two_devices_pass_and_appear_with_their_distance(store, tmp_path, capsys):
    numbers = {"ada-m2": [61.0, 52.0, 45.0], "bo-h100": [60.5, 50.0, 44.0, 43.0]}
    for name, errors in numbers.items():
        archive.pack([rerun(errors, device=f"device of {name}")], tmp_path / f"{name}.zip")
        done = lbp(capsys, "results", "rerun", tmp_path / f"{name}.zip", name)
        assert done == (0, f"1 added, 0 known already, to {paths.reruns() / name}\n", "")
    status, out, _ = lbp(capsys, "results", "check")
    assert status == 0
    assert out.count("agrees: over the first 3 epochs it is 1.0 points from this book's") == 2
    assert out.endswith(
        "Reruns on other devices: 2 (agrees: 2). "
        "The furthest is 1.0 points from this book's record.\n"
    )
    found = reruns.table(reruns.of_readers())
    by_hand = [
        ["ada-m2", "device of ada-m2", "3", "55.0", "55.0", "1.0", "6.0", "agrees"],
        ["bo-h100", "device of bo-h100", "4", "56.0", "55.0", "1.0", "6.0", "agrees"],
    ]
    assert [[*row[:2], *row[3:]] for row in found.rows] == by_hand
    assert {row[2] for row in found.rows} == {run_label(CONFIG)}
    assert all(len(row) == len(found.columns) for row in found.rows)


def test_a_tiny_network_with_other_last_bits_agrees(clone, tmp_path, monkeypatch, capsys):
    """Real training: three seeds at home, and one of them from weights that are rounded anew."""
    arguments = ["train", *TINY, "--epochs", "2"]
    for seed in range(3):
        assert cli.main([*arguments, "--seed", str(seed)]) == 0
    away = toys.clone(tmp_path / "away")
    begin = Trainer.begin

    def perturbed(self, config):
        begin(self, config)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(1 + 2**-23)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "begin", perturbed)
        patch.setenv("LBP_PROJECT", str(away))
        assert cli.main(arguments) == 0
        assert cli.main(["results", "pack", str(tmp_path / "a.zip")]) == 0
    capsys.readouterr()
    (finding,) = reruns.check(tmp_path / "a.zip")
    assert (finding.state, finding.agreement.seeds) == ("agrees", 3)
    assert finding.record.epochs[0].train_loss == pytest.approx(
        finding.book.epochs[0].train_loss, rel=1e-3
    )


def test_without_reruns_a_sentence_says_so(store, capsys):
    assert lbp(capsys, "results", "check") == (0, "There is no rerun on another device yet.\n", "")
    assert reruns.table(reruns.of_readers()).rows == []
    assert reruns.answer(reruns.of_readers()) == "There is no rerun on another device yet."


def test_a_run_that_the_book_has_not_recorded_is_new(store, capsys):
    put(rerun(config=NEXT))
    status, out, _ = lbp(capsys, "results", "check", paths.reruns() / "ada")
    assert status == 0
    assert f"new: this book has no record of the run {NEXT}" in out
    (row,) = reruns.table(reruns.of_readers()).rows
    assert row[3:] == ["3", "55.0", "-", "-", "-", "new"]


def test_a_stale_record_of_the_book_is_not_compared_with(store):
    store.path(CONFIG).unlink()
    store.put(toys.record(CONFIG, ERRORS, fingerprint="0" * 16))
    put(rerun([90.0]))
    assert [finding.state for finding in reruns.of_readers()] == ["new"]


def test_an_archive_of_a_whole_clone_leaves_the_books_own_records_out(store, tmp_path, capsys):
    archive.pack([*store, rerun(config=NEXT)], tmp_path / "a.zip")
    status, out, _ = lbp(capsys, "results", "rerun", tmp_path / "a.zip", "ada")
    assert status == 0
    assert out.startswith("1 added")
    assert out.endswith("1 left out: they are this book's own records\n")
    assert [record.config for record in Store(paths.reruns() / "ada")] == [NEXT]
    status, out, _ = lbp(capsys, "results", "rerun", tmp_path / "a.zip", "ada")
    assert out.startswith("0 added, 1 known already")


def test_a_rerun_is_trained_beside_the_book(clone, monkeypatch, capsys):
    asked = {}

    def reproduce(stem, profile, **options):
        asked.update(options)
        return []

    monkeypatch.setattr("lbp.experiments.reproduce.reproduce", reproduce)
    command = ["reproduce", "fig4_sweep", "--profile", "narrow"]
    assert lbp(capsys, *command, "--rerun", "ada") == (0, "", "")
    assert asked["store"].folder == paths.reruns() / "ada"
    assert asked["checkpoints"] == paths.checkpoints() / "ada"
    assert lbp(capsys, *command) == (0, "", "")
    assert asked["store"] is asked["checkpoints"] is None


# --- forged ones


def edited(record: Record, **columns: list[float]) -> Record:
    """Return a record with other numbers in some columns, sealed anew."""
    rows = [
        replace(row, **{name: column[n] for name, column in columns.items()})
        for n, row in enumerate(record.epochs)
    ]
    return replace(record, epochs=rows)


def with_device(name: str) -> Path:
    return put(rerun(device=name))


def seal_broken() -> Path:
    path = put(rerun())
    path.write_text(path.read_text().replace("45.0", "35.0"))
    return path


def resealed(change: Callable[[dict], None]) -> Path:
    """Write a record whose content no record may have, with a seal that fits it."""
    path = put(rerun())
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def a_gap() -> Path:
    return resealed(lambda data: data["epochs"].update(epoch=[1, 2, 4]))


def more_than_all() -> Path:
    return resealed(lambda data: data["epochs"]["test_error"].__setitem__(2, -1.0))


def a_link() -> Path:
    path = put(rerun())
    path.rename(paths.project() / "elsewhere.json")
    path.symlink_to("../../../elsewhere.json")
    return path


def too_large() -> Path:
    path = put(rerun())
    os.truncate(path, archive.LARGEST + 1)
    return path


def not_text() -> Path:
    path = put(rerun())
    path.write_bytes(b"\xff\xfe")
    return path


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (seal_broken, "refused: its content does not fit its digest, so it was altered"),
        (
            lambda: put(rerun([50.0, 40.0, 35.0])),
            "differs: over the first 3 epochs it is 10.0 points from this book's record of vgg19",
        ),
        (lambda: put(rerun(), name=f"{NEXT.key}.json"), f"refused: it holds the run {CONFIG.key}"),
        (
            lambda: put(rerun(config=replace(CONFIG, lr=0.5))),
            "refused: no experiment of this book has the run vgg19 tanh bp, lr 0.5",
        ),
        (
            lambda: put(rerun(fingerprint="0123456789abcdef")),
            "stale: the fingerprint of its code is 0123456789abcdef, that of this project is ",
        ),
        (a_gap, "refused: its epochs are not 1, 2, 3, ... without a gap"),
        (more_than_all, "refused: test_error is -1.0 in epoch 3: a number from 0 to 100 is needed"),
        (
            lambda: put(edited(rerun(), train_accuracy=[50.0, 50.0, 50.001])),
            "refused: train_accuracy is 50.001 in epoch 3: not so many of 50000 images",
        ),
        (
            lambda: put(rerun([60.0, 50.005, 45.0])),
            "refused: test_error is 50.005 in epoch 2: not so many of 10000 images",
        ),
        (lambda: put(toys.record(CONFIG, ERRORS)), "copy: it is this book's own record"),
        (lambda: put(shorter(toys.record(CONFIG, ERRORS))), "copy: it is this book's own record"),
        (lambda: put(rerun(), name="README.md"), "README.md: refused: it is not a record's file"),
        (lambda: put(rerun(), name="\x1b[2J.json"), r"\x1b[2J.json: refused: it holds the run"),
        (lambda: with_device("<script>alert(1)</script>"), "is not the name of one: up to 100"),
        (lambda: with_device("[here](javascript:x)"), "is not the name of one: up to 100"),
        (lambda: put(rerun(), reader="<b>"), "refused: it does not lie in data/reruns/NAME"),
        (lambda: put(rerun(), reader="."), "refused: it does not lie in data/reruns/NAME"),
        (a_link, "refused: it is not a record's file"),
        (too_large, "refused: it is too large to be a record"),
        (not_text, "cannot be read: it is not text in UTF-8"),
    ],
)
def test_a_forged_record_has_a_line(store, forge, message, capsys):
    forge()
    put(rerun(), reader="bo")
    status, out, err = lbp(capsys, "results", "check")
    assert status == 2
    lines = out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert sum(message in line for line in lines) == 1, out
    assert sum("/bo/" in line and ": agrees: " in line for line in lines) == 1
    assert err == "lbp: 1 of 2 records do not stand, see the lines above\n"


@pytest.mark.parametrize(
    "device",
    [
        "AMD EPYC, 2 cores, AVX512",
        "Intel(R) Xeon(R) CPU @ 2.80GHz, 2 cores",
        "NVIDIA H100 80GB HBM3",
        "13th Gen Intel(R) Core(TM) i7-1360P, 16 cores",
        "Intel64 Family 6 Model 158 Stepping 10, GenuineIntel, 8 cores",
    ],
)
def test_names_of_real_devices_are_fine(store, device):
    put(rerun(device=device))
    assert [row[1] for row in reruns.table(reruns.of_readers()).rows] == [device]


def test_what_is_refused_is_not_shown(store):
    with_device("<b>")
    assert reruns.table(reruns.of_readers()).rows == []


def test_what_differs_is_shown_and_stays(store):
    path = put(rerun([50.0, 40.0, 35.0]))
    (finding,) = reruns.of_readers()
    assert reruns.table([finding]).rows[0][-1] == "differs"
    assert reruns.answer([finding]) == (
        "Reruns on other devices: 1 (differs: 1). "
        "The furthest is 10.0 points from this book's record."
    )
    assert path.is_file()


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's; that is the point here
@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([rerun(), rerun([61.0])], "two records of vgg19 tanh bp"),
        ([rerun([60.0]), rerun([60.0, 50.0]), rerun([60.0, 51.0])], "two records of vgg19 tanh bp"),
        ([rerun(config=NEXT), rerun(fingerprint="0" * 16)], "stale: the fingerprint of its code"),
        ([rerun(config=NEXT), rerun(config=replace(CONFIG, lr=0.5))], "refused: no experiment"),
    ],
)
def test_an_archive_is_taken_whole_or_not_at_all(store, tmp_path, records, message, capsys):
    archive.pack(records, tmp_path / "a.zip")
    status, out, err = lbp(capsys, "results", "rerun", tmp_path / "a.zip", "ada")
    assert (status, out) == (2, "")
    assert message in err
    assert not paths.reruns().exists()


def test_a_reader_has_one_record_of_a_run(store, tmp_path, capsys):
    put(rerun([61.0, 50.0]))
    archive.pack([rerun([62.0, 50.0, 40.0])], tmp_path / "a.zip")
    status, _, err = lbp(capsys, "results", "rerun", tmp_path / "a.zip", "ada")
    assert status == 2
    assert "can hold only one of them, so choose another name" in err
    assert len(Store(paths.reruns() / "ada").get(CONFIG)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({f"../../../{CONFIG.key}.json": rerun().to_json()}, "holds the run"),
        ({f"{CONFIG.key}.json": rerun().to_json() + " " * 3000}, "together are too large"),
        ({f"{CONFIG.key}.json": "{}"}, "is not a record: a record lacks config"),
    ],
)
def test_a_bad_archive_has_one_line(store, tmp_path, monkeypatch, content, message, capsys):
    monkeypatch.setattr(archive, "LARGEST_TOGETHER", len(rerun().to_json()) + 2000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in content.items():
            packed.writestr(name, text)
    before = sorted(tmp_path.rglob("*"))
    for command in (("rerun", tmp_path / "a.zip", "ada"), ("check", tmp_path / "a.zip")):
        status, out, err = lbp(capsys, "results", *command)
        assert (status, out) == (2, "")
        assert message in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("results check /nowhere", "there is no such file"),
        ("results check /nowhere.json", "/nowhere.json does not exist: name a record, a folder"),
        ("results rerun /nowhere.zip ada", "there is no such file"),
        ("results rerun a.zip ../ada", "the name '../ada' of a rerun is not allowed: choose up to"),
        ("results rerun a.zip", "the following arguments are required: name"),
        ("reproduce all --profile narrow --rerun A/b", "the name 'A/b' of a rerun is not allowed"),
        ("reproduce all --rerun ada", "unknown profile of a rerun 'recorded': choose from narrow"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(clone, arguments, message, capsys):
    status, out, err = lbp(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert message in err


# --- this book's own


def test_the_committed_reruns_are_records_of_this_book():
    """What differs or is stale is shown as such; what is refused has no place in the book."""
    assert [str(found) for found in reruns.of_readers() if found.state in ("refused", "copy")] == []
