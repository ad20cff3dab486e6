"""What goes with the book: the notebooks' zip file, citations, pictures, and the guides."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import yaml
from pybtex.database import parse_string

import lbp
from lbp.lab import paths

ROOT = Path(__file__).resolve().parents[1]
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports one of the scripts in book/."""
    monkeypatch.syspath_prepend(ROOT / "book")
    return importlib.import_module


# --- the notebooks as a zip file


@pytest.fixture
def unpacked(script, tmp_path) -> Path:
    script("bundle").write(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    return tmp_path / "lbp-notebooks"


def test_the_zip_holds_every_notebook_as_it_is(unpacked):
    mine = {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.name: path.read_bytes() for path in unpacked.glob("notebooks/*")} == mine


def test_the_zip_holds_the_data_that_notebooks_read(unpacked, monkeypatch):
    here = {kind: getattr(paths, kind)() for kind in ("claims", "equals", "paper_curves")}
    records = {path.name for path in paths.results().glob("*.json")}
    monkeypatch.setenv("LBP_PROJECT", str(unpacked))
    for kind, path in here.items():
        assert getattr(paths, kind)().read_bytes() == path.read_bytes()
    assert {path.name for path in paths.results().glob("*.json")} == records
    assert list(paths.cost().glob("*.jsonl"))
    assert not list(unpacked.glob("data/cifar-10*"))


def test_the_same_files_give_the_same_bytes(script, copy_project, python, tmp_path):
    script("bundle").write(tmp_path / "a.zip")
    other = copy_project(tmp_path / "copy")
    for path in other.rglob("*"):
        os.utime(path, (10**9, 10**9))
        path.chmod(0o755)
    assert python(other, "book/bundle.py").returncode == 0
    again = other / "_build" / "lbp-notebooks.zip"
    assert again.read_bytes() == (tmp_path / "a.zip").read_bytes()

    claims = other / "data" / "claims.yml"
    claims.write_text(claims.read_text() + "\n")
    assert python(other, "book/bundle.py").returncode == 0
    assert again.read_bytes() != (tmp_path / "a.zip").read_bytes()


@pytest.mark.slow
def test_a_notebook_of_the_zip_runs_beside_an_installed_library(unpacked, tmp_path):
    shutil.copytree(ROOT / "lbp", tmp_path / "site" / "lbp")
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "selection.ipynb", "out.ipynb", "--no-progress-bar"],
        cwd=unpacked / "notebooks",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert (unpacked / "notebooks" / "out.ipynb").is_file()


# --- citations


def test_the_versions_agree():
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    assert CFF["version"] == zenodo["version"] == VERSION


def test_zenodo_says_what_the_citation_file_says():
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    assert zenodo["title"] == CFF["title"]
    assert zenodo["license"] == CFF["license"]
    assert zenodo["upload_type"] == CFF["type"]
    assert zenodo["creators"] == [{"name": author["name"]} for author in CFF["authors"]]
    (related,) = zenodo["related_identifiers"]
    assert related["identifier"] == CFF["references"][0]["url"]


def test_the_bibtex_entries_parse_and_say_what_the_citation_file_says(script):
    box = script("citation").box(CFF, "2026")
    entries = "\n".join(re.findall(r"```bibtex\n(.*?)```", box, flags=re.S))
    found = parse_string(entries, "bibtex").entries
    ours, paper = found["lbp"], found["yazdani2018"]
    assert ours.fields["title"].strip("{}") == CFF["title"]
    assert ours.fields["version"] == VERSION
    assert [str(person) for person in ours.persons["author"]] == ["{The lbp authors}"]

    # The book's own bibliography has the paper, too.
    bibliography = parse_string((ROOT / "book/references.bib").read_text(), "bibtex")
    listed = bibliography.entries["yazdani2018"]
    assert paper.persons["author"] == listed.persons["author"]
    for name in ("year", "url"):
        assert paper.fields[name] == listed.fields[name]
    titles = [
        entry.fields["title"].translate({ord("{"): "", ord("}"): ""}) for entry in (paper, listed)
    ]
    assert titles[0] == titles[1]


def test_the_apa_form_has_initials_year_and_title(script):
    box = script("citation").box(CFF, "2026")
    assert "Yazdani, M. (2018). Linear Backprop in non-linear networks. In *NIPS 2018" in box
    assert f"The lbp authors. (2026). *{CFF['title']}* (Version {VERSION})" in box


def test_a_repository_is_cited_where_it_is_known(script):
    url = "https://github.com/somebody/fork"
    citation = script("citation")
    assert citation.box(CFF | {"repository-code": url}, "2026").count(url) == 2
    without = {name: value for name, value in CFF.items() if name != "repository-code"}
    assert "github.com" not in citation.box(without, "2026")


@pytest.mark.parametrize(
    ("repository", "pages"),
    [
        ("https://github.com/somebody/fork", "https://somebody.github.io/fork/"),
        ("https://example.org/somebody/fork", ""),
        ("", ""),
    ],
)
def test_the_books_address_follows_from_the_repositorys(script, repository, pages):
    assert script("published").pages(repository) == pages


# --- pictures


