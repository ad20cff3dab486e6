"""Where the project keeps its files: a clone of its repository, which not every user has."""

import os
from pathlib import Path

from lbp.errors import LbpError
from lbp.lab.files import user_path

PROJECT = "LBP_PROJECT"  # the environment variable that names the clone


def project() -> Path:
    """Return the clone of the project that the commands and notebooks work in.

    In this order: the folder that LBP_PROJECT names; the clone that this package lies in; the
    current folder or one above it.

    Raises:
        LbpError: If LBP_PROJECT names something else, or there is no clone.
    """
    named = os.environ.get(PROJECT)
    if named:
        folder = user_path(named)
        if not _is_clone(folder):
            raise LbpError(f"{folder} is not a clone of this project: name one by --project")
        return folder
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[2], here, *here.parents):
        if _is_clone(folder):
            return folder
    raise LbpError(
        "this needs a clone of the project, for its data/ folder: run it there, or name the clone "
        "by --project DIR"
    )


def _is_clone(folder: Path) -> bool:
    return (folder / "_toc.yml").is_file() and (folder / "data" / "claims.yml").is_file()


def results() -> Path:
    """Return the folder of the recorded runs."""
    return project() / "data" / "results"


def reruns() -> Path:
    """Return the folder of readers' reruns, with a folder for each reader."""
    return project() / "data" / "reruns"


def checkpoints() -> Path:
    """Return the folder of the checkpoints."""
    return project() / "data" / "checkpoints"


def claims() -> Path:
    """Return the file of the paper's claims."""
    return project() / "data" / "claims.yml"


def cost() -> Path:
    """Return the folder of the recorded times and memory of training steps."""
    return project() / "data" / "cost"


def paper_curves() -> Path:
    """Return the file of the paper's digitised curves."""
    return project() / "data" / "paper" / "figures.csv"


def equals() -> Path:
    """Return the table of code that was proved to give equal numbers."""
    return project() / "data" / "equals.json"
