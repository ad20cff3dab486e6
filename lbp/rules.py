"""The backward rules of the book's own networks, each as the paper's algorithms have it.

`lbp.linearize` and `lbp.backward_rule` give the same rules, and more, to any model. These few lines
stay apart from them: the recorded runs follow no others.

With pre-activations `a` and incoming error `g` (the gradient with respect to `f(a)`), the
gradient with respect to `a` is::

    bp          g * f'(a)   Algorithm 1, Backprop
    linear      g           Algorithm 2 as its text describes it, Linear Backprop (f' := 1)
    as-printed  g * a       Algorithm 2 as it is printed, probably a misprint

The forward pass is the stock function under every rule, bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.errors import check_choice

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "hardtanh": F.hardtanh,
}
RULES = ("bp", "linear", "as-printed")

# The shorter a + (f(a) - a).detach() would round the forward pass differently, so the two altered
# rules are autograd functions. They define no `jvp`: torch.compile(fullgraph=True) rejects that.


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, activation: str) -> Tensor:
        return ACTIVATIONS[activation](a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        pass  # nothing is saved for the backward pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


class _AsPrinted(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, activation: str) -> Tensor:
        return ACTIVATIONS[activation](a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (a,) = ctx.saved_tensors
        return g * a, None


def activate(a: Tensor, activation: str, rule: str = "linear") -> Tensor:
    """Apply an activation function whose backward pass follows `rule`.

    Args:
        a: Pre-activations, of any shape and floating dtype.
        activation: A name in `ACTIVATIONS`.
        rule: A name in `RULES`.

    Returns:
        f(a), of the shape and dtype of `a`. Its gradient with respect to `a` is the rule's. Double
        backward differentiates the rule's own field (for "linear": the identity).

    Raises:
        LbpError: If the activation or the rule is unknown.

    Source: Yazdani (2018), Algorithms 1 and 2.
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("backward rule", rule, RULES)
    if rule == "linear":
        return _Linear.apply(a, activation)  # type: ignore[no-untyped-call, no-any-return]
    if rule == "as-printed":
        return _AsPrinted.apply(a, activation)  # type: ignore[no-untyped-call, no-any-return]
    return ACTIVATIONS[activation](a)


class Activation(nn.Module):
    """`activate` as a module.

    Args:
        activation: A name in `ACTIVATIONS`.
        rule: A name in `RULES`.

    Raises:
        LbpError: If the activation or the rule is unknown.
    """

    def __init__(self, activation: str, rule: str = "linear") -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("backward rule", rule, RULES)
        self.activation = activation
        self.rule = rule

    def forward(self, a: Tensor) -> Tensor:
        """Return f(a); see `activate`."""
        return activate(a, self.activation, self.rule)

    def extra_repr(self) -> str:
        """Show both names in the module's repr."""
        return f"{self.activation}, rule={self.rule}"
