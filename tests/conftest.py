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
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# In the processes that tests start. Small networks gain nothing by two threads, which wait for each
# other on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
# A busy machine may take long over an example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "CITATION.cff",
    "CONTRIBUTING.md",
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep the tests of the book in one process, so that it is built once, and start with them.

    xdist's own groups do not work here: it writes them into `_nodeid`, which pytest 9.2 ignores.
    """
    return BookInOneProcess(config, log)


class BookInOneProcess(LoadScopeScheduling):
    """Gives a process the next test as soon as it is idle, but the tests of the book together."""

    def _split_scope(self, nodeid: str) -> str:
        files = ("accessibility", "book", "pdf")
        of_the_book = nodeid.startswith(tuple(f"tests/test_{name}.py::" for name in files))
        return "book" if of_the_book else nodeid


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
        env=os.environ | {"PYTHONPATH": str(root)},
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
    """The whole book, built once from a copy of the project.

    The build finds the committed outputs in its cache. That the code computes them is what nbval
    tests, and that a build runs the notebooks otherwise is tested on a small book.
    """
    root = copy_project(tmp_path_factory.mktemp("book"))
    fill = "import build; build.fill_cache()"
    filled = python(root, "-c", f"import sys; sys.path.insert(0, 'book'); {fill}")
    return filled if filled.returncode else python(root, "book/build.py")
