"""`with backward_rule(...)`: another backward pass for all activation functions called in a block.

A PyTorch function mode sees each call and passes the covered ones to `lbp.autograd.call`.
"""

import contextlib
import inspect
import itertools
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
    get_overridable_functions,
)

from lbp.autograd import call, call_own, call_stock, call_whole, check_without_gradient
from lbp.coverage import FUNCTIONS, FUNCTIONS_LEFT_ALONE, WHOLE, Covered
from lbp.errors import LbpError, LbpWarning
from lbp.literature import as_rule
from lbp.rules import Field, Rule
from lbp.whole import Whole


def _tell_dynamo() -> None:
    """Let a block reach the same functions while torch.compile traces as it does elsewhere.

    Dynamo calls modes only for the functions in a list. The list lacks some, such as `F.hardswish`
    and `torch.relu_`, though their own code calls modes. Dynamo copies it when it first traces.
    """
    overridable = get_overridable_functions()
    listed = set(itertools.chain.from_iterable(overridable.values()))
    missing = [f for f in (*FUNCTIONS, *FUNCTIONS_LEFT_ALONE) if f not in listed]
    overridable[torch.nn.functional].extend(missing)
    if dynamo := sys.modules.get("torch._dynamo.variables.torch"):
        dynamo.get_overridable_functions().update(missing)


_tell_dynamo()


_BACKWARD = {torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad}
_WITH_WARNINGS = _BACKWARD.union(FUNCTIONS_LEFT_ALONE)
_inner_block = threading.local()  # whether the innermost block calls one of these

# Whose frames lie between a call and a mode that sees it; the last are those of inner blocks.
_BETWEEN = {torch.nn.functional.__file__, torch.overrides.__file__, __file__}


def _in_compiled_graph() -> bool:
    """Whether a mode was called by a graph that torch.compile hands to a backend.

    Where the backend calls its functions one by one, as `backend="eager"` does, modes see them. The
    rule is in the graph already: it is set while torch.compile traces.
    """
    frame = sys._getframe(2)
    while frame and frame.f_code.co_filename in _BETWEEN:
        frame = frame.f_back  # type: ignore[assignment]
    if not frame or not frame.f_code.co_filename.startswith("<eval_with_key>"):
        return False  # not one of torch.fx's graphs
    return "dynamo_compile_id" in getattr(frame.f_locals.get("self"), "meta", ())


_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def _level_of_user() -> int:
    """Return the `stacklevel` at which the function that calls this one warns of a user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        level, frame = level + 1, frame.f_back
    return level


def _innermost() -> Any:
    modes = _get_current_function_mode_stack()
    return modes[-1] if modes else None


class _Decorator(contextlib.ContextDecorator):
    """Decorates functions that have returned when their call ends."""

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Return the function, called in the block.

        Raises:
            LbpError: If it is a coroutine, a generator or a class, whose code runs elsewhere.
        """
        kinds: dict[str, Callable[..., bool]] = {
            "a coroutine": inspect.iscoroutinefunction,
            "a generator": inspect.isgeneratorfunction,
            "an asynchronous generator": inspect.isasyncgenfunction,
            "a class": inspect.isclass,
        }
        for kind, is_of_kind in kinds.items():
            if is_of_kind(function):
                raise LbpError(
                    f"{function.__name__} is {kind}, which runs after the decorated call: "
                    "write `with lbp.backward_rule(...):` around the calls of the model in it"
                )
        return super().__call__(function)


