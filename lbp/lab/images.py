"""The images of a run: which ones, on which device, normalised and augmented batch by batch."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.lab import cifar10
from lbp.lab.config import RunConfig

# Means and standard deviations of CIFAR-10's channels, as most code of the time has them.
CHANNEL_MEAN = (0.4914, 0.4822, 0.4465)
CHANNEL_STD = (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Images:
    """Images, uint8 [N, 3, 32, 32], and their labels, int64 [N], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        """Return the images at `indices`, int64 [M]."""
        return Images(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Images":
        """Return the same images on `device`."""
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Split:
    """The images that a run trains on, and those that it is tested on.

    `test_half` is 0 or 1 for each test image: two fixed stratified halves. The paper chooses its
    hyperparameters on the test set; a choice made on one half can be judged on the other.
    """

    train: Images
    test: Images
    test_half: Tensor  # int64 [N]


def load(config: RunConfig, root: Path, device: torch.device) -> Split:
    """Load the images of a run.

    Args:
        config: The run.
        root: The folder of CIFAR-10 and CIFAR-100; not used for the stand-ins.
        device: Where the images shall live.

    Raises:
        LbpError: If the data is missing or damaged.
    """
    classes = config.classes
    if config.dataset in cifar10.DATASETS:
        train, test = (Images(*half) for half in cifar10.load(root, config.dataset))
    else:
        train = stand_in(config.train_images, seed=0, classes=classes)
        test = stand_in(config.test_images, seed=1, classes=classes)
    train = train.take(stratified(train.labels, config.train_images, classes))
    test = test.take(stratified(test.labels, config.test_images, classes))
    half = rank_in_class(test.labels, classes) % 2
    return Split(train.to(device), test.to(device), half.to(device))


def rank_in_class(labels: Tensor, classes: int = 10) -> Tensor:
    """Return, for each label in int64 [N], how many equal labels stand before it."""
    one_hot = F.one_hot(labels, classes)
    return (one_hot.cumsum(0) * one_hot).sum(1) - 1


def stratified(labels: Tensor, number: int, classes: int = 10) -> Tensor:
    """Return the indices of the first images of each class, in the data's own order.

    Args:
        labels: Int64 [N].
        number: How many images, the same number of each class.
        classes: The number of classes.
    """
    return torch.nonzero(rank_in_class(labels, classes) < number // classes).squeeze(1)


def stand_in(number: int, seed: int, classes: int = 10) -> Images:
    """Generate images for tests and for machines without data; they are not CIFAR-10.

    Each class is a fixed smooth pattern; an image is its pattern, shifted and blended with noise.

    Args:
        number: How many images, a multiple of the number of classes.
        seed: Of the shifts and the noise; the patterns are always the same.
        classes: The number of classes.
    """
    patterns = torch.rand(classes, 3, 5, 5, generator=torch.Generator().manual_seed(1234))
    patterns = F.interpolate(patterns, size=(32, 32), mode="bicubic")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(number, generator=generator) % classes
    shifts = torch.randint(0, 32, (number, 2, 1), generator=generator)
    rows, columns = (shifts + torch.arange(32)).remainder(32).unbind(1)  # [N, 32] each
    pattern = patterns[labels[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    noise = torch.rand(number, 3, 32, 32, generator=generator)
    images = 0.6 * pattern.permute(0, 3, 1, 2) + 0.4 * noise
    return Images((images.clamp(0, 1) * 255).to(torch.uint8), labels)


class Normalise(nn.Module):
    """Uint8 images [N, 3, 32, 32] as float32.

    Args:
        kind: "unit" for [0, 1]; "channel" for each channel less its mean in CIFAR-10, over its
            standard deviation there; "raw" for 0 to 255 less that mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        mean = (0.0,) * 3 if kind == "unit" else CHANNEL_MEAN
        std = {"channel": CHANNEL_STD, "unit": (1.0,) * 3, "raw": (1 / 255,) * 3}[kind]
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images, channels last."""
        x = images.to(torch.float32, memory_format=torch.channels_last) / 255
        return (x - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)


def draw_augmentation(number: int) -> Tensor:
    """Draw the row, column and flip of `number` images from PyTorch's global random state.

    Returns:
        Offsets from 0 to 8, twice, and 0 or 1, as int64 [number, 3].
    """
    return torch.stack([torch.randint(0, high, (number,)) for high in (9, 9, 2)], dim=1)


def augment(images: Tensor, drawn: Tensor) -> Tensor:
    """Pad images by 4 with zeros, crop them to their old size and flip some.

    Args:
        images: Uint8 [N, 3, 32, 32].
        drawn: Int64 [N, 3], see `draw_augmentation`.
    """
    n, device = len(images), images.device
    padded = F.pad(images, (4, 4, 4, 4))
    pixel = torch.arange(32, device=device)
    row, column, flip = drawn[:, :, None].unbind(1)  # [N, 1] each
    rows = row + pixel  # [N, 32]
    columns = column + torch.where(flip == 1, pixel.flip(0), pixel)
    image = torch.arange(n, device=device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
