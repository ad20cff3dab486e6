"""A run, described completely by plain data."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lbp.errors import LbpError, check_choice

CLASSES = 10  # CIFAR-10's, and its own split
TRAIN_IMAGES = 50_000
TEST_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the outcome of a training run, and nothing else.

    The defaults are the reading of the paper that its curves suggest: batch norm, PyTorch's
    initialisation, one linear layer as the head, no augmentation, plain SGD at a constant learning
    rate. The device is not part of a run; its record names it.

    Raises:
        LbpError: If a value is of another type or out of range.
    """

    activation: Literal["tanh", "relu", "sigmoid", "hardtanh"] = "tanh"
    rule: Literal["bp", "linear", "as-printed"] = "linear"
    model: Literal["vgg19"] = "vgg19"
    width: float = 1.0  # multiplies the number of channels of every layer
    batch_norm: bool = True
    init: Literal["default", "he", "xavier"] = "default"
    head: Literal["linear", "mlp"] = "linear"  # mlp: 512-512-10 with dropout
    dataset: Literal["cifar10", "stand-in"] = "cifar10"
    train_images: int = TRAIN_IMAGES  # a stratified choice, before any are held out
    held_out: int = 0  # stratified validation images, taken from the training images
    test_images: int = TEST_IMAGES  # a stratified choice
    normalisation: Literal["channel", "unit"] = "channel"  # channel means and stds, or [0, 1]
    augment: bool = False  # pad by 4, crop, flip
    lr: float = 1e-3
    l2: float = 0.0  # weight decay, as SGD's gradient term
    momentum: float = 0.0
    batch: int = 128
    epochs: int = 100
    seed: int = 0  # of the initialisation, the order of the images, dropout and augmentation
    precision: Literal["float32", "tf32", "bf16"] = "float32"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(RunConfig).items():
            value = _checked_type(name, getattr(self, name), kind)
            object.__setattr__(self, name, value)
        _check_range("width", self.width, 1 / 64, 4)
        _check_range("train_images", self.train_images, 10, TRAIN_IMAGES)
        _check_range("test_images", self.test_images, 20, TEST_IMAGES)
        _check_range("held_out", self.held_out, 0, self.train_images - 10)
        _check_range("lr", self.lr, 1e-8, 100)
        _check_range("l2", self.l2, 0, 10)
        _check_range("momentum", self.momentum, 0, 0.9999)
        _check_range("batch", self.batch, 1, TRAIN_IMAGES)
        _check_range("epochs", self.epochs, 1, 100_000)
        _check_range("seed", self.seed, 0, 2**31 - 1)
        for name in ("train_images", "held_out", "test_images"):
            if getattr(self, name) % CLASSES:
                raise LbpError(
                    f"{name} = {getattr(self, name)}: a multiple of 10 is needed, "
                    "the same number of each class"
                )
        if self.batch_norm and (self.train_images - self.held_out) % self.batch == 1:
            raise LbpError(
                f"batch = {self.batch} leaves one image for an epoch's last batch, on which batch "
                "norm cannot train: choose another batch or number of training images"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RunConfig":
        """Build a config from plain data; every field must be there, and no other.

        Raises:
            LbpError: If a field is missing or unknown, or holds a value that is not allowed.
        """
        names = {field.name for field in fields(cls)}
        for name in data:
            check_choice("field of a run", name, names)
        if missing := sorted(names - data.keys()):
            raise LbpError(f"a run's description lacks {', '.join(missing)}")
        return cls(**data)

    @property
    def key(self) -> str:
        """The run's name, 16 hexadecimal digits of the SHA-256 of its fields."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def program(self) -> "RunConfig":
        """What runs that differ only in lr, l2, seed and length have in common.

        They share one network and one compiled training step.
        """
        return replace(self, lr=1.0, l2=0.0, seed=0, epochs=1)

    @property
    def steps_per_epoch(self) -> int:
        """The number of SGD steps in an epoch; the last one may see fewer images."""
        return math.ceil((self.train_images - self.held_out) / self.batch)

    def __str__(self) -> str:
        rule = f"{self.model} {self.activation} {self.rule}, lr {self.lr:g}, l2 {self.l2:g}"
        scale = f"width {self.width:g}, {self.train_images} {self.dataset} images"
        return f"{rule}, {self.epochs} epochs, {scale}, seed {self.seed}"


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
        raise LbpError(f"{name} = {value:g} is out of range: choose from {low:g} to {high:g}")
