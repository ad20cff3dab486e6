"""The activation functions of this book's networks, by name.

Those of `torch.nn` are named here; a unit of our own has a file of its own in this folder.
"""

from torch import nn

from lbp.lab.units.apl import APL

UNITS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "hardtanh": nn.Hardtanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "apl": APL,
}
# The fields of a run that only units of one kind read.
READS = {"apl": ("hinges", "hinges_per", "hinges_learned", "unit_l2")}

# The largest slope |f'(z)| over all z. A unit is saturated where its slope is below a tenth of it.
# An APL unit has no bound; it is measured by that of ReLU, which it has right of its hinges.
# GELU has it at z = sqrt(2), SiLU where z tanh(z / 2) = 2.
LARGEST_SLOPE = {
    "tanh": 1.0,
    "relu": 1.0,
    "sigmoid": 0.25,
    "hardtanh": 1.0,
    "gelu": 1.1289,
    "silu": 1.0998,
    "apl": 1.0,
}
