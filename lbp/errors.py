"""One error for everything a user can get wrong, and the checks that many places share."""

import importlib.util
from collections.abc import Hashable, Iterable


class LbpError(ValueError):
    """A wrong input, in one line: the value, what is allowed, and what to do.

    The command line prints the line and exits with status 2; a notebook shows it without a
    traceback.
    """

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"{type(self).__name__}: {self}"]


class MissingExtra(LbpError, ImportError):
    """Packages that a part of the library needs are not installed."""


class LbpWarning(UserWarning):
    """A function keeps its true derivative although another backward rule was asked for."""


def short(value: object) -> str:
    """Return a value's repr for a message: in one line, and cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_choice(what: str, value: object, allowed: Iterable[object], *further: str) -> None:
    """Raise `LbpError` unless `value` is one of `allowed`.

    Args:
        what: What the value is, for the message.
        value: What was given.
        allowed: What may be chosen.
        further: What else may be chosen, in words.
    """
    allowed = list(allowed)
    if not isinstance(value, Hashable) or value not in allowed:  # an array compares element-wise
        names = ", ".join([*map(str, allowed), *further])
        raise LbpError(f"unknown {what} {short(value)}: choose from {names}")


def require(what: str, extra: str, *packages: str) -> None:
    """Raise `MissingExtra` unless these packages are installed.

    Args:
        what: What needs them, for the message.
        extra: The extra of the distribution that installs them: "lab" or "book".
        packages: The names that they are imported by.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{what} needs {', '.join(missing)}: pip install '.[{extra}]' in a clone"
        )
