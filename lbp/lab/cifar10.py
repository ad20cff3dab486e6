"""CIFAR-10 and CIFAR-100 on disk: where they are, whether they are whole, and their download."""

import functools
import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from lbp.errors import LbpError
from lbp.lab import paths
from lbp.lab.files import told, user_path

# Their names here, and how a sentence calls them.
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_COMMANDS = {"cifar10": "lbp data", "cifar100": "lbp data --dataset cifar100"}


@functools.cache
def _torchvision(dataset: str = "cifar10") -> Any:
    """Return torchvision's class; its import takes seconds, which most commands need not wait."""
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}[dataset]


def files(dataset: str = "cifar10") -> dict[str, str]:
    """Return the MD5 of each file of a data set in `DATASETS`."""
    known = _torchvision(dataset)
    meta = known.meta
    return dict([*known.train_list, *known.test_list, (meta["filename"], meta["md5"])])


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder that holds, or will hold, cifar-10-batches-py or cifar-100-python.

    In this order: the argument, the environment variable LBP_DATA, data/ of the project.
    """
    return user_path(root or os.environ.get("LBP_DATA") or paths.project() / "data")


def folder(root: Path, dataset: str = "cifar10") -> Path:
    """Return the folder of the files themselves."""
    return root / str(_torchvision(dataset).base_folder)


def faults(root: Path, dataset: str = "cifar10") -> dict[str, str]:
    """Return the files of a data set that are "missing" or "damaged" under `root`, by MD5."""
    found = {}
    for name, md5 in files(dataset).items():
        path = folder(root, dataset) / name
        if not path.is_file():
            found[name] = "missing"
            continue
        with told(path, "cannot be read"):
            content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            found[name] = "damaged"
    return found


def verify(root: Path, dataset: str = "cifar10") -> None:
    """Check that a data set is whole under `root`.

    Raises:
        LbpError: If a file is missing or damaged; it says what to run.
    """
    title = DATASETS[dataset]
    found = faults(root, dataset)
    if not found:
        return
    if root.name == folder(root, dataset).name and not any(faults(root.parent, dataset).values()):
        raise LbpError(f"{root} holds the files of {title} themselves: name {root.parent} instead")
    what = f"no {title}"
    if len(found) < len(files(dataset)) or "damaged" in found.values():
        what = ", ".join(f"{name} is {fault}" for name, fault in found.items())
        what = f"{title} is not whole ({what})"
    raise LbpError(
        f"{what} in {root}: run `{_COMMANDS[dataset]}`, or name its folder by --data or LBP_DATA"
    )


def download(root: Path, dataset: str = "cifar10") -> None:
    """Download a data set (170 MB) to `root` unless it is whole already, and verify it.

    Raises:
        LbpError: If the download fails or what arrived is damaged.
    """
    if not faults(root, dataset):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        _torchvision(dataset)(str(root), download=True)
    except (URLError, HTTPException, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LbpError(
            f"{DATASETS[dataset]} could not be downloaded to {root} ({reason}): "
            f"check the network and the disk, then run `{_COMMANDS[dataset]}` again"
        ) from error
    verify(root, dataset)


def load(
    root: Path, dataset: str = "cifar10"
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a data set's training half and its test half.

    Returns:
        Each half's images, uint8 [N, 3, 32, 32], and labels, int64 [N].

    Raises:
        LbpError: If the data is missing or damaged.
    """
    verify(root, dataset)
    return _half(root, dataset, train=True), _half(root, dataset, train=False)


def _half(root: Path, dataset: str, *, train: bool) -> tuple[Tensor, Tensor]:
    half = _torchvision(dataset)(str(root), train=train)
    images = torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(half.targets)
