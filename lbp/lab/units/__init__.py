"""The activation functions of this book's networks, by name.

Those of `torch.nn` are named here; a unit of our own has a file of its own in this folder.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lbp.lab.units.apl import APL

if TYPE_CHECKING:
    from lbp.lab.config import RunConfig

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
READS = {"apl": ("hinges", "hinges_per", "hinges_learned")}

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


def make_unit(config: "RunConfig", shape: Sequence[int]) -> nn.Module:
    """Return an activation function of a run, which may draw from PyTorch's random state.

    Args:
        config: The run.
        shape: Of one image's pre-activations: (C, H, W), or (F,) after a linear layer.
    """
    if config.activation == "apl":
        of_a_channel = (shape[0], *[1] * (len(shape) - 1))
        shape = of_a_channel if config.hinges_per == "channel" else shape
        return APL(shape, config.hinges, learned=config.hinges_learned)
    return UNITS[config.activation]()


def shown_parameters(unit: nn.Module, channels: int) -> list[Tensor]:
    """Return the activation function's own parameters, of its first channels.

    Of an APL unit they are the slopes [S, C], then the offsets [S, C], where each position has its
    own those of the middle one.
    """
    own = list(unit.parameters(recurse=False))
    if not isinstance(unit, APL):
        return [p[:channels] for p in own]
    return [_middle(p)[:, :channels] for p in own]


def _middle(values: Tensor) -> Tensor:
    """Return values [S, C] of values [S, C], or [S, C, H, W] at the middle position."""
    for axis in range(values.dim() - 1, 1, -1):
        values = values.select(axis, values.shape[axis] // 2)
    return values
