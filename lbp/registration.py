"""`register_activation`: a user's own activation module, where rules reach those of PyTorch."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.overrides import handle_torch_function, has_torch_function

from lbp.coverage import FUNCTIONS, MODULES, Covered
from lbp.errors import LbpError
from lbp.linearization import add_module_class


def register_activation(
    module: type[nn.Module],
    function: Callable[..., Tensor],
    *,
    arguments: tuple[str, ...] = (),
    learns: bool = False,
) -> Callable[..., Tensor]:
    """Let `linearize` and `backward_rule` reach an activation function of your own.

    Call it where the module's class is defined, and let the class call what it returns::

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
        module: Its class; subclasses need a registration of their own.
        function: What computes it, element by element, from the pre-activations, which come first,
            and `arguments`. It changes none of them in place. It may call activation functions that
            a rule reaches: it counts as one function, and no rule reaches into it.
        arguments: The attributes of the module that it passes to the function, by their names
            there.
        learns: Whether some of them are parameters. Their gradients stay the true ones.

    Returns:
        The function, in the form that a block of `backward_rule` sees. A call of `function` itself
        is not seen, only what it calls.

    Raises:
        LbpError: If the class is not a module, is registered already or one of PyTorch's that a
            rule reaches, or the function does not take these arguments. Nothing is registered then.
    """
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise LbpError(f"{module!r} is not a class of modules: give a subclass of torch.nn.Module")
    if module in MODULES:
        raise LbpError(f"{module.__name__} is registered already: a rule reaches it")
    try:
        inspect.signature(function).bind("z", **dict.fromkeys(arguments))
    except TypeError as error:
        names = ", ".join(["the pre-activations", *arguments])
        raise LbpError(
            f"the function of {module.__name__} cannot be called with {names} ({error})"
        ) from error
    seen = _seen_by_blocks(function)
    covered = Covered(module.__name__, (), arguments=arguments, learns=learns)
    # The class of changed modules stands beside the user's: pickle imports that module to find it.
    home = sys.modules[module.__module__]
    add_module_class(module, covered, seen, home.__dict__)
    FUNCTIONS[seen] = MODULES[module] = covered
    return seen


def _seen_by_blocks(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function with the call by which PyTorch's own tell modes what is called."""

    @functools.wraps(function)
    def seen(z: Tensor, /, *args: Any, **kwargs: Any) -> Tensor:
        # Dynamo does not count modes here. Inside a block it leaves this call to Python: the graph
        # is broken, and with `fullgraph=True` that is an error. (`torch.compiler.disable` does the
        # same, but loads the compiler at once: seconds.)
        if torch.compiler.is_compiling() and torch._C._len_torch_function_stack():
            return in_python(z, *args, **kwargs)
        if has_torch_function((z,)):
            return handle_torch_function(seen, (z,), z, *args, **kwargs)  # type: ignore[no-any-return]
        return function(z, *args, **kwargs)

    in_python: Callable[..., Tensor] = _disable_dynamo(seen)
    return seen
