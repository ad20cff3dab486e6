"""The repository's name stands in one place, buttons follow it, and Colab gets what it needs."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
OTHER = "https://github.com/someone/else"
QUICK = "selection.ipynb"  # of the recorded runs alone


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts in book/ import each other."""
    monkeypatch.syspath_prepend(ROOT / "book")


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def colab_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.id == "colab"]


def clones(cell, url: str, branch: str) -> bool:
    words = cell.source.replace("\\\n", "").split()
    return " ".join(["--branch", branch, url, "/content/lbp"]) in " ".join(words)


# --- the name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_begins_with_the_cell_for_colab(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert colab_cells(path) == code[:1], "run: python book/repository.py"
    assert code[0].metadata == {"tags": ["remove-cell"]}
    assert code[0].outputs == []
    assert clones(code[0], **REPOSITORY), "run: python book/repository.py"
    expected = script("repository").colab_cell(script("repository").read(ROOT))
    assert code[0].source == expected.source, "run: python book/repository.py"


def test_the_name_stands_where_it_is_read_or_written_and_nowhere_else():
    folders = (".github", "book", "data", "lbp", "notebooks", "tests")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*")]
    paths += [p for p in ROOT.iterdir() if p.is_file()]
    texts = {p: p.read_bytes() for p in paths if p.is_file() and p.stat().st_size < 10**7}
    name = REPOSITORY["url"].removeprefix("https://").encode()
    found = {p.relative_to(ROOT).as_posix() for p, text in texts.items() if name in text}
    assert found <= {"_config.yml", "CITATION.cff", *(f"notebooks/{p.name}" for p in NOTEBOOKS)}


def test_the_citation_has_the_name():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == REPOSITORY["url"]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_one_command_sets_the_name_everywhere(copy_project, python, tmp_path):
    root = copy_project(tmp_path / "project")
    shutil.copy2(ROOT / "CITATION.cff", root)
    done = python(root, "book/repository.py", "--url", OTHER, "--branch", "v9")
    assert (done.returncode, done.output) == (0, "")
    assert (root / "_config.yml").read_text().count("#") == (
        ROOT / "_config.yml"
    ).read_text().count("#")
    config = yaml.safe_load((root / "_config.yml").read_text())
    assert config["repository"] == {"url": OTHER, "branch": "v9"}
    assert yaml.safe_load((root / "CITATION.cff").read_text())["repository-code"] == OTHER
    for path in NOTEBOOKS:
        (cell,) = colab_cells(root / "notebooks" / path.name)
        assert clones(cell, OTHER, "v9")
        before, after = (
            nbformat.read(p, as_version=4) for p in (path, root / "notebooks" / path.name)
        )
        kept = [(c.source, c.metadata) for c in before.cells if c.id != "colab"]
        assert [(c.source, c.metadata) for c in after.cells if c.id != "colab"] == kept
        counts = [c.execution_count for c in after.cells if c.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))

    once = contents(root)
    assert python(root, "book/repository.py").returncode == 0
    assert contents(root) == once


