"""Other backward passes for PyTorch's own activation functions, and where they hold.

The forward pass is the stock function under every rule, bit for bit: it is called, not rewritten.
(The shorter `z + (f(z) - z).detach()` would round it differently.)
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.torch_version import TorchVersion

from lbp.coverage import FUNCTIONS, FUNCTIONS_LEFT_ALONE, Covered, not_overwriting, overwrites
from lbp.errors import LbpError, LbpWarning
from lbp.fields import BUILT_IN, Field, Rule, as_rule

OLDEST_TORCH = "2.11"


def check_torch(version: str) -> None:
    """Raise `LbpError` if this version of torch is older than what the rules are tested with."""
    if TorchVersion(version) < OLDEST_TORCH:
        raise LbpError(f"torch {version} is too old: install torch {OLDEST_TORCH} or newer")


check_torch(torch.__version__)

# The autograd functions below define no `jvp`: torch.compile(fullgraph=True) rejects that.


class _Call(NamedTuple):
    """Everything about a call but its input: `apply` takes longer with each argument.

    Attributes:
        in_place: Whether the function overwrites its input.
        copy: For such a call, what the rule reads, if it does.
    """

    rule: Rule
    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_place: bool = False
    copy: Tensor | None = None


class _Ruled(torch.autograd.Function):
    """The stock function, with the rule's field for its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, call: _Call) -> Tensor:
        return call.function(z, *call.args, **call.kwargs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Call], output: Tensor) -> None:
        z, call = inputs
        if call.in_place:
            ctx.mark_dirty(z)
        ctx.rule = call.rule
        ctx.save_for_backward((call.copy if call.in_place else z) if ctx.rule.reads_input else None)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return ctx.rule.gradient(z, g), None


class _Joined(torch.autograd.Function):
    """A copy of `y`; the gradient goes, in part, to `y`, and through the rule's field to `z`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, z: Tensor, rule: Rule, share: float) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Rule, float], output: Tensor) -> None:
        _, z, ctx.rule, ctx.share = inputs
        ctx.save_for_backward(z if ctx.rule.reads_input else None)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (z,) = ctx.saved_tensors
        return ctx.share * g, ctx.rule.gradient(z, g), None, None


# `apply` binds its arguments to the signature of `forward`, and working that out takes longer
# (7 microseconds) than many an activation function. `inspect` looks for a stored one first.
for _function in (_Ruled, _Joined):
    _signature = inspect.signature(_function.forward)
    _function.forward.__signature__ = _signature  # type: ignore[union-attr]


def _stock(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Call a function out of reach of any further block around this one."""
    with torch._C.DisableTorchFunction():
        return function(*args, **kwargs)


