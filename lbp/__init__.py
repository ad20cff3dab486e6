"""Linear Backprop: backward rules for any model, and what reproduces the paper with them."""

from lbp.errors import LbpError, LbpWarning
from lbp.fields import Rule, leaky
from lbp.modules import from_layer, linearize, restore
from lbp.override import backward_rule

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
