"""What the layers of a network do: their updates, the true gradient, saturation."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.config import RunConfig
from lbp.record import Layers
from lbp.rules import ACTIVATIONS, Activation

LARGEST_SLOPE = {"tanh": 1.0, "relu": 1.0, "sigmoid": 0.25, "hardtanh": 1.0}


def probe(model: nn.Module, config: RunConfig, x: Tensor, labels: Tensor, epoch: int) -> Layers:
    """Compare a network's rule with Backprop on some images, leaving the network as it is.

    Args:
        model: The network, with `lbp.rules.Activation` as its activation functions.
        config: Its run, of which lr, l2 and rule are used.
        x: Normalised images, float32 [N, 3, 32, 32].
        labels: Int64 [N].
        epoch: How many epochs the network has been trained.
    """
    twin = copy.deepcopy(model).train()  # batch norm would change the network's own statistics
    activations = [module for module in twin.modules() if isinstance(module, Activation)]
    weights = [m.weight for m in twin.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    inputs: list[Tensor] = []  # of each activation function, from the first pass
    hooks = [
        module.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
        for module in activations
    ]
    rules = (config.rule, "bp")
    gradients = {}
    for rule in rules:
        for module in activations:
            module.rule = rule
        torch.manual_seed(epoch)  # the same dropout in both passes
        loss = F.cross_entropy(twin(x), labels)
        gradients[rule] = torch.autograd.grad(loss, weights)
        for hook in hooks:
            hook.remove()
    chosen, true = (gradients[rule] for rule in rules)

    pairs = list(zip(chosen, weights, strict=True))
    return Layers(
        epoch=epoch,
        update=_floats([config.lr * (g + config.l2 * w.detach()).norm() for g, w in pairs]),
        weight=_floats([w.detach().norm() for w in weights]),
        gradient=_floats([g.norm() for g in true]),
        cosine=_floats([_cosine(g, t) for g, t in zip(chosen, true, strict=True)]),
        preactivation=_floats([a.square().mean().sqrt() for a in inputs]),
        saturated=_floats([_saturated(a, config.activation) for a in inputs]),
    )


def _floats(values: list[Tensor]) -> list[float]:
    stacked: list[float] = torch.stack(values).tolist()
    return stacked


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    # Both are scaled to length one first: the product of two tiny norms is zero in float32.
    first, second = (F.normalize(g.flatten(), dim=0, eps=1e-30) for g in (first, second))
    return (first * second).sum()


def _saturated(a: Tensor, activation: str) -> Tensor:
    """Return the share of units whose derivative is below a tenth of the largest one."""
    with torch.enable_grad():
        a = a.requires_grad_()
        (slope,) = torch.autograd.grad(ACTIVATIONS[activation](a).sum(), a)
    return (slope < 0.1 * LARGEST_SLOPE[activation]).float().mean()
