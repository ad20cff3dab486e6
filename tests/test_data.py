"""CIFAR-10 on disk and in memory, and the stand-in."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

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
        cifar10.load(tmp_path, train=True)


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
    images, labels = cifar10.load(ROOT, train=False)
    with (cifar10.folder(ROOT) / "test_batch").open("rb") as file:
        raw = pickle.load(file, encoding="latin1")
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(images.reshape(10_000, -1), raw["data"])
    assert labels.tolist() == raw["labels"]


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
    found = data.normalise(images, kind)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_augment_crops_and_flips_each_image_by_itself():
    torch.manual_seed(0)
    images = torch.randint(1, 256, (64, 3, 32, 32), dtype=torch.uint8)
    padded = F.pad(images, (4, 4, 4, 4))
    found = data.augment(images)
    flips = 0
    for image, augmented in zip(padded, found, strict=True):
        crops = {
            (flip, row, column): torch.equal(crop.flip(-1) if flip else crop, augmented)
            for row in range(9)
            for column in range(9)
            for crop in [image[:, row : row + 32, column : column + 32]]
            for flip in (False, True)
        }
        assert sum(crops.values()) == 1
        flips += next(key for key, same in crops.items() if same)[0]
    assert 16 < flips < 48
