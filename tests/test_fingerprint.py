"""Fingerprints change with the code that decides a run's numbers, and with nothing else."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import lbp
from lbp import literature
from lbp.errors import LbpError
from lbp.lab import fingerprint as fingerprints
from lbp.lab.config import RunConfig
from lbp.lab.fingerprint import are_equal, code_digest, files_of, fingerprint, is_stale
from lbp.lab.provenance import git_environment
from lbp.lab.run import Trainers
from lbp.lab.units import LARGEST_SLOPE, UNITS
from tests import toys

PACKAGE = Path(lbp.__file__).parent
PAPER = RunConfig()
RESNET = RunConfig(model="resnet18")

# --- one file

CODE = '"""Doc."""\nx = 1\ndef f(a):\n    """Say."""\n    return a + 1\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Doc.", "Other words."),
        ('"""Doc."""\n', ""),
        ('    """Say."""\n', ""),
        ("x = 1", "x  =  (1)  # one"),
        ("x = 1", "\n\n# one\nx = 1\n"),
        ("x = 1", "import os\nfrom a.b import (c, d as e)\nx = 1"),
        ("    return", "    import os\n    return"),
        ("a + 1", "a + \\\n    1"),
    ],
)
def test_layout_comments_docstrings_and_imports_do_not_count(old: str, new: str) -> None:
    assert old in CODE
    assert code_digest(CODE.replace(old, new)) == code_digest(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a + 1", "a + 2"),
        ("a + 1", "a + 1.0"),
        ("a + 1", "a - 1"),
        ("a + 1", "1 + a"),
        ("x = 1", "x = 2"),
        ("x = 1", "y = 1"),
        ("x = 1", "x: int = 1"),
        ("x = 1", "x = None"),
        ("x = 1", "x = 1\nx = 1"),
        ("x = 1\n", ""),
        ("(a)", "(a, b)"),
        ("(a)", "(a=0)"),
        ("(a)", "(*a)"),
        ("def f", "@g\ndef f"),
        ("    return a + 1", "    pass"),
        ("return a + 1", "return"),
        ("return a", "yield a"),
        ("def f", "async def f"),
    ],
)
def test_all_other_code_counts(old: str, new: str) -> None:
    assert old in CODE
    assert code_digest(CODE.replace(old, new)) != code_digest(CODE)


def test_docstrings_of_classes_methods_and_coroutines_do_not_count() -> None:
    code = 'class A:\n  """Say."""\n  x = 1\n  async def f(self):\n    """Say."""\n    g()\n'
    assert code_digest(code.replace("Say", "Tell")) == code_digest(code)
    assert code_digest("def f():\n    g('Say')") != code_digest("def f():\n    g('Tell')")


def test_the_digest_is_the_same_under_every_python() -> None:
    """A tree by hand: a Python whose syntax trees have other fields makes no record stale."""
    name = ["Name", ["id", "'x'"], ["ctx", ["Store"]]]
    assign = ["Assign", ["targets", [name]], ["value", ["Constant", ["value", "1"]]]]
    left = ["left", ["Name", ["id", "'a'"], ["ctx", ["Load"]]]]
    total = ["BinOp", left, ["op", ["Add"]], ["right", ["Constant", ["value", "1"]]]]
    arguments = ["arguments", ["args", [["arg", ["arg", "'a'"]]]]]
    body = ["body", [["Return", ["value", total]]]]
    function = ["FunctionDef", ["name", "'f'"], ["args", arguments], body]
    tree = ["Module", ["body", [assign, function]]]
    assert code_digest(CODE) == hashlib.sha256(repr(tree).encode()).digest()
    assert code_digest(CODE).hex()[:16] == "291a2f636c1e6e74"


# --- the files of a run


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, of whose code the fingerprints are."""
    copy = tmp_path / "lbp"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "_PACKAGE", copy)
    yield copy
    fingerprints._fingerprint.cache_clear()


def current(config: RunConfig) -> str:
    """Return a run's fingerprint in a process that starts now."""
    fingerprints._sources.cache_clear()
    fingerprints._fingerprint.cache_clear()
    return fingerprint(config)


def add(path: Path, line: str) -> None:
    path.write_text(path.read_text("utf-8") + f"\n{line}\n", "utf-8")


_EDITED = """
import torch
from lbp.lab.config import RunConfig
from lbp.lab.fingerprint import fingerprint
from lbp.lab.provenance import origin
with open("lbp/lab/train.py", "a") as file:
    file.write("EVALUATION_BATCH = 250\\n")
print(fingerprint(RunConfig(rule="bp")), origin(torch.device("cpu"), 0.0).dirty)
"""


