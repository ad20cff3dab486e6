"""Whether a result still stands: a fingerprint of the code that decides its numbers.

A run's fingerprint covers just the files that the run uses, without imports, comments and
docstrings: another network in the library leaves it as it is. Where code changes and the numbers do
not, `lbp.lab.equals` proves it, and a committed table holds the fingerprints that are equal.
"""

import ast
import functools
import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lbp.errors import LbpError
from lbp.lab import files, models, paths
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from lbp.lab.units import LARGEST_SLOPE, UNITS
from lbp.literature import as_rule

_PACKAGE = Path(__file__).resolve().parents[1]
# The files that decide the numbers of every run.
COMMON = (
    "rules",
    "coverage",
    "autograd",
    "linearization",
    "lab/images",
    "lab/train",
    "lab/probe",
    "lab/devices",
    "lab/schedule",
    "lab/units/make",
)
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def files_of(config: RunConfig) -> list[str]:
    """Return the files that decide a run's numbers, below the package and without ".py"."""
    unit = f"lab/units/{config.activation}"
    own_unit = [unit, "registration"] if unit in _sources(_PACKAGE) else []
    return [*COMMON, f"lab/models/{config.model}", *own_unit]


def fingerprint(config: RunConfig) -> str:
    """Return 16 hexadecimal digits that change only if code does that the run uses."""
    return _fingerprint(tuple(files_of(config)), config.activation)


@functools.cache
def _fingerprint(names: tuple[str, ...], activation: str) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(code_digest(_sources(_PACKAGE)[name]))
    # Of the lists of networks, rules and units, just what this run takes from them.
    for function in (models.build, models.clamped_parameters, as_rule):
        digest.update(code_digest(_source_of(function)))
    for rule in get_args(get_type_hints(RunConfig)["rule"]):
        digest.update(as_rule(rule).field.__qualname__.encode())
    unit = getattr(UNITS[activation], "__qualname__", "")
    digest.update(f"{unit} {LARGEST_SLOPE[activation]}".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _sources(package: Path) -> dict[str, str]:
    """Return the source of every file of a package by its name, below it and without ".py"."""
    paths = sorted(package.rglob("*.py"))
    return {p.relative_to(package).with_suffix("").as_posix(): p.read_text("utf-8") for p in paths}


_source_of = functools.cache(inspect.getsource)

# They are read now: code that is edited while this process trains is not the code that it runs.
_sources(_PACKAGE)
for _function in (models.build, models.clamped_parameters, as_rule):
    _source_of(_function)


def code_digest(source: str) -> bytes:
    """Return the SHA-256 of Python source without its imports, comments, docstrings and layout."""
    return hashlib.sha256(repr(_plain(ast.parse(source))).encode()).digest()


def _plain(node: Any) -> Any:
    """Return a syntax tree as nested lists.

    Unlike `ast.dump`, it is the same under every version of Python: fields that are empty, as those
    that a later version adds are, do not count.
    """
    if isinstance(node, list):
        return [
            _plain(child) for child in node if not isinstance(child, ast.Import | ast.ImportFrom)
        ]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
        node.body = node.body[1:]
    filled = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    return [type(node).__name__, *([name, _plain(value)] for name, value in filled)]


def is_stale(record: Record) -> bool:
    """Whether some of a record's epochs were trained by code that may give other numbers.

    Raises:
        LbpError: If the table of equal fingerprints is damaged.
    """
    equal = _equal_to(fingerprint(record.config))
    return any(stretch.fingerprint not in equal for stretch in record.stretches)


def are_equal(first: str, second: str) -> bool:
    """Whether code of two fingerprints was proved to give equal numbers, or is the same.

    Raises:
        LbpError: If the table of equal fingerprints is damaged.
    """
    return first in _equal_to(second)


def _equal_to(wanted: str) -> set[str]:
    """Return a fingerprint and all that were proved equal to it, directly or by steps."""
    pairs = [{proof["old"], proof["new"]} for proof in proofs()]
    found = {wanted}
    while grown := [pair for pair in pairs if pair & found and not pair <= found]:
        found = found.union(*grown)
    return found


def proofs() -> list[dict[str, Any]]:
    """Return the committed table of proofs; see `lbp.lab.equals.Proof`.

    Raises:
        LbpError: If it is damaged.
    """
    path = paths.equals()
    text = files.read_text(path) or "[]"
    return _proofs(path, text)


@functools.lru_cache(maxsize=1)
def _proofs(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        table: list[dict[str, Any]] = json.loads(text)
        for proof in table:
            if not all(isinstance(proof[name], str) for name in ("old", "new")):
                raise LbpError("a proof lacks its fingerprints")
    except (ValueError, TypeError, KeyError) as error:
        raise LbpError(f"{path} is damaged ({error}): restore it (git checkout)") from error
    return table
