"""Training many runs: one after the other or several at once, on one device or more."""

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lbp.errors import LbpError
from lbp.lab import cifar10, files
from lbp.lab.board import Board, Progress
from lbp.lab.budget import Budget, check_minutes
from lbp.lab.models import check_fields
from lbp.lab.record import Epoch
from lbp.lab.run import Goal, Trainers, run
from lbp.lab.store import Store

OUT_OF_MEMORY = "out of GPU memory"
ELSEWHERE = "another process trains it now"
MOST_JOBS = 64
# glibc gives large blocks back to the system and fetches them again, page by page, at every step:
# 5 % of a step of VGG19 on a processor, 15 % with APL units. A process reads this as it starts;
# under other libraries it has no effect.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33)}


@dataclass(frozen=True)
class Failure:
    """A run that was not trained up to its goal, and why."""

    goal: Goal
    reason: str


@dataclass(frozen=True)
class Place:
    """Where and how runs are trained.

    Attributes:
        data_root: The folder of CIFAR-10.
        store: Where the records grow.
        checkpoints: The folder of the checkpoints.
        eager: Whether to take the plain step on a GPU, too.
    """

    data_root: Path
    store: Store
    checkpoints: Path
    eager: bool = False


def train_missing(
    goals: Iterable[Goal],
    place: Place,
    devices: Sequence[torch.device],
    jobs: int | None = None,
    minutes: float | None = None,
) -> list[Failure]:
    """Train the runs whose records in the store have not reached their goals.

    Raises:
        LbpError: As `train_all`, or if a run sets a field that it does not use, or CIFAR-10 is
            needed and missing or damaged.
    """
    check_jobs(jobs)
    check_minutes(minutes)
    missing = []
    for goal in dict.fromkeys(goals):
        check_fields(goal.config)
        record = place.store.get(goal.config)
        if record is None or not record.reaches(goal.epochs):
            missing.append(goal)
    for dataset in {goal.config.dataset for goal in missing} & cifar10.DATASETS.keys():
        cifar10.verify(place.data_root, dataset)
    if not missing:
        return []
    return train_all(missing, place, devices=devices, jobs=jobs, minutes=minutes)


def train_all(
    goals: Sequence[Goal],
    place: Place,
    *,
    devices: Sequence[torch.device],
    jobs: int | None = None,
    minutes: float | None = None,
) -> list[Failure]:
    """Train runs in their order, each until its record in the store reaches its goal.

    Args:
        goals: The runs, and how long they shall be. One that the store has already is passed over.
        place: Where and how they are trained.
        devices: Where to train; several jobs take turns on them.
        jobs: How many runs to train at once, each in a process of its own; 1 works in this
            process. By default one for each GPU, or for each processor core.
        minutes: Stop between epochs when they are used up; the next call goes on.

    Returns:
        What failed, whatever the error, and what another process is training. A run for which the
        GPU's memory was too small is tried again alone, after all the others, before it counts as
        failed.

    Raises:
        LbpError: If an argument is out of range, or a worker process died.
    """
    check_jobs(jobs)
    on_gpu = devices[0].type == "cuda"
    if jobs is None:
        jobs = len(devices) if on_gpu else min(_cores(), MOST_JOBS)
    jobs = max(1, min(jobs, len(goals)))
    board = Board(goals)
    with Budget(minutes) as budget:
        # One after the other in this process, also for the second try of what lacked memory.
        alone = _Worker(place, devices[0], budget, board.show)
        try:
            if jobs == 1 and len(devices) == 1:
                failed = [f for f in map(alone.train, goals) if f]
            else:
                failed = _train_in_processes(goals, place, devices, jobs, budget, board.show)
            if budget.spent():
                return failed
            again = [f.goal for f in failed if f.reason == OUT_OF_MEMORY]
            kept = [f for f in failed if f.reason != OUT_OF_MEMORY]
            return kept + [
                Failure(f.goal, f"{f.reason}, also alone") for f in map(alone.train, again) if f
            ]
        finally:
            board.close()


