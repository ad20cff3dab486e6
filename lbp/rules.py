"""The backward rules as data: which gradient reaches the pre-activations of a function.

A rule gives the gradient with respect to the pre-activations `z` of an activation function `f`,
from `z` and the incoming gradient `g`::

    bp          f'(z) * g
    linear      g                              Yazdani (2018), Algorithm 2
    as-printed  z * g                          the same, letter by letter
    ste-clip    g where |z| <= 1, else 0       Hubara et al. (2016), equation 4
    leaky       (alpha + (1 - alpha) f'(z)) g  from bp (alpha = 0) to linear (alpha = 1)
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lbp.errors import LbpError, check_choice

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """The gradient `field(z, g) + true_share * f'(z) * g` with respect to pre-activations `z`.

    Attributes:
        name: Its name in messages and reprs.
        field: A function of the pre-activations and the incoming gradient, tensors of one shape.
            It returns a tensor of that shape and changes neither.
        true_share: The share of the true gradient, from 0 to 1.
        reads_input: Whether `field` reads `z`. If not, `z` is not kept and `field` gets None.

    Raises:
        LbpError: If `true_share` lies outside [0, 1].
    """

    name: str
    field: Field
    true_share: float = 0.0
    reads_input: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.true_share <= 1:
            raise LbpError(
                f"true_share {self.true_share} of the rule {self.name}: choose it from 0 to 1"
            )

    @property
    def is_bp(self) -> bool:
        """Whether this is the true gradient alone, for which the stock function runs."""
        return self.true_share == 1 and self.field is _zero

    def gradient(self, z: Tensor, g: Tensor) -> Tensor:
        """Return `field(z, g)`.

        Raises:
            LbpError: If that is not a tensor of the shape of `g`.
        """
        grad = self.field(z, g)
        if not isinstance(grad, Tensor) or grad.shape != g.shape:
            found = f"shape {tuple(grad.shape)}" if isinstance(grad, Tensor) else repr(grad)
            raise LbpError(
                f"backward rule {self.name!r} returned {found}: "
                f"return a tensor of the gradient's shape {tuple(g.shape)}"
            )
        return grad


# These are functions of the module, not lambdas, so that a model that holds a rule can be pickled.


def _zero(z: Tensor, g: Tensor) -> Tensor:
    return torch.zeros_like(g)


def _pass(z: Tensor, g: Tensor) -> Tensor:
    return g


def _scale(alpha: float, z: Tensor, g: Tensor) -> Tensor:
    return alpha * g


def _times_input(z: Tensor, g: Tensor) -> Tensor:
    return z * g


def _clip(z: Tensor, g: Tensor) -> Tensor:
    return torch.where(z.abs() <= 1, g, torch.zeros_like(g))


def leaky(alpha: float = 0.1) -> Rule:
    """Return the rule (alpha + (1 - alpha) f'(z)) g.

    Args:
        alpha: What passes where f' is zero, from 0 (the rule bp) to 1 (the rule linear). Its
            default is a choice of this library; no paper stands behind it.

    Raises:
        LbpError: If alpha lies outside [0, 1].
    """
    if not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
        raise LbpError(f"alpha {alpha!r} of the rule leaky: choose it from 0 (bp) to 1 (linear)")
    field = partial(_scale, alpha) if alpha else _zero
    return Rule(f"leaky({alpha:g})", field, 1.0 - alpha, reads_input=False)


BUILT_IN = {
    "bp": Rule("bp", _zero, true_share=1.0, reads_input=False),
    "linear": Rule("linear", _pass, reads_input=False),
    "as-printed": Rule("as-printed", _times_input),
    "ste-clip": Rule("ste-clip", _clip),
    "leaky": leaky(),
}


def _check_arguments(name: str, field: Field) -> None:
    try:
        inspect.signature(field).bind("z", "g")
    except TypeError as error:
        raise LbpError(
            f"backward rule {name!r} cannot be called with a pre-activation and a gradient "
            f"({error}): give a function of these two"
        ) from error
    except ValueError:  # some functions written in C have no signature
        pass


def as_rule(rule: str | Rule | Field) -> Rule:
    """Return the rule that a name in `BUILT_IN`, a function of (z, g) or a `Rule` stands for.

    Raises:
        LbpError: If the name is unknown, or the function takes other arguments.
    """
    if isinstance(rule, Rule):
        return rule
    if callable(rule):
        name = getattr(rule, "__name__", type(rule).__name__)
        _check_arguments(name, rule)
        return Rule(name, rule)
    check_choice("backward rule", rule, BUILT_IN, "a function of (pre-activation, gradient)")
    return BUILT_IN[rule]
