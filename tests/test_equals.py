"""Proofs that code gives equal numbers: by real commits of a copy of the package."""

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import lbp
from lbp.errors import LbpError
from lbp.lab import equals
from lbp.lab import fingerprint as fingerprints
from lbp.lab.config import RunConfig
from lbp.lab.equals import EPOCHS, RUNS, numbers, prove
from lbp.lab.fingerprint import fingerprint, is_stale
from lbp.lab.models import build
from lbp.lab.run import Trainers
from lbp.lab.units import UNITS
from tests import toys

TINY = replace(RUNS[0], width=1 / 64, train_images=20, test_images=20, batch=10)


# --- the numbers of a run


def test_numbers_are_the_same_at_each_call_bit_for_bit() -> None:
    config = replace(TINY, augment=True, momentum=0.9, head="mlp")
    first = numbers(config, 2)
    torch.manual_seed(5)  # earlier work does not matter
    assert numbers(config, 2) == first
    assert first["fingerprint"] == fingerprint(config)


@pytest.mark.parametrize(
    "other", [replace(TINY, seed=1), replace(TINY, lr=1.1e-2), replace(TINY, rule="bp")]
)
def test_numbers_of_other_runs_are_others(other: RunConfig) -> None:
    mine, others = numbers(TINY, 1), numbers(other, 1)
    assert mine["rows"] != others["rows"]
    assert mine["weights"] != others["weights"]


def test_the_runs_use_every_choice_that_a_run_has() -> None:
    for name, kind in get_type_hints(RunConfig).items():
        used = {getattr(run, name) for run in RUNS}
        if name == "dataset":
            assert used == {"stand-in", "stand-in-100"}  # they need no data
        elif name == "activation":
            assert used == set(UNITS)
        elif get_origin(kind) is Literal:
            assert used == set(get_args(kind)), name
        elif kind is bool:
            assert used == {False, True}, name
        else:
            defaults = {field.name: field.default for field in fields(RunConfig)}
            assert used - {defaults[name]}, name


@pytest.mark.slow
@pytest.mark.parametrize("config", RUNS, ids=str)
def test_the_runs_train(config: RunConfig) -> None:
    """They prove nothing of weights that do not move or are not numbers."""
    torch.manual_seed(config.seed)
    start = dict(build(config).named_parameters())
    trainer = Trainers(Path(), torch.device("cpu")).get(config)
    assert math.isfinite(trainer.epoch().train_loss)
    for name, weight in trainer.model.named_parameters():
        assert weight.isfinite().all(), name
        assert not torch.equal(weight, start[name]), name


# --- proofs


