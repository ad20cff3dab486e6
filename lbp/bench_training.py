"""The benchmark "training": an epoch of `lbp.train`, the loop a reader would write, several runs.

Every network here is trained by Backprop, so that the usual loop is stock PyTorch throughout and
its time owes nothing to this library. What is compared is timed in turn, and the medians count.
"""

import copy
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lbp import cifar10, data, timing
from lbp.config import TEST_IMAGES, TRAIN_IMAGES, RunConfig
from lbp.errors import LbpError
from lbp.models import build, training_flop
from lbp.runner import Trainers, choose_devices
from lbp.train import Trainer

ROUNDS = 3
PEAK_SECONDS = 2.0  # for how long the matrix product is repeated
LONGEST_WAIT = 600.0  # seconds for another process; it may have to compile first


@dataclass(frozen=True)
class Setting:
    """What is timed on a kind of device: the whole task on a GPU, a small one on a processor."""

    config: RunConfig
    matrix: int  # rows and columns of the matrices whose product sets the peak
    matrix_dtype: torch.dtype
    loader_processes: int  # of the usual loop
    target: float  # how many times faster than the usual loop the trainer is meant to be

    @classmethod
    def of(cls, device: torch.device, dataset: str) -> "Setting":
        """Return the setting for a device."""
        common: dict[str, Any] = {"rule": "bp", "dataset": dataset}
        if device.type == "cuda":
            config = RunConfig(precision="bf16", **common)
            return cls(config, 8192, torch.bfloat16, min(8, os.cpu_count() or 1), 8.0)
        config = RunConfig(width=1 / 8, train_images=3000, test_images=1000, **common)
        return cls(config, 2048, torch.float32, 2, 1.1)


def training() -> None:
    """Time the trainer alone, against a matrix product, against the usual loop, and several runs.

    On a GPU that is VGG19 in bf16 on all of CIFAR-10, elsewhere an eighth of its width in float32
    on fewer images. The stand-in takes CIFAR-10's place where it is missing: speed does not depend
    on what the images show.
    """
    device = choose_devices()[0]
    root = cifar10.data_root()
    setting = Setting.of(device, "stand-in" if cifar10.faults(root) else "cifar10")
    config = setting.config
    threads = "" if device.type == "cuda" else f", {_count(torch.get_num_threads(), 'thread')}"
    print(
        f"Training on {device.type}: {config.model} of width {config.width:g}, "
        f"{config.activation}, Backprop, {config.precision}, batch {config.batch}{threads};\n"
        f"  {config.train_images:,} {config.dataset} images, {config.test_images:,} to test on, "
        f"median of {ROUNDS}"
    )
    start = time.perf_counter()
    trainer = Trainers(root, device).get(config)
    what = "images, compiling, capture" if device.type == "cuda" else "images"
    _line("set-up", f"{time.perf_counter() - start:.1f} s ({what})")
    epoch = _compare_with_the_usual_loop(setting, trainer)
    rate = epoch_flop(config) / epoch
    peak = matmul_peak(setting.matrix, setting.matrix_dtype, device)
    dtype = str(setting.matrix_dtype).removeprefix("torch.")
    _line(
        "share of the peak",
        f"{100 * rate / peak:.0f} %: {rate / 1e12:.3g} of {peak / 1e12:.3g} TFLOP/s, "
        f"a {dtype} matrix product of {setting.matrix}^3",
    )
    _compare_several(config, trainer, root)


def epoch_flop(config: RunConfig) -> float:
    """Return the arithmetic of training for one epoch, in floating-point operations."""
    trained = 3 * (config.train_images - config.held_out)
    passes = trained + config.held_out + config.test_images
    return training_flop(config) / config.epochs * trained / passes


