"""Many runs: several at once, and what may happen to one of them while the others go on."""

import fcntl
import io
import os
import re
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lbp import pool, runner
from lbp.errors import LbpError
from lbp.models import training_flop
from lbp.pool import Failure, Progress
from lbp.record import Record
from lbp.store import Store
from tests.test_store import epoch
from tests.test_train import CPU, SMALL, same

TINY = replace(SMALL, train_images=50, test_images=20, batch=25, epochs=2)
RUNS = [replace(TINY, seed=seed) for seed in (0, 1, 2)]


class Place:
    """A store and checkpoints in a new folder."""

    def __init__(self, folder: Path, kind: type[Store] = Store) -> None:
        self.store = kind(folder / "results")
        self.checkpoints = folder / "checkpoints"

    def train(self, configs=RUNS, **options) -> list[Failure]:
        options = {"devices": [CPU], "jobs": 1, "data_root": Path()} | options
        return pool.train_all(configs, store=self.store, checkpoints=self.checkpoints, **options)

    @property
    def recorded(self) -> list[int]:
        """The seeds of the runs in the store."""
        return sorted(record.config.seed for record in self.store)

    @property
    def left(self) -> list[str]:
        """The files beside the store."""
        return sorted(path.name for path in self.checkpoints.iterdir())


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def result(record: Record) -> tuple:
    """Return what must be the same however a run was trained."""
    threads = record.provenance.threads
    epochs = [asdict(row) | {"seconds": 0} for row in record.epochs]
    return record.config, record.outcome, epochs, record.layers, threads


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory) -> dict[str, Record]:
    """The records of all the runs here, each by a trainer of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = Store(tmp_path_factory.mktemp("one_by_one"))  # which rounds, as every store does
    for config in [*RUNS, *WORKERS_RUNS]:
        trainers, budget = runner.Trainers(Path(), CPU), runner.Budget()
        store.add(runner.run(config, trainers=trainers, budget=budget, checkpoints=None))
    torch.set_num_threads(threads)
    return {record.config.key: record for record in store}


WORKERS_RUNS = [
    replace(TINY, seed=10, momentum=0.9),
    replace(TINY, seed=11, momentum=0.9, lr=0.1),
    replace(TINY, seed=12, rule="bp", l2=0.1),
    replace(TINY, seed=13, rule="bp", epochs=3),
]


def test_runs_by_one_trainer_are_those_of_their_own(place, one_by_one):
    assert place.train() == []
    found = list(place.store)
    assert len(found) == 3
    for record in found:
        assert same(record.epochs, one_by_one[record.config.key].epochs)
    assert place.left == []


def test_each_record_is_in_the_store_as_soon_as_its_run_is_finished(place, monkeypatch):
    seen = []

    def spy(config, **options):
        seen.append((config.seed, place.recorded if place.store.folder.exists() else []))
        assert place.left == [f"{config.key}.lock"]
        return runner.run(config, **options)

    monkeypatch.setattr(pool, "run", spy)
    place.train(RUNS[::-1])  # in the order given, not that of the seeds
    assert seen == [(2, []), (1, [2]), (0, [1, 2])]


def test_nothing_to_train(place):
    assert place.train([]) == []


@pytest.mark.parametrize("jobs", [0, -1, 65])
def test_jobs_out_of_range(place, jobs):
    with pytest.raises(LbpError, match=f"jobs = {jobs} is out of range: choose from 1 to 64"):
        place.train(jobs=jobs)
    assert not place.store.folder.exists()


def test_more_cores_than_jobs_are_no_error(place, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(200)), raising=False)
    assert place.train(RUNS[:1], jobs=None) == []
    assert place.recorded == [0]


# --- one run fails


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_out_of_memory_is_tried_again_alone_after_the_others(place, monkeypatch, times):
    calls, kept = [], []

    def scarce(config, trainers, **options):
        calls.append(config.seed)
        kept.append(len(trainers._trainers))
        if config.seed == 1 and calls.count(1) <= times:
            trainers.get(config)  # what it holds of the memory
            raise torch.OutOfMemoryError("CUDA out of memory")
        return runner.run(config, trainers=trainers, **options)

    monkeypatch.setattr(pool, "run", scarce)
    failures = place.train()
    assert calls == [0, 1, 2, 1]
    assert kept == [0, 1, 0, 1]  # the memory was given back after the error
    if times == 1:
        assert failures == []
        assert place.recorded == [0, 1, 2]
    else:
        assert failures == [Failure(RUNS[1], "out of GPU memory, also alone")]
        assert place.recorded == [0, 2]
    assert place.left == []


def test_a_damaged_checkpoint_is_a_failure_of_its_run_alone(place):
    place.checkpoints.mkdir()
    path = place.checkpoints / f"{RUNS[1].key}.pt"
    path.write_bytes(b"no checkpoint")
    (failure,) = place.train()
    assert failure.config == RUNS[1]
    assert re.match(f"the checkpoint {path} cannot be used .*: delete it", failure.reason)
    assert place.recorded == [0, 2]
    assert place.left == [path.name]
    path.unlink()
    assert place.train(RUNS[1:2]) == []
    assert place.recorded == [0, 1, 2]


def test_a_run_that_another_process_trains_is_left_to_it(place):
    place.checkpoints.mkdir()
    lock = place.checkpoints / f"{RUNS[1].key}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert place.train() == []
        assert place.recorded == [0, 2]
        assert place.left == [lock.name]
    # A lock file whose process has gone is no lock.
    assert place.train(RUNS[1:2]) == []
    assert place.recorded == [0, 1, 2]
    assert place.left == []


def test_a_run_that_another_process_has_finished_meanwhile_is_not_trained(place, monkeypatch):
    place.train(RUNS[:1])
    monkeypatch.setattr(pool, "run", lambda *a, **k: pytest.fail("trained"))
    assert place.train(RUNS[:1]) == []


# --- the budget


def test_minutes_end_it_between_epochs_and_the_next_call_goes_on(place, monkeypatch, one_by_one):
    clock = [0.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    show = pool._Board.show

    def told(board, progress):
        if progress.row:
            clock[0] = 61.0
        show(board, progress)

    monkeypatch.setattr(pool._Board, "show", told)
    assert place.train(minutes=1) == []
    assert place.recorded == []
    assert place.left == [f"{RUNS[0].key}.pt"]
    monkeypatch.undo()
    epochs = []
    monkeypatch.setattr(
        pool._Board, "show", lambda board, p: p.row and epochs.append((p.config.seed, p.row.epoch))
    )
    assert place.train() == []
    assert epochs == [(0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    for record in place.store:
        assert same(record.epochs, one_by_one[record.config.key].epochs)
    assert place.left == []


def test_no_minutes_left_train_nothing(place):
    assert place.train(minutes=1e-9) == []
    assert not place.store.folder.exists()
    assert place.left == []
    with pytest.raises(LbpError, match="minutes = 0 is out of range"):
        place.train(minutes=0)


# --- several processes


@pytest.fixture
def two_cores(monkeypatch):
    """So that each of two workers computes with one thread."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


