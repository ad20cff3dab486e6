"""The activation functions of a run's network, each made for the maps that it is to see."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lbp.lab.config import RunConfig
from lbp.lab.units import UNITS


def make_unit(config: RunConfig, shape: Sequence[int]) -> nn.Module:
    """Return an activation function of a run.

    A unit with parameters of its own has a class method `for_run`, which takes the same arguments
    and may draw from PyTorch's random state. The others draw nothing.

    Args:
        config: The run.
        shape: Of one image's pre-activations: (C, H, W), or (F,) after a linear layer.
    """
    kind = UNITS[config.activation]
    unit: nn.Module = kind.for_run(config, shape) if hasattr(kind, "for_run") else kind()
    return unit


def shown_parameters(unit: nn.Module, channels: int) -> list[Tensor]:
    """Return an activation function's own parameters of its first channels.

    A unit whose first axis is not that of the channels has a method `shown`, which chooses them.
    """
    chosen: Callable[[int], list[Tensor]] | None = getattr(unit, "shown", None)
    if chosen is not None:
        return chosen(channels)
    return [parameter[:channels] for parameter in unit.parameters(recurse=False)]