def _fixed(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _out_of_place(
    rule: Rule,
    learns: bool,
    function: Callable[..., Tensor],
    z: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    trained = args, kwargs
    if learns:
        args = tuple(map(_fixed, args))
        kwargs = {name: _fixed(value) for name, value in kwargs.items()}
    out: Tensor
    if rule.true_share:
        # The true part comes from PyTorch's own node: that knows RReLU's random numbers, too.
        y = _stock(function, z, *args, **kwargs)
        out = _Joined.apply(y, z, rule, rule.true_share)  # type: ignore[no-untyped-call]
    else:
        out = _Ruled.apply(z, _Call(rule, function, args, kwargs))  # type: ignore[no-untyped-call]
    if learns:
        # So does the gradient of the parameter, all of it, from a second node.
        y = _stock(function, z.detach(), *trained[0], **trained[1])
        out = _Joined.apply(y, out, BUILT_IN["linear"], 1.0)  # type: ignore[no-untyped-call]
    return out


def call(
    rule: Rule,
    covered: Covered,
    function: Callable[..., Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    """Call an activation function so that its backward pass follows a rule.

    Args:
        rule: Any rule but "bp".
        covered: What the table of `lbp.coverage` says of the function.
        function: A key of `lbp.coverage.FUNCTIONS`.
        args: Its arguments, the pre-activations first.
        kwargs: Its arguments by name.

    Returns:
        What the function returns; an in-place call overwrites and returns its input.

    Raises:
        LbpError: While torch.export traces with gradients enabled: it keeps no backward pass.
    """
    # While torch.compile traces, is_exporting() is true whatever it traces for.
    if torch.compiler._is_exporting_flag:
        raise LbpError(
            f"torch.export would lose the backward rule {rule.name!r}: "
            "export under torch.no_grad(), or lbp.restore(model) first"
        )
    in_place = overwrites(function, args, kwargs)
    z: Tensor
    out: Tensor
    if args:
        z, args = args[0], args[1:]
    else:
        z, kwargs = kwargs["input"], {k: v for k, v in kwargs.items() if k != "input"}
    if not in_place:
        return _out_of_place(rule, covered.learns, function, z, args, kwargs)
    # PyTorch's own node needs an input that stays as it is, and neither torch.compile nor the
    # transforms of torch.func take an autograd function that overwrites its input. Elsewhere the
    # stock function overwrites it, and no memory is needed.
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if rule.true_share or transformed:
        function, args, kwargs = not_overwriting(covered, function, args, kwargs)
        out = _out_of_place(rule, covered.learns, function, z.clone(), args, kwargs)
        z.copy_(out)
        return z
    copy = z.clone() if rule.reads_input else None
    out = _Ruled.apply(z, _Call(rule, function, args, kwargs, True, copy))  # type: ignore[no-untyped-call]
    return out


class BackwardRule(TorchFunctionMode):
    """The mode behind `backward_rule`."""

    def __init__(self, rule: Rule, sign: bool) -> None:
        super().__init__()
        self.rule = rule
        self.sign = sign

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        covered = FUNCTIONS.get(func)
        if covered is None:
            if func in FUNCTIONS_LEFT_ALONE and torch.is_grad_enabled():
                self._warn(func)
            return func(*args, **kwargs)
        if (covered.opt_in and not self.sign) or not torch.is_grad_enabled() or "out" in kwargs:
            return func(*args, **kwargs)
        if self.rule.true_share == 1:
            return _stock(func, *args, **kwargs)
        return call(self.rule, covered, func, args, kwargs)

    def _warn(self, func: Callable[..., Any]) -> None:
        if self.rule.true_share < 1 and not torch.compiler.is_compiling():
            name, why = FUNCTIONS_LEFT_ALONE[func]
            warnings.warn(
                f"{name} keeps its true derivative under the rule {self.rule.name!r}: {why}",
                LbpWarning,
                stacklevel=3,
            )


def backward_rule(
    rule: str | Rule | Field = "linear", *, sign: bool = False
) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which activation functions have another backward pass.

    It holds for every activation function of `lbp.coverage` that is called in it, in a model or
    not: modules, `torch.nn.functional`, tensor methods and in-place forms. A loss that calls
    `torch.sigmoid` is no exception; compute it outside. Where the functions are called counts, not
    where the backward pass is: `loss.backward()` may stand after the block.

    Activation checkpointing calls the functions once more during the backward pass, where no block
    holds, and PyTorch does not always notice. Use `lbp.linearize` with it, or give
    `torch.utils.checkpoint.checkpoint` the argument
    `context_fn=lambda: (contextlib.nullcontext(), backward_rule(rule))`.

    The innermost block decides, and a module changed by `lbp.linearize` keeps its own rule. Under
    torch.no_grad() nothing is overridden. Double backward differentiates the rule's own field (for
    "linear": the identity). Forward-mode automatic differentiation is not supported.

    Args:
        rule: "bp", "linear", "as-printed", "ste-clip", "leaky", `lbp.leaky(alpha)`, or a function
            of the pre-activations and the incoming gradient that returns the gradient with respect
            to the pre-activations. All three are tensors of one shape.
        sign: Whether `torch.sign` is an activation function here. Under "linear" and "ste-clip" it
            then is a straight-through estimator.

    Raises:
        LbpError: If the rule is unknown.

    Warns:
        LbpWarning: When something is called that no rule reaches, such as a softmax.
    """
    checked = as_rule(rule)
    if checked.true_share == 1 and not any(
        isinstance(mode, BackwardRule) for mode in _get_current_function_mode_stack()
    ):
        return contextlib.nullcontext()  # a mode would slow every function down
    return BackwardRule(checked, sign)