class ScarceStore(Store):
    """Stands for a device that is too small for two runs at once."""

    def add(self, record: Record) -> bool:
        alone = os.environ.get("LBP_TEST_PARENT") == str(os.getpid())
        if record.config.seed in (11, 12) and not alone:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if record.config.seed == 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().add(record)


@pytest.mark.slow
def test_two_workers_record_what_one_process_does(tmp_path, monkeypatch, two_cores, one_by_one):
    monkeypatch.setenv("LBP_TEST_PARENT", str(os.getpid()))
    place = Place(tmp_path, ScarceStore)
    failures = place.train(WORKERS_RUNS, jobs=None)  # one for each core
    assert failures == [Failure(WORKERS_RUNS[2], "out of GPU memory, also alone")]
    assert place.recorded == [10, 11, 13]
    for record in place.store:
        assert result(record) == result(one_by_one[record.config.key])
    # The runs out of memory had been trained; their checkpoints were of the last epoch.
    assert place.left == [f"{WORKERS_RUNS[2].key}.pt"]


class FatalStore(Store):
    """Stands for a machine that kills a worker for want of memory."""

    def get(self, config):
        if config.seed == 1 and config.epochs == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get(config)


@pytest.mark.slow
def test_a_killed_worker_is_told_in_a_line(tmp_path, two_cores, one_by_one):
    place = Place(tmp_path, FatalStore)
    with pytest.raises(LbpError, match=r"a worker process was killed, perhaps .* --jobs") as error:
        place.train([RUNS[0], replace(RUNS[1], epochs=3), RUNS[2]], jobs=2)
    assert "\n" not in str(error.value)
    # Nothing is in the way of the next call.
    place = Place(tmp_path)
    assert place.train([run for run in RUNS if place.store.get(run) is None]) == []
    assert place.recorded == [0, 1, 2]
    for record in place.store:
        assert same(record.epochs, one_by_one[record.config.key].epochs)