def check_jobs(jobs: int | None) -> None:
    """Raise `LbpError` unless this many runs may be trained at once."""
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise LbpError(f"jobs = {jobs} is out of range: choose from 1 to {MOST_JOBS}")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _Worker:
    """Trains one run after the other on one device."""

    def __init__(
        self,
        place: Place,
        device: torch.device,
        budget: Budget,
        report: Callable[[Progress], object],
    ) -> None:
        self._place = place
        self._trainers = Trainers(place.data_root, device, eager=place.eager)
        self._budget = budget
        self._report = report

    def train(self, goal: Goal) -> Failure | None:
        """Train a run until it reaches its goal, unless the budget ends it before."""
        if self._budget.spent():
            return None
        lock = self._place.checkpoints / "locks" / f"{goal.config.key}.lock"
        try:
            with files.locked(lock, wait=False) as held:
                if not held:
                    return Failure(goal, ELSEWHERE)
                self._train(goal)
                return None
        except LbpError as error:
            return Failure(goal, str(error))
        except torch.OutOfMemoryError:
            reason = OUT_OF_MEMORY
        except Exception as error:  # of a driver, or a fault of this code: the other runs go on
            traceback.print_exc()
            lines = str(error).splitlines() or [""]
            reason = f"it ended with {type(error).__name__}: {lines[0]} (the lines above say where)"
        self._trainers.clear()  # out here, where the error no longer holds the tensors
        return Failure(goal, reason)

    def _train(self, goal: Goal) -> None:
        last_report = 0.0

        def on_progress(epochs: float, row: Epoch | None) -> None:
            nonlocal last_report
            if row or time.monotonic() - last_report > 0.5:
                last_report = time.monotonic()
                self._report(Progress(goal, epochs / goal.epochs, row))

        record = run(
            goal,
            trainers=self._trainers,
            budget=self._budget,
            store=self._place.store,
            checkpoints=self._place.checkpoints,
            on_progress=on_progress,
        )
        if record is not None:
            self._report(Progress(goal, 1.0))


# --- several processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_worker: _Worker  # of this process, if it is one of the pool


def _start(place: Place, devices: Any, reports: Any, stop: Any, minutes: float | None) -> None:
    """Make this process a worker; it takes the next device."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in _SIGNALS:  # the parent gets them as well; it sets `stop`, or kills this process
        signal.signal(number, lambda number, frame: None)
    if mask := getattr(signal, "pthread_sigmask", None):
        mask(signal.SIG_UNBLOCK, _SIGNALS)
    _worker = _Worker(place, devices.get(), Budget(minutes, stop.is_set), reports.put)


def _end_with_parent() -> None:
    """Wait for the end of the process that this one works for, and end as well."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nothing is lost: files are written whole, and the system frees the locks


def _train_here(goal: Goal) -> Failure | None:
    return _worker.train(goal)


def _train_in_processes(
    goals: Sequence[Goal],
    place: Place,
    devices: Sequence[torch.device],
    jobs: int,
    budget: Budget,
    show: Callable[[Progress], object],
) -> list[Failure]:
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()  # of a notebook that trains here
    turns, reports, stop = context.Queue(), context.Queue(), context.Event()
    for job in range(jobs):
        turns.put(devices[job % len(devices)])
    given = (place, turns, reports, stop, budget.minutes)
    waiting = list(goals)
    flying: dict[Future[Failure | None], Goal] = {}
    failures: list[Failure] = []
    with ProcessPoolExecutor(jobs, context, _start, given) as workers:
        try:
            while waiting or flying:
                with _signals_left_to_parent(), _environment(KEEP_MEMORY):
                    for goal in _ready(waiting, flying.values(), jobs - len(flying)):
                        waiting.remove(goal)
                        flying[workers.submit(_train_here, goal)] = goal
                done, _ = wait(flying, timeout=0.5, return_when=FIRST_COMPLETED)
                failures += [failure for future in done if (failure := future.result())]
                for future in done:
                    del flying[future]
                if budget.interrupted:
                    stop.set()
                _drain(reports, show)
        except BaseException as error:
            # Not asked to end: they might wait for a lock that a killed one holds, or for this
            # process to take their reports.
            for process in multiprocessing.active_children():
                if process not in others:
                    process.kill()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise LbpError(
                "a worker process was killed, perhaps for want of memory: run the command again, "
                "which goes on from the checkpoints, with fewer --jobs"
            ) from error
    _drain(reports, show)  # what the workers have sent at last
    return failures


def _ready(waiting: Sequence[Goal], flying: Iterable[Goal], number: int) -> list[Goal]:
    """Return the next goals to begin; two of the same run are trained one after the other."""
    busy = {goal.config for goal in flying}
    ready: list[Goal] = []
    for goal in waiting:
        if len(ready) < number and goal.config not in busy:
            busy.add(goal.config)
            ready.append(goal)
    return ready


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give processes that start in the block these variables, but none that the user has set."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _signals_left_to_parent() -> Iterator[None]:
    """Let processes that start in the block take no signal until they leave it to this one.

    A signal that comes meanwhile reaches this process after the block.
    """
    mask = getattr(signal, "pthread_sigmask", None)  # not on every system
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def _drain(reports: Any, show: Callable[[Progress], object]) -> None:
    while True:
        try:
            show(reports.get_nowait())
        except queue.Empty:
            return
