"""CIFAR-10 on disk: where it is, whether it is whole, and what its files hold."""

import hashlib
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from lbp.errors import LbpError
from lbp.lab import cifar10

ROOT = cifar10.data_root()
needs_cifar10 = pytest.mark.skipif(
    bool(cifar10.faults(ROOT)), reason=f"no CIFAR-10 in {ROOT}: run `lbp data`"
)


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


def test_a_download_that_fails_is_told_in_one_line(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise URLError("no route\nto the host")

    monkeypatch.setattr(cifar10._torchvision(), "download", fail)
    with pytest.raises(LbpError) as error:
        cifar10.download(tmp_path / "new")
    assert str(error.value).startswith(f"CIFAR-10 could not be downloaded to {tmp_path / 'new'} (")
    assert "\n" not in str(error.value)


@needs_cifar10
def test_whole_data_is_not_downloaded_again(monkeypatch):
    monkeypatch.setattr(cifar10._torchvision(), "download", lambda *a, **o: pytest.fail("again"))
    cifar10.download(ROOT)


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


def test_the_folder_of_the_files_themselves_gets_a_hint(tmp_path, monkeypatch):
    inner = tmp_path / "cifar-10-batches-py"
    monkeypatch.setattr(
        cifar10, "files", lambda dataset: {"one": hashlib.md5(b"whole").hexdigest()}
    )
    inner.mkdir()
    (inner / "one").write_bytes(b"whole")
    cifar10.verify(tmp_path)
    with pytest.raises(LbpError, match=f"holds the files of CIFAR-10 themselves: name {tmp_path} "):
        cifar10.verify(inner)
    (inner / "one").write_bytes(b"damaged")
    with pytest.raises(LbpError, match="no CIFAR-10"):
        cifar10.verify(inner)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("~nosuchuser/data", "names a home folder that does not exist"),
        ("a\0b", "holds a null byte"),
    ],
)
def test_paths_that_name_nothing_are_told(name, message):
    with pytest.raises(LbpError, match=message):
        cifar10.data_root(name)


def test_an_unreadable_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "files", lambda dataset: {"one": "0" * 32})
    path = tmp_path / "cifar-10-batches-py" / "one"
    path.parent.mkdir()
    path.write_bytes(b"")

    def fails(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(LbpError, match=r"one cannot be read \(Permission denied\)"):
        cifar10.verify(tmp_path)