def matmul_peak(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations a second of the fastest product of two square matrices."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        best = min(best, timing.seconds(lambda: matrix @ matrix, device))
    return 2 * size**3 / best


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def _line(name: str, text: str) -> None:
    print(f"  {name:<28}{text}", flush=True)


# --- the usual loop


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images in memory, each made a PIL image and transformed when it is asked for.

    torchvision.datasets.CIFAR10 does the same with ToTensor and Normalize.
    """

    def __init__(self, images: data.Images) -> None:
        # Imported here: it takes seconds, which another benchmark need not wait.
        from torchvision.transforms import Compose, Normalize, ToTensor

        self.data = images.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.targets = images.labels.tolist()
        self.transform = Compose([ToTensor(), Normalize(data.CHANNEL_MEAN, data.CHANNEL_STD)])

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


def _compare_with_the_usual_loop(setting: Setting, trainer: Trainer) -> float:
    """Print what an epoch takes and how much longer the usual loop; return the epoch's seconds."""
    config, device = setting.config, trainer.device
    # Float32, on a GPU with TF32 and cuDNN's search for algorithms: `Trainers` has allowed both.
    model = build(config).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=config.lr, weight_decay=config.l2)
    loader = DataLoader(
        PilImages(trainer.split.train),
        config.batch,
        shuffle=True,
        num_workers=setting.loader_processes,
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
        f"{_count(setting.loader_processes, 'loader process')})",
    )
    _line(
        "ratio of the two",
        f"{usual / epoch:.2f}x ({ratios.min():.2f} to {ratios.max():.2f}; "
        f"the target is {setting.target:g}x)",
    )
    return float(epoch)


# --- several runs at once


@dataclass(frozen=True)
class Way:
    """A way to train several runs at once: its name, what trains them all, and their images."""

    name: str
    epoch: Callable[[], object]
    images: int  # that one call trains on, of all runs together


def _compare_several(config: RunConfig, trainer: Trainer, root: Path) -> None:
    """Print the images a second of one run and of several at once, and what is fastest."""
    device = trainer.device
    print("  Several runs at once, images/s of all together, and how much more than one run alone:")
    ratios = {"one run alone": 1.0}
    for ready in _ways(config, trainer, root):
        with ready as way:
            way.epoch()
            actions = (trainer.train_epoch, way.epoch)
            alone, together = np.median(timing.in_turn(device, actions, ROUNDS), axis=0)
        rate = way.images / together
        ratios[way.name] = rate * alone / config.train_images
        _line(f"  {way.name}", f"{rate:,.0f} ({ratios[way.name]:.2f}x)")
    if device.type != "cuda":
        _line("  streams", "need a GPU")
    best = max(ratios, key=ratios.__getitem__)
    _line("fastest", f"{best} ({ratios[best]:.2f}x)")


