"""What the layers of a network do: their updates, the true gradient, saturation."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.lab.config import RunConfig
from lbp.lab.record import Layers
from lbp.lab.units import LARGEST_SLOPE
from lbp.lab.units.make import shown_parameters
from lbp.linearization import activation_modules, linearize

# A unit is saturated where its slope |f'(z)| is below this share of the largest one.
SATURATED = 0.1
CHANNELS_SHOWN = 8


def probe(model: nn.Module, config: RunConfig, x: Tensor, labels: Tensor, epoch: int) -> Layers:
    """Compare a network's rule with Backprop on some images, leaving the network as it is.

    Norms and cosines are computed in float64: gradients may be smaller than float32 can square.

    Args:
        model: The network.
        config: Its run, of which learning rate, l2, rule and activation are used.
        x: Normalised images, float32 [N, 3, 32, 32].
        labels: Int64 [N].
        epoch: How many epochs the network has been trained.
    """
    twin = copy.deepcopy(model).train()  # batch norm would change the network's own statistics
    weights = [m.weight for m in twin.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    shares: list[Tensor] = []
    sizes: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        z = inputs[0].detach()
        sizes.append(z.double().square().mean().sqrt())
        shares.append(saturated(module, z, config.activation).double().mean())

    true = _gradients(twin, "bp", x, labels, weights, epoch)
    units = activation_modules(twin).values()
    hooks = [unit.register_forward_pre_hook(look) for unit in units]
    chosen = _gradients(twin, config.rule, x, labels, weights, epoch)
    for hook in hooks:
        hook.remove()

    lr = config.lr_in(epoch + 1)
    own = [p.flatten() for unit in units for p in shown_parameters(unit, CHANNELS_SHOWN)]
    pairs = list(zip(chosen, (w.detach().double() for w in weights), strict=True))
    return Layers(
        epoch=epoch,
        update=_floats([lr * (g + config.l2 * w).norm() for g, w in pairs]),
        weight=_floats([w.norm() for _, w in pairs]),
        gradient=_floats([g.norm() for g in true]),
        cosine=_floats([_cosine(g, t) for g, t in zip(chosen, true, strict=True)]),
        preactivation=_floats(sizes),
        saturated=_floats(shares),
        unit_parameters=torch.cat(own).tolist() if own else None,
    )


def _gradients(
    model: nn.Module, rule: str, x: Tensor, labels: Tensor, weights: list[Tensor], epoch: int
) -> list[Tensor]:
    """Return the gradients of the loss under a rule with respect to the weights, in float64."""
    linearize(model, rule)
    torch.manual_seed(epoch)  # the same dropout under both rules
    loss = F.cross_entropy(model(x), labels)
    return [g.double() for g in torch.autograd.grad(loss, weights)]


def _floats(values: list[Tensor]) -> list[float]:
    stacked: list[float] = torch.stack(values).tolist()
    return stacked


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    product: Tensor = (first * second).sum() / (first.norm() * second.norm())
    return product


def saturated(unit: nn.Module, z: Tensor, activation: str) -> Tensor:
    """Return which units are saturated: their slope is below a tenth of its largest value.

    For a sigmoid, whose slope is 1 / (4 cosh²(z / 2)), that is where `|z| > 2 ln(3 + √10)`.

    Args:
        unit: The activation function, under any rule.
        z: Pre-activations.
        activation: Its name in `lbp.lab.units.UNITS`.

    Returns:
        Bools of the shape of `z`.
    """
    true = linearize(copy.deepcopy(unit), "bp")[0]
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(true.forward(z).sum(), z)
    return slope.abs() < SATURATED * LARGEST_SLOPE[activation]
