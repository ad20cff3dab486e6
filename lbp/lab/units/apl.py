"""APL units: activation functions whose shape is learned (Agostinelli et al. 2014)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lbp.errors import LbpError
from lbp.registration import register_activation

if TYPE_CHECKING:
    from lbp.lab.config import RunConfig

# The paper's initialisation: slopes uniform within these bounds, offsets normal.
SLOPE_BOUND = 0.5
OFFSET_STD = 0.5


class APL(nn.Module):
    """h(z) = max(0, z) + sum over s of a_s max(0, b_s - z), with slopes a and offsets b.

    Each hinge bends the function at b_s and adds -a_s to its slope left of there. The sum of
    Agostinelli, Hoffman, Sadowski and Baldi (2014, arXiv 1412.6830), equation 1.

    Args:
        shape: What slopes and offsets have an entry for, as it broadcasts against one image's
            pre-activations: (C, H, W) for each channel and position, (C, 1, 1) for each channel,
            (F,) for the units of a linear layer.
        hinges: The number of hinges S; with 0 it is ReLU.
        learned: Whether slopes and offsets are parameters, or keep their initial values.

    Attributes:
        slopes: Of the hinges, S times `shape`; at first from U(-0.5, 0.5).
        offsets: Where they are, S times `shape`; at first from N(0, 0.25).

    Raises:
        LbpError: If the number of hinges is negative.
    """

    slopes: Tensor
    offsets: Tensor

    def __init__(self, shape: Sequence[int], hinges: int = 5, *, learned: bool = True) -> None:
        super().__init__()
        if hinges < 0:
            raise LbpError(f"hinges = {hinges}: an APL unit has none or more")
        slopes = torch.empty(hinges, *shape).uniform_(-SLOPE_BOUND, SLOPE_BOUND)
        offsets = torch.empty(hinges, *shape).normal_(0, OFFSET_STD)
        for name, value in (("slopes", slopes), ("offsets", offsets)):
            if learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @classmethod
    def for_run(cls, config: "RunConfig", shape: Sequence[int]) -> "APL":
        """Return units for a run's maps of a shape, drawn from PyTorch's random state."""
        if config.hinges_per == "channel":
            shape = (shape[0], *[1] * (len(shape) - 1))
        return cls(shape, config.hinges, learned=config.hinges_learned)

    def shown(self, channels: int) -> list[Tensor]:
        """Return what is learned, [S, C]: the first channels, of maps the middle position."""
        learned: list[Tensor] = list(self.parameters())
        for axis in range(self.slopes.dim() - 1, 1, -1):
            middle = self.slopes.shape[axis] // 2
            learned = [values.select(axis, middle) for values in learned]
        return [values[:, :channels] for values in learned]

    def forward(self, z: Tensor) -> Tensor:
        """Return the units' values at pre-activations [N, ...], in the same shape."""
        return apl(z, self.slopes, self.offsets)

    def extra_repr(self) -> str:
        """Return the shape, the number of hinges and whether they are learned."""
        hinges, *shape = self.slopes.shape
        learned = isinstance(self.slopes, nn.Parameter)
        return f"{tuple(shape)}, hinges={hinges}, learned={learned}"


class _APL(torch.autograd.Function):
    """Keeps the pre-activations alone, however many hinges there are.

    Left to autograd, each hinge would keep its own output. The derivatives at a bend are those of
    PyTorch's ReLU: 0 for the part that begins there.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
        out = z.relu()
        for slope, offset in zip(slopes, offsets, strict=True):
            out = torch.addcmul(out, slope, (offset - z).relu_())
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        z, slopes, offsets = ctx.saved_tensors
        of_input, of_slopes, of_offsets = ctx.needs_input_grad
        z_grad = _where_positive(g, z) if of_input else None
        slope_grads, offset_grads = [], []
        for slope, offset in zip(slopes, offsets, strict=True):
            left = offset - z
            passed = _where_positive(g, left)
            if z_grad is not None:
                z_grad = torch.addcmul(z_grad, slope, passed, value=-1)
            if of_slopes:
                slope_grads.append(_summed(left * passed, slope))
            if of_offsets:
                offset_grads.append(_summed(passed, slope) * slope)
        return (
            z_grad,
            _stacked(slope_grads, slopes) if of_slopes else None,
            _stacked(offset_grads, offsets) if of_offsets else None,
        )


def _where_positive(g: Tensor, z: Tensor) -> Tensor:
    # ReLU's own backward: one pass over memory, where a comparison and a product take two.
    return torch.ops.aten.threshold_backward(g, z, 0)  # type: ignore[no-any-return]


def _summed(values: Tensor, like: Tensor) -> Tensor:
    """Return values summed over the axes along which `like` was broadcast."""
    lead = values.dim() - like.dim()
    kept = [lead + axis for axis, size in enumerate(like.shape) if size > 1]
    axes = [axis for axis in range(values.dim()) if axis not in kept]
    return values.sum(axes).reshape(like.shape) if axes else values


def _stacked(grads: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(grads) if grads else torch.zeros_like(like)


def _apl(z: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    # In the precision of the pre-activations, as PyTorch's own functions under autocast.
    slopes, offsets = slopes.to(z.dtype), offsets.to(z.dtype)
    return _APL.apply(z, slopes, offsets)  # type: ignore[no-any-return, no-untyped-call]


apl = register_activation(APL, _apl, arguments=("slopes", "offsets"), learns=True)


def pieces(slopes: Sequence[float], offsets: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the bends and the slopes of one unit, which is linear between its bends.

    Args:
        slopes: The unit's a, one for each hinge.
        offsets: Its b.

    Returns:
        The bends from left to right, zero among them, and the slope left of each, in this order,
        then that right of the last: one more than bends.
    """
    bends = sorted({0.0, *offsets})
    middles = [-math.inf, *bends]  # a slope holds from each of these on to the next
    found = [
        (left >= 0) - sum(a for a, b in zip(slopes, offsets, strict=True) if left < b)
        for left in middles
    ]
    return bends, found
