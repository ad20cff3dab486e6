"""CIFAR-10 on disk: where it is, whether it is whole, and its download by torchvision."""

import functools
import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from lbp.errors import LbpError
from lbp.lab import paths
from lbp.lab.files import told, user_path


@functools.cache
def _torchvision() -> Any:
    """Return torchvision's CIFAR10; its import takes seconds, which most commands need not wait."""
    from torchvision.datasets import CIFAR10

    return CIFAR10


def files() -> dict[str, str]:
    """Return the MD5 of each file of CIFAR-10."""
    dataset = _torchvision()
    meta = dataset.meta
    return dict([*dataset.train_list, *dataset.test_list, (meta["filename"], meta["md5"])])


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder that holds, or will hold, cifar-10-batches-py.

    In this order: the argument, the environment variable LBP_DATA, data/ of the project.
    """
    return user_path(root or os.environ.get("LBP_DATA") or paths.project() / "data")


def folder(root: Path) -> Path:
    """Return the folder of the files themselves."""
    return root / str(_torchvision().base_folder)


def faults(root: Path) -> dict[str, str]:
    """Return the files of CIFAR-10 that are "missing" or "damaged" under `root`, by MD5."""
    found = {}
    for name, md5 in files().items():
        path = folder(root) / name
        if not path.is_file():
            found[name] = "missing"
            continue
        with told(path, "cannot be read"):
            content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            found[name] = "damaged"
    return found


def verify(root: Path) -> None:
    """Check that CIFAR-10 is whole under `root`.

    Raises:
        LbpError: If a file is missing or damaged; it says what to run.
    """
    found = faults(root)
    if not found:
        return
    if root.name == folder(root).name and not any(faults(root.parent).values()):
        raise LbpError(f"{root} holds the files of CIFAR-10 themselves: name {root.parent} instead")
    what = "no CIFAR-10"
    if len(found) < len(files()) or "damaged" in found.values():
        what = ", ".join(f"{name} is {fault}" for name, fault in found.items())
        what = f"CIFAR-10 is not whole ({what})"
    raise LbpError(f"{what} in {root}: run `lbp data`, or name its folder by --data or LBP_DATA")


def download(root: Path) -> None:
    """Download CIFAR-10 (170 MB) to `root` unless it is whole already, and verify it.

    Raises:
        LbpError: If the download fails or what arrived is damaged.
    """
    if not faults(root):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        _torchvision()(str(root), download=True)
    except (URLError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LbpError(
            f"CIFAR-10 could not be downloaded to {root} ({reason}): "
            "check the network and the disk, then run `lbp data` again"
        ) from error
    verify(root)


def load(root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return CIFAR-10's training half and its test half.

    Returns:
        Each half's images, uint8 [N, 3, 32, 32], and labels, int64 [N].

    Raises:
        LbpError: If the data is missing or damaged.
    """
    verify(root)
    return _half(root, train=True), _half(root, train=False)


def _half(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    dataset = _torchvision()(str(root), train=train)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(dataset.targets)
