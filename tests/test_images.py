"""The images of a run: which they are, the stand-in, normalisation and augmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lbp.lab import cifar10, images
from lbp.lab.config import RunConfig
from tests.test_cifar10 import ROOT, needs_cifar10

CPU = torch.device("cpu")


@needs_cifar10
def test_a_run_on_cifar10_has_the_images_its_config_names():
    split = images.load(RunConfig(), ROOT, CPU)
    assert (len(split.train), len(split.test)) == (50_000, 10_000)
    means = [split.train.images[:, channel].float().mean().item() / 255 for channel in range(3)]
    assert means == pytest.approx(images.CHANNEL_MEAN, abs=1e-4)
    assert torch.bincount(split.test.labels[split.test_half == 0]).tolist() == [500] * 10


def test_fewer_images_are_the_first_of_each_class(monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def half(number):
        pixels = torch.randint(0, 256, (number, 3, 32, 32), generator=generator)
        labels = torch.arange(number)[torch.randperm(number, generator=generator)] % 10
        return pixels.to(torch.uint8), labels

    halves = half(200), half(100)
    monkeypatch.setattr(cifar10, "load", lambda root, dataset: halves)
    split = images.load(RunConfig(train_images=70, test_images=60), Path(), CPU)
    for (pixels, labels), found, each in zip(
        halves, (split.train, split.test), (7, 6), strict=True
    ):
        seen, chosen = [0] * 10, []
        for index, label in enumerate(labels.tolist()):
            if seen[label] < each:
                chosen.append(index)
            seen[label] += 1
        assert torch.equal(found.images, pixels[chosen])
        assert torch.equal(found.labels, labels[chosen])


@pytest.mark.parametrize(("test_images", "halves"), [(100, (5, 5)), (50, (3, 2))])
def test_splits_are_stratified_and_their_halves_too(test_images, halves):
    config = RunConfig(dataset="stand-in", train_images=300, test_images=test_images)
    split = images.load(config, Path(), CPU)
    assert torch.bincount(split.train.labels).tolist() == [30] * 10
    for half, number in enumerate(halves):
        labels = split.test.labels[split.test_half == half]
        assert torch.bincount(labels, minlength=10).tolist() == [number] * 10
    rows = [set(map(bytes, part.images.flatten(1).numpy())) for part in (split.train, split.test)]
    assert not rows[0] & rows[1]


def test_the_stand_in_is_repeatable_balanced_and_told_apart_by_class():
    found = images.stand_in(400, seed=3)
    assert found.images.dtype == torch.uint8
    assert found.images.shape == (400, 3, 32, 32)
    assert torch.equal(found.images, images.stand_in(400, seed=3).images)
    assert torch.bincount(found.labels).tolist() == [40] * 10
    assert not torch.equal(found.images, images.stand_in(400, seed=4).images)
    # Mean colours alone, which shifts leave as they are, tell many classes apart.
    colour = found.images.float().mean((2, 3))
    centres = torch.stack([colour[found.labels == c].mean(0) for c in range(10)])
    right = torch.cdist(colour, centres).argmin(1) == found.labels
    assert right.float().mean() > 0.5


@pytest.mark.parametrize("kind", ["channel", "unit"])
def test_normalise_against_numpy(kind):
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = pixels.numpy().astype(np.float64) / 255
    if kind == "channel":
        mean, std = np.array(images.CHANNEL_MEAN), np.array(images.CHANNEL_STD)
        expected = (expected - mean[:, None, None]) / std[:, None, None]
    found = images.Normalise(kind)(pixels)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def augmented_slowly(image: np.ndarray, row: int, column: int, flip: int) -> np.ndarray:
    padded = np.zeros((3, 40, 40), np.uint8)
    padded[:, 4:36, 4:36] = image
    crop = padded[:, row : row + 32, column : column + 32]
    return crop[:, :, ::-1] if flip else crop


def test_augment_against_a_loop_over_images():
    pixels = images.stand_in(170, seed=5).images
    offsets = [(row, column, flip) for row in range(9) for column in range(9) for flip in (0, 1)]
    drawn = torch.tensor([*offsets, *offsets[:8]])  # every one there is
    found = images.augment(pixels, drawn)
    assert found.dtype == torch.uint8
    for image, (row, column, flip), augmented in zip(pixels, drawn.tolist(), found, strict=True):
        expected = augmented_slowly(image.numpy(), row, column, flip)
        np.testing.assert_array_equal(augmented, expected)
    assert torch.equal(images.augment(pixels[:1], torch.tensor([[4, 4, 0]])), pixels[:1])


def test_each_crop_and_flip_is_drawn_as_often_and_for_itself():
    torch.manual_seed(0)
    number = 9000
    drawn = images.draw_augmentation(number)
    assert drawn.shape == (number, 3)
    assert drawn.dtype == torch.int64
    for column, choices in enumerate((9, 9, 2)):
        counts = torch.bincount(drawn[:, column])
        assert len(counts) == choices
        expected = number / choices
        assert (counts - expected).abs().max() < 5 * np.sqrt(expected)  # five standard deviations
    assert np.abs(np.corrcoef(drawn.numpy().T)[np.triu_indices(3, 1)]).max() < 0.06
    assert not torch.equal(drawn, images.draw_augmentation(number))
    torch.manual_seed(0)
    assert torch.equal(drawn, images.draw_augmentation(number))


def test_raw_images_are_pixels_less_the_mean_of_their_channel():
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = pixels - 255 * torch.tensor(images.CHANNEL_MEAN).view(3, 1, 1)
    torch.testing.assert_close(images.Normalise("raw")(pixels), expected, atol=1e-3, rtol=1e-5)


def test_a_stand_in_of_a_hundred_classes():
    config = RunConfig(dataset="stand-in-100", train_images=300, test_images=200)
    split = images.load(config, Path(), CPU)
    assert torch.bincount(split.train.labels).tolist() == [3] * 100
    assert torch.bincount(split.test.labels).tolist() == [2] * 100
