"""Linear Backprop, and other backward rules, for the activation functions of any PyTorch model."""

from lbp.block import backward_rule
from lbp.errors import LbpError, LbpWarning
from lbp.linearization import from_layer, linearize, restore
from lbp.registration import register_activation
from lbp.rules import Rule, leaky

__all__ = [
    "LbpError",
    "LbpWarning",
    "Rule",
    "backward_rule",
    "from_layer",
    "leaky",
    "linearize",
    "register_activation",
    "restore",
]