@pytest.mark.slow
def test_ctrl_c_stops_all_workers_after_the_epoch_in_progress(
    place, two_cores, monkeypatch, capsys
):
    show, rows = pool._Board.show, []

    def told(board, progress):
        if progress.row:
            rows.append(progress.row)
            if len(rows) == 1:
                os.kill(os.getpid(), signal.SIGINT)  # to this process alone
        show(board, progress)

    monkeypatch.setattr(pool._Board, "show", told)
    handler = signal.getsignal(signal.SIGINT)
    endless = [replace(run, epochs=400) for run in RUNS]  # half a minute or more
    assert place.train(endless, jobs=2) == []
    assert signal.getsignal(signal.SIGINT) is handler
    assert capsys.readouterr().err.count("stopping after this epoch") == 1
    assert not place.store.folder.exists()
    assert {f"{run.key}.pt" for run in endless[:2]} >= set(place.left) != set()
    epochs = []
    budget = runner.Budget()

    def stop(number, row):
        if row:
            epochs.append(row.epoch)
            budget.interrupted = True

    runner.run(
        next(run for run in endless if f"{run.key}.pt" in place.left),
        trainers=runner.Trainers(Path(), CPU),
        budget=budget,
        checkpoints=place.checkpoints,
        on_progress=stop,
    )
    assert epochs[0] > 1


# --- what the user sees


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    fake = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(pool, "time", fake)
    return now


def test_lines_tell_the_runs_done_and_the_time_left(clock, capsys):
    short = replace(TINY, epochs=2, lr=1e-4)
    long = replace(TINY, epochs=6, rule="bp", seed=4)
    assert training_flop(long) == pytest.approx(3 * training_flop(short))
    board = pool._Board([short, long])
    board.show(Progress(short, 0.5))  # goes on from a checkpoint
    clock[0] += 10
    board.show(Progress(short, 1.0, epoch(2)))  # the last epoch has a line at once
    # Half a short run took 10 s; three short runs' worth is to come.
    first = capsys.readouterr().err
    assert first == (
        "tanh linear, lr 0.0001, l2 0, seed 0: epoch 2/2, loss 1.500, test 40.0 % "
        "(1 of 2 runs, about 01:00 left)\n"
    )
    board.show(Progress(short, 1.0))
    board.show(Progress(long, 0.0))
    clock[0] += 10
    board.show(Progress(long, 1 / 6, epoch(1)))  # too soon for another line
    assert capsys.readouterr().err == ""
    clock[0] += 10
    board.show(Progress(long, 0.25))  # within an epoch
    assert capsys.readouterr().err == ""
    board.show(Progress(long, 2 / 6, epoch(2)))
    # One and a half short runs' worth in 30 s; two are to come.
    assert capsys.readouterr().err == (
        "tanh bp, lr 0.01, l2 0, seed 4: epoch 2/6, loss 1.500, test 40.0 % "
        "(1 of 2 runs, about 00:40 left)\n"
    )
    board.close()
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_on_does_not_count_as_fast(clock, capsys):
    """What a checkpoint holds was not computed in this call's time, also if it comes late."""
    first, second = RUNS[:2]
    board = pool._Board([first, second])
    board.show(Progress(first, 0.0))
    clock[0] += 40
    board.show(Progress(first, 1.0, epoch(2)))
    assert "about 00:40 left" in capsys.readouterr().err
    board.show(Progress(second, 0.75))
    clock[0] += 16
    board.show(Progress(second, 0.875, epoch(2)))
    # 1.125 runs in 56 s; an eighth is to come: 6.2 s.
    assert "1 of 2 runs, about 00:06 left" in capsys.readouterr().err
    board.close()


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    now = [1000.0]
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    board = pool._Board(RUNS[:2])
    board.show(Progress(RUNS[0], 0.5))
    now[0] += 40
    board.show(Progress(RUNS[0], 1.0, epoch(2)))  # half a run in 40 s
    board.close()
    shown = sys.stderr.getvalue()
    assert "25%|" in shown
    assert re.search(r"50%\|.* 00:40 gone, 01:20 left, .*: epoch 2/2, loss 1.500, test 40", shown)
    assert "runs, about" not in shown


def test_training_tells_how_far_it_is(place, capsys):
    place.train(RUNS[:2])
    err = capsys.readouterr().err
    # Each run's last epoch has a line; no run of this size takes 15 s.
    lines = err.splitlines()
    told = [re.search(r"seed (\d): epoch 2/2, .*\((\d) of 2 runs", line) for line in lines]
    assert [match.groups() for match in told] == [("0", "1"), ("1", "2")]
    assert lines[-1].endswith("about 00:00 left)")
