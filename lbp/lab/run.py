"""One run from its start, or its checkpoint, to a record that grows by an epoch at a time."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lbp.errors import LbpError
from lbp.lab import checkpoint, devices, fingerprint, images
from lbp.lab.budget import Budget
from lbp.lab.config import RunConfig
from lbp.lab.provenance import device_name, origin
from lbp.lab.record import LONGEST, Epoch, Record, Stretch
from lbp.lab.store import Store
from lbp.lab.train import Trainer


@dataclass(frozen=True)
class Goal:
    """A run, and up to which epoch it is to be trained.

    Raises:
        LbpError: If the number of epochs is out of range.
    """

    config: RunConfig
    epochs: int

    def __post_init__(self) -> None:
        check_epochs(self.epochs)


def check_epochs(epochs: int) -> None:
    """Raise `LbpError` unless a run can have that many epochs."""
    if not 1 <= epochs <= LONGEST:
        raise LbpError(f"epochs = {epochs} is out of range: choose from 1 to {LONGEST}")


class Trainers:
    """The trainers and images of past runs, for runs that can use them again.

    On a GPU a trainer holds a compiled and captured training step, which is the same for every
    learning rate, weight decay and seed.

    Args:
        data_root: The folder of CIFAR-10.
        device: Where to train.
        eager: Whether to take the plain step on a GPU, too.
    """

    KEPT = 4

    def __init__(self, data_root: Path, device: torch.device, *, eager: bool = False) -> None:
        self.device = device
        self._data_root = data_root
        self._eager = eager
        self._trainers: dict[RunConfig, Trainer] = {}
        self._split: tuple[RunConfig, images.Split] | None = None

    def get(self, config: RunConfig) -> Trainer:
        """Return a trainer that stands at the beginning of the run.

        Raises:
            LbpError: If CIFAR-10 is missing or damaged.
        """
        program = config.program
        devices.set_up(self.device)
        trainer = self._trainers.pop(program, None)
        if trainer is None:
            trainer = Trainer(config, self._images(config), eager=self._eager)
        else:
            trainer.begin(config)
        self._trainers[program] = trainer  # the last one used is the last one dropped
        if len(self._trainers) > self.KEPT:
            del self._trainers[next(iter(self._trainers))]
        return trainer

    def clear(self) -> None:
        """Give the memory back."""
        self._trainers.clear()
        self._split = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _images(self, config: RunConfig) -> images.Split:
        """Return the run's images, the same object as long as the runs have the same ones."""
        chosen = RunConfig(
            dataset=config.dataset,
            train_images=config.train_images,
            test_images=config.test_images,
            batch_norm=False,  # any batch size will do
        )
        if self._split is None or self._split[0] != chosen:
            self._split = chosen, images.load(config, self._data_root, self.device)
        return self._split[1]


def is_glance(epoch: int) -> bool:
    """Return whether a run's layers are looked at after an epoch.

    That is after 0, 1, 2 and 5 epochs, after every tenth up to 100, and after every hundredth.
    """
    return epoch in (0, 1, 2, 5) or epoch % (10 if epoch <= 100 else 100) == 0


def run(
    goal: Goal,
    *,
    trainers: Trainers,
    budget: Budget,
    store: Store,
    checkpoints: Path,
    on_progress: Callable[[float, Epoch | None], object] = lambda epochs, row: None,
) -> Record | None:
    """Train a run until it reaches its goal or diverges, going on from its checkpoint.

    After each epoch the checkpoint is written, and the record put into the store if it is longer
    than the one there. Without a checkpoint the run begins again.

    Args:
        goal: The run, and how long it shall be.
        trainers: Where trainers come from, and with them device and images.
        budget: When to stop between epochs.
        store: Where the record grows.
        checkpoints: The folder of the checkpoints.
        on_progress: Called at the start and after each step with the number of epochs done so far
            and None, and after each epoch with the epoch's log instead.

    Returns:
        The record in the store, if it reaches the goal; None if the budget ended the run before.
        The next call then goes on, bit for bit on the same kind of processor. (On a GPU some
        operations add their terms in any order.)

    Raises:
        LbpError: If the data, the record or the checkpoint cannot be used or written.
    """
    config = goal.config
    there = store.get(config)
    if there is not None and there.reaches(goal.epochs):
        return there
    if budget.spent():
        return None
    trainer = trainers.get(config)
    begun = time.perf_counter()
    record = checkpoint.load(trainer, checkpoints)
    if record is not None:
        store.put(record)  # a killed process may have got no further than its checkpoint
    done = float(len(record)) if record else 0.0
    earlier = record.stretches if record else []
    layers = [*record.layers] if record else [trainer.layers()]
    rows = [*record.epochs] if record else []

    def on_batch(size: int) -> None:
        nonlocal done
        done += size / config.train_images
        on_progress(done, None)

    on_progress(done, None)
    while record is None or not record.reaches(goal.epochs):
        if budget.spent(_next_epoch_seconds(record, trainers.device)):
            return None
        rows.append(trainer.epoch(on_batch))
        if is_glance(len(rows)):
            layers.append(trainer.layers())
        stretch = Stretch(
            first=1 + sum(s.last - s.first + 1 for s in earlier),
            last=len(rows),
            fingerprint=fingerprint.fingerprint(config),
            step=trainer.step,
            origin=origin(trainers.device, time.perf_counter() - begun),
        )
        record = Record(config, tuple(rows), tuple(layers), (*earlier, stretch))
        checkpoint.write(record, trainer, checkpoints)
        store.put(record)
        done = float(len(rows))
        on_progress(done, rows[-1])
    return store.get(config)


def _next_epoch_seconds(record: Record | None, device: torch.device) -> float:
    """Return how long the next epoch takes, or 0 if the device has not trained the last one."""
    if record is None or record.stretches[-1].origin.device != device_name(device):
        return 0.0
    return record.epochs[-1].seconds
