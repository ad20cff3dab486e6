"""Copies of the project to try things on, and the book built once for all tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "_config.yml",
    "_toc.yml",
    "book",
    "data",
    "lbp",
    "notebooks",
    "pyproject.toml",
    "README.md",
)
IGNORED = shutil.ignore_patterns("__pycache__", "cifar-10*", "checkpoints", ".ipynb_checkpoints")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the whole book in one process, so that it is built once."""
    for item in items:
        if "book" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("book"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute with one thread, which small steps are fastest with, and which rounds as one."""
    torch.set_num_threads(1)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty clone of the project that commands and the library then work in."""
    root = tmp_path / "clone"
    (root / "data" / "paper").mkdir(parents=True)
    for name in ("_toc.yml", "data/claims.yml", "data/paper/figures.csv"):
        shutil.copy2(ROOT / name, root / name)
    monkeypatch.setenv("LBP_PROJECT", str(root))
    return root


@dataclass
class Done:
    """A command that ran in a copy of the project."""

    root: Path
    returncode: int
    output: str


def _python(root: Path, *arguments: object) -> Done:
    """Run Python in a copy of the project; notebooks there import the copy's lbp."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=root,
        # Small networks gain nothing by two threads, which wait for each other on a busy machine.
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    return Done(root, done.returncode, done.stdout)


@pytest.fixture(scope="session")
def python() -> Callable[..., Done]:
    """Return a function that runs Python in a copy of the project."""
    return _python


@pytest.fixture(scope="session")
def copy_project() -> Callable[[Path], Path]:
    """Return a function that copies the project, without fetched data, into an empty folder."""

    def copy(root: Path) -> Path:
        root.mkdir(exist_ok=True)
        for name in PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=IGNORED)
            else:
                shutil.copy2(source, root)
        return root

    return copy


@pytest.fixture(scope="session")
def book(copy_project, python, tmp_path_factory) -> Done:
    """The whole book, built once from a copy of the project."""
    root = copy_project(tmp_path_factory.mktemp("book"))
    return python(root, "book/build.py")
