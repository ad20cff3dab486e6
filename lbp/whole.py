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
        self.overwrites = bool(getattr(module, "inplace", False))  # or so it says
        self.wrote = False  # whether a call did overwrite its input

    @property
    def learns(self) -> bool:
        """Whether the module has parameters of its own, or holds other tensors with a gradient."""
        for module in self.module.modules():
            if module._parameters:
                return True
            held = (*module._buffers.values(), *vars(module).values())
            if any(isinstance(value, Tensor) and value.requires_grad for value in held):
                return True
        return False

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the module's value. A module that overwrites its input gets a copy."""
        if not self.overwrites:
            version = None if z.is_inference() else z._version
            out = self.forward(self.module, z, *args, **kwargs)
            if version is not None and z._version != version:
                raise LbpError(
                    f"{type(self.module).__name__} overwrites its input: give it an attribute "
                    "inplace = True, so that it gets a copy"
                )
            return out
        own = z.clone()
        out = self.forward(self.module, own, *args, **kwargs)
        self.wrote = own._version > 0
        if self.wrote and not (isinstance(out, Tensor) and out.data_ptr() == own.data_ptr()):
            raise LbpError(
                f"{type(self.module).__name__} overwrites its input and returns something else: "
                "let it return what it overwrites"
            )
        return out

    def fixed(self) -> "Fixed":
        """Return the same with no way to the module's parameters in the autograd graph."""
        return Fixed(self.module, self.forward)


class Fixed(Whole):
    """A module's forward pass, with no way to its parameters in the autograd graph."""

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the module's value."""
        values = {name: p.detach() for name, p in self.module.named_parameters()}
        with _reparametrize_module(self.module, values):
            return super().__call__(z, *args, **kwargs)


def first_argument(forward: Callable[..., Tensor]) -> str:
    """Return how a forward pass calls its pre-activations."""
    names = list(inspect.signature(forward).parameters)
    return names[1]  # behind the module


def by_position(
    function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a Python function with the pre-activations by position."""
    if args:
        return args, kwargs
    first = next(iter(inspect.signature(function).parameters))
    return (kwargs[first],), {name: value for name, value in kwargs.items() if name != first}


def check_element_wise(name: str, z: Tensor, out: Any) -> None:
    """Raise `LbpError` unless a value is a tensor of the shape of the pre-activations."""
    if not isinstance(out, Tensor) or out.shape != z.shape:
        given = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise LbpError(
            f"{name} gives {given} for {tuple(z.shape)}: a rule needs an element-wise function"
        )
