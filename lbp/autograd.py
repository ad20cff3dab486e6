"""One call of an activation function of PyTorch under a backward rule.

The forward pass calls the stock function, so its values are the stock ones bit for bit. (The
shorter `z + (f(z) - z).detach()` would round them differently.)
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from lbp.coverage import Covered, not_overwriting, overwrites
from lbp.errors import LbpError
from lbp.rules import BUILT_IN, Rule

OLDEST_TORCH = "2.11"


def check_torch(version: str) -> None:
    """Raise `LbpError` if this version of torch is older than what the rules are tested with."""
    if TorchVersion(version) < OLDEST_TORCH:
        raise LbpError(f"torch {version} is too old: install torch {OLDEST_TORCH} or newer")


check_torch(torch.__version__)


# The autograd functions below define no `jvp`, because torch.compile(fullgraph=True) rejects it.


class _Call(NamedTuple):
    """A call without its input, as one argument: each further argument slows `apply` down.

    Attributes:
        in_place: Whether the function overwrites its input.
        copy: A copy of the input of such a call, if the rule reads it.
    """

    rule: Rule
    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_place: bool = False
    copy: Tensor | None = None


def _save(ctx: Any, z: Tensor, read: Tensor | None) -> None:
    """Save what the rule reads, and an empty tensor where hooks see what is saved."""
    kept = [read] if ctx.rule.reads_input else []
    # Activation checkpointing sets such hooks. It pairs the tensors saved first with those saved
    # when it recomputes, and the empty tensor, which no stock function saves, makes it notice a
    # recomputation without the rule.
    if not torch.compiler.is_compiling() and torch._C._autograd._top_saved_tensors_default_hooks(
        True
    ):
        kept.append(torch.empty(0, device=z.device))
    ctx.save_for_backward(*kept)


def _saved(ctx: Any) -> Tensor | None:
    return ctx.saved_tensors[0] if ctx.rule.reads_input else None


class _Ruled(torch.autograd.Function):
    """The stock function forward, the rule's field backward."""

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
    """A copy of `y`. Backward, `y` gets a share of the gradient and `z` the rule's field."""

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


# `apply` binds its arguments to the signature of `forward`. To work that out takes 7 microseconds,
# longer than many an activation function, and `inspect` uses a stored signature if there is one.
for _function in (_Ruled, _Joined):
    _signature = inspect.signature(_function.forward)
    _function.forward.__signature__ = _signature  # type: ignore[union-attr]


def call_stock(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Call a function so that no outer block changes its backward pass."""
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
    if learns and not rule.true_share:
        # PyTorch's own node gives the parameters their true gradient, and the input gets none.
        y = call_stock(function, z.detach(), *args, **kwargs)
        return _Joined.apply(y, z, rule, 1.0)  # type: ignore[no-any-return, no-untyped-call]
    trained = args, kwargs
    if learns:
        args = tuple(map(_fixed, args))
        kwargs = {name: _fixed(value) for name, value in kwargs.items()}
    if not rule.true_share:
        return _Ruled.apply(z, _Call(rule, function, args, kwargs))  # type: ignore[no-any-return, no-untyped-call]
    # PyTorch's own node gives the true part. It also knows the random numbers of RReLU.
    y = call_stock(function, z, *args, **kwargs)
    out: Tensor = _Joined.apply(y, z, rule, rule.true_share)  # type: ignore[no-untyped-call]
    if learns:
        # A second node of PyTorch's own gives the whole gradient of the parameter.
        y = call_stock(function, z.detach(), *trained[0], **trained[1])
        out = _Joined.apply(y, out, BUILT_IN["linear"], 1.0)  # type: ignore[no-untyped-call]
    return out


def call(
    rule: Rule,
    covered: Covered,
    function: Callable[..., Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    """Call an activation function with a rule's backward pass.

    Args:
        rule: Any rule but "bp".
        covered: The function's entry in `lbp.coverage.FUNCTIONS`.
        function: A key of `lbp.coverage.FUNCTIONS`.
        args: Its arguments, the pre-activations first.
        kwargs: Its arguments by name.

    Returns:
        The function's value. An in-place call overwrites and returns its input.

    Raises:
        LbpError: While torch.export traces with gradients enabled, or torch.fx traces: neither
            keeps the backward pass.
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
        name = "input" if "input" in kwargs else "x"  # PyTorch also accepts NumPy's name
        z, kwargs = kwargs[name], {k: v for k, v in kwargs.items() if k != name}
    if isinstance(z, torch.fx.Proxy):
        raise LbpError(
            f"torch.fx would lose the backward rule {rule.name!r}: "
            "trace outside the block and call the traced model inside it"
        )
    if not in_place:
        return _out_of_place(rule, covered.learns, function, z, args, kwargs)
    # PyTorch's own node needs its input unchanged, and torch.compile and the transforms of
    # torch.func reject an autograd function that overwrites its input: these get a copy. (The copy
    # of a slice is dense, and some functions round the last bit of a dense tensor differently.) All
    # other calls overwrite their input and need no memory.
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if rule.true_share or transformed:
        function, args, kwargs = not_overwriting(covered, function, args, kwargs)
        out = _out_of_place(rule, covered.learns, function, z.clone(), args, kwargs)
        z.copy_(out)
        return z
    copy = z.clone() if rule.reads_input else None
    out = _Ruled.apply(z, _Call(rule, function, args, kwargs, True, copy))  # type: ignore[no-untyped-call]
    return out
