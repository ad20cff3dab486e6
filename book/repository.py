"""Name the repository everywhere: `python book/repository.py --url URL --branch NAME`.

The name stands in _config.yml, and the book's buttons come from there. Two kinds of file cannot
read it: CITATION.cff, and the notebooks' cell for Google Colab, which has nothing but its notebook
when it starts. This command writes what it is given into _config.yml, and what stands there into
those files. It runs no notebook, and a second call changes nothing.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
CELL = "colab"  # the id of the notebooks' cell for Google Colab
# A clone, and not a wheel: the notebooks need data/, and records name the commit of their code.
SOURCE = """\
import os
import sys

if "COLAB_RELEASE_TAG" in os.environ:  # on Google Colab: fetch the project and what it needs
    !test -d /content/lbp || \\
        git clone --quiet --depth 1 --branch {branch} \\
        {url} /content/lbp
    !{{sys.executable}} /content/lbp/book/colab.py
    %cd -q /content/lbp/notebooks
    sys.path.insert(0, "/content/lbp")"""
URL = r"https://github\.com/[\w.-]+/[\w.-]+"
BRANCH = r"\w[\w./-]*"


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub, and the branch or tag of this book in it."""

    url: str
    branch: str


def read(root: Path) -> Repository:
    """Return the repository that _config.yml names."""
    return Repository(**yaml.safe_load((root / "_config.yml").read_text())["repository"])


def set_line(path: Path, key: str, value: str) -> None:
    """Give the one line of a YAML file that begins with this key a new value."""
    text, count = re.subn(rf"(?m)^{key}: .*$", lambda _: f"{key}: {value}", path.read_text())
    if count != 1:
        raise SystemExit(f"{path.name} has {count} lines that begin with {key!r}: leave it one")
    path.write_text(text)


def colab_cell(repository: Repository) -> Any:
    """Return the cell, as it stands in a notebook that has run elsewhere than on Colab."""
    source = SOURCE.format(url=repository.url, branch=repository.branch)
    cell = nbformat.v4.new_code_cell(source, id=CELL, execution_count=1)
    cell.metadata["tags"] = ["remove-cell"]  # from the book's pages
    return cell


def put_cell(notebook: Any, cell: Any) -> None:
    """Put the cell before a notebook's first code cell, or in place of the one that is there."""
    ids = [c.id for c in notebook.cells]
    if CELL in ids:
        notebook.cells[ids.index(CELL)] = cell
        return
    code = [c for c in notebook.cells if c.cell_type == "code"]
    for later in code:
        for counted in (later, *(o for o in later.outputs if "execution_count" in o)):
            counted.execution_count = counted.execution_count and counted.execution_count + 1
    notebook.cells.insert(notebook.cells.index(code[0]), cell)


def main() -> None:
    """Write the repository's name into the files that need it."""
    parser = argparse.ArgumentParser(description="Name the repository everywhere.")
    parser.add_argument("--url", help="such as https://github.com/OWNER/NAME")
    parser.add_argument("--branch", help="the branch or tag of this book")
    given = parser.parse_args()
    for name, value, pattern in (("url", given.url, URL), ("branch", given.branch, BRANCH)):
        if value is not None:
            if not re.fullmatch(pattern, value):
                example = "https://github.com/OWNER/NAME" if name == "url" else "main or v1.0"
                parser.exit(2, f"repository.py: --{name} {value!r}: expected {example}\n")
            set_line(ROOT / "_config.yml", f"  {name}", value)

    repository = read(ROOT)
    set_line(ROOT / "CITATION.cff", "repository-code", repository.url)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        put_cell(notebook, colab_cell(repository))
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
