"""Training a run from start to record: device, checkpoints, budget, progress."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from tqdm import tqdm

from lbp import data
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.paths import CHECKPOINTS
from lbp.provenance import fingerprint, provenance
from lbp.record import Epoch, Outcome, Record
from lbp.train import Trainer


def choose_device(name: str = "auto", precision: str = "float32") -> torch.device:
    """Return the device named: "auto" (the first GPU if there is one), "cpu", "cuda", "cuda:1", ...

    Raises:
        LbpError: If the name is unknown, or there is no such GPU, or it is needed and not named.
    """
    gpus = torch.cuda.device_count()
    allowed = ["auto", "cpu", "cuda", *(f"cuda:{index}" for index in range(gpus))]
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name not in allowed and not name.startswith("cuda"):
        raise LbpError(f"unknown device {name!r}: choose from auto, cpu, cuda, cuda:0, cuda:1, ...")
    if name.startswith("cuda") and (name not in allowed or not gpus):
        raise LbpError(
            f"no device {name!r} here: PyTorch sees {gpus} CUDA GPUs; --device cpu works"
        )
    if precision == "tf32" and name == "cpu":
        raise LbpError("precision 'tf32' needs a CUDA GPU: choose float32 or bf16 on the CPU")
    return torch.device(name)


class Budget:
    """Decides between epochs whether to stop: when the time is used up, or after Ctrl-C.

    Within the `with` block, a first Ctrl-C asks for a stop after the epoch in progress; a second
    one stops at once, which loses that epoch.

    Args:
        minutes: The time allowed from now on; None for no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not (0 < minutes < math.inf):
            raise LbpError(f"minutes = {minutes:g} is out of range: a number above 0 is needed")
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.interrupted = False
        self._previous: Any = None

    def spent(self, next_epoch_seconds: float = 0.0) -> bool:
        """Return whether an epoch of that length should not begin."""
        return self.interrupted or time.monotonic() + next_epoch_seconds > self._end

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
        print("stopping after this epoch; Ctrl-C again stops at once", file=sys.stderr)


class _Progress:
    """A bar over the run's images on a terminal; elsewhere a line every few seconds."""

    def __init__(self, config: RunConfig, images_an_epoch: int, done: int) -> None:
        self._config = config
        self._last_line = 0.0
        self._bar = tqdm(
            total=config.epochs * images_an_epoch,
            initial=done * images_an_epoch,
            desc=str(config).split(",")[0],
            unit=" images",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def batch(self, images: int) -> None:
        self._bar.update(images)

    def epoch(self, row: Epoch) -> None:
        text = f"loss {row.train_loss:.3f}, test {100 - row.test_error:.1f} %"
        self._bar.set_postfix_str(f"epoch {row.epoch}, {text}")
        last = row.epoch == self._config.epochs
        if self._bar.disable and (last or time.monotonic() - self._last_line > 5):
            self._last_line = time.monotonic()
            line = f"{self._config}: epoch {row.epoch}/{self._config.epochs}, {text}"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.close()


def run(
    config: RunConfig,
    *,
    data_root: Path,
    device: torch.device,
    budget: Budget,
    checkpoints: Path | None = CHECKPOINTS,
    on_epoch: Callable[[Epoch], object] = lambda row: None,
) -> Record | None:
    """Train a run, going on from its checkpoint if there is one.

    Args:
        config: The run.
        data_root: The folder of CIFAR-10.
        device: Where to train.
        budget: When to stop between epochs.
        checkpoints: The folder of the checkpoints; None writes none.
        on_epoch: Called after each epoch.

    Returns:
        The record of the finished or diverged run; None if the budget ended it before, in which
        case its checkpoint is kept and the next call goes on bit for bit (on the CPU with as many
        threads).

    Raises:
        LbpError: If the data or the checkpoint cannot be used.
    """
    _set_float32_precision(config.precision)
    trainer = Trainer(config, data.load(config, data_root, device))
    checkpoint = checkpoints / f"{config.key}.pt" if checkpoints else None
    rows = _load_checkpoint(checkpoint, trainer) if checkpoint else []
    progress = _Progress(config, len(trainer.split.train), len(rows))
    try:
        while len(rows) < config.epochs and not _diverged(rows):
            if budget.spent(rows[-1].seconds if rows else 0.0):
                return None
            rows.append(trainer.epoch(progress.batch))
            if checkpoint:
                _save_checkpoint(checkpoint, trainer, rows)
            progress.epoch(rows[-1])
            on_epoch(rows[-1])
    finally:
        progress.close()
    outcome: Outcome = "diverged" if _diverged(rows) else "finished"
    seconds = sum(row.seconds for row in rows)
    return Record(config, outcome, rows, provenance(config, device, seconds))


def discard_checkpoint(config: RunConfig, checkpoints: Path = CHECKPOINTS) -> None:
    """Delete a run's checkpoint, once its record is in the store."""
    (checkpoints / f"{config.key}.pt").unlink(missing_ok=True)


def _diverged(rows: list[Epoch]) -> bool:
    return bool(rows) and not math.isfinite(rows[-1].train_loss)


def _set_float32_precision(precision: str) -> None:
    tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def _save_checkpoint(path: Path, trainer: Trainer, rows: list[Epoch]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "fingerprint": fingerprint(),
        "epochs": [asdict(row) for row in rows],
        "trainer": trainer.state(),
    }
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _load_checkpoint(path: Path, trainer: Trainer) -> list[Epoch]:
    """Load a checkpoint into the trainer, if there is one, and return its epochs."""
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location=trainer.device, weights_only=True)
        if state["fingerprint"] != fingerprint():
            raise LbpError("it was written by other numerical code")
        trainer.load_state(state["trainer"])
        return [Epoch(**row) for row in state["epochs"]]
    except Exception as error:  # torch.load raises what the damage leads to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LbpError(
            f"the checkpoint {path} cannot be used ({reason[:120]}): delete it to start afresh"
        ) from error
