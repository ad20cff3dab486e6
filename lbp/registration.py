"""`register_activation`: a user's own activation function, where rules reach those of PyTorch."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.overrides import (
    _get_current_function_mode_stack,
    handle_torch_function,
    has_torch_function,
)
from torch.utils._device import DeviceContext

from lbp.coverage import FUNCTIONS, MODULES, WHOLE, Covered
from lbp.errors import LbpError, short
from lbp.linearization import RULED, STOCK, add_module_class, add_whole_class, ruled_name
from lbp.whole import Whole, by_position, first_argument


def register_activation(
    activation: type[nn.Module] | Callable[..., Tensor],
    function: Callable[..., Tensor] | None = None,
    *,
    arguments: tuple[str, ...] = (),
    learns: bool = False,
    bounded: bool = False,
) -> Callable[..., Tensor]:
    """Let `linearize` and `backward_rule` reach an activation function of your own.

    A class alone is taken whole: its modules compute their value by their own code, whatever that
    calls, and the rule holds for them as one function of their first argument. So a class of
    another package can be registered. The class's forward pass is replaced by one that a block
    sees; outside of blocks it does what it did. Modules that overwrite their input have to say so
    by an attribute `inplace` that is true, as PyTorch's do.

    A function alone is given back in a form that a block sees. It is reached only where the model
    calls, or holds as an attribute, what `register_activation` returns, for Python gives no notice
    of calls of the function itself. This serves as a decorator::

        @lbp.register_activation
        def gelu_new(z):
            return 0.5 * z * (1 + torch.tanh(0.7978845608 * (z + 0.044715 * z**3)))

    A class with its function names the parameters that get their gradient through it. Call it where
    the class is defined, and let the class call what it returns::

        class Snake(nn.Module):
            def __init__(self):
                super().__init__()
                self.frequency = nn.Parameter(torch.ones(()))

            def forward(self, z):
                return snake(z, self.frequency)


        def _snake(z, frequency):
            return z + torch.sin(frequency * z) ** 2 / frequency


        snake = lbp.register_activation(Snake, _snake, arguments=("frequency",), learns=True)

    Args:
        activation: Its class, or a function alone, whose first argument are the pre-activations.
            Subclasses need a registration of their own.
        function: What computes the class's value, element by element, from the pre-activations,
            which come first, and `arguments`. It changes none of them in place. It may call
            activation functions that a rule reaches: it counts as one function, and no rule reaches
            into it.
        arguments: The attributes of the module that it passes to the function, by their names
            there.
        learns: Whether some of them are parameters. Their gradients stay the true ones. (Without a
            class, the gradients of all further arguments do.)
        bounded: Whether the function's values are, as those of a sigmoid: as a factor of a product
            it is then a gate.

    Returns:
        The function, in the form that a block of `backward_rule` sees. A call of `function` itself
        is not seen, only what it calls.

    Raises:
        LbpError: If the class is not a module, is registered already or one of PyTorch's that a
            rule reaches, the function does not take these arguments, or the name is taken that the
            class has under a rule. Nothing is registered then.
    """
    module: Any = activation
    if inspect.isroutine(module) and function is None:
        if module in FUNCTIONS:
            raise LbpError(f"{module.__name__} is registered already: a rule reaches it")
        return _register_function(module, bounded)
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise LbpError(
            f"{short(module)} is not a class of modules: give a subclass of torch.nn.Module, or a "
            "function alone"
        )
    if module in MODULES:
        raise LbpError(f"{module.__name__} is registered already: a rule reaches it")
    if function is None:
        return _register_whole(module, bounded)
    try:
        inspect.signature(function).bind("z", **dict.fromkeys(arguments))
    except (TypeError, ValueError) as error:  # a ValueError: some functions in C have no signature
        names = ", ".join(["the pre-activations", *arguments])
        raise LbpError(
            f"the function of {module.__name__} cannot be called with {names} ({error})"
        ) from error
    seen = _seen_by_blocks(function)
    covered = Covered(module.__name__, (), arguments=arguments, learns=learns, bounded=bounded)
    # The class of changed modules stands beside the user's: pickle imports that module to find it.
    home = vars(sys.modules[module.__module__])
    name = ruled_name(module)
    if name in home and home[name] not in STOCK:
        raise LbpError(
            f"{module.__module__} has a {name} already, which is how this library would call a "
            f"{module.__name__} under a rule: give one of them another name"
        )
    add_module_class(module, covered, seen, home)
    FUNCTIONS[seen] = MODULES[module] = covered
    return seen


def _register_function(function: Callable[..., Tensor], bounded: bool) -> Callable[..., Tensor]:
    inner = _seen_by_blocks(function)

    @functools.wraps(function)
    def seen(*args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = by_position(function, args, kwargs)
        return inner(*args, **kwargs)

    covered = Covered(function.__name__, (), bounded=bounded)
    FUNCTIONS[inner] = FUNCTIONS[seen] = covered
    return seen


_TAKEN: dict[type[nn.Module], Callable[..., Tensor]] = {}


def take_whole(module: type[nn.Module]) -> Callable[..., Tensor]:
    """Return what blocks see when a module of a class is called, and make it at the first time.

    It changes nothing by itself: a block in which the class is not taken whole calls its own code.
    """
    if module in _TAKEN:
        return _TAKEN[module]
    stock = module.forward
    if module.__module__.startswith("torch."):
        raise LbpError(
            f"{module.__name__} is PyTorch's own, and no element-wise activation function: "
            "give a class of your own"
        )
    try:
        inspect.signature(stock).bind_partial("module", "z")
    except TypeError as error:
        raise LbpError(
            f"{module.__name__} cannot be called with the pre-activations first ({error})"
        ) from error
    covered = Covered(module.__name__, ())
    add_whole_class(module, covered)

    def called(z: Tensor, unit: Whole, *args: Any, **kwargs: Any) -> Tensor:
        return unit.forward(unit.module, z, *args, **kwargs)

    seen = _TAKEN[module] = _seen_by_blocks(called)
    WHOLE[seen] = covered
    module.forward = _forward_seen_by_blocks(stock, seen)
    return seen


def _forward_seen_by_blocks(
    stock: Callable[..., Tensor], seen: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Return the forward pass of a class, which blocks see; outside of blocks it is `stock`."""
    # What it calls is held by the function itself, for its globals are to be those of `stock`:
    # there torch.jit.script looks up what the source names.
    lbp_mode_is_on, lbp_whole, lbp_first = _mode_is_on, Whole, first_argument
    lbp_stock, lbp_seen = stock, seen

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        if not lbp_mode_is_on():
            value: Tensor = lbp_stock(self, *args, **kwargs)
            return value
        if not args:
            args = (kwargs.pop(lbp_first(lbp_stock)),)
        return lbp_seen(args[0], lbp_whole(self, lbp_stock), *args[1:], **kwargs)

    there = getattr(stock, "__globals__", globals())
    placed = FunctionType(forward.__code__, there, "forward", None, forward.__closure__)
    return functools.wraps(stock)(placed)


