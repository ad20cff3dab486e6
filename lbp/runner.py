"""Training one run from start to record: device, budget, checkpoints."""

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lbp import data
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.paths import CHECKPOINTS
from lbp.provenance import fingerprint, provenance
from lbp.record import Epoch, Layers, Outcome, Record
from lbp.train import Trainer

Device = torch.device


def choose_devices(names: str = "auto", precision: str = "float32") -> list[Device]:
    """Return the devices named, by commas: "auto" (the first GPU, if any), "cpu", "cuda:0,cuda:1".

    Raises:
        LbpError: If a name is unknown, or there is no such GPU, or it is needed and not named.
    """
    gpus = torch.cuda.device_count()
    known = ["auto", "cpu", "cuda", *(f"cuda:{index}" for index in range(gpus))]
    chosen = []
    for given in names.split(","):
        name = given.strip()
        if name == "auto":
            name = "cuda" if gpus else "cpu"
        if name not in known and not name.startswith("cuda"):
            raise LbpError(
                f"unknown device {name!r}: choose from auto, cpu, cuda, cuda:0, cuda:1, ..."
            )
        if name.startswith("cuda") and (name not in known or not gpus):
            raise LbpError(
                f"no device {name!r} here: PyTorch sees {gpus} CUDA GPUs; --device cpu works"
            )
        if precision == "tf32" and name == "cpu":
            raise LbpError("precision 'tf32' needs a CUDA GPU: choose float32 or bf16 on the CPU")
        chosen.append(torch.device("cuda:0" if name == "cuda" else name))
    if len(set(chosen)) < len(chosen):
        raise LbpError(f"device {names!r} names a device twice: use --jobs for several runs on one")
    return chosen


class Budget:
    """Decides between epochs whether to stop: when the time is used up, or after Ctrl-C.

    Within the `with` block, a first Ctrl-C asks for a stop after the epoch in progress; a second
    one stops at once, which loses that epoch.

    Args:
        minutes: The time allowed from now on; None for no limit.
        stop: Asked as well; for a worker, whether the process that it works for stops.
    """

    def __init__(
        self, minutes: float | None = None, stop: Callable[[], bool] | None = None
    ) -> None:
        if minutes is not None and not (0 < minutes < math.inf):
            raise LbpError(f"minutes = {minutes:g} is out of range: a number above 0 is needed")
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.interrupted = False
        self._stop = stop
        self._previous: Any = None

    def spent(self, next_epoch_seconds: float = 0.0) -> bool:
        """Return whether an epoch of that length should not begin."""
        if self._stop is not None and self._stop():
            return True
        return self.interrupted or time.monotonic() + next_epoch_seconds > self._end

    @property
    def minutes(self) -> float | None:
        """The time that is left; None for no limit."""
        return None if self._end == math.inf else max(1e-9, (self._end - time.monotonic()) / 60)

    def __enter__(self) -> "Budget":
        try:
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:  # only the main thread may
            self._previous = None
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._previous)
        if self._stop is None:
            print("stopping after this epoch; Ctrl-C again stops at once", file=sys.stderr)


class Trainers:
    """The trainers and images of past runs, for runs that can use them again.

    On a GPU a trainer holds a compiled and captured training step, which is the same for every
    learning rate, weight decay and seed.

    Args:
        data_root: The folder of CIFAR-10.
        device: Where to train.
    """

    KEPT = 4

    def __init__(self, data_root: Path, device: torch.device) -> None:
        self.device = device
        self._data_root = data_root
        self._trainers: dict[RunConfig, Trainer] = {}
        self._split: tuple[RunConfig, data.Split] | None = None

    def get(self, config: RunConfig) -> Trainer:
        """Return a trainer that stands at the beginning of the run.

        Raises:
            LbpError: If CIFAR-10 is missing or damaged, or the device has no such precision.
        """
        program = config.program
        if config.precision == "tf32" and self.device.type == "cpu":
            raise LbpError("precision 'tf32' needs a CUDA GPU: choose float32 or bf16 on the CPU")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        _set_up_backends(config.precision, self.device)
        trainer = self._trainers.pop(program, None)
        if trainer is None:
            trainer = Trainer(config, self._images(config))
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

    def _images(self, config: RunConfig) -> data.Split:
        """Return the run's images, the same object as long as the runs have the same ones."""
        chosen = RunConfig(
            dataset=config.dataset,
            train_images=config.train_images,
            held_out=config.held_out,
            test_images=config.test_images,
            batch_norm=False,  # any batch size will do
        )
        if self._split is None or self._split[0] != chosen:
            self._split = chosen, data.load(config, self._data_root, self.device)
        return self._split[1]


