"""The benchmark "training": an epoch of `lbp.lab.train` against the loop that a reader would write.

Every network here is trained by Backprop, so that loop is stock PyTorch throughout and its time
owes nothing to this library. What is compared is timed in turn, and the medians count.

Several runs are trained at once in a process each (`lbp.lab.pool`), because that was found to be
the fastest. On two processor cores two processes of one thread each train 1.39 times as fast as one
of two threads; batched weights 0.91 times.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lbp.lab import cifar10, timing
from lbp.lab.config import TEST_IMAGES, TRAIN_IMAGES, RunConfig
from lbp.lab.devices import choose_devices
from lbp.lab.images import CHANNEL_MEAN, CHANNEL_STD, Images
from lbp.lab.models import arithmetic, build
from lbp.lab.run import Trainers
from lbp.lab.train import Trainer

ROUNDS = 3
PEAK_SECONDS = 2.0  # for how long the matrix product is repeated


@dataclass(frozen=True)
class Task:
    """What is timed on a kind of device: the whole task on a GPU, a small one on a processor."""

    config: RunConfig
    matrix: int  # rows and columns of the matrices whose product sets the peak
    matrix_dtype: torch.dtype
    loader_processes: int  # of the usual loop
    target: float  # how many times faster than the usual loop the trainer is meant to be

    @classmethod
    def of(cls, device: torch.device, dataset: str) -> "Task":
        """Return the task for a device."""
        common: dict[str, Any] = {"rule": "bp", "dataset": dataset}
        if device.type == "cuda":
            config = RunConfig(precision="bf16", **common)
            return cls(config, 8192, torch.bfloat16, min(8, os.cpu_count() or 1), 8.0)
        config = RunConfig(width=1 / 8, train_images=3000, test_images=1000, **common)
        return cls(config, 2048, torch.float32, 2, 1.1)


def training() -> None:
    """Time the trainer alone, against the usual loop, and against a matrix product.

    On a GPU that is VGG19 in bf16 on all of CIFAR-10, elsewhere an eighth of its width in float32
    on fewer images. The stand-in takes CIFAR-10's place where it is missing: speed does not depend
    on what the images show.
    """
    device = choose_devices()[0]
    root = cifar10.data_root()
    task = Task.of(device, "stand-in" if cifar10.faults(root) else "cifar10")
    config = task.config
    start = time.perf_counter()
    trainer = Trainers(root, device).get(config)
    seconds = time.perf_counter() - start
    threads = "" if device.type == "cuda" else f", {_count(torch.get_num_threads(), 'thread')}"
    print(
        f"Training on {device.type}: {config.model} of width {config.width:g}, "
        f"{config.activation}, Backprop, {config.precision}, batch {config.batch}{threads};\n"
        f"  {config.train_images:,} {config.dataset} images, {config.test_images:,} to test on, "
        f"median of {ROUNDS}"
    )
    what = "images, compiling, capture" if device.type == "cuda" else "images"
    _line("set-up", f"{seconds:.1f} s ({what})")
    epoch = _compare_with_the_usual_loop(task, trainer)
    rate = config.train_images * arithmetic(config).training / epoch
    peak = matmul_peak(task.matrix, task.matrix_dtype, device)
    dtype = str(task.matrix_dtype).removeprefix("torch.")
    _line(
        "share of the peak",
        f"{100 * rate / peak:.0f} %: {rate / 1e12:.3g} of {peak / 1e12:.3g} TFLOP/s, "
        f"a {dtype} matrix product of {task.matrix}^3",
    )


def matmul_peak(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations a second of the fastest product of two square matrices."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        best = min(best, timing.seconds(lambda: matrix @ matrix, device))
    return 2 * size**3 / best


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images in memory, each made a PIL image and transformed when it is asked for.

    torchvision.datasets.CIFAR10 does the same with ToTensor and Normalize.
    """

    def __init__(self, images: Images) -> None:
        # Imported here: it takes seconds, which another benchmark need not wait.
        from torchvision.transforms import Compose, Normalize, ToTensor

        self.data = images.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.targets = images.labels.tolist()
        self.transform = Compose([ToTensor(), Normalize(CHANNEL_MEAN, CHANNEL_STD)])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def usual_epoch(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    optimiser: torch.optim.Optimizer,
    device: torch.device,
) -> float:
    """Train for one epoch as a reader would write it; return the mean loss."""
    model.train()
    total, count = 0.0, 0
    for batch in loader:
        images, labels = (x.to(device, non_blocking=True) for x in batch)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count


def _compare_with_the_usual_loop(task: Task, trainer: Trainer) -> float:
    """Print what an epoch takes and how much longer the usual loop; return the epoch's seconds."""
    config, device = task.config, trainer.device
    # Float32, on a GPU with TF32 and cuDNN's search for algorithms: `Trainers` has allowed both.
    model = build(config).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=config.lr, weight_decay=config.l2)
    loader = DataLoader(
        PilImages(trainer.split.train),
        config.batch,
        shuffle=True,
        num_workers=task.loader_processes,
        pin_memory=device.type == "cuda",
        persistent_workers=True,  # kinder than the default: their start is not timed
        multiprocessing_context="spawn",
    )
    actions: tuple[Callable[[], object], ...] = (
        trainer.train_epoch,
        lambda: usual_epoch(model, loader, optimiser, device),
        lambda: trainer.evaluate(trainer.split.test),
    )
    for act in actions:  # first calls allocate, choose algorithms and start processes
        act()
    seconds = timing.in_turn(device, actions, ROUNDS)
    epoch, usual, evaluation = np.median(seconds, axis=0)
    images, tested = config.train_images, config.test_images
    _line(
        "an epoch's training",
        f"{epoch * TRAIN_IMAGES / images:.3g} s for {TRAIN_IMAGES:,} images, "
        f"{images / epoch:,.0f} images/s",
    )
    _line(
        "its evaluation",
        f"{evaluation * TEST_IMAGES / tested:.3g} s for {TEST_IMAGES:,} images, "
        f"{tested / evaluation:,.0f} images/s",
    )
    ratios = seconds[:, 1] / seconds[:, 0]
    _line(
        "the usual loop",
        f"{usual * TRAIN_IMAGES / images:.3g} s for {TRAIN_IMAGES:,} images "
        f"({'TF32' if device.type == 'cuda' else 'float32'}, "
        f"{_count(task.loader_processes, 'loader process')})",
    )
    _line(
        "ratio of the two",
        f"{usual / epoch:.2f}x ({ratios.min():.2f} to {ratios.max():.2f}; "
        f"the target is {task.target:g}x)",
    )
    return float(epoch)


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def _line(name: str, text: str) -> None:
    print(f"  {name:<28}{text}", flush=True)
