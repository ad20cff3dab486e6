"""Linear Backprop, and other backward rules, for the activation functions of any PyTorch model."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lbp.block import backward_rule
    from lbp.errors import LbpError, LbpWarning
    from lbp.linearization import from_layer, linearize, restore
    from lbp.rules import Rule, leaky

__all__ = [
    "LbpError",
    "LbpWarning",
    "Rule",
    "backward_rule",
    "from_layer",
    "leaky",
    "linearize",
    "restore",
]

_MODULES = {
    "LbpError": "errors",
    "LbpWarning": "errors",
    "Rule": "rules",
    "backward_rule": "block",
    "from_layer": "linearization",
    "leaky": "rules",
    "linearize": "linearization",
    "restore": "linearization",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used.

    PyTorch takes seconds to import. The command line does so where it can tell of a Ctrl-C.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