def _ways(config: RunConfig, trainer: Trainer, root: Path) -> Iterator[AbstractContextManager[Way]]:
    """Yield a context manager for each `Way` that the device has, which gives back what it used."""
    on_gpu = trainer.device.type == "cuda"
    threads = torch.get_num_threads()
    for runs in (2, 4):
        if on_gpu:
            yield streams(config, trainer, runs)
        if on_gpu or runs <= threads:  # a run needs a core
            yield processes(config, trainer.device, root, runs, max(1, threads // runs))
    yield batched_weights(config, trainer, 2)


@contextmanager
def streams(config: RunConfig, trainer: Trainer, runs: int) -> Iterator[Way]:
    """Train in this process, each run on a CUDA stream of its own, to which a thread sends it.

    This is for speed only: PyTorch's random state is shared by the threads, and cuBLAS's workspace
    by all CUDA graphs that were captured on one stream.
    """
    trainers = [trainer, *(Trainer(config, trainer.split) for _ in range(runs - 1))]

    def train(one: Trainer) -> None:
        with torch.cuda.stream(torch.cuda.Stream(one.device)):
            one.train_epoch()

    with ThreadPoolExecutor(runs) as threads:
        yield Way(
            f"{runs} streams",
            lambda: list(threads.map(train, trainers)),
            runs * config.train_images,
        )


@contextmanager
def processes(
    config: RunConfig, device: torch.device, root: Path, runs: int, threads: int
) -> Iterator[Way]:
    """Train in a process for each run, which trains one epoch at every call and else waits.

    Raises:
        LbpError: If a process fails; it prints why.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(runs + 1, timeout=LONGEST_WAIT)
    arguments = (config, device, root, threads, barrier)
    workers = [context.Process(target=_train_on_call, args=arguments) for _ in range(runs)]

    def meet() -> None:
        try:
            barrier.wait()
        except threading.BrokenBarrierError as error:
            raise LbpError("a process of the benchmark failed; what it says is above") from error

    def epoch() -> None:
        meet()  # all begin
        meet()  # all are done

    try:
        for worker in workers:
            worker.start()
        meet()  # all are set up
        each = "" if device.type == "cuda" else f" of {_count(threads, 'thread')}"
        yield Way(f"{runs} processes{each}", epoch, runs * config.train_images)
    finally:
        for worker in workers:
            if worker.pid:
                worker.terminate()
                worker.join()


def _train_on_call(
    config: RunConfig, device: torch.device, root: Path, threads: int, barrier: Any
) -> None:
    torch.set_num_threads(threads)
    try:
        trainer = Trainers(root, device).get(config)
        barrier.wait()
        while True:
            barrier.wait()
            trainer.train_epoch()
            barrier.wait()
    except Exception:
        traceback.print_exc()
        barrier.abort()  # the others would wait for this one


@contextmanager
def batched_weights(config: RunConfig, trainer: Trainer, runs: int) -> Iterator[Way]:
    """Train the runs as one network whose weights have one more dimension."""
    models = [build(config).to(trainer.device) for _ in range(runs)]
    networks = BatchedNetworks(models, config, trainer.split.train)
    images = runs * networks.steps * config.batch
    yield Way(f"{runs} runs, batched weights", networks.epoch, images)


class BatchedNetworks:
    """Networks of one config whose stacked weights take each SGD step together, by `torch.vmap`.

    An epoch's last, smaller batch is left out.

    Args:
        models: The networks, on the images' device; they are copied.
        config: The run's config, without dropout, augmentation, weight decay and momentum.
        train: The images that all networks are trained on, each in an order of its own.
    """

    def __init__(self, models: Sequence[nn.Module], config: RunConfig, train: data.Images) -> None:
        device = train.images.device
        self.config = config
        self.steps = len(train) // config.batch
        self._train = train
        for model in models:
            model.train()
        # Names to tensors [networks, ...]; batch norm's statistics are among the buffers.
        self.parameters, self.buffers = torch.func.stack_module_state(list(models))
        self._skeleton = copy.deepcopy(models[0]).to("meta")
        self._normalise = data.Normalise(config.normalisation).to(device)
        self._chosen = torch.zeros(len(models), config.batch, dtype=torch.int64, device=device)
        self._losses = torch.zeros(len(models), device=device)
        self._loss = self._mean_losses
        self._take_step = self._step
        if device.type == "cuda":
            self._loss = torch.compile(self._mean_losses, fullgraph=True, dynamic=False)
            self._take_step = _captured(self._step)

    def epoch(self) -> list[float]:
        """Train for one epoch; return each network's last loss."""
        orders = torch.stack([torch.randperm(len(self._train)) for _ in self._losses])
        orders = orders.to(self._chosen.device)
        for chosen in orders.split(self.config.batch, dim=1)[: self.steps]:
            self.step(chosen)
        return self._losses.tolist()

    def step(self, chosen: Tensor) -> Tensor:
        """Take a step with the images at `chosen`, int64 [networks, batch]; return the losses."""
        self._chosen.copy_(chosen)
        self._take_step()
        return self._losses

    def _step(self) -> None:
        batch = self._train.take(self._chosen.flatten())
        losses = self._loss(self.parameters, self.buffers, batch.images, batch.labels)
        weights = list(self.parameters.values())
        gradients = torch.autograd.grad(losses.sum(), weights)
        with torch.no_grad():
            torch._foreach_add_(weights, gradients, alpha=-self.config.lr)
            self._losses.copy_(losses)

    def _mean_losses(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> Tensor:
        def logits(weights: dict[str, Tensor], statistics: dict[str, Tensor], x: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(self._skeleton, (weights, statistics), (x,))
            return out

        bf16 = self.config.precision == "bf16"
        x = self._normalise(images).unflatten(0, self._chosen.shape)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            out = torch.vmap(logits)(parameters, buffers, x)  # [networks, batch, classes]
        losses = F.cross_entropy(out.float().flatten(0, 1), labels, reduction="none")
        mean: Tensor = losses.unflatten(0, self._chosen.shape).mean(1)
        return mean


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """Return a step that is replayed as a CUDA graph, as the trainer's is.

    The steps tried here have trained already, which a benchmark does not mind.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, chooses algorithms and allocates, outside the graph
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay
