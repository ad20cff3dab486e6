"""One call of an activation function of PyTorch under a backward rule.

The forward pass calls the stock function, so its values are the stock ones bit for bit. (The
shorter `z + (f(z) - z).detach()` would round them differently.)
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.torch_version import TorchVersion

from lbp.coverage import Covered, not_overwriting, overwrites
from lbp.errors import LbpError
from lbp.rules import LINEAR, Rule
from lbp.whole import Whole, check_element_wise

OLDEST_TORCH = "2.11"


def check_torch(version: str) -> None:
    """Raise `LbpError` if this version of torch is older than what the rules are tested with."""
    if TorchVersion(version) < OLDEST_TORCH:
        raise LbpError(f"torch {version} is too old: install torch {OLDEST_TORCH} or newer")


check_torch(torch.__version__)


class LostByTheCompiler(LbpError, AssertionError):
    """A compiled call that would silently have the true derivative.

    Of the errors that are raised while it traces, torch.compile passes on an AssertionError as it
    is. It wraps others, or runs the code uncompiled.
    """


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
    """Save what the rule reads, and an empty tensor under activation checkpointing.

    Checkpointing pairs the tensors saved first with those saved when it recomputes. The empty
    tensor, which no stock function saves, makes it notice a recomputation without the rule.
    """
    kept = [read] if ctx.rule.reads_input else []
    if not torch.compiler.is_compiling():
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if hooks and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint":
            kept.append(torch.empty(0, device=z.device))
    ctx.save_for_backward(*kept)


def _saved(ctx: Any) -> Tensor | None:
    return ctx.saved_tensors[0] if ctx.rule.reads_input else None


class _Ruled(torch.autograd.Function):
    """The stock function forward, the rule's field backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, call: _Call) -> Tensor:
        out = call.function(z, *call.args, **call.kwargs)
        # An autograd function that returns its input gives a view, which cannot be overwritten.
        return z.clone() if out is z and not call.in_place else out

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
    """A copy of `y`. Backward, `y` gets a share of the gradient and `z` the rule's field.

    The field reads `kept`, or `z` where that is None. (Handing `z` over twice would lose its
    gradient under torch.compile.)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, z: Tensor, kept: Tensor | None, rule: Rule, share: float) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, Rule, float], output: Tensor
    ) -> None:
        _, z, kept, ctx.rule, ctx.share = inputs
        _save(ctx, z, z if kept is None else kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        return ctx.share * g, ctx.rule.gradient(_saved(ctx), g), None, None, None


class _Through(torch.autograd.Function):
    """A copy of `y`. Backward, `y` gets the rule's field."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, kept: Tensor, rule: Rule) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Rule], output: Tensor) -> None:
        y, kept, ctx.rule = inputs
        _save(ctx, y, kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return ctx.rule.gradient(_saved(ctx), g), None, None


def _apply(function: type[torch.autograd.Function], z: Tensor, *args: Any) -> Tensor:
    """Return `function.apply(z, *args)`.

    `apply` first binds its arguments to the signature of `forward`, and looks for transforms of
    torch.func. That takes two thirds of its time, and is left out where neither is needed.
    """
    out: Tensor
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        out = function.apply(z, *args)
    else:
        z = torch._C._functorch.unwrap_if_dead(z)  # as `apply` does: a transform may have ended
        out = super(torch.autograd.Function, function).apply(z, *args)  # type: ignore[misc]
    return out


def call_stock(function: Callable[..., Tensor], z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Call a function so that no outer block changes its backward pass."""
    with torch._C.DisableTorchFunction():
        kind = type(z)
        if kind is Tensor or kind.__torch_function__ is torch._C._disabled_torch_function_impl:
            return function(z, *args, **kwargs)
        # Also a subclass's own way to call functions is off here, and it makes the result's class.
        return kind.__torch_function__(function, (kind,), (z, *args), kwargs)  # type: ignore[no-any-return]


def _fixed(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _stock(call: _Call, z: Tensor) -> Tensor:
    """Make a call with PyTorch's own backward pass."""
    return call_stock(call.function, z, *call.args, **call.kwargs)


def _out_of_place(call: _Call, learns: bool, z: Tensor) -> Tensor:
    """Make a call that leaves its input as it is; `learns` if it has parameters."""
    if call.rule.inner is not None:
        return _handed_on(call, call.rule.inner, learns, z)
    if learns or call.rule.needs_value or _has_to_be_apart(call):
        return _beside(call, learns, z)
    return _apply(_Ruled, z, call)


def _has_to_be_apart(call: _Call) -> bool:
    """Whether a transform of torch.func would lose a module's buffers in an autograd function."""
    return isinstance(call.function, Whole) and torch._C._are_functorch_transforms_active()


def _handed_on(call: _Call, inner: Rule, learns: bool, z: Tensor) -> Tensor:
    """Make a call under a rule that hands the gradient to another one."""
    rule, fixed = call.rule, _fixed_call(call) if learns else call
    if inner.is_bp:
        y = _stock(fixed, z)
    else:
        y = _out_of_place(_Call(inner, fixed.function, fixed.args, fixed.kwargs), False, z)
    kept = rule.keep(z.detach(), y.detach()) if rule.keep else z.detach()
    out = _apply(_Through, y, kept, rule)
    if learns:
        # A second node of PyTorch's own gives the parameters their true gradient. One node cannot:
        # it would go back with two gradients.
        out = _apply(_Joined, _stock(call, z.detach()), out, None, LINEAR, 1.0)
    return out


def _fixed_call(call: _Call) -> _Call:
    """Return a call with no way to its parameters in the autograd graph."""
    function = call.function.fixed() if isinstance(call.function, Whole) else call.function
    kwargs = {name: _fixed(value) for name, value in call.kwargs.items()}
    return _Call(call.rule, function, tuple(map(_fixed, call.args)), kwargs)


def _beside(call: _Call, learns: bool, z: Tensor) -> Tensor:
    """Make a call once, with the rule beside PyTorch's own node.

    That node gives the parameters their true gradient, and the input its share of the true one.
    """
    out: Tensor
    rule = call.rule
    share = 1.0 if learns else rule.true_share
    if rule.true_share:
        # PyTorch's own node also knows the random numbers of RReLU. Where it has parameters, the
        # gradient is scaled behind it, on its way to the input.
        scaled = _apply(_Joined, z, z.detach(), None, LINEAR, rule.true_share) if learns else z
        out = _apply(_Joined, _stock(call, scaled), z, None, rule, share)
    elif rule.surrogate is not None:
        y = _stock(call, z.detach())
        counted = not (torch.compiler.is_compiling() or z.is_inference())
        version = z._version if counted else None
        s = call_stock(rule.surrogate, z)
        if version is not None and z._version != version:
            raise LbpError(
                f"the function of the rule {rule.name} overwrites its input: give one without "
                "in-place operations"
            )
        if not isinstance(s, Tensor) or s.shape != z.shape:
            found = f"shape {tuple(s.shape)}" if isinstance(s, Tensor) else repr(s)
            raise LbpError(
                f"the function of the rule {rule.name} returned {found} for {tuple(z.shape)}: give "
                "an element-wise one"
            )
        if z.requires_grad and not s.requires_grad:
            raise LbpError(
                f"the function of the rule {rule.name} has no gradient: give one that PyTorch can "
                "differentiate, without detach() and torch.no_grad()"
            )
        out = _apply(_Joined, y, s, None, rule, share)
    else:
        y = _stock(call, z.detach())
        kept = rule.keep(z.detach(), y.detach()) if rule.keep else None
        out = _apply(_Joined, y, z, kept, rule, share)
    return out


def check_without_gradient(rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `LbpError` where a call under torch.no_grad() would lose the rule all the same.

    That is while torch.jit.trace traces, and in forward-mode differentiation.
    """
    refuse_jit_trace(rule)
    if not torch.compiler.is_compiling() and forward_ad._current_level >= 0:
        _refuse_forward_mode(rule, args, kwargs)


def _has_tangent(value: Tensor) -> bool:
    """Whether forward-mode differentiation is under way for a tensor, also further out."""
    if forward_ad.unpack_dual(value).tangent is not None:
        return True
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or []
    forward = {interpreter.level() for interpreter in stack if interpreter.key().name == "Jvp"}
    while functorch.is_functorch_wrapped_tensor(value):
        if functorch.maybe_get_level(value) in forward:
            return True
        value = functorch.get_unwrapped(value)
    return False


def _refuse_forward_mode(rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `LbpError` if an argument has a tangent: the autograd functions here have no `jvp`."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and _has_tangent(value):
            raise LbpError(
                f"forward-mode differentiation would lose the backward rule {rule.name!r}: use "
                "reverse mode, as torch.func.jacrev does, or lbp.restore(model) first"
            )


def refuse_jit_trace(rule: Rule) -> None:
    """Raise `LbpError` while torch.jit.trace traces, as it keeps no backward pass but its own."""
    if torch._C._get_tracing_state() is not None and not torch.onnx.is_in_onnx_export():
        raise LbpError(
            f"torch.jit.trace would lose the backward rule {rule.name!r}: "
            "trace outside any block, and lbp.restore(model) first"
        )


def _leaves_the_graph() -> bool:
    """Whether a call has to leave the graph that torch.compile traces.

    Under a transform of torch.func, Dynamo believes that the input of an autograd function needs no
    gradient, and would take the stock function. Its graphs can hold an autograd function under one
    `grad` (or `vjp`, or `jacrev`). Under `vmap` alone the call leaves the graph. Elsewhere that is
    no help, because PyTorch loses gradients when a graph breaks inside `vjp`.

    Raises:
        LbpError: If the rule would be lost in either place.
    """
    global _call_outside
    stack = torch._C._functorch.get_interpreter_stack() or []
    transforms = [interpreter.key().name.lower() for interpreter in stack]
    if transforms in ([], ["grad"]):
        return False
    if set(transforms) != {"vmap"}:
        raise LostByTheCompiler(
            "torch.compile would lose the backward rule under torch.func's "
            f"{' of '.join(transforms)}: leave torch.compile out"
        )
    _call_outside = torch.compiler.disable(
        _call_here, reason="under vmap, torch.compile would lose the backward rule of lbp"
    )
    return True


# Dynamo runs this function and takes its result for a constant: under other transforms it traces
# anew.
_leaves_the_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _call_here(
    rule: Rule,
    covered: Covered,
    function: Callable[..., Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    in_place = overwrites(function, args, kwargs)
    z: Any
    if args:
        z, args = args[0], args[1:]
    else:
        name = "input" if "input" in kwargs else "x"  # PyTorch also accepts NumPy's name
        if name not in kwargs:
            return function(**kwargs)  # its own error names what is missing
        z, kwargs = kwargs[name], {k: v for k, v in kwargs.items() if k != name}
    if not isinstance(z, Tensor):
        if isinstance(z, torch.fx.Proxy):
            raise LbpError(
                f"torch.fx would lose the backward rule {rule.name!r}: "
                "trace outside the block and call the traced model inside it"
            )
        return function(z, *args, **kwargs)  # its own error tells what it takes
    if z.is_nested and z.layout is torch.strided:
        # PyTorch's autograd functions cannot take these, but their parts.
        if in_place:
            raise LbpError(
                f"the rule {rule.name!r} cannot overwrite a strided nested tensor: "
                "call the function without inplace, or take layout=torch.jagged"
            )
        call = _Call(rule, function, args, kwargs)
        parts = (_out_of_place(call, covered.learns, x) for x in z.unbind())
        return torch.nested.as_nested_tensor(list(parts))
    if not in_place:
        if torch.compiler.is_compiling():
            # Where a tensor needs a gradient since it was written to, as a buffer that is filled
            # slice by slice, Dynamo learns of it only from a new tensor.
            z = z.view_as(z)
        return _out_of_place(_Call(rule, function, args, kwargs), covered.learns, z)
    # PyTorch's own node needs its input unchanged, and torch.compile and the transforms of
    # torch.func reject an autograd function that overwrites its input: these get a copy. (The copy
    # of a slice is dense, and some functions round the last bit of a dense tensor differently.) All
    # other calls overwrite their input and need no memory.
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if rule.needs_value or transformed:
        function, args, kwargs = not_overwriting(function, args, kwargs)
        out = _out_of_place(_Call(rule, function, args, kwargs), covered.learns, z.clone())
        z.copy_(out)
        return z
    copy = z.clone() if rule.reads_input else None
    out = _apply(_Ruled, z, _Call(rule, function, args, kwargs, True, copy))
    return out


# Replaced when torch.compile first needs it, since to import torch._dynamo takes a second.
_call_outside = _call_here

Watcher = Callable[[Covered, Any, Tensor], None]
_watchers: list[tuple[int, Watcher]] = []  # each with its thread


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell a function of every call under a rule within the block, in this thread.

    Args:
        watcher: It gets the function's entry in `lbp.coverage`, the node of the autograd graph that
            the pre-activations come from, or None, and the value.
    """
    entry = threading.get_ident(), watcher
    _watchers.append(entry)
    try:
        yield
    finally:
        _watchers.remove(entry)


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
        LbpError: While torch.export traces with gradients enabled, or torch.fx or torch.jit.trace
            does: none keeps the backward pass. Nor does torch.compile under some transforms of
            torch.func, nor forward-mode differentiation.
    """
    # While torch.compile traces, is_exporting() is true whatever it traces for.
    if torch.compiler._is_exporting_flag:
        raise LbpError(
            f"torch.export would lose the backward rule {rule.name!r}: "
            "export under torch.no_grad(), or lbp.restore(model) first"
        )
    refuse_jit_trace(rule)
    compiling = torch.compiler.is_compiling()
    if not compiling and forward_ad._current_level >= 0:
        _refuse_forward_mode(rule, args, kwargs)
    outside = compiling and _leaves_the_graph()
    called = _call_outside if outside else _call_here
    if not _watchers:
        return called(rule, covered, function, args, kwargs)
    z: Any = args[0] if args else kwargs.get("input", kwargs.get("x"))
    node = z.grad_fn  # an in-place call changes it
    out = called(rule, covered, function, args, kwargs)
    for thread, watcher in _watchers:
        if thread == threading.get_ident():
            watcher(covered, node, out)
    return out


def call_whole(
    rule: Rule, covered: Covered, unit: Whole, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Call a module that is taken whole, as `call` calls a function.

    Raises:
        LbpError: As `call`, or if the value has another shape than the pre-activations.
    """
    if unit.learns:
        covered = replace(covered, learns=True)
    if not unit.overwrites:
        return call_own(rule, covered, unit, args, kwargs)
    z: Tensor = args[0]
    out = call_own(rule, covered, unit, (z.clone(), *args[1:]), kwargs)
    return z.copy_(out) if unit.wrote else out


def call_own(
    rule: Rule,
    covered: Covered,
    function: Callable[..., Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    """Call a function that is not PyTorch's, as `call` calls those.

    The tensors that it is given beside the pre-activations keep their true gradient.

    Raises:
        LbpError: As `call`, or if the value has another shape than the pre-activations.
    """
    if any(isinstance(v, Tensor) and v.requires_grad for v in (*args[1:], *kwargs.values())):
        covered = replace(covered, learns=True)
    out = call(rule, covered, function, args, kwargs)
    check_element_wise(covered.name, args[0], out)
    return out
