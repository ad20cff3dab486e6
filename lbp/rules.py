"""The backward rules as data: which gradient reaches the pre-activations of a function.

A rule gives the gradient with respect to the pre-activations `z` of an activation function `f`,
from `z` and the incoming gradient `g`::

    bp          f'(z) * g
    linear      g                              Yazdani (2018), Algorithm 2
    as-printed  z * g                          the same, letter by letter
    leaky       (alpha + (1 - alpha) f'(z)) g  from bp (alpha = 0) to linear (alpha = 1)
    surrogate   s'(z) * g                      as if the function were s

Those of the literature are in `lbp.literature`, with their sources.
"""

import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lbp.errors import LbpError, short

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
        keep: What is kept for the backward pass in place of `z`, as a function of `z` and the
            function's value, for rules that need less or other than `z`. `field` gets it as its
            first argument, and second derivatives take it for a constant.
        surrogate: A function of `z` whose own backward pass takes the place of all this. If it is a
            module, its parameters get their gradients as its own.
        inner: A rule that the gradient is handed to next, in the place of the layer below.

    Raises:
        LbpError: If `true_share` lies outside [0, 1], `field` is not a function of two arguments,
            or the parts contradict each other.
    """

    name: str
    field: Field
    true_share: float = 0.0
    reads_input: bool = True
    keep: Callable[[Tensor, Tensor], Tensor] | None = None
    surrogate: Callable[[Tensor], Tensor] | None = None
    inner: "Rule | None" = None

    def __post_init__(self) -> None:
        if not _is_share(self.true_share):
            found = short(self.true_share)
            raise LbpError(f"true_share {found} of the rule {self.name}: choose it from 0 to 1")
        if self.true_share and (self.keep or self.surrogate):
            raise LbpError(f"the rule {self.name} has a true_share: give no keep and no surrogate")
        if not _is_rule(self.inner):
            raise LbpError(f"inner {short(self.inner)} of the rule {self.name}: give a Rule")
        _check_arguments(self.name, self.field)

    @property
    def is_bp(self) -> bool:
        """Whether this is the true gradient alone, for which the stock function runs."""
        return self.true_share == 1 and self.field is _zero

    @property
    def needs_value(self) -> bool:
        """Whether the function's value is computed first, apart from its backward pass."""
        # Asked for None, because Dynamo cannot ask a module or a rule whether it is true.
        return (
            self.true_share != 0
            or self.keep is not None
            or self.surrogate is not None
            or self.inner is not None
        )

    def gradient(self, z: Tensor, g: Tensor) -> Tensor:
        """Return `field(z, g)`.

        Raises:
            LbpError: If that is not a tensor of the shape of `g`.
        """
        grad = self.field(z, g)
        if not isinstance(grad, Tensor) or grad.shape != g.shape:
            found = f"shape {tuple(grad.shape)}" if isinstance(grad, Tensor) else short(grad)
            raise LbpError(
                f"backward rule {self.name!r} returned {found}: "
                f"return a tensor of the gradient's shape {tuple(g.shape)}"
            )
        return grad


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_rule(value: object) -> bool:
    return value is None or isinstance(value, Rule)


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


# These are functions of the module, not lambdas, so that a model that holds a rule can be pickled.


def _zero(z: Tensor, g: Tensor) -> Tensor:
    return torch.zeros_like(g)


def _pass(z: Tensor, g: Tensor) -> Tensor:
    return g


def _scale(alpha: float, z: Tensor, g: Tensor) -> Tensor:
    return alpha * g


def _times_input(z: Tensor, g: Tensor) -> Tensor:
    return z * g


def _times(of: Callable[[Tensor], Tensor], z: Tensor, g: Tensor) -> Tensor:
    return of(z) * g


def is_number(value: object) -> bool:
    """Whether this is a real number, one of Python's or of NumPy's, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether this is a whole number, one of Python's or of NumPy's, and no bool."""
    return isinstance(value, numbers.Integral) and is_number(value)


def leaky(alpha: float = 0.1) -> Rule:
    """Return the rule (alpha + (1 - alpha) f'(z)) g.

    For ReLU this is ProxyGrad's gradient (`lbp.literature.proxygrad`), with the slope alpha.

    Args:
        alpha: What passes where f' is zero, from 0 (the rule bp) to 1 (the rule linear). Its
            default is a choice of this library.

    Raises:
        LbpError: If alpha lies outside [0, 1].
    """
    if not is_number(alpha) or not 0 <= alpha <= 1:
        raise LbpError(f"alpha {alpha!r} of the rule leaky: choose it from 0 (bp) to 1 (linear)")
    if type(alpha) is not float:  # one of NumPy's. (Dynamo cannot format a converted float.)
        alpha = float(alpha)
    field = partial(_scale, alpha) if alpha else _zero
    return Rule(f"leaky({alpha:g})", field, 1.0 - alpha, reads_input=False)


def factor(name: str, of: Callable[[Tensor], Tensor]) -> Rule:
    """Return the rule `of(z) * g`.

    Args:
        name: Its name in messages.
        of: The factor, as an element-wise function of the pre-activations.
    """
    return Rule(name, partial(_times, of))


def surrogate(s: Callable[[Tensor], Tensor], name: str | None = None) -> Rule:
    """Return the rule `s'(z) * g`: the backward pass of another function than the forward pass.

    PyTorch differentiates `s`, so second derivatives are those of `s`, too. With the identity this
    is Linear Backprop. `s` may be a module with parameters, such as `nn.PReLU()`: they get the
    gradient that they would have if the network called `s` in the place of its activation function.
    They belong to the rule, not to the model, so give them to the optimizer as well.

    Args:
        s: An element-wise function of the pre-activations that PyTorch can differentiate.
        name: Its name in messages; by default that of `s`.

    Raises:
        LbpError: If `s` is not a function of one argument.
    """
    name = name or getattr(s, "__name__", type(s).__name__)
    try:
        if isinstance(s, type):
            raise TypeError("it is a class")
        inspect.signature(s).bind("z")
    except TypeError as error:
        raise LbpError(
            f"surrogate {short(s)} is no function of the pre-activations ({error}): give one"
        ) from error
    except ValueError:  # some functions written in C have no signature
        pass
    return Rule(f"surrogate({name})", _pass, reads_input=False, surrogate=s)


BP = Rule("bp", _zero, true_share=1.0, reads_input=False)
LINEAR = Rule("linear", _pass, reads_input=False)
AS_PRINTED = Rule("as-printed", _times_input)