def glances(epochs: int) -> set[int]:
    """Return after which epochs of a run its layers are looked at: 0, 1, 2, 5, 10, ... and last."""
    series = {digit * 10**power for digit in (1, 2, 5) for power in range(6)}
    return {0, epochs} | {epoch for epoch in series if epoch < epochs}


def run(
    config: RunConfig,
    *,
    trainers: Trainers,
    budget: Budget,
    checkpoints: Path | None = CHECKPOINTS,
    on_progress: Callable[[float, Epoch | None], object] = lambda epochs, row: None,
) -> Record | None:
    """Train a run, going on from its checkpoint if there is one.

    Args:
        config: The run.
        trainers: Where trainers come from, and with them device and images.
        budget: When to stop between epochs.
        checkpoints: The folder of the checkpoints; None writes none.
        on_progress: Called at the start and after each step with the number of epochs done so far
            and None, and after each epoch with the epoch's log instead.

    Returns:
        The record of the finished or diverged run; None if the budget ended it before, in which
        case its checkpoint is kept and the next call goes on bit for bit (on the CPU with as many
        threads).

    Raises:
        LbpError: If the data or the checkpoint cannot be used.
    """
    if budget.spent():
        return None
    trainer = trainers.get(config)
    checkpoint = checkpoints / f"{config.key}.pt" if checkpoints else None
    rows, layers = _load_checkpoint(checkpoint, trainer) if checkpoint else ([], [])
    if not layers:
        layers = [trainer.layers()]
    images = len(trainer.split.train)
    done = float(len(rows))

    def on_batch(size: int) -> None:
        nonlocal done
        done += size / images
        on_progress(done, None)

    on_progress(done, None)
    with ThreadPoolExecutor(1) as writer:  # writes a checkpoint while the next epoch is trained
        written: Future[None] | None = None
        while len(rows) < config.epochs and not _diverged(rows):
            if budget.spent(rows[-1].seconds if rows else 0.0):
                if written:
                    written.result()
                return None
            rows.append(trainer.epoch(on_batch))
            if len(rows) in glances(config.epochs):
                layers.append(trainer.layers())
            if checkpoint:
                if written:
                    written.result()
                written = writer.submit(_write, checkpoint, _snapshot(trainer, rows, layers))
            done = float(len(rows))
            on_progress(done, rows[-1])
        if written:
            written.result()
    outcome: Outcome = "diverged" if _diverged(rows) else "finished"
    seconds = sum(row.seconds for row in rows)
    origin = provenance(config.precision, trainers.device, seconds)
    return Record(config, outcome, rows, layers, origin)


def discard_checkpoint(config: RunConfig, checkpoints: Path = CHECKPOINTS) -> None:
    """Delete a run's checkpoint, once its record is in the store."""
    (checkpoints / f"{config.key}.pt").unlink(missing_ok=True)


def _diverged(rows: list[Epoch]) -> bool:
    return bool(rows) and not math.isfinite(rows[-1].train_loss)


def _set_up_backends(precision: str, device: torch.device) -> None:
    if device.type == "cuda":
        # All trainers compile the same function; after 8 versions of it PyTorch would refuse.
        torch._dynamo.config.recompile_limit = 256
    tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # every step has the same shapes


def _snapshot(trainer: Trainer, rows: list[Epoch], layers: list[Layers]) -> dict[str, Any]:
    """Return a checkpoint that training on does not change."""
    state = tree_map(
        lambda x: x.to("cpu", copy=True) if isinstance(x, Tensor) else x, trainer.state()
    )
    return {
        "fingerprint": fingerprint(),
        "epochs": [asdict(row) for row in rows],
        "layers": [asdict(row) for row in layers],
        "trainer": state,
    }


def _write(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save raises either when the disk is full
        reason = str(error).partition("\n")[0]
        raise LbpError(f"the checkpoint {path} cannot be written ({reason[:120]})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _load_checkpoint(path: Path, trainer: Trainer) -> tuple[list[Epoch], list[Layers]]:
    """Load a checkpoint into the trainer, if there is one, and return what was logged."""
    if not path.exists():
        return [], []
    try:
        state = torch.load(path, map_location=trainer.device, weights_only=True)
        if state["fingerprint"] != fingerprint():
            raise LbpError("it was written by other numerical code")
        trainer.load_state(state["trainer"])
        return [Epoch(**row) for row in state["epochs"]], [Layers(**row) for row in state["layers"]]
    except Exception as error:  # torch.load raises what the damage leads to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LbpError(
            f"the checkpoint {path} cannot be used ({reason[:120]}): delete it to start afresh"
        ) from error
