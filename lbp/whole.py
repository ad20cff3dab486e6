"""An activation module taken whole: its value by its own code, whatever that calls."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from lbp.errors import LbpError


class Whole:
    """A module's forward pass as a function of its pre-activations.

    Args:
        module: The module.
        forward: The forward pass of its class, as a function of the module and the pre-activations.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        self.module = module
        self.forward = forward
        # It must not overwrite what the layer in front may need.
        self.overwrites = bool(getattr(module, "inplace", False))

    @property
    def learns(self) -> bool:
        """Whether the module has parameters of its own."""
        return any(True for _ in self.module.parameters())

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the module's value."""
        return self.forward(self.module, z.clone() if self.overwrites else z, *args, **kwargs)

    def fixed(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the module's value, with no way to its parameters in the autograd graph."""
        values = {name: p.detach() for name, p in self.module.named_parameters()}
        with _reparametrize_module(self.module, values):
            return self(z, *args, **kwargs)


def first_argument(forward: Callable[..., Tensor]) -> str:
    """Return how a forward pass calls its pre-activations."""
    names = list(inspect.signature(forward).parameters)
    return names[1]  # behind the module


def check_element_wise(name: str, z: Tensor, out: Tensor) -> None:
    """Raise `LbpError` if a function's value has another shape than its pre-activations."""
    if out.shape != z.shape:
        raise LbpError(
            f"{name} gives {tuple(out.shape)} for {tuple(z.shape)}: "
            "a rule needs an element-wise function"
        )