def test_a_cell_that_is_added_leaves_the_notebook_as_if_it_had_run_with_it():
    results = [nbformat.v4.new_output("execute_result", execution_count=1)]
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("1", execution_count=1, outputs=results),
        nbformat.v4.new_code_cell("2"),  # not executed, and it stays so
        nbformat.v4.new_code_cell("3", execution_count=2),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    repository = script("repository")
    repository.put_cell(notebook, repository.colab_cell(repository.Repository(OTHER, "main")))
    assert [c.id == "colab" for c in notebook.cells] == [False, True, False, False, False]
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2, None, 3]
    assert notebook.cells[2].outputs[0].execution_count == 2
    nbformat.validate(notebook)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--url", ""),
        ("--url", "lbp"),
        ("--url", "https://github.com/someone"),
        ("--url", "https://github.com/someone/else/tree/main"),
        ("--url", "https://github.com/some one/else; true"),
        ("--branch", ""),
        ("--branch", "--upload-pack=x"),
        ("--branch", "a b"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(option, value):
    before = (ROOT / "_config.yml").read_bytes()
    done = subprocess.run(
        [sys.executable, ROOT / "book/repository.py", f"{option}={value}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"repository.py: {option} '.*': expected .*\n", done.stderr)
    assert (ROOT / "_config.yml").read_bytes() == before


# --- the buttons


class Buttons(HTMLParser):
    """Collects where the buttons of a page lead, by their tooltips."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "a" and "btn" in (given.get("class") or "").split():
            self.found[given.get("title")] = given.get("href")


@pytest.fixture
def buttons(tmp_path, python):
    """Return a function that gives the buttons of a page of a small book of another repository."""
    (tmp_path / "notebooks").mkdir()
    other = shutil.ignore_patterns("*.md", "mathjax", "images", "__pycache__")
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=other)
    for name in ("_config.yml", "CITATION.cff"):
        shutil.copy2(ROOT / name, tmp_path / name)
    config = tmp_path / "_config.yml"
    config.write_text(config.read_text().replace(REPOSITORY["url"], OTHER))
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/one\n"
    )
    (tmp_path / "book/intro.md").write_text("# A\n")
    repository = script("repository")
    cells = [
        nbformat.v4.new_markdown_cell("# One"),
        repository.colab_cell(repository.Repository(OTHER, "main")),
        nbformat.v4.new_code_cell("print(3 * 4)"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "notebooks/one.ipynb")
    done = python(tmp_path, "book/build.py")
    assert done.returncode == 0, done.output

    def of(page: str) -> dict[str, str]:
        parser = Buttons()
        parser.feed((tmp_path / "_build/html" / page).read_text())
        return parser.found

    return of


@pytest.mark.slow
def test_the_buttons_of_every_page_follow_the_name(buttons, tmp_path):
    found = buttons("notebooks/one.html")
    path = "main/notebooks/one.ipynb"
    binder = "https://mybinder.org/v2/gh/someone/else/main?urlpath=lab/tree/notebooks/one.ipynb"
    assert found == {
        "Source repository": OTHER,
        "Suggest edit": f"{OTHER}/edit/{path}",
        "Open an issue": found["Open an issue"],
        "Launch on Colab": f"https://colab.research.google.com/github/someone/else/blob/{path}",
        "Launch on Binder": binder,
        "Download source file": "../_sources/notebooks/one.ipynb",
    }
    assert found["Open an issue"].startswith(f"{OTHER}/issues/new?")
    assert buttons("book/intro.html")["Suggest edit"] == f"{OTHER}/edit/main/book/intro.md"
    assert buttons("book/intro.html")["Download source file"] == "../_sources/book/intro.md"

    html = (tmp_path / "_build/html/notebooks/one.html").read_text()
    assert "COLAB" not in html  # the cell for Colab is hidden
    download = nbformat.read(tmp_path / "_build/html/_sources/notebooks/one.ipynb", as_version=4)
    assert download.cells[2].outputs[0].text == "12\n"
    assert (tmp_path / "_build/html/_sources/book/intro.md").is_file()


# --- Colab


def locked(name: str) -> str:
    return re.findall(rf"(?m)^{name}==(\S+)", (ROOT / "requirements.lock").read_text())[0]


def on_a_machine(**versions: str):
    """Return what asks for a package's version on a machine that has these."""

    def installed(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return installed


def test_colab_keeps_what_fits_and_gets_the_rest_as_locked():
    lacking = script("colab").lacking
    names = {line.partition("==")[0] for line in lacking(on_a_machine())}
    assert {"torch", "torchvision", "numpy", "matplotlib", "myst-nb"} <= names
    assert not names & {"linear-backprop", "ipykernel", "pytest"}  # Colab has a kernel of its own
    assert set(lacking(on_a_machine())) == {f"{name}=={locked(name)}" for name in names}

    newer = dict.fromkeys(names, "99.0")
    assert lacking(on_a_machine(**newer)) == []
    assert lacking(on_a_machine(**newer | {"torch": "99.0+cu130"})) == []
    assert lacking(on_a_machine(**newer | {"torch": "2.1.0"})) == [f"torch=={locked('torch')}"]
    assert lacking(on_a_machine(**newer | {"numpy": "1.26.4"})) == [f"numpy=={locked('numpy')}"]


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def published(copy_project, tmp_path):
    """The project in a git repository of its own, of which its notebooks know."""
    root = copy_project(tmp_path / "published")
    shutil.copy2(ROOT / "requirements.lock", root)
    repository = script("repository")
    cell = repository.colab_cell(repository.Repository(root.as_uri(), "main"))
    cell.source = cell.source.replace("/content", str(tmp_path / "content"))
    path = root / "notebooks" / QUICK
    notebook = nbformat.read(path, as_version=4)
    repository.put_cell(notebook, cell)
    notebook.cells.append(nbformat.v4.new_code_cell("import lbp\nprint(lbp.__file__, os.getcwd())"))
    nbformat.write(notebook, path)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "a")
    return root


@pytest.fixture
def machine(tmp_path):
    """A Python with the packages of this one and without lbp, as on Colab."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # Folders in a .pth file have their own .pth files left alone: no editable lbp is found.
    folders = {path for path in sys.path if path.endswith("site-packages")}
    (site / "packages.pth").write_text("\n".join(sorted(folders)))
    return tmp_path / "venv" / "bin" / "python"


@pytest.mark.slow
def test_a_notebook_runs_on_colab_with_nothing_but_itself(published, machine, tmp_path):
    folder = tmp_path / "content"
    folder.mkdir()
    shutil.copy2(published / "notebooks" / QUICK, tmp_path / "opened.ipynb")
    kept = {name: v for name, v in os.environ.items() if name not in ("PYTHONPATH", "LBP_PROJECT")}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [machine, *arguments],
            cwd=folder,
            env=kept | {"COLAB_RELEASE_TAG": "release-colab"},
            capture_output=True,
            text=True,
            timeout=600,
        )

    assert "No module named 'lbp'" in run("-c", "import lbp").stderr
    for _ in range(2):  # a session that is restarted finds the clone
        done = run("-m", "papermill", tmp_path / "opened.ipynb", "out.ipynb", "--no-progress-bar")
        assert done.returncode == 0, done.stderr
        cells = nbformat.read(folder / "out.ipynb", as_version=4).cells
        clone = folder / "lbp"
        assert cells[-1].outputs[0].text == f"{clone / 'lbp/__init__.py'} {clone / 'notebooks'}\n"
        (first,) = (cell for cell in cells if cell.id == "colab")
        (said,) = "".join(output.text for output in first.outputs).splitlines()
        assert "GPU" in said
        committed = nbformat.read(ROOT / "notebooks" / QUICK, as_version=4).cells
        shown = [o for cell in committed for o in cell.get("outputs", [])]
        again = [o for cell in cells[:-1] if cell.id != "colab" for o in cell.get("outputs", [])]
        assert [o.get("data") for o in again] == [o.get("data") for o in shown]
