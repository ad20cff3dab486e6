"""Linear Backprop: the backward rules, and what reproduces the paper with them."""

from lbp.errors import LbpError
from lbp.rules import ACTIVATIONS, RULES, Activation, activate

__all__ = ["ACTIVATIONS", "RULES", "Activation", "LbpError", "activate"]
