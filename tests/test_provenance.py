"""Where a result comes from: the commit of this code or none, and what it ran on."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from lbp.lab import provenance
from lbp.lab.config import RunConfig
from lbp.lab.provenance import device_name, origin
from lbp.lab.record import Record
from tests import toys

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("LBP_COMMIT", raising=False)
    yield
    provenance._checkout.cache_clear()


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], tuple[str | None, bool | None]]:
    """Return a function that tells commit and state of the code if it lay in a folder."""

    def place(root: Path) -> tuple[str | None, bool | None]:
        monkeypatch.setattr(provenance, "_ROOT", root.resolve())
        provenance._checkout.cache_clear()
        found = origin(CPU, 1.0)
        return found.commit, found.dirty

    return place


Placed = Callable[[Path], tuple[str | None, bool | None]]


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def repository(root: Path) -> str:
    """Make a git repository that holds lbp/ and other files; return its commit."""
    (root / "lbp").mkdir(parents=True)
    (root / "data").mkdir()
    for name in ("lbp/rules.py", "data/claims.yml", "README.md"):
        (root / name).write_text("a\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", root.name)
    return git(root, "rev-parse", "HEAD")


# --- the commit


def test_a_checkout_has_a_commit(tmp_path: Path, placed: Placed) -> None:
    commit = repository(tmp_path / "repository")
    assert placed(tmp_path / "repository") == (commit, False)
    (tmp_path / "link").symlink_to(tmp_path / "repository")
    assert placed(tmp_path / "link") == (commit, False)


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("lbp/rules.py", True),
        ("lbp/new.py", True),
        ("data/claims.yml", False),
        ("data/new.json", False),
        ("README.md", False),
    ],
)
def test_only_changed_code_makes_a_checkout_dirty(
    tmp_path: Path, placed: Placed, name: str, dirty: bool
) -> None:
    commit = repository(tmp_path)
    (tmp_path / name).write_text("b\n")
    assert placed(tmp_path) == (commit, dirty)


def test_lbp_commit_names_the_commit(
    tmp_path: Path, placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "repository")
    monkeypatch.setenv("LBP_COMMIT", "named")
    assert placed(tmp_path / "repository") == ("named", None)
    assert placed(tmp_path) == ("named", None)
    monkeypatch.setenv("LBP_COMMIT", "")
    assert placed(tmp_path) == (None, None)


def test_a_copy_has_no_commit_even_within_another_repository(
    tmp_path: Path, placed: Placed
) -> None:
    repository(tmp_path / "other")
    copy = tmp_path / "other" / "site-packages"
    (copy / "lbp").mkdir(parents=True)
    assert placed(copy) == (None, None)
    assert placed(tmp_path) == (None, None)  # in no repository


def test_a_repository_without_a_commit_has_none(tmp_path: Path, placed: Placed) -> None:
    git(tmp_path, "init", "--quiet")
    assert placed(tmp_path) == (None, None)


def test_gits_own_variables_do_not_matter(
    tmp_path: Path, placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git sets them for its hooks."""
    commit = repository(tmp_path / "mine")
    repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    assert placed(tmp_path / "mine") == (commit, False)
    assert placed(tmp_path) == (None, None)


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "kill -9 $$",
        "true",
        "echo nonsense",
        "pwd; pwd; pwd",
        r"printf '\377\376'",
        r"printf 'a\000b'",
        "echo 0123456789012345678901234567890123456789",
        'for last; do :; done; case "$last" in HEAD) echo nonsense;; *) echo "$2";; esac',
        r'for last; do :; done; case "$last" in HEAD) printf %040d 0;; *) printf "a\000b";; esac',
    ],
)
def test_a_git_that_does_not_work_costs_nothing_but_the_commit(
    tmp_path: Path, placed: Placed, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    assert placed(tmp_path) == (None, None)


def test_without_git_there_is_no_commit(
    tmp_path: Path, placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert placed(tmp_path) == (None, None)


def test_a_git_that_hangs_costs_nothing_but_the_commit(
    tmp_path: Path, placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(command: list[str], timeout: float, **options: object) -> None:
        assert timeout <= 60
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert placed(tmp_path) == (None, None)


def test_a_process_keeps_the_commit_of_its_start(tmp_path: Path, placed: Placed) -> None:
    before = placed(tmp_path)
    repository(tmp_path)
    after = origin(CPU, 1.0)
    assert (after.commit, after.dirty) == before


# --- the rest


def test_an_origin_describes_this_process() -> None:
    found = origin(CPU, 1.23456)
    assert found.torch == torch.__version__
    assert found.torchvision == version("torchvision")
    assert found.device == device_name(CPU)
    assert found.threads == torch.get_num_threads() == 1
    assert found.tf32 is False
    assert found.seconds == 1.235
    age = datetime.now(UTC) - datetime.fromisoformat(found.finished)
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_an_origin_fits_into_a_record() -> None:
    record = toys.record(RunConfig(), [60.0])
    mine = replace(record, stretches=[replace(record.stretches[0], origin=origin(CPU, 2.0))])
    assert Record.from_json(mine.to_json()).stretches == mine.stretches


@pytest.mark.parametrize(
    ("instructions", "end"), [("AVX2", ", AVX2"), ("AVX512", ", AVX512"), ("DEFAULT", "")]
)
def test_a_processor_has_a_name_cores_and_vector_instructions(
    monkeypatch: pytest.MonkeyPatch, instructions: str, end: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    name, comma, rest = device_name(CPU).rpartition(f", {os.cpu_count()} cores")
    assert name
    assert comma
    assert rest == end