class BackwardRule(_Decorator, TorchFunctionMode):
    """The mode behind `backward_rule`.

    It enters and leaves PyTorch's stack of modes by methods of its own. With the inherited ones,
    torch.compile would break a graph inside a block, and leave the mode on the stack if the rest
    fails. So it runs a block that it cannot compile whole as Python does.
    """

    def __init__(self, rule: Rule, sign: bool, also: Mapping[Callable[..., Any], Covered]) -> None:
        super().__init__()
        self.rule = rule
        self.sign = sign
        self.also = also  # by which the block sees classes that it alone takes whole
        self.reached = False  # whether an activation function was called since the block began
        self.began = 0  # the number of the next node of autograd's graph at that time

    def __enter__(self) -> "BackwardRule":
        if not torch.compiler.is_compiling():
            self.reached = False
            self.began = torch._C._autograd._get_sequence_nr()
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *exception: Any) -> None:
        if torch.compiler.is_compiling() or _innermost() is self:
            super().__exit__(*exception)  # type: ignore[no-untyped-call]
        else:
            self._leave_from_within()

    def _leave_from_within(self) -> NoReturn:
        """Leave a block in which another was entered that is still open."""
        if self not in _get_current_function_mode_stack():
            raise LbpError(
                f"the block of the rule {self.rule.name!r} is not open: it was left before"
            )
        opened = []
        while (mode := _innermost()) is not None:
            _pop_mode()
            if mode is self:
                break
            opened.append(mode)
        for mode in reversed(opened):
            _push_mode(mode)
        raise LbpError(
            f"the block of the rule {self.rule.name!r} was left while a block inside of it was "
            "open, so calls may have had the rule of the other: leave blocks in their order, and "
            "let no generator yield and no asyncio task await inside of one"
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        covered = FUNCTIONS.get(func) or self.also.get(func)
        if covered is None:
            if func in WHOLE:
                return self._in_its_own_code(*args, **kwargs)
            if isinstance(func, HigherOrderOperator):  # only while torch.compile traces
                args = tuple([self._around(arg) if callable(arg) else arg for arg in args])
            elif func in _WITH_WARNINGS and not torch.compiler.is_compiling():
                return self._call_after_warning(func, args, kwargs)
            return func(*args, **kwargs)
        if (covered.opt_in and not self.sign) or "out" in kwargs:
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            if not self.rule.is_bp:
                check_without_gradient(self.rule, args, kwargs)
            return func(*args, **kwargs)
        if not torch.compiler.is_compiling():
            self.reached = True
            if _in_compiled_graph():
                return func(*args, **kwargs)
        if self.rule.is_bp:
            return call_stock(func, *args, **kwargs)
        if func in WHOLE:
            z, unit, *further = args
            return call_whole(self.rule, covered, unit, (z, *further), kwargs)
        if not covered.functions:
            return call_own(self.rule, covered, func, args, kwargs)
        return call(self.rule, covered, func, args, kwargs)

    def _in_its_own_code(self, z: Any, unit: Whole, *args: Any, **kwargs: Any) -> Any:
        """Call a module that this block does not take whole, and reach what it calls."""
        reached, began = self.reached, self.began
        with self:
            out = unit.forward(unit.module, z, *args, **kwargs)
        self.reached, self.began = self.reached or reached, began
        return out

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return inside

    def _call_after_warning(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Warn if the rule misses something here, and call the function."""
        if getattr(_inner_block, "calls", False):  # it has warned already, or need not
            return func(*args, **kwargs)
        if func in FUNCTIONS_LEFT_ALONE and torch.is_grad_enabled():
            self._warn(func)
        elif func in _BACKWARD and not self.reached:
            self._warn_of_nothing(args, kwargs)
        _inner_block.calls = True
        try:
            return func(*args, **kwargs)
        finally:
            _inner_block.calls = False

    def _warn(self, func: Callable[..., Any]) -> None:
        if not self.rule.is_bp:
            name, why = FUNCTIONS_LEFT_ALONE[func]
            warnings.warn(
                f"{name} keeps its true derivative under the rule {self.rule.name!r}: {why}",
                LbpWarning,
                stacklevel=_level_of_user(),
            )

    def _warn_of_nothing(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Warn if nothing that this backward pass goes through was computed under the rule."""
        if self.rule.is_bp:
            return
        outputs = args[0] if args else kwargs.get("tensors", kwargs.get("outputs"))
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs or ())
        if not _compiled_since(self.began, outputs):
            warnings.warn(
                f"a backward pass in this block, but the rule {self.rule.name!r} has reached no "
                "activation function in it: call the model inside the block (modules that "
                "lbp.linearize has changed keep their own rule)",
                LbpWarning,
                stacklevel=_level_of_user(),
            )


def _compiled_since(began: int, outputs: list[Any]) -> bool:
    """Whether a compiled graph ran since then, in which no mode can see what is called."""
    nodes = [output.grad_fn for output in outputs if isinstance(output, torch.Tensor)]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen or node._sequence_nr() < began:  # made before, as all below
            continue
        seen.add(node)
        if node.name() in ("CompiledFunctionBackward", "ApplyTemplateBackward"):
            return True
        nodes += [below for below, _ in node.next_functions]
    return False


class _OnlyInside(_Decorator, contextlib.AbstractContextManager[None]):
    """The rule bp. It enters its mode only inside another block, because modes cost time."""

    def __init__(self, mode: BackwardRule) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        modes = _get_current_function_mode_stack()
        if any(isinstance(mode, BackwardRule) for mode in modes):
            self.mode.__enter__()

    def __exit__(self, *exception: Any) -> None:
        # Nothing of this object tells whether it was entered: threads may share it.
        if self.mode in _get_current_function_mode_stack():
            self.mode.__exit__(*exception)


def backward_rule(
    rule: str | Rule | Field = "linear",
    *,
    sign: bool = False,
    also: Iterable[type[nn.Module]] = (),
) -> contextlib.AbstractContextManager[Any]:
    """Return a context, or decorator, under which activation functions have another backward pass.

    It holds for every activation function of `lbp.coverage` that is called in it, in a model or
    not: modules, `torch.nn.functional`, tensor methods and in-place forms. That includes a loss
    that calls `torch.sigmoid`: compute it outside. The rule is set when a function is called, so
    `loss.backward()` may follow the block.

    Activation checkpointing calls the functions again during the backward pass, and no block holds
    there, not even one around `loss.backward()`. Use `lbp.linearize` with it, or give
    `torch.utils.checkpoint.checkpoint` the arguments `use_reentrant=False` and
    `context_fn=lambda: (contextlib.nullcontext(), backward_rule(rule))`. Without them PyTorch
    raises a `CheckpointError`, but with `use_reentrant=True` it silently takes true derivatives.

    A block holds only in the thread that enters it (so not in `nn.DataParallel`), and does not
    reach calls that bypass PyTorch's Python functions: `torch.ops.aten.relu` and TorchScript.
    Those keep their true derivatives without a warning. It is open until it is left, so nothing is
    to happen elsewhere in between: a generator that yields in a block, or an asyncio task that
    awaits in one, leaves its rule to others meanwhile.

    torch.compile reaches what is called in a block, and may compile the block itself. (Operators
    that take functions, such as `torch.cond`, are reached where torch.compile compiles the block;
    in a block around them, PyTorch raises an error.) Under transforms of torch.func it compiles
    less, see `lbp.linearize`. A block in which a graph breaks is run by Python, and what it calls
    is compiled.

    The innermost block decides, and a module changed by `lbp.linearize` keeps its own rule. Under
    torch.no_grad() nothing is overridden, but PyTorch takes no fast path of nn.TransformerEncoder
    and nn.MultiheadAttention in a block, so their values may differ in the last bits. Double
    backward differentiates the rule's own field (for "linear": the identity). It is incomplete
    through PReLU, whose two gradients come from separate nodes. Forward-mode automatic
    differentiation is not supported.

    Args:
        rule: "bp", "linear", "as-printed", "ste-clip", "leaky", `lbp.leaky(alpha)`, or a function
            of the pre-activations and the incoming gradient that returns the gradient with respect
            to the pre-activations. All three are tensors of one shape.
        sign: Whether `torch.sign` is an activation function here. Under "linear" and "ste-clip" it
            is then a straight-through estimator.
        also: Further classes of activation modules, taken whole in this block only; see
            `lbp.register_activation`.

    Raises:
        LbpError: If the name is unknown, the function takes other arguments, or `also` has
            something other than classes of modules. Inside the block, where tracing would lose the
            rule: by torch.export, torch.fx or torch.jit.trace.

    Warns:
        LbpWarning: When something is called that no rule reaches, such as a softmax, and when a
            backward pass starts in the block before the rule has reached a function.
    """
    # imported here: they need this module
    from lbp.known import register_loaded
    from lbp.registration import further, take_whole

    register_loaded()
    checked = as_rule(rule)
    classes, functions = further(also) if also != () else (set(), {})
    for covered in functions.values():
        raise LbpError(
            f"also={covered.name}: a block does not see a call of a Python function; let the model "
            "call what lbp.register_activation returns for it"
        )
    taken = {take_whole(kind) for kind in classes}
    mode = BackwardRule(checked, sign, {seen: WHOLE[seen] for seen in taken})
    return _OnlyInside(mode) if checked.is_bp else mode
