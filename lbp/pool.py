"""Training many runs: one after the other or several at once, on one device or more."""

import fcntl
import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.models import training_flop
from lbp.record import Epoch
from lbp.runner import Budget, Trainers, discard_checkpoint, run
from lbp.store import Store

OUT_OF_MEMORY = "out of GPU memory"
MOST_JOBS = 64


@dataclass(frozen=True)
class Progress:
    """How far a run is: the share of it that is done, and its last finished epoch, if new."""

    config: RunConfig
    share: float
    row: Epoch | None = None


@dataclass(frozen=True)
class Failure:
    """A run that could not be trained, and why."""

    config: RunConfig
    reason: str


def train_all(
    configs: Sequence[RunConfig],
    *,
    devices: Sequence[torch.device],
    jobs: int | None = None,
    minutes: float | None = None,
    data_root: Path,
    store: Store,
    checkpoints: Path,
) -> list[Failure]:
    """Train runs in their order and add each one's record to the store as soon as it is finished.

    A run that another process is training at the moment is left to it.

    Args:
        configs: The runs; the store has none of them.
        devices: Where to train; several jobs take turns on them.
        jobs: How many runs to train at once, each in a process of its own; 1 works in this
            process. By default one for each GPU, or for each processor core.
        minutes: Stop between epochs when they are used up; the next call goes on.
        data_root: The folder of CIFAR-10.
        store: Where the records go.
        checkpoints: Where unfinished runs are kept.

    Returns:
        What failed. A run for which the GPU's memory was too small is tried again alone, after all
        the others, before it counts as failed.

    Raises:
        LbpError: If an argument is out of range, or a worker process died.
    """
    check_jobs(jobs)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    on_gpu = devices[0].type == "cuda"
    if jobs is None:
        jobs = len(devices) if on_gpu else min(cores, MOST_JOBS)
    jobs = max(1, min(jobs, len(configs)))
    board = _Board(configs)
    with Budget(minutes) as budget:
        # One after the other in this process, also for the second try of what lacked memory.
        alone = _Worker(data_root, devices[0], store, checkpoints, budget, board.show)
        try:
            if jobs == 1 and len(devices) == 1:
                failed = [f for f in map(alone.train, configs) if f]
            else:
                threads = None if on_gpu else max(1, cores // jobs)
                arguments = (data_root, store, checkpoints, threads)
                failed = _train_in_processes(configs, devices, jobs, arguments, budget, board.show)
            again = [f.config for f in failed if f.reason == OUT_OF_MEMORY]
            kept = [f for f in failed if f.reason != OUT_OF_MEMORY]
            return kept + [
                Failure(f.config, f"{f.reason}, also alone") for f in map(alone.train, again) if f
            ]
        finally:
            board.close()


def check_jobs(jobs: int | None) -> None:
    """Raise `LbpError` unless this many runs may be trained at once."""
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise LbpError(f"jobs = {jobs} is out of range: choose from 1 to {MOST_JOBS}")


class _Worker:
    """Trains one run after the other on one device."""

    def __init__(
        self,
        data_root: Path,
        device: torch.device,
        store: Store,
        checkpoints: Path,
        budget: Budget,
        report: Callable[[Progress], object],
    ) -> None:
        self._trainers = Trainers(data_root, device)
        self._store = store
        self._checkpoints = checkpoints
        self._budget = budget
        self._report = report

    def train(self, config: RunConfig) -> Failure | None:
        """Train a run and add its record to the store, unless the budget ends it before."""
        with _locked(self._checkpoints / f"{config.key}.lock") as locked:
            if not locked or self._budget.spent() or self._store.get(config):
                return None
            try:
                self._train(config)
                return None
            except LbpError as error:
                return Failure(config, str(error))
            except torch.OutOfMemoryError:
                pass
        self._trainers.clear()  # out here, where the error no longer holds the tensors
        return Failure(config, OUT_OF_MEMORY)

    def _train(self, config: RunConfig) -> None:
        last_report = 0.0

        def on_progress(epochs: float, row: Epoch | None) -> None:
            nonlocal last_report
            if row or time.monotonic() - last_report > 0.5:
                last_report = time.monotonic()
                self._report(Progress(config, epochs / config.epochs, row))

        record = run(
            config,
            trainers=self._trainers,
            budget=self._budget,
            checkpoints=self._checkpoints,
            on_progress=on_progress,
        )
        if record is not None:
            self._store.add(record)
            discard_checkpoint(config, self._checkpoints)
            self._report(Progress(config, 1.0))


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a run's lock, or find that another process does; the system frees a dead process's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        path.unlink(missing_ok=True)


# --- several processes

_worker: _Worker  # of this process, if it is one of the pool


def _start(
    devices: Any, reports: Any, stop: Any, minutes: float | None, arguments: tuple[Any, ...]
) -> None:
    """Make this process a worker; it takes the next device."""
    global _worker
    data_root, store, checkpoints, threads = arguments
    if threads:
        torch.set_num_threads(threads)
    budget = Budget(minutes, stop.is_set).__enter__()
    _worker = _Worker(data_root, devices.get(), store, checkpoints, budget, reports.put)


def _train_here(config: RunConfig) -> Failure | None:
    return _worker.train(config)


def _train_in_processes(
    configs: Sequence[RunConfig],
    devices: Sequence[torch.device],
    jobs: int,
    arguments: tuple[Any, ...],
    budget: Budget,
    show: Callable[[Progress], object],
) -> list[Failure]:
    context = multiprocessing.get_context("spawn")
    turns, reports, stop = context.Queue(), context.Queue(), context.Event()
    for job in range(jobs):
        turns.put(devices[job % len(devices)])
    given = (turns, reports, stop, budget.minutes, arguments)
    with ProcessPoolExecutor(jobs, context, _start, given) as workers:
        try:
            pending = {workers.submit(_train_here, config) for config in configs}
            finished = set()
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                finished |= done
                if budget.interrupted:
                    stop.set()
                _drain(reports, show)
            _drain(reports, show)
            return [failure for future in finished if (failure := future.result())]
        except BrokenProcessPool as error:
            raise LbpError(
                "a worker process was killed, perhaps for want of memory: run the command again, "
                "which goes on from the checkpoints, with fewer --jobs"
            ) from error
        except KeyboardInterrupt:
            workers.shutdown(wait=False, cancel_futures=True)
            raise


def _drain(reports: Any, show: Callable[[Progress], object]) -> None:
    while True:
        try:
            show(reports.get_nowait())
        except queue.Empty:
            return


# --- what the user sees


class _Board:
    """A bar over all runs on a terminal; elsewhere a line now and then. Both tell the time left.

    Runs count by their arithmetic.
    """

    SECONDS = 15.0  # between two lines

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self._flop = {config.key: training_flop(config) for config in configs}
        self._share = dict.fromkeys(self._flop, 0.0)
        self._total = sum(self._flop.values())
        self._start = self._last_line = time.monotonic()
        self._before: dict[str, float] = {}  # what was done before this call, by checkpoints
        self._bar = tqdm(
            total=self._total / 1e12,
            unit=" TFLOP",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {elapsed} gone, {remaining} left{postfix}",
        )

    def show(self, progress: Progress) -> None:
        """Take in how far a run is."""
        key = progress.config.key
        self._share[key] = progress.share
        self._before.setdefault(key, progress.share)
        done = sum(self._flop[k] * share for k, share in self._share.items())
        text = ""
        if row := progress.row:
            of = f"epoch {row.epoch}/{progress.config.epochs}"
            text = f"{of}, loss {row.train_loss:.3f}, test {100 - row.test_error:.1f} %"
            self._bar.set_postfix_str(f"{_name(progress.config)}: {text}", refresh=False)
        before = sum(self._flop[k] * share for k, share in self._before.items())
        self._bar.n, self._bar.initial = done / 1e12, before / 1e12  # the rate is of the difference
        self._bar.refresh()
        last = progress.row is not None and progress.share == 1
        now = time.monotonic()
        if self._bar.disable and text and (last or now - self._last_line > self.SECONDS):
            self._last_line = now
            rate = (done - before) / max(1e-9, now - self._start)
            left = tqdm.format_interval((self._total - done) / rate if rate > 0 else 0.0)
            finished = sum(share == 1 for share in self._share.values())
            runs = f"{finished} of {len(self._share)} runs, about {left} left"
            print(f"{_name(progress.config)}: {text} ({runs})", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._bar.close()


def _name(config: RunConfig) -> str:
    return (
        f"{config.activation} {config.rule}, lr {config.lr:g}, l2 {config.l2:g}, seed {config.seed}"
    )
