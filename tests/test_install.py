"""What is installed: torch suffices for `lbp`, the other floors name their extra, the wheel."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lbp
from lbp.autograd import OLDEST_TORCH
from lbp.errors import LbpError, MissingExtra, require

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LAB = [Requirement(r).name for r in PYPROJECT["optional-dependencies"]["lab"]]
ABSENT = (*LAB, "matplotlib", "pandas", "scipy", "seaborn", "yaml")

# As if these packages were not installed: they are not found, so neither imported nor listed.
WITHOUT_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""

# A step of gradient descent on v tanh(w x), where v = 2, w = 0.5 and x = 3. Under the rule "linear"
# the gradients are v x = 6 with respect to w and tanh(w x) with respect to v. (An optimizer of
# torch.optim would first spend seconds importing the compiler.)
STEP = """
import math
import torch
from torch import nn
import lbp

def step(forward):
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[0].weight, 0.5)
    nn.init.constant_(model[2].weight, 2.0)
    forward(model, torch.tensor([[3.0]])).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    assert math.isclose(model[0].weight.item(), 0.5 - 0.1 * 6, rel_tol=1e-5)
    assert math.isclose(model[2].weight.item(), 2 - 0.1 * math.tanh(1.5), rel_tol=1e-5)

def linearized(model, x):
    return lbp.linearize(model, "linear")[0](x)

def in_a_block(model, x):
    with lbp.backward_rule("linear"):
        return model(x)

step(linearized)
step(in_a_block)
"""


def python(code, path, cwd):
    """Run Python code that imports lbp from a folder; return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_torch_suffices_for_the_rules(tmp_path):
    loaded = python(f"{WITHOUT_EXTRAS}\n{STEP}\nprint(*sys.modules, sep='\\n')", ROOT, tmp_path)
    assert "lbp.linearization" in loaded
    assert not [name for name in loaded if name.startswith(("lbp.lab", "lbp.experiments"))]
    assert not set(loaded) & set(ABSENT)


@pytest.mark.slow
def test_the_other_floors_name_their_extra_where_it_is_missing(tmp_path):
    expected = {
        "lbp.lab": f"lbp.lab needs {', '.join(LAB)}: pip install '.[lab]' in a clone",
        "lbp.experiments": "lbp.experiments needs matplotlib: pip install '.[book]' in a clone",
    }
    code = f"""
import lbp
for floor in {list(expected)}:
    try:
        __import__(floor)
    except ImportError as error:
        assert isinstance(error, lbp.LbpError)
        print(error)
"""
    assert python(f"{WITHOUT_EXTRAS}\n{code}", ROOT, tmp_path) == list(expected.values())


def test_the_names_of_the_library_are_imported_when_they_are_used():
    assert set(lbp.__all__) <= set(dir(lbp))
    for name in lbp.__all__:
        value = getattr(lbp, name)
        assert (value.__name__ if name == "literature" else value.__module__).startswith("lbp.")
    with pytest.raises(AttributeError, match="module 'lbp' has no attribute 'lineraize'"):
        lbp.lineraize  # noqa: B018


def test_require_names_what_is_missing_and_nothing_else():
    require("this", "lab", "torch", "json")
    with pytest.raises(MissingExtra) as error:
        require("this", "book", "torch", "absent_one", "json", "absent_two")
    message = "this needs absent_one, absent_two: pip install '.[book]' in a clone"
    assert str(error.value) == message
    assert isinstance(error.value, LbpError)
    assert isinstance(error.value, ImportError)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the project, in which a build may leave its files."""
    unneeded = (".*", "_build", "build", "*.egg-info", "__pycache__", "cifar-10*", "checkpoints")
    folder = tmp_path_factory.mktemp("project") / "tree"
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*unneeded))


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, tree)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder in which the wheel, and nothing else, is installed."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", folder, wheel)
    return folder


def pip(command, *arguments):
    offline = ("--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check")
    subprocess.run(
        [sys.executable, "-m", "pip", command, *offline, *map(str, arguments)],
        check=True,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(tree, wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    found = {name for name in files if ".dist-info/" not in name}
    sources = {path.relative_to(tree).as_posix() for path in tree.glob("lbp/**/*.py")}
    assert found == sources | {"lbp/py.typed"}
    assert any(name.endswith("/LICENSE") for name in files - found)


@pytest.mark.slow
def test_the_distribution_needs_torch_alone_and_brings_a_command(installed):
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    assert distribution.name == "linear-backprop"
    assert [r for r in distribution.requires if "extra" not in r] == [f"torch>={OLDEST_TORCH}"]
    assert {"lab", "book"} <= set(distribution.metadata.get_all("Provides-Extra"))
    scripts = distribution.entry_points.select(group="console_scripts")
    assert [(script.name, script.value) for script in scripts] == [("lbp", "lbp.cli:main")]


@pytest.mark.slow
def test_the_installed_library_works_outside_the_project(installed, tmp_path):
    code = f"{STEP}\nprint(lbp.__file__)"
    assert python(code, installed, tmp_path) == [str(installed / "lbp" / "__init__.py")]