def test_the_pictures_are_drawn_from_the_current_figure_and_colours(script, tmp_path):
    pictures = script("pictures")
    pictures.draw(tmp_path)
    for name in ("share.png", "favicon.png"):
        new, kept = (matplotlib.image.imread(f / name) for f in (tmp_path, pictures.STATIC))
        assert new.shape == kept.shape
        assert np.abs(new - kept).mean() < 0.01, f"{name}: run python book/pictures.py"


def test_the_shared_picture_has_the_size_that_other_sites_show():
    assert matplotlib.image.imread(ROOT / "book/_static/share.png").shape[:2] == (630, 1200)


def test_the_icon_is_drawn_in_the_two_colours_and_has_no_script():
    from lbp.experiments.style import COLOURS

    icon = (ROOT / "book/_static/favicon.svg").read_text().lower()
    assert COLOURS["bp"].lower() in icon
    assert COLOURS["linear"].lower() in icon
    assert "<script" not in icon
    assert len(icon) < 5000


# --- the changelog


def test_the_changelog_has_the_current_version_and_names_what_exists():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert re.search(r"\b\d+\.\d+\.\d+\b", text.split("## ", 1)[1])[0] == VERSION
    names = re.findall(r"`lbp\.(\w+)`", text)
    assert names
    assert all(hasattr(lbp, name) for name in names)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"`make (\w+)`", text)) <= set(targets)


# --- the guide for contributors, done as it says


GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """Return the code of one language in a section of the guide."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", GUIDE, flags=re.M | re.S)
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, flags=re.M | re.S)
    return [re.sub(rf"^{indent}", "", code, flags=re.M) for indent, code in found]


def insert(path: Path, anchor: str, code: str, *, before: bool = False) -> None:
    """Insert code after the place in a file that the guide names, or before it."""
    text = path.read_text()
    assert anchor in text
    path.write_text(text.replace(anchor, f"{code}{anchor}" if before else f"{anchor}{code}", 1))


def check_style(root: Path, *names: str) -> None:
    shutil.copy2(ROOT / "pyproject.toml", root)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *names],
            cwd=root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_rule_is_added_as_the_guide_says(python, tmp_path):
    shutil.copytree(ROOT / "lbp", tmp_path / "lbp")
    (tmp_path / "tests").mkdir()
    for name in ("test_literature.py", "test_rule_atlas.py"):
        shutil.copy2(ROOT / "tests" / name, tmp_path / "tests")
    function, entry, factor = blocks("A rule", "python")
    literature = tmp_path / "lbp/literature.py"
    insert(literature, "@dataclass(frozen=True)\nclass Published", f"{function}\n\n", before=True)
    insert(literature, "PUBLISHED: dict[str, Published] = {\n", entry)
    insert(tmp_path / "tests/test_literature.py", "FACTORS = {\n", factor)

    check_style(tmp_path, "lbp/literature.py", "tests/test_literature.py")
    (command,) = re.findall(r"python (-m pytest .*)", blocks("A rule", "bash")[0])
    done = python(
        tmp_path, *command.split(), "-p", "no:cacheprovider", "-vv", "-k", "wide or atlas"
    )
    assert done.returncode == 0, done.output
    assert "test_a_rule_is_its_formula[relu-wide-clip]" in done.output
    assert "test_every_rule_has_a_panel" in done.output


@pytest.mark.slow
def test_an_experiment_is_added_as_the_guide_says(copy_project, python, tmp_path):
    root = copy_project(tmp_path / "copy")
    module, entry = blocks("An experiment", "python")
    (claim,) = blocks("An experiment", "yaml")
    (root / "lbp/experiments/momentum.py").write_text(module)
    register = root / "lbp/experiments/__init__.py"
    insert(register, "    larger_step,\n", "    momentum,\n")
    insert(register, "EXPERIMENTS: Mapping[str, Experiment] = {\n", entry)
    insert(root / "data/claims.yml", "- id: larger-step", f"{claim}\n", before=True)
    check_style(root, "lbp/experiments")

    for line in blocks("An experiment", "bash")[0].splitlines():
        done = python(root, "-m", "lbp.cli", *line.split()[1:])
        assert done.returncode == 0, done.output
        assert "momentum" in done.output
    assert "momentum-ahead: not yet run" in done.output


def test_the_guide_names_files_targets_and_commands_that_exist():
    named = set(re.findall(r"`([\w./]+/[\w.]*)`|(\w+/[\w/]+\.py)\b", GUIDE))
    files = {name for pair in named for name in pair if name and "NAME" not in name}
    new = {"lbp/experiments/momentum.py", "notebooks/momentum.ipynb"}  # the example's
    assert len(files) > 10
    assert [name for name in files - new if not (ROOT / name).exists()] == []
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"make (\w+)$", GUIDE, flags=re.M)) <= set(targets)
    commands = set(re.findall(r"^ *lbp (\w+)", GUIDE, flags=re.M))
    assert commands == {"status", "data", "reproduce", "claims"}
    for file, name in re.findall(r"`(\w+)` (?:and `\w+` )?in\s+`([\w/]+\.py)`", GUIDE):
        assert file in (ROOT / name).read_text(), (file, name)
