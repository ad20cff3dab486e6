"""Imports go down only: lbp <- lbp.lab <- lbp.experiments, with lbp.bench above lab."""

import ast
import graphlib
import importlib.util
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What each floor may import of this project. The command line is above all, so nothing imports it.
MAY_IMPORT = {
    "lbp": {"lbp"},
    "lbp.lab": {"lbp", "lbp.lab"},
    "lbp.bench": {"lbp", "lbp.lab", "lbp.bench"},
    "lbp.experiments": {"lbp", "lbp.lab", "lbp.experiments"},
    "lbp.cli": {"lbp", "lbp.lab", "lbp.experiments"},
}


def packages(*requirements):
    return {Requirement(r).name for r in requirements}


# What the floors may import of others: what a plain installation, or one with the extra, brings.
PACKAGES = {
    "lbp": packages(*PROJECT["dependencies"]),
    "lbp.lab": packages(*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lab"]),
}


@dataclass(frozen=True)
class Import:
    """That one module imports another, where, and whether it does so when it is imported itself."""

    importer: str
    imported: str
    where: str
    at_once: bool

    def __str__(self):
        return f"{self.where}: {self.importer} imports {self.imported}"


def floor(module):
    return next((f for f in MAY_IMPORT if f != "lbp" and f"{module}.".startswith(f"{f}.")), "lbp")


def imported_modules(node, package, known):
    """Return the modules that an import statement names; `from package import module` counts."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    names = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in known else base for name in names]


def is_deferred(node):
    """Whether what is in a statement does not run when its module is imported."""
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )


def imports(root):
    """Return the imports of all files in the folder lbp of a root."""
    files = {}
    for path in sorted(root.glob("lbp/**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    found = []
    for module, path in files.items():
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        nodes = list(ast.walk(ast.parse(path.read_text())))
        deferred = {inner for outer in nodes if is_deferred(outer) for inner in ast.walk(outer)}
        for node in nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                where = f"{path.relative_to(root)}:{node.lineno}"
                names = imported_modules(node, package, files)
                found += [Import(module, name, where, node not in deferred) for name in names]
    return found


def wrong(found):
    """Return the imports that do not go down, or that need a package that may be missing."""

    def allowed(i):
        below, package = floor(i.importer), i.imported.partition(".")[0]
        if package == "lbp":
            return floor(i.imported) in MAY_IMPORT[below]
        others = PACKAGES.get(below)
        return package in sys.stdlib_module_names or others is None or package in others

    return [i for i in found if not allowed(i)]


def circle(found):
    """Return the imports of a circle of modules that import each other at once, or nothing."""
    at_once = {(i.importer, i.imported): i for i in found if i.at_once}
    graph = graphlib.TopologicalSorter()
    for importer, imported in at_once:
        graph.add(importer, imported)
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        modules = error.args[1]  # each is imported by the next one
        return [at_once[pair] for pair in zip(modules[1:], modules, strict=False)]
    return []


def told(found):
    return "\n".join(map(str, found))


def test_imports_go_down_only():
    found = imports(ROOT)
    assert {floor(i.importer) for i in found} == set(MAY_IMPORT)
    assert not wrong(found), told(wrong(found))


def test_no_modules_import_each_other():
    found = circle(imports(ROOT))
    assert not found, told(found)


def write(root, files):
    for name, source in files.items():
        path = root / "lbp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("rules.py", "import lbp.lab.train", "rules.py:1: lbp.rules imports lbp.lab.train"),
        (
            "rules.py",
            "import torch\ndef f():\n    from lbp import lab",
            "rules.py:3: lbp.rules imports lbp.lab",
        ),
        ("rules.py", "from .lab import train", "rules.py:1: lbp.rules imports lbp.lab.train"),
        ("rules.py", "import numpy as np", "rules.py:1: lbp.rules imports numpy"),
        ("__init__.py", "from lbp.cli import main", "__init__.py:1: lbp imports lbp.cli"),
        (
            "lab/run.py",
            "from ..experiments import runs",
            "lab/run.py:1: lbp.lab.run imports lbp.experiments",
        ),
        ("lab/run.py", "import lbp.bench", "lab/run.py:1: lbp.lab.run imports lbp.bench"),
        ("lab/run.py", "import pandas", "lab/run.py:1: lbp.lab.run imports pandas"),
        (
            "bench/figure1.py",
            "from lbp.experiments import fig1",
            "bench/figure1.py:1: lbp.bench.figure1 imports lbp.experiments",
        ),
        (
            "experiments/fig1.py",
            "from lbp import bench",
            "experiments/fig1.py:1: lbp.experiments.fig1 imports lbp.bench",
        ),
        (
            "experiments/fig1.py",
            "import lbp.cli",
            "experiments/fig1.py:1: lbp.experiments.fig1 imports lbp.cli",
        ),
    ],
)
def test_an_import_that_goes_up_is_named(tmp_path, name, source, message):
    tree = {
        "__init__.py": "from lbp.rules import Rule",
        "rules.py": "import torch.nn.functional as F\nfrom collections import abc",
        "lab/__init__.py": "import numpy\nfrom lbp import rules",
        "lab/train.py": "from . import LIMIT\nfrom lbp.lab import LIMIT",
        "bench/__init__.py": "from lbp.lab import train\nfrom PIL import Image",
        "experiments/__init__.py": "import pandas\nfrom lbp.lab import train",
        "cli.py": "from lbp import experiments",
    }
    assert wrong(imports(write(tmp_path, tree))) == []
    assert told(wrong(imports(write(tmp_path, {name: source})))) == f"lbp/{message}"


def test_a_circle_is_named(tmp_path):
    tree = {
        "__init__.py": "from lbp.a import x",
        "a.py": "import lbp.b",
        "b.py": "def f():\n    import lbp.a",
        "c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lbp import a",
    }
    assert circle(imports(write(tmp_path, tree))) == []
    write(
        tmp_path,
        {"b.py": "try:\n    from lbp import c\nfinally:\n    pass", "c.py": "import lbp.a"},
    )
    assert set(told(circle(imports(tmp_path))).splitlines()) == {
        "lbp/a.py:1: lbp.a imports lbp.b",
        "lbp/b.py:2: lbp.b imports lbp.c",
        "lbp/c.py:1: lbp.c imports lbp.a",
    }
    write(tmp_path, {"b.py": "from lbp import x", "c.py": ""})
    assert "lbp/b.py:1: lbp.b imports lbp" in told(circle(imports(tmp_path)))
