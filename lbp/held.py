"""Activation functions that modules hold as attributes, as `nn.TransformerEncoderLayer` does."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from lbp.autograd import call, call_own, check_without_gradient
from lbp.coverage import FUNCTIONS, Covered
from lbp.rules import Rule
from lbp.whole import by_position

Functions = Mapping[Callable[..., Any], Covered]


@dataclass(frozen=True)
class RuledFunction:
    """A function under a rule, held in the place of the function itself.

    Attributes:
        function: The function, or a `functools.partial` of it.
        covered: Its entry in `lbp.coverage.FUNCTIONS`, or one made for it.
        rule: Any rule but "bp".
    """

    function: Callable[..., Tensor]
    covered: Covered = field(repr=False)
    rule: Rule

    @property
    def __name__(self) -> str:
        """The name of the function; a partial has none."""
        return self.function.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the function's value, with the rule's backward pass."""
        function: Any = self.function
        if isinstance(function, partial):
            function, kwargs = function.func, {**function.keywords, **kwargs}
        own = not self.covered.functions  # not PyTorch's
        if own:
            args, kwargs = by_position(function, args, kwargs)
        if not torch.is_grad_enabled() and not (args and isinstance(args[0], Proxy)):
            check_without_gradient(self.rule, args, kwargs)
            return function(*args, **kwargs)  # type: ignore[no-any-return]
        called = call_own if own else call
        return called(self.rule, self.covered, function, args, kwargs)


@dataclass(frozen=True)
class Held:
    """The place of an activation function in a module.

    Attributes:
        module: The module.
        attribute: Its attribute.
        covered: The function's entry in `lbp.coverage.FUNCTIONS`, or one made for it.
    """

    module: nn.Module
    attribute: str
    covered: Covered

    @property
    def rule(self) -> Rule | None:
        """The rule that the function follows, if any."""
        value = vars(self.module)[self.attribute]
        return value.rule if isinstance(value, RuledFunction) else None

    @property
    def function(self) -> Callable[..., Tensor]:
        """The function itself, without a partial's arguments."""
        value = self._stock()
        return value.func if isinstance(value, partial) else value

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    def _stock(self) -> Any:
        value = vars(self.module)[self.attribute]
        return value.function if isinstance(value, RuledFunction) else value

    def change(self, rule: Rule) -> None:
        """Make the function follow a rule; "bp" puts the function itself back."""
        stock = self._stock()
        ruled = stock if rule.is_bp else RuledFunction(stock, self.covered, rule)
        vars(self.module)[self.attribute] = ruled


_KINDS = {FunctionType, BuiltinFunctionType, MethodDescriptorType, partial, RuledFunction}


def held_by(module: nn.Module, also: Functions) -> Iterator[Held]:
    """Yield where a module holds an activation function, under a rule or not.

    Args:
        module: The module.
        also: Functions that count as activation functions as well.
    """
    for attribute, value in vars(module).items():
        # The type is asked first: most values are no functions, and some cannot be looked up.
        if type(value) not in _KINDS:
            continue
        if isinstance(value, RuledFunction):
            yield Held(module, attribute, value.covered)
        elif covered := _covered(value, also):
            yield Held(module, attribute, covered)


def _covered(function: Any, also: Functions) -> Covered | None:
    if isinstance(function, partial):
        if function.args or type(function.func) not in _KINDS:
            return None
        function = function.func
    covered = FUNCTIONS.get(function) or also.get(function)
    return None if covered is None or covered.opt_in else covered


_OWN = vars(nn.Module()).keys()  # what every module has


def in_containers(module: nn.Module) -> set[str]:
    """Return the names of activation functions that a module holds in lists, tuples and dicts."""
    found: set[str] = set()
    for attribute, value in vars(module).items():
        if type(value) in (dict, list, tuple) and attribute not in _OWN:
            values = value.values() if type(value) is dict else value
            covered = (_covered(v, {}) for v in values if type(v) in _KINDS)
            found.update(c.functions[0].rpartition(".")[2] for c in covered if c and c.functions)
    return found
