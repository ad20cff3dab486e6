"""The linter, the formatter and the type checker have nothing to say; data stays as it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy"])
def test_style(command):
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def is_frozen(decorator: ast.expr) -> bool:
    """Return whether a decorator is `dataclass` with frozen=True, or none of that name."""
    if "dataclass" not in ast.unparse(decorator):
        return True
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    return any(k.arg == "frozen" and ast.unparse(k.value) == "True" for k in keywords)


def test_no_data_class_can_be_changed():
    """Runs, records and verdicts are keys, and are shared by all who read them."""
    loose = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "lbp").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and not all(map(is_frozen, node.decorator_list))
    ]
    assert loose == ["lbp/bench/faults.py: Tally", "lbp/reach.py: _Seen"]  # which collect
