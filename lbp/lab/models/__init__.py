"""The networks that a run can train, a file for each."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.errors import LbpError
from lbp.lab import units
from lbp.lab.config import RunConfig
from lbp.lab.models import binarized_resnet, cnn, nin, resnet18, vgg19
from lbp.linearization import activation_modules, linearize

_NETWORKS: dict[str, Callable[[RunConfig], nn.Module]] = {
    "vgg19": vgg19.VGG19,
    "resnet18": resnet18.resnet18,
    "binarized_resnet": binarized_resnet.BinarizedResNet,
    "cnn": cnn.CNN,
    "nin": nin.NIN,
}
_READS = {
    "vgg19": vgg19.READS,
    "resnet18": resnet18.READS,
    "binarized_resnet": binarized_resnet.READS,
    "cnn": cnn.READS,
    "nin": nin.READS,
}
_OF_A_NETWORK = {name for reads in _READS.values() for name in reads}
_OF_A_UNIT = {name for reads in units.READS.values() for name in reads}


def build(config: RunConfig) -> nn.Module:
    """Return the run's network, initialised from PyTorch's global random state.

    It consists of stock modules and of those of the network's own file. Its activation functions
    are then given the run's rule by `lbp.linearize`.

    Raises:
        LbpError: As `check_fields`.
    """
    check_fields(config)
    model, _ = linearize(_NETWORKS[config.model](config), config.rule)
    return model


def check_fields(config: RunConfig) -> None:
    """Raise `LbpError` if a run sets a field that its network or unit does not use."""
    reads = _READS[config.model]
    for name in config.differing():
        if name in _OF_A_UNIT and name not in units.READS.get(config.activation, ()):
            raise LbpError(
                f"{name} = {getattr(config, name)!r}: the activation {config.activation} has no "
                "such field: leave it out"
            )
        if name == "unit_l2" and not config.hinges_learned:
            raise LbpError(
                f"unit_l2 = {config.unit_l2!r}: hinges that are not learned have no weight decay: "
                "leave it out"
            )
        if name in _OF_A_NETWORK and name not in reads:
            raise LbpError(
                f"{name} = {getattr(config, name)!r}: the network {config.model} has only "
                f"{', '.join(reads)}: leave it out"
            )


def clamped_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training keeps within [-1, 1].

    They are those that a module names in an attribute `clamped`: the real-valued weights behind
    binary ones.
    """
    return [getattr(m, name) for m in model.modules() for name in getattr(m, "clamped", ())]


@dataclass(frozen=True)
class Arithmetic:
    """What one image takes of a network.

    Attributes:
        units: The outputs of all activation functions.
        forward: Floating-point operations of its convolutions and linear layers.
        training: The same in a training step, forward and backward.
    """

    units: int
    forward: int
    training: int


def arithmetic(config: RunConfig) -> Arithmetic:
    """Count a network's units and its arithmetic, from the network itself."""
    of_the_network = {"model", "dataset", *_OF_A_NETWORK}
    kept = {name: v for name, v in config.differing().items() if name in of_the_network}
    return _count(RunConfig(**kept | {"rule": "bp"}))


@functools.cache
def _count(config: RunConfig) -> Arithmetic:
    units: list[int] = []
    forward: list[int] = []
    training: list[int] = []

    def count_units(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        units.append(output.numel())

    def count_flop(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        flop = 2 * output.numel() * module.weight[0].numel()
        forward.append(flop)
        # The gradients of weights and inputs take as much again each; images need none.
        training.append(flop * (3 if inputs[0].requires_grad else 2))

    # On the processor, because the meta device and PyTorch's own counter load a compiler: seconds.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        model = build(config).eval()  # batch norm cannot train on one image
        for unit in activation_modules(model).values():
            unit.register_forward_hook(count_units)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count_flop)
        model(torch.zeros(1, 3, 32, 32))
    return Arithmetic(sum(units), sum(forward), sum(training))


def training_flop(config: RunConfig, epochs: int) -> float:
    """Return the arithmetic of some epochs of a run, in floating-point operations.

    That is a floor of its time: each epoch trains on the training images and evaluates the others.
    """
    one = arithmetic(config)
    return float(epochs * (config.train_images * one.training + config.test_images * one.forward))