def covered_whole(module: type[nn.Module]) -> Covered | None:
    """Return what a class is covered as where it is taken whole, if it ever was."""
    return WHOLE[_TAKEN[module]] if module in _TAKEN else None


def _register_whole(module: type[nn.Module], bounded: bool) -> Callable[..., Tensor]:
    seen = take_whole(module)
    covered = replace(WHOLE[seen], bounded=bounded)
    RULED[module]._covered = covered  # type: ignore[attr-defined]
    FUNCTIONS[seen] = MODULES[module] = WHOLE[seen] = covered
    return seen


Further = tuple[set[type[nn.Module]], dict[Callable[..., Tensor], Covered]]


def further(also: Iterable[type[nn.Module] | Callable[..., Tensor]]) -> Further:
    """Return the classes and functions that a call takes whole, without those registered.

    Raises:
        LbpError: If it is not a list of classes of modules and of functions.
    """
    classes: set[type[nn.Module]] = set()
    functions: dict[Callable[..., Tensor], Covered] = {}
    if isinstance(also, str | type) or not isinstance(also, Iterable):
        raise LbpError(
            f"also={short(also)} is not a list: give also=[...] of classes and functions"
        )
    for one in also:
        if isinstance(one, type) and issubclass(one, nn.Module):
            if one not in MODULES:
                take_whole(one)
                classes.add(one)
        elif inspect.isroutine(one):
            if one not in FUNCTIONS:
                functions[one] = Covered(one.__name__, ())
        else:
            raise LbpError(
                f"also={short(one)} is neither a class of modules nor a function: "
                "give a subclass of torch.nn.Module, or a function that modules hold"
            )
    return classes, functions


def _mode_is_on() -> bool:
    """Whether a mode is on that may be a block: any but that of a default device."""
    modes = _get_current_function_mode_stack()
    return any(not isinstance(mode, DeviceContext) for mode in modes)


def _seen_by_blocks(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function with the call by which PyTorch's own tell modes what is called."""

    @functools.wraps(function)
    def seen(z: Tensor, /, *args: Any, **kwargs: Any) -> Tensor:
        # Dynamo does not count modes here. Inside a block it leaves this call to Python: the graph
        # is broken, and with `fullgraph=True` that is an error. (`torch.compiler.disable` does the
        # same, but loads the compiler at once: seconds.)
        if torch.compiler.is_dynamo_compiling() and _mode_is_on():
            return in_python(z, *args, **kwargs)
        if has_torch_function((z,)):
            return handle_torch_function(seen, (z,), z, *args, **kwargs)  # type: ignore[no-any-return]
        return function(z, *args, **kwargs)

    in_python: Callable[..., Tensor] = _disable_dynamo(seen)
    return seen