@pytest.mark.slow
def test_code_that_is_edited_while_a_process_trains_does_not_count(tmp_path: Path) -> None:
    copy = tmp_path / "lbp"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "lbp"], [*name, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    environment = git_environment() | {"PYTHONPATH": str(tmp_path)}
    environment.pop("LBP_COMMIT", None)
    told = [
        subprocess.run(
            [sys.executable, "-c", _EDITED],
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert told[0] == [fingerprint(PAPER), "False"]
    assert told[1][0] != fingerprint(PAPER)  # the next process has the edited code
    assert told[1][1] == "True"


def test_a_fingerprint_is_16_hexadecimal_digits() -> None:
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(PAPER))
    assert fingerprint(PAPER) == fingerprint(replace(PAPER, lr=1.0, seed=5, width=0.5))
    assert fingerprint(PAPER) != fingerprint(RESNET)


@pytest.mark.parametrize("table", [UNITS, LARGEST_SLOPE], ids=["UNITS", "LARGEST_SLOPE"])
def test_what_a_run_takes_of_the_tables_of_units_counts_for_it_alone(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, Any]
) -> None:
    relu = replace(PAPER, activation="relu")
    before = fingerprint(PAPER), fingerprint(relu)
    monkeypatch.setitem(table, PAPER.activation, table["sigmoid"])
    fingerprints._fingerprint.cache_clear()
    assert fingerprint(PAPER) != before[0]
    assert fingerprint(relu) == before[1]
    monkeypatch.undo()
    fingerprints._fingerprint.cache_clear()


@pytest.mark.parametrize(
    ("activation", "own"), [("tanh", set()), ("apl", {"lab/units/apl", "registration"})]
)
def test_every_file_whose_code_computes_in_training_counts(activation: str, own: set[str]) -> None:
    """Watched in an epoch of training."""
    called: set[str] = set()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            called.add(str(path.relative_to(PACKAGE).with_suffix("")))

    config = RunConfig(
        width=1 / 64, dataset="stand-in", train_images=20, test_images=20, batch=10,
        momentum=0.9, augment=True, head="mlp", init="xavier", activation=activation,
    )  # fmt: skip
    trainers = Trainers(Path(), torch.device("cpu"))
    sys.setprofile(watch)
    try:
        trainer = trainers.get(config)
        trainer.epoch()
        trainer.layers()
    finally:
        sys.setprofile(None)
    # These check and choose what a run names, and hold numbers; they compute none.
    no_numbers = {
        *(
            "errors",
            "held",
            "known",
            "literature",
            "lab/config",
            "lab/models/__init__",
            "lab/record",
            "lab/run",
            "whole",  # the shape of the value
        ),
    }
    assert called - no_numbers <= set(files_of(config))
    assert {"lab/train", "lab/probe", "autograd", "lab/models/vgg19", *own} <= called


def test_common_files_count_for_every_run(package: Path) -> None:
    seen = {current(PAPER), current(RESNET)}
    for name in fingerprints.COMMON:
        add(package / f"{name}.py", "# a comment")
        assert current(PAPER) in seen
        add(package / f"{name}.py", "_NEW = 1")
        changed = {current(PAPER), current(RESNET)}
        assert not changed & seen
        seen |= changed


def test_a_network_counts_for_its_own_runs_alone(package: Path) -> None:
    before = [current(PAPER), current(RESNET)]
    add(package / "lab/models/resnet18.py", "_NEW = 1")
    assert current(PAPER) == before[0]
    assert current(RESNET) != before[1]
    add(package / "lab/models/vgg19.py", "_NEW = 1")
    assert current(PAPER) != before[0]


def test_a_unit_with_a_file_of_its_own_counts_for_its_own_runs_alone(package: Path) -> None:
    relu = RunConfig(activation="relu")
    before = [current(PAPER), current(relu)]
    (package / "lab/units/tanh.py").write_text("SLOPE = 1\n")
    with_file = current(PAPER)
    assert with_file != before[0]
    add(package / "lab/units/tanh.py", "SLOPE = 2")
    assert current(PAPER) not in (before[0], with_file)
    assert current(relu) == before[1]


def test_other_files_count_for_no_run(package: Path) -> None:
    before = [current(config) for config in (PAPER, RESNET)]
    (package / "lab/models/new.py").write_text("LAYERS = 5\n")
    (package / "lab/units/new.py").write_text("SLOPE = 1\n")
    counted = {package / f"{name}.py" for config in (PAPER, RESNET) for name in files_of(config)}
    for path in set(package.rglob("*.py")) - counted:
        add(path, "_NEW = 1")
    assert [current(config) for config in (PAPER, RESNET)] == before


# --- the table of what was proved equal


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the table in a clone without one."""
    monkeypatch.setenv("LBP_PROJECT", str(toys.clone(tmp_path / "clone")))
    return tmp_path / "clone" / "data" / "equals.json"


def write(table: Path, *pairs: tuple[str, str]) -> None:
    table.write_text(json.dumps([{"old": old, "new": new} for old, new in pairs]))


def test_without_a_table_a_fingerprint_equals_only_itself(table: Path) -> None:
    assert are_equal("a", "a")
    assert not are_equal("a", "b")


def test_fingerprints_are_equal_through_any_number_of_proofs_either_way(table: Path) -> None:
    write(table, ("c", "d"), ("a", "b"), ("x", "y"), ("b", "c"))
    chain = ["a", "b", "c", "d"]
    assert all(are_equal(first, second) for first in chain for second in chain)
    assert are_equal("y", "x")
    assert not any(are_equal(first, second) for first in chain for second in "xyz")
    write(table, ("c", "d"), ("a", "b"))
    assert not are_equal("a", "d")


def test_a_circle_of_proofs_ends(table: Path) -> None:
    write(table, ("a", "b"), ("b", "a"), ("a", "a"))
    assert are_equal("a", "b")
    assert not are_equal("a", "c")


def test_a_record_is_stale_if_any_stretch_may_have_other_numbers(table: Path) -> None:
    now = fingerprint(PAPER)
    old = toys.record(PAPER, [60.0, 50.0], fingerprint="0" * 16)
    (stretch,) = old.stretches
    halves = [replace(stretch, last=1), replace(stretch, first=2, fingerprint=now)]
    mixed = replace(old, stretches=halves)
    assert not is_stale(toys.record(PAPER, [60.0]))
    assert is_stale(old)
    assert is_stale(mixed)
    write(table, ("0" * 16, "1" * 16))
    assert is_stale(old)
    write(table, ("0" * 16, "1" * 16), ("1" * 16, now))
    assert not is_stale(old)
    assert not is_stale(mixed)


def test_the_same_code_of_another_run_is_no_proof(table: Path) -> None:
    assert is_stale(toys.record(PAPER, [60.0], fingerprint=fingerprint(RESNET)))


@pytest.mark.parametrize(
    "damaged",
    [
        "[",
        "5",
        '{"old": "a"}',
        "[5]",
        '["old"]',
        '[{"old": "a"}]',
        '[{"old": "a", "new": 5}]',
        "null",
    ],
)
def test_a_damaged_table_is_named(table: Path, damaged: str) -> None:
    table.write_text(damaged)
    with pytest.raises(LbpError) as error:
        are_equal("a", "b")
    assert re.fullmatch(
        rf"{re.escape(str(table))} is damaged \(.+\): restore it .*", str(error.value)
    )
    table.write_bytes(b"\xff")
    with pytest.raises(LbpError, match="cannot be read: it is not text in UTF-8"):
        are_equal("a", "b")


def test_the_committed_table_names_fingerprints() -> None:
    for proof in fingerprints.proofs():
        assert re.fullmatch("[0-9a-f]{16}", proof["old"])
        assert re.fullmatch("[0-9a-f]{16}", proof["new"])


def clamped_parameters(model: Any) -> Any:
    return []


def as_rule(rule: str) -> Any:
    return literature.BUILT_IN["linear"]


@pytest.mark.parametrize(
    ("place", "new"),
    [
        ("lbp.lab.fingerprint.models.clamped_parameters", clamped_parameters),
        ("lbp.lab.fingerprint.as_rule", as_rule),
    ],
)
def test_what_clamps_weights_and_what_chooses_the_rule_count(
    monkeypatch: pytest.MonkeyPatch, place: str, new: Any
) -> None:
    before = fingerprint(PAPER)
    monkeypatch.setattr(place, new)
    fingerprints._fingerprint.cache_clear()
    assert fingerprint(PAPER) != before
    monkeypatch.undo()
    fingerprints._fingerprint.cache_clear()
    assert fingerprint(PAPER) == before


def test_what_a_rules_name_stands_for_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(PAPER)
    monkeypatch.setitem(literature.BUILT_IN, "linear", literature.BUILT_IN["bp"])
    fingerprints._fingerprint.cache_clear()
    assert fingerprint(PAPER) != before
    monkeypatch.undo()
    fingerprints._fingerprint.cache_clear()
