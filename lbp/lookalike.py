"""Modules that behave as activation functions: element by element, and not linear."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lbp.coverage import MODULES, Covered
from lbp.linearization import STOCK
from lbp.registration import covered_whole

FEWEST = 8  # of numbers in an input, so that half of them say something of the others
SPREAD = 3.0  # of the numbers that a module is tried on, to meet the bends of its function


@dataclass(frozen=True)
class Called:
    """A module that was called with one tensor and gave one of the same shape.

    Attributes:
        module: The module.
        z: Its input.
    """

    module: nn.Module
    z: Tensor

    @classmethod
    def with_one(cls, module: nn.Module, args: Any, kwargs: Any, output: Any) -> "Called | None":
        """Return this for a call, if it was such a one."""
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            return None
        z = args[0]
        if not isinstance(output, Tensor) or not z.is_floating_point() or z.numel() < FEWEST:
            return None
        return cls(module, z.detach()) if output.shape == z.shape else None


def lookalikes(called: Mapping[str, Called], reached: Set[Covered]) -> dict[str, tuple[str, ...]]:
    """Return the classes of modules that look like activation functions, with the modules' names.

    Args:
        called: The calls to look at, by the module's name.
        reached: What a rule has reached: classes that were taken whole are left out.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, call in called.items():
        kind = type(call.module)
        if covered_whole(kind) not in reached and _may_be(call.module) and _is_one(call):
            found[kind.__name__] = (*found.get(kind.__name__, ()), name)
    return found


def _may_be(module: nn.Module) -> bool:
    """Whether a module is of a class that could be registered, and holds no layers.

    A residual block whose last layer is zero would pass for an activation function.
    """
    kind = type(module)
    known = kind in MODULES or kind in STOCK or kind.__module__.startswith("torch.")
    parts = list(module.modules())[1:]
    return not known and all(type(part) in MODULES or type(part) in STOCK for part in parts)


def _is_one(call: Called) -> bool:
    """Whether a module, in training and in evaluation, gives each number its own value alone.

    So it is none if it drops numbers at random, or normalises them in one of the two.
    """
    was = {module: module.training for module in call.module.modules()}
    try:
        return all(_bends(call.module.train(mode), call.z) for mode in (True, False))
    except Exception:  # whatever the module raises of numbers that it was not made for
        return False
    finally:
        for module, mode in was.items():
            module.training = mode


def _bends(module: nn.Module, z: Tensor) -> bool:
    """Whether a module is element-wise and not linear, and leaves its input as it is."""

    def value(z: Tensor, seed: int = 0) -> Tensor:
        own = z.clone()
        torch.manual_seed(seed)
        out: Tensor = module(own)
        if own._version and not getattr(module, "inplace", False):
            raise ValueError("it overwrites its input, and does not say so")
        return out

    def alike(first: Tensor, second: Tensor) -> bool:
        rounding = 64 * torch.finfo(first.dtype).eps
        return torch.allclose(first, second, rtol=rounding, atol=rounding, equal_nan=True)

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = SPREAD * torch.randn_like(z), SPREAD * torch.randn_like(z)
        first = torch.randperm(a.numel(), device=a.device).view(a.shape) % 2 == 0
        of_a, of_b = value(a), value(b)
        element_wise = alike(value(torch.where(first, a, b), 1), torch.where(first, of_a, of_b))
        return element_wise and not alike(value((a + b) / 2), (of_a + of_b) / 2)
