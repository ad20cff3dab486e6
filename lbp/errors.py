"""One error for everything a user can get wrong, and the check that most of them share."""

from collections.abc import Iterable


class LbpError(ValueError):
    """A wrong input, said in one line: the value, what is allowed, and what to do.

    The command line prints the line and exits with status 2; a notebook shows it without a
    traceback.
    """

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"{type(self).__name__}: {self}"]


class LbpWarning(UserWarning):
    """Something that keeps its true derivative where another backward rule was asked for."""


def check_choice(what: str, value: object, allowed: Iterable[object], *further: str) -> None:
    """Raise `LbpError` unless `value` is one of `allowed`.

    In the message `what` names it, and `further` says what else may be chosen.
    """
    allowed = list(allowed)
    if value not in allowed:
        names = ", ".join([*map(str, allowed), *further])
        raise LbpError(f"unknown {what} {value!r}: choose from {names}")
