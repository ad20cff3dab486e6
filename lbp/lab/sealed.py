"""JSON that is read strictly, and a seal by which altered content is noticed."""

import hashlib
import json
import math
from collections.abc import Collection
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lbp.errors import LbpError, check_choice

T = TypeVar("T")


def digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_digest(found: str, stored: object) -> None:
    """Raise `LbpError` unless the digest that was stored is that of the content."""
    if found != stored:
        raise LbpError("its content does not fit its digest, so it was altered or damaged")


def loads(text: str) -> Any:
    """Read JSON in which no entry stands twice and every number is one.

    Raises:
        LbpError: If it is not such JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except LbpError:
        raise
    except (ValueError, RecursionError) as error:
        raise LbpError(f"{type(error).__name__}: {error}") from error


def check_keys(
    what: str, data: object, names: Collection[str], optional: Collection[str] = ()
) -> None:
    """Raise `LbpError` unless `data` is an object of JSON with just these names.

    Those of them that are `optional` may be left out.
    """
    if not isinstance(data, dict):
        raise LbpError(f"{what} is {str(data)[:40]!r}: an object with names is needed")
    for name in data:
        check_choice(f"entry of {what}", name, names)
    if missing := [name for name in names if name not in data and name not in optional]:
        raise LbpError(f"{what} lacks {', '.join(missing)}")


def build(kind: type[T], what: str, data: Any) -> T:
    """Return a dataclass of the object of JSON that has just its fields, each of its type.

    Fields that are dataclasses themselves are built likewise.

    Raises:
        LbpError: If it is not such an object.
    """
    hints = get_type_hints(kind)
    check_keys(what, data, hints)
    values = {}
    for name, hint in hints.items():
        value = data[name]
        if hasattr(hint, "__dataclass_fields__"):
            value = build(hint, f"the entry {name}", value)
        else:
            _check_type(name, value, hint)
        values[name] = value
    return kind(**values)


def _check_type(name: str, value: Any, hint: Any) -> None:
    allowed = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if get_origin(hint) is not None and not isinstance(hint, UnionType):  # a Literal
        check_choice(name, value, get_args(hint))
    elif type(value) not in allowed:
        kind = getattr(hint, "__name__", str(hint))
        raise LbpError(f"{name} holds {str(value)[:40]!r}: a value of type {kind} is needed")
    if isinstance(value, str) and not value.isprintable():
        raise LbpError(f"{name} holds {value[:40]!a}: printable text is needed")
    if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
        raise LbpError(f"{name} is {value}: a number of 0 or more is needed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise LbpError(f"the entry {twice!r} stands twice")
    return data


def _refuse(word: str) -> None:
    raise LbpError(f"it holds {word}, which is not a number of JSON")
