"""Linear Backprop, and other backward rules, for the activation functions of any PyTorch model."""

from lbp.block import backward_rule
from lbp.errors import LbpError, LbpWarning
from lbp.linearization import from_layer, linearize, restore
from lbp.rules import Rule, compose, leaky, surrogate

__all__ = [
    "LbpError",
    "LbpWarning",
    "Rule",
    "backward_rule",
    "compose",
    "from_layer",
    "leaky",
    "linearize",
    "restore",
    "surrogate",
]
