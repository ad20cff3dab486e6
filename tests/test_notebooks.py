"""The notebooks' committed outputs are what the code computes, and the check is not vacuous."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RULES = "rule_atlas.ipynb"  # measures the rules themselves
QUICK = "selection.ipynb"  # of the recorded runs alone
NBVAL = ("--nbval", "--nbval-current-env", "--nbval-cell-timeout=1200", "-p", "no:cacheprovider")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def own_cells(notebook):
    """Return a notebook's code without the cell for Colab, which test_repository.py tests."""
    return [cell for cell in code_cells(notebook) if cell.id != "colab"]


def unfinished(notebook) -> list[str]:
    """Return what speaks against a notebook having run from its first cell to its last."""
    wrong = []
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        wrong.append(f"not executed from the first cell to the last: {counts}")
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    if not outputs:
        wrong.append("no outputs")
    return wrong + [o.evalue for o in outputs if o.output_type == "error"]


def is_compared(cell) -> bool:
    return not {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", []))


def images(cell) -> bool:
    return any(
        key.startswith("image/") for output in cell.outputs for key in output.get("data", {})
    )


def nbval(python, root: Path, *paths: Path):
    """Run nbval, away from this project's own pytest settings."""
    ini = root / "nbval.ini"
    ini.write_text("[pytest]\n")
    return python(root, "-m", "pytest", "-c", ini, f"--rootdir={root}", *NBVAL, *paths)


@pytest.fixture
def project(copy_project, tmp_path):
    return copy_project(tmp_path / "project")


def test_the_book_shows_every_notebook():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    listed = {name for name in chapters if name.startswith("notebooks/")}
    assert listed == {f"notebooks/{path.stem}" for path in NOTEBOOKS}


@every_notebook
def test_every_cell_was_executed(path):
    notebook = nbformat.read(path, as_version=4)
    assert unfinished(notebook) == []
    assert all(o.get("name") != "stderr" for cell in code_cells(notebook) for o in cell.outputs)


@every_notebook
def test_something_is_compared(path):
    compared = [
        output
        for cell in code_cells(nbformat.read(path, as_version=4))
        if is_compared(cell)
        for output in cell.outputs
        if output.output_type == "stream" or "text/plain" in output.get("data", {})
    ]
    assert compared


@every_notebook
def test_outputs_hold_no_trace_of_the_machine(path):
    text = path.read_text()
    assert not re.search(r"0x[0-9a-f]{6,}|/home/|/tmp/|/work/|/Users/", text)
    metadata = json.loads(text)["metadata"]
    assert set(metadata) == {"kernelspec", "language_info"}
    assert metadata["language_info"] == {"name": "python"}


@every_notebook
def test_every_image_has_alt_text_and_a_caption(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        if images(cell):
            mystnb = cell.metadata.get("mystnb", {})
            assert mystnb.get("image", {}).get("alt", "").strip(), cell.source
            assert mystnb.get("figure", {}).get("caption", "").strip(), cell.source
            assert mystnb["figure"].get("name", "").strip(), cell.source


@pytest.fixture(scope="session")
def untouched(copy_project, tmp_path_factory):
    """A copy of the project in which no test changes anything."""
    return copy_project(tmp_path_factory.mktemp("project"))


# nbval takes seconds to start, and some notebooks take long: several processes share them.
LONG = [path for path in NOTEBOOKS if path.stem in ("fig1_synthetic", "claims", "promises")]
SHORT = [path for path in NOTEBOOKS if path not in LONG]


@pytest.mark.slow
@pytest.mark.parametrize("paths", [*([path] for path in LONG), SHORT[::2], SHORT[1::2]])
def test_committed_outputs_are_what_the_code_computes(python, untouched, paths):
    done = nbval(python, untouched, *(untouched / "notebooks" / path.name for path in paths))
    assert done.returncode == 0, done.output
    cells = sum(len(code_cells(nbformat.read(path, as_version=4))) for path in paths)
    assert f"{cells} passed" in done.output


@pytest.mark.slow
def test_a_changed_number_fails(python, project):
    path = project / "notebooks" / QUICK
    notebook = nbformat.read(path, as_version=4)
    for output in (o for c in code_cells(notebook) if is_compared(c) for o in c.outputs):
        data = output.get("data", {})
        if found := re.search(r"\d\.\d*(\d)", data.get("text/html", "")):
            at, digit = found.start(1), found.group(1)
            text = data["text/html"]
            data["text/html"] = f"{text[:at]}{(int(digit) + 1) % 10}{text[at + 1 :]}"
            break
    else:
        pytest.fail("no number is compared")
    nbformat.write(notebook, path)
    done = nbval(python, project, path)
    assert done.returncode == 1
    assert "1 failed" in done.output


@pytest.mark.slow
def test_backprop_in_place_of_linear_backprop_fails(python, project):
    rules = project / "lbp" / "rules.py"
    right = rules.read_text()
    wrong = right.replace('Rule("linear", _pass,', 'Rule("linear", _zero, true_share=1.0,')
    assert wrong != right
    rules.write_text(wrong)
    done = nbval(python, project, project / "notebooks" / RULES)
    assert done.returncode == 1
    assert "Cell outputs differ" in done.output


@every_notebook
def test_emptied_outputs_are_noticed(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    assert unfinished(notebook)
    notebook = nbformat.read(path, as_version=4)
    code_cells(notebook)[-1].execution_count = None
    assert unfinished(notebook)


def papermill(python, project: Path, path: Path, *parameters: str):
    return python(
        project,
        *("-m", "papermill", f"notebooks/{path.name}", "out.ipynb", "--cwd", "notebooks"),
        *("--no-progress-bar", *parameters),
    )


def uses_profile(path: Path) -> bool:
    """Return whether a notebook does anything with its profile, beyond the check of it."""
    _, _, *cells = own_cells(nbformat.read(path, as_version=4))
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return bool(names & {"profile", "globals"})


# The other notebooks run alike under every profile, and nbval runs them.
WITH_PROFILES = [path for path in NOTEBOOKS if uses_profile(path)]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_PROFILES, ids=lambda path: path.stem)
def test_smoke_profile_runs_every_cell(python, project, path):
    done = papermill(python, project, path, "-p", "profile", "smoke")
    assert done.returncode == 0, done.output
    assert unfinished(nbformat.read(project / "out.ipynb", as_version=4)) == []


@every_notebook
def test_every_notebook_checks_its_parameters_first(path):
    cells = own_cells(nbformat.read(path, as_version=4))
    assert "parameters" in cells[0].metadata.get("tags")
    parameters = {p.target.id: p.annotation.id for p in ast.parse(cells[0].source).body}
    *imports, check = ast.parse(cells[1].source).body
    assert all(isinstance(line, ast.Import | ast.ImportFrom) for line in imports)
    assert ast.unparse(check.value.func) == "notebook.check_parameters"
    assert ast.unparse(check.value.args) == "globals()"
    assert {k.arg: k.value.id for k in check.value.keywords} == parameters
    assert "profile" in parameters


@every_notebook
def test_notebooks_are_thin(path):
    """What is computed is a function of the experiment, where tests reach it."""
    if path.stem in ("own_model", "rule_atlas"):
        return  # they have examples for readers to try
    allowed = (
        *(ast.Module, ast.Import, ast.ImportFrom, ast.alias, ast.AnnAssign, ast.Assign, ast.Expr),
        *(ast.Call, ast.keyword, ast.Name, ast.Attribute, ast.Constant, ast.Load, ast.Store),
        *(
            ast.For,
            ast.ListComp,
            ast.DictComp,
            ast.comprehension,
            ast.List,
            ast.Dict,
            ast.Subscript,
        ),
        *(ast.Compare, ast.Eq, ast.NotEq, ast.Tuple, ast.JoinedStr, ast.FormattedValue),
    )
    for cell in own_cells(nbformat.read(path, as_version=4)):
        found = {type(node) for node in ast.walk(ast.parse(cell.source))} - set(allowed)
        assert not found, (found, cell.source)
        assert len(cell.source.splitlines()) <= 12, cell.source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "name", "value", "message"),
    [
        ("fig1_synthetic", "profile", "smok", "unknown profile 'smok': choose from .*smoke"),
        ("fig2_vgg19_tanh", "profil", "smoke", r"unknown parameter 'profil': .*\bprofile\b"),
        ("precision", "epochs", "-1", r"epochs = -1 is out of range"),
    ],
)
def test_a_wrong_parameter_names_the_valid_ones(python, project, stem, name, value, message):
    done = papermill(python, project, ROOT / "notebooks" / f"{stem}.ipynb", "-p", name, value)
    assert done.returncode == 1
    assert re.search(f"LbpError: {message}", done.output)
