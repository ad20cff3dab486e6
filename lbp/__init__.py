"""Linear Backprop, and other backward rules, for the activation functions of any PyTorch model."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lbp import literature
    from lbp.block import backward_rule
    from lbp.errors import LbpError, LbpWarning
    from lbp.linearization import from_layer, linearize, restore
    from lbp.literature import compose
    from lbp.reach import Audit, audit, not_gates
    from lbp.registration import register_activation
    from lbp.rules import Rule, leaky, surrogate

__all__ = [
    "Audit",
    "LbpError",
    "LbpWarning",
    "Rule",
    "audit",
    "backward_rule",
    "compose",
    "from_layer",
    "leaky",
    "linearize",
    "literature",
    "not_gates",
    "register_activation",
    "restore",
    "surrogate",
]

_MODULES = {
    "Audit": "reach",
    "LbpError": "errors",
    "LbpWarning": "errors",
    "Rule": "rules",
    "audit": "reach",
    "backward_rule": "block",
    "compose": "literature",
    "from_layer": "linearization",
    "leaky": "rules",
    "linearize": "linearization",
    "not_gates": "reach",
    "register_activation": "registration",
    "restore": "linearization",
    "surrogate": "rules",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used.

    PyTorch takes seconds to import. The command line does so where it can tell of a Ctrl-C.
    """
    if name == "literature":
        return importlib.import_module("lbp.literature")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
