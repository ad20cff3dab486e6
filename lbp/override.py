"""Other backward passes for PyTorch's own activation functions, and where they hold.

The forward pass is the stock function under every rule, bit for bit: it is called, not rewritten.
(The shorter `z + (f(z) - z).detach()` would round it differently.)
"""

import contextlib
import inspect
import itertools
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    get_overridable_functions,
)
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


def _tell_dynamo() -> None:
    """Let a block reach, while torch.compile traces, each function that it reaches elsewhere.

    Dynamo calls modes only for the functions in a list, where some (`F.hardswish`, `torch.relu_`)
    are missing, though their own code calls modes. It copies that list when it first traces.
    """
    overridable = get_overridable_functions()
    listed = set(itertools.chain.from_iterable(overridable.values()))
    missing = [f for f in (*FUNCTIONS, *FUNCTIONS_LEFT_ALONE) if f not in listed]
    overridable[torch.nn.functional].extend(missing)
    if dynamo := sys.modules.get("torch._dynamo.variables.torch"):
        dynamo.get_overridable_functions().update(missing)


_tell_dynamo()

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


def _save(ctx: Any, z: Tensor, read: Tensor | None) -> None:
    """Save what the rule reads, if it does, and a mark for those who watch what is saved."""
    kept = [read] if ctx.rule.reads_input else []
    # One of them is activation checkpointing, which recomputes what is saved and would take other
    # tensors for it if it did so without the rule. Stock functions save no empty tensor.
    if not torch.compiler.is_compiling() and torch._C._autograd._top_saved_tensors_default_hooks(
        True
    ):
        kept.append(torch.empty(0, device=z.device))
    ctx.save_for_backward(*kept)


def _saved(ctx: Any) -> Tensor | None:
    return ctx.saved_tensors[0] if ctx.rule.reads_input else None


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
        _save(ctx, z, call.copy if call.in_place else z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.rule.gradient(_saved(ctx), g), None


class _Joined(torch.autograd.Function):
    """A copy of `y`; the gradient goes, in part, to `y`, and through the rule's field to `z`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, z: Tensor, rule: Rule, share: float) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Rule, float], output: Tensor) -> None:
        _, z, ctx.rule, ctx.share = inputs
        _save(ctx, z, z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return ctx.share * g, ctx.rule.gradient(_saved(ctx), g), None, None


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
        name = "input" if "input" in kwargs else "x"  # PyTorch takes NumPy's name, too
        z, kwargs = kwargs[name], {k: v for k, v in kwargs.items() if k != name}
    if isinstance(z, torch.fx.Proxy):
        raise LbpError(
            f"torch.fx would lose the backward rule {rule.name!r}: "
            "trace outside the block and call the traced model inside it"
        )
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
        if self.rule.is_bp:
            return _stock(func, *args, **kwargs)
        return call(self.rule, covered, func, args, kwargs)

    def _warn(self, func: Callable[..., Any]) -> None:
        if not self.rule.is_bp and not torch.compiler.is_compiling():
            name, why = FUNCTIONS_LEFT_ALONE[func]
            warnings.warn(
                f"{name} keeps its true derivative under the rule {self.rule.name!r}: {why}",
                LbpWarning,
                stacklevel=3,
            )


class _OnlyInside(contextlib.AbstractContextManager[None]):
    """The rule bp, a mode only where it is entered inside another block: modes cost time."""

    def __init__(self, mode: BackwardRule) -> None:
        self.mode = mode
        self.entered: list[bool] = []

    def __enter__(self) -> None:
        modes = _get_current_function_mode_stack()
        self.entered.append(any(isinstance(mode, BackwardRule) for mode in modes))
        if self.entered[-1]:
            self.mode.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exception: Any) -> None:
        if self.entered.pop():
            self.mode.__exit__(*exception)  # type: ignore[no-untyped-call]


def backward_rule(
    rule: str | Rule | Field = "linear", *, sign: bool = False
) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which activation functions have another backward pass.

    It holds for every activation function of `lbp.coverage` that is called in it, in a model or
    not: modules, `torch.nn.functional`, tensor methods and in-place forms. A loss that calls
    `torch.sigmoid` is no exception; compute it outside. Where the functions are called counts, not
    where the backward pass is: `loss.backward()` may stand after the block.

    Activation checkpointing calls the functions once more during the backward pass, where no block
    holds: not even one around `loss.backward()`. Use `lbp.linearize` with it, or give
    `torch.utils.checkpoint.checkpoint` the arguments `use_reentrant=False` and
    `context_fn=lambda: (contextlib.nullcontext(), backward_rule(rule))`. Without them PyTorch
    raises a `CheckpointError`, but with `use_reentrant=True` it silently takes true derivatives.

    A block holds for the thread that enters it, not for others (`nn.DataParallel`), and not for
    what is called past PyTorch's Python functions: `torch.ops.aten.relu` and TorchScript. Those
    keep their true derivatives without a warning.

    The innermost block decides, and a module changed by `lbp.linearize` keeps its own rule. Under
    torch.no_grad() nothing is overridden. Double backward differentiates the rule's own field (for
    "linear": the identity); through PReLU, whose two gradients come from separate nodes, it is not
    complete. Forward-mode automatic differentiation is not supported.

    Args:
        rule: "bp", "linear", "as-printed", "ste-clip", "leaky", `lbp.leaky(alpha)`, or a function
            of the pre-activations and the incoming gradient that returns the gradient with respect
            to the pre-activations. All three are tensors of one shape.
        sign: Whether `torch.sign` is an activation function here. Under "linear" and "ste-clip" it
            then is a straight-through estimator.

    Raises:
        LbpError: If the rule is unknown, or a function that takes other arguments.

    Warns:
        LbpWarning: When something is called that no rule reaches, such as a softmax.
    """
    checked = as_rule(rule)
    mode = BackwardRule(checked, sign)
    return _OnlyInside(mode) if checked.is_bp else mode
