"""CIFAR-100 by the code of CIFAR-10, on small files in its format."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lbp.errors import LbpError
from lbp.lab import cifar10, images
from lbp.lab.config import RunConfig
from lbp.lab.run import Trainers

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 300 and 200 generated images, and their MD5 where the true ones stand."""
    random = np.random.default_rng(0)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    md5 = {}
    for name, number in (("train", 300), ("test", 200), ("meta", 0)):
        labels = random.permutation(number) % 100
        content = {
            "data": random.integers(0, 256, (number, 3072), dtype=np.uint8),
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
            "fine_label_names": [f"class {n}" for n in range(100)],
        }
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw).hexdigest()
    known = cifar10._torchvision("cifar100")
    monkeypatch.setattr(known, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(known, "test_list", [["test", md5["test"]]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]}
    monkeypatch.setattr(known, "meta", meta)
    return tmp_path


def test_images_and_fine_labels_are_those_of_the_files(root):
    for (pixels, labels), name in zip(
        cifar10.load(root, "cifar100"), ("train", "test"), strict=True
    ):
        content = pickle.loads((root / "cifar-100-python" / name).read_bytes())
        np.testing.assert_array_equal(pixels.reshape(len(labels), -1), content["data"])
        assert labels.tolist() == content["fine_labels"]


def test_a_changed_byte_is_noticed_before_anything_is_unpickled(root, monkeypatch):
    path = root / "cifar-100-python" / "train"
    path.write_bytes(path.read_bytes() + b".")
    monkeypatch.setattr(pickle, "load", lambda *a, **o: pytest.fail("unpickled"))
    message = (
        r"CIFAR-100 is not whole \(train is damaged\) in .*: run `lbp data --dataset cifar100`"
    )
    with pytest.raises(LbpError, match=message):
        cifar10.load(root, "cifar100")


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(LbpError, match=r"no CIFAR-100 in .*: run `lbp data --dataset cifar100`"):
        cifar10.load(tmp_path, "cifar100")


def test_the_choice_and_the_halves_follow_the_hundred_classes(root):
    config = RunConfig(dataset="cifar100", train_images=200, test_images=200)
    split = images.load(config, root, CPU)
    assert torch.bincount(split.train.labels).tolist() == [2] * 100
    for half in (0, 1):
        assert torch.bincount(split.test.labels[split.test_half == half]).tolist() == [1] * 100


@pytest.mark.parametrize("model", ["cnn", "nin"])
def test_a_run_trains_on_it(root, model):
    config = RunConfig(
        model=model, activation="apl", hinges=2, width=1 / 32, dataset="cifar100",
        train_images=200, test_images=200, batch=50, normalisation="raw", momentum=0.9,
        lr=1e-3, unit_l2=1e-3,
    )  # fmt: skip
    trainer = Trainers(root, CPU).get(config)
    start = [p.clone() for p in trainer.model.parameters()]
    row = trainer.epoch()
    assert 0 < row.train_loss < 10
    assert trainer.model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    moved = [not torch.equal(a, b) for a, b in zip(start, trainer.model.parameters(), strict=True)]
    assert all(moved)
