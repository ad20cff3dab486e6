"""A run, described completely by plain data."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lbp.errors import LbpError, check_choice
from lbp.lab import schedule
from lbp.lab.units import UNITS

CLASSES = {"cifar10": 10, "cifar100": 100, "stand-in": 10, "stand-in-100": 100}
TRAIN_IMAGES = 50_000  # CIFAR-10's and CIFAR-100's, and their own split
TEST_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the numbers of a training run at every epoch, and nothing else.

    How many epochs are trained is no part of a run: at a constant learning rate the first five
    epochs of a run of 100 are the run of five. The device is no part of it either; the record says
    which one it was.

    The defaults are the reading of the paper that its curves suggest: batch norm, PyTorch's
    initialisation, one linear layer as the head, no augmentation, plain SGD at a constant learning
    rate. They never change: a run is named by the fields in which it differs from them.

    Raises:
        LbpError: If a value is of another type or out of range.
    """

    activation: str = "tanh"  # a name in `lbp.lab.units.UNITS`
    rule: Literal["bp", "linear", "as-printed"] = "linear"
    hinges: int = 5  # S of an APL unit
    hinges_per: Literal["unit", "channel"] = "unit"  # unit: each channel and position has its own
    hinges_learned: bool = True  # or they stay as they were drawn
    model: Literal["vgg19", "resnet18", "binarized_resnet", "cnn", "nin"] = "vgg19"
    width: float = 1.0  # multiplies the number of channels of every layer
    batch_norm: bool = True
    batch_norm_scale: Literal["one", "uniform"] = "one"  # at the start; uniform: from U(0, 1)
    init: Literal["default", "he", "xavier"] = "default"
    head: Literal["linear", "mlp"] = "linear"  # mlp: 512-512-10 with dropout
    dataset: Literal["cifar10", "cifar100", "stand-in", "stand-in-100"] = "cifar10"
    train_images: int = TRAIN_IMAGES  # a stratified choice
    test_images: int = TEST_IMAGES  # a stratified choice
    # channel: less the channel's mean, over its std; unit: [0, 1]; raw: 0 to 255, less the mean
    normalisation: Literal["channel", "unit", "raw"] = "channel"
    augment: bool = False  # pad by 4, crop, flip
    lr: float = 1e-3
    schedule: Literal["constant", "apl-cifar10", "apl-cifar100", "apl-nin"] = "constant"
    l2: float = 0.0  # weight decay, as SGD's gradient term
    unit_l2: float = 0.0  # that of the activation functions' own parameters, in place of l2
    momentum: float = 0.0
    batch: int = 128
    seed: int = 0  # of the initialisation, the order of the images, dropout and augmentation
    precision: Literal["float32", "bf16"] = "float32"  # bf16: autocast, with float32 weights

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(RunConfig).items():
            value = _checked_type(name, getattr(self, name), kind)
            object.__setattr__(self, name, value)
        check_choice("activation", self.activation, UNITS)
        _check_range("width", self.width, 1 / 64, 4)
        _check_range("hinges", self.hinges, 0, 100)
        _check_range("train_images", self.train_images, self.classes, TRAIN_IMAGES)
        _check_range("test_images", self.test_images, 2 * self.classes, TEST_IMAGES)
        _check_range("lr", self.lr, 1e-8, 100)
        _check_range("l2", self.l2, 0, 10)
        _check_range("unit_l2", self.unit_l2, 0, 10)
        _check_range("momentum", self.momentum, 0, 0.9999)
        _check_range("batch", self.batch, 1, TRAIN_IMAGES)
        _check_range("seed", self.seed, 0, 2**31 - 1)
        for name in ("train_images", "test_images"):
            if getattr(self, name) % self.classes:
                raise LbpError(
                    f"{name} = {getattr(self, name)}: a multiple of {self.classes} is needed, "
                    "the same number of each class"
                )
        if not self.batch_norm and self.batch_norm_scale != _DEFAULTS["batch_norm_scale"]:
            raise LbpError(
                f"batch_norm_scale = {self.batch_norm_scale!r} has no effect without batch norm: "
                "leave it out"
            )
        alone = self.batch == 1 or self.train_images % self.batch == 1
        if self.model == "binarized_resnet" and alone:  # it has a batch norm of single values
            raise LbpError(
                f"batch = {self.batch} leaves one image for a batch, on which the batch norm of "
                "binarized_resnet cannot train: choose another batch or number of training images"
            )

    def differing(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults."""
        return {name: v for name, v in asdict(self).items() if v != _DEFAULTS[name]}

    @classmethod
    def from_differing(cls, data: Mapping[str, Any]) -> "RunConfig":
        """Build a config from the fields that differ from the defaults.

        Raises:
            LbpError: If a field is unknown, or holds its default or a value that is not allowed.
        """
        for name in data:
            check_choice("field of a run", name, _DEFAULTS)
        config = cls(**data)
        if extra := sorted(data.keys() - config.differing().keys()):
            raise LbpError(f"{extra[0]} = {data[extra[0]]!r} is the default: leave it out")
        return config

    def lr_in(self, epoch: int) -> float:
        """Return the learning rate in an epoch, which counts from 1."""
        return schedule.lr_in(epoch, self.lr, self.schedule)

    def momentum_in(self, epoch: int) -> float:
        """Return the momentum in an epoch, which counts from 1."""
        return schedule.momentum_in(epoch, self.momentum, self.schedule)

    @property
    def classes(self) -> int:
        """How many classes the images have."""
        return CLASSES[self.dataset]

    @property
    def key(self) -> str:
        """The run's name: 16 hexadecimal digits of the SHA-256 of `differing()`."""
        text = json.dumps(self.differing(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def program(self) -> "RunConfig":
        """What runs that differ only in lr, l2 and seed have in common.

        They share one network and one compiled training step.
        """
        return replace(self, lr=1.0, l2=0.0, seed=0)

    def __str__(self) -> str:
        always = {"lr": self.lr, "l2": self.l2, "seed": self.seed}
        named = {"activation", "rule", "model", *always}
        other = {name: v for name, v in self.differing().items() if name not in named}
        values = [f"{name} {_text(value)}" for name, value in (always | other).items()]
        return ", ".join([f"{self.model} {self.activation} {self.rule}", *values])


_DEFAULTS = {field.name: field.default for field in fields(RunConfig)}


def _text(value: object) -> str:
    return written(value) if isinstance(value, float) else str(value)


def written(value: float) -> str:
    """Return a number as the book writes learning rates: 0.1, 0.01, 1e-3, 2.5e-4."""
    if value == 0 or not abs(value) < 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _checked_type(name: str, value: object, kind: Any) -> Any:
    """Return `value` as `kind`, taking integers for floats so that equal runs have equal names."""
    if get_origin(kind) is Literal:
        check_choice(name, value, get_args(kind))
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise LbpError(f"{name} = {value!r}: a value of type {kind.__name__} is needed")
    return value


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise LbpError(
            f"{name} = {_text(value)} is out of range: choose from {_text(low)} to {_text(high)}"
        )