class Project:
    """A clone of the project in a git repository of its own."""

    def __init__(self, root: Path) -> None:
        self.root = toys.clone(root)
        self.table = root / "data" / "equals.json"
        shutil.copytree(
            Path(lbp.__file__).parent, root / "lbp", ignore=shutil.ignore_patterns("__pycache__")
        )
        (root / ".gitignore").write_text("__pycache__/\n")
        self.git("init", "--quiet")
        self.base = self.commit("base")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        return subprocess.run(
            ["git", "-C", str(self.root), *identity, *arguments],
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def change(self, name: str, old: str, new: str) -> str:
        """Change the code of a file and commit it; return the commit."""
        path = self.root / "lbp" / f"{name}.py"
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")
        return self.commit(new or f"without {old}")

    def fingerprint(self) -> str:
        """Return the fingerprint of TINY under the code as it is here now."""
        fingerprints._sources.cache_clear()
        fingerprints._fingerprint.cache_clear()
        return fingerprint(TINY)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    project = Project(tmp_path / "project")
    monkeypatch.setenv("LBP_PROJECT", str(project.root))
    monkeypatch.setattr(fingerprints, "_PACKAGE", project.root / "lbp")
    yield project
    fingerprints._fingerprint.cache_clear()


ERROR = "return 100 * (~correct).sum().item() / len(correct)"
SAME_ERROR = "return (~correct).sum().item() * 100 / len(correct)"
OTHER_ERROR = "return (~correct).sum().item() * 100 / (len(correct) + 1)"


@pytest.mark.slow
def test_a_proof_is_recorded_where_code_changed_and_numbers_did_not(project: Project) -> None:
    before = project.fingerprint()
    record = toys.record(TINY, [60.0], fingerprint=before)
    project.change("lab/train", ERROR, f"# In percent.\n    {ERROR}")
    assert prove(project.base, [TINY]) == []
    assert project.fingerprint() == before
    assert not project.table.exists()

    changed = [project.root / "lbp" / "lab" / name for name in ("equals.py", "units/__init__.py")]
    texts = [path.read_text("utf-8") for path in changed]
    project.change("lab/equals", '    replace(_PLAIN, activation="silu", precision="bf16"),\n', "")
    without = project.change("lab/units/__init__", '    "silu": nn.SiLU,\n', "")
    for path, text in zip(changed, texts, strict=True):
        path.write_text(text, "utf-8")
    rewritten = project.change("lab/train", ERROR, SAME_ERROR)
    after = project.fingerprint()
    assert after != before
    assert is_stale(record)
    new_run = replace(TINY, activation="silu")  # it has no earlier numbers
    (proof,) = prove("HEAD~1", [TINY, replace(TINY, seed=1), new_run])
    assert (proof.old, proof.new) == (before, after)
    assert (proof.old_commit, proof.new_commit) == (without, rewritten)
    assert proof.runs == [TINY.differing(), replace(TINY, seed=1).differing()]
    assert proof.epochs == EPOCHS
    assert not is_stale(record)

    recorded = project.table.read_text()
    assert [entry["old"] for entry in json.loads(recorded)] == [before]
    project.change("lab/train", SAME_ERROR, OTHER_ERROR)
    with pytest.raises(LbpError) as error:
        prove(rewritten, [TINY])
    assert str(error.value) == (
        f"1 of 1 runs differ from those of {rewritten}, the first is {TINY}: nothing is recorded"
    )
    assert project.table.read_text() == recorded
    assert project.fingerprint() not in (before, after)
    assert is_stale(record)


def told(act: Callable[[], object]) -> str:
    with pytest.raises(LbpError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["lbp/rules.py", "lbp/new.py"])
def test_code_that_is_not_committed_proves_nothing(project: Project, name: str) -> None:
    with (project.root / name).open("a") as file:
        file.write("# a comment\n")
    message = told(lambda: prove("HEAD", [TINY]))
    assert message.startswith("the code in lbp/ is not committed: ")


@pytest.mark.parametrize("commit", ["nonsense", "", "-x", "HEAD~5", "0" * 40, "a b"])
def test_an_unknown_commit_is_told_in_a_line(project: Project, commit: str) -> None:
    message = told(lambda: prove(commit, [TINY]))
    assert message == f"{commit!r} is no commit of this clone: choose one that `git log` lists"


def test_a_folder_without_a_repository_is_told_in_a_line(project: Project) -> None:
    shutil.rmtree(project.root / ".git")
    assert "not a git repository" in told(lambda: prove("HEAD", [TINY]))


def test_without_git_it_is_told_in_a_line(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(project.root))
    assert f"{project.root} has no working git (" in told(lambda: prove("HEAD", [TINY]))


@pytest.mark.slow
def test_runs_that_the_earlier_code_does_not_have_prove_nothing(project: Project) -> None:
    project.change("lab/units/__init__", '    "silu": nn.SiLU,\n', "")
    message = told(lambda: prove("HEAD", [replace(TINY, activation="silu")]))
    assert message == "HEAD has none of these runs: there is nothing to prove"


@pytest.mark.slow
def test_code_that_cannot_train_the_runs_is_told_in_a_line(project: Project) -> None:
    (project.root / "lbp" / "lab" / "equals.py").unlink()  # as in a commit from before it was there
    project.commit("without")
    message = told(lambda: prove("HEAD", [TINY]))
    assert re.match(r"the code in .+ cannot train these runs: .*No module named lbp.lab", message)


def test_a_damaged_table_is_told_and_stays(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"fingerprint": "a", "rows": "", "weights": ""}]

    def numbers_in(root: Path, runs: list[RunConfig]) -> list[dict[str, Any]]:
        return found if root == project.root else [found[0] | {"fingerprint": "b"}]

    monkeypatch.setattr(equals, "_known_in", lambda root, runs: runs)
    monkeypatch.setattr(equals, "_numbers_in", numbers_in)
    project.table.write_text("[")
    assert f"{project.table} is damaged" in told(lambda: prove("HEAD", [TINY]))
    assert project.table.read_text() == "["
