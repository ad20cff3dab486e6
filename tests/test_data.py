"""CIFAR-10 on disk and in memory, and the stand-in."""

import pickle
import shutil

import numpy as np
import pytest
import torch

from lbp import cifar10, data
from lbp.config import RunConfig
from lbp.errors import LbpError

ROOT = cifar10.data_root()
needs_cifar10 = pytest.mark.skipif(
    bool(cifar10.faults(ROOT)), reason=f"no CIFAR-10 in {ROOT}: run `lbp data`"
)
CPU = torch.device("cpu")


def test_data_root_is_the_argument_then_the_variable_then_the_projects(monkeypatch, tmp_path):
    monkeypatch.setenv("LBP_DATA", str(tmp_path))
    assert cifar10.data_root("/elsewhere").as_posix() == "/elsewhere"
    assert cifar10.data_root() == tmp_path
    monkeypatch.delenv("LBP_DATA")
    assert cifar10.data_root().name == "data"


def test_no_data_says_what_to_run(tmp_path):
    with pytest.raises(LbpError, match=r"^no CIFAR-10 in .*: run `lbp data`, or name its folder"):
        cifar10.load(tmp_path)


def test_a_damaged_and_a_missing_file_are_named(tmp_path):
    folder = cifar10.folder(tmp_path)
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not what it should be")
    with pytest.raises(LbpError) as error:
        cifar10.verify(tmp_path)
    assert "data_batch_1 is damaged" in str(error.value)
    assert "test_batch is missing" in str(error.value)
    assert "\n" not in str(error.value)


@needs_cifar10
def test_one_flipped_byte_is_noticed(tmp_path):
    shutil.copytree(cifar10.folder(ROOT), cifar10.folder(tmp_path))
    cifar10.verify(tmp_path)
    path = cifar10.folder(tmp_path) / "data_batch_3"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[12_345] ^= 1
    path.write_bytes(content)
    assert cifar10.faults(tmp_path) == {"data_batch_3": "damaged"}


@needs_cifar10
def test_the_images_are_those_of_the_files():
    halves = cifar10.load(ROOT)
    batches = [[f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]]
    for (images, labels), names in zip(halves, batches, strict=True):
        raw = []
        for name in names:
            with (cifar10.folder(ROOT) / name).open("rb") as file:
                raw.append(pickle.load(file, encoding="latin1"))
        assert images.dtype == torch.uint8
        pixels = np.concatenate([part["data"] for part in raw])
        np.testing.assert_array_equal(images.reshape(len(labels), -1), pixels)
        assert labels.tolist() == [label for part in raw for label in part["labels"]]


@needs_cifar10
def test_a_run_on_cifar10_has_the_images_its_config_names():
    split = data.load(RunConfig(), ROOT, CPU)
    assert (len(split.train), len(split.held_out), len(split.test)) == (50_000, 0, 10_000)
    images = split.train.images.float() / 255
    torch.testing.assert_close(
        images.mean((0, 2, 3)), torch.tensor(data.CHANNEL_MEAN), atol=1e-3, rtol=0
    )
    assert torch.bincount(split.test.labels[split.test_half == 0]).tolist() == [500] * 10


def test_splits_are_stratified_and_disjoint():
    config = RunConfig(dataset="stand-in", train_images=300, held_out=50, test_images=100)
    split = data.load(config, ROOT, CPU)
    assert torch.bincount(split.train.labels).tolist() == [25] * 10
    assert torch.bincount(split.held_out.labels).tolist() == [5] * 10
    for half in (0, 1):
        labels = split.test.labels[split.test_half == half]
        assert torch.bincount(labels, minlength=10).tolist() == [5] * 10
    rows = [
        set(map(bytes, part.images.flatten(1).numpy())) for part in (split.train, split.held_out)
    ]
    assert not rows[0] & rows[1]
    whole = data.load(RunConfig(dataset="stand-in", train_images=300, test_images=100), ROOT, CPU)
    assert rows[0] | rows[1] == set(map(bytes, whole.train.images.flatten(1).numpy()))


def test_stand_in_is_repeatable_balanced_and_told_apart_by_class():
    images = data.stand_in(400, seed=3)
    again = data.stand_in(400, seed=3)
    assert images.images.dtype == torch.uint8
    assert images.images.shape == (400, 3, 32, 32)
    assert torch.equal(images.images, again.images)
    assert torch.bincount(images.labels).tolist() == [40] * 10
    assert not torch.equal(images.images, data.stand_in(400, seed=4).images)
    # Mean colours alone, which shifts leave as they are, tell many classes apart.
    colour = images.images.float().mean((2, 3))
    centres = torch.stack([colour[images.labels == c].mean(0) for c in range(10)])
    right = torch.cdist(colour, centres).argmin(1) == images.labels
    assert right.float().mean() > 0.5


@pytest.mark.parametrize("kind", ["channel", "unit"])
def test_normalise_against_numpy(kind):
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = images.numpy().astype(np.float64) / 255
    if kind == "channel":
        mean, std = np.array(data.CHANNEL_MEAN), np.array(data.CHANNEL_STD)
        expected = (expected - mean[:, None, None]) / std[:, None, None]
    found = data.Normalise(kind)(images)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def augmented_slowly(image: np.ndarray, row: int, column: int, flip: int) -> np.ndarray:
    padded = np.zeros((3, 40, 40), np.uint8)
    padded[:, 4:36, 4:36] = image
    crop = padded[:, row : row + 32, column : column + 32]
    return crop[:, :, ::-1] if flip else crop


def test_augment_against_a_loop_over_images():
    images = data.stand_in(170, seed=5).images
    offsets = [(row, column, flip) for row in range(9) for column in range(9) for flip in (0, 1)]
    drawn = torch.tensor([*offsets, *offsets[:8]])  # every one there is
    found = data.augment(images, drawn)
    assert found.dtype == torch.uint8
    for image, (row, column, flip), augmented in zip(images, drawn.tolist(), found, strict=True):
        expected = augmented_slowly(image.numpy(), row, column, flip)
        np.testing.assert_array_equal(augmented, expected)
    assert torch.equal(data.augment(images[:1], torch.tensor([[4, 4, 0]])), images[:1])


def test_each_crop_and_flip_is_drawn_as_often_and_for_itself():
    torch.manual_seed(0)
    number = 9000
    drawn = data.draw_augmentation(number)
    assert drawn.shape == (number, 3)
    assert drawn.dtype == torch.int64
    for column, choices in enumerate((9, 9, 2)):
        counts = torch.bincount(drawn[:, column])
        assert len(counts) == choices
        expected = number / choices
        assert (counts - expected).abs().max() < 5 * np.sqrt(expected)  # five standard deviations
    assert np.abs(np.corrcoef(drawn.numpy().T)[np.triu_indices(3, 1)]).max() < 0.06
    assert not torch.equal(drawn, data.draw_augmentation(number))
    torch.manual_seed(0)
    assert torch.equal(drawn, data.draw_augmentation(number))
