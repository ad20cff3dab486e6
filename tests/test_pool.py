"""Many runs: several at once, and what may happen to one of them, or to all, while they train."""

import io
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lbp.errors import LbpError
from lbp.lab import board as boards
from lbp.lab import budget as budgets
from lbp.lab import cifar10, files, pool
from lbp.lab.board import Board, Progress
from lbp.lab.budget import Budget
from lbp.lab.config import RunConfig
from lbp.lab.models import training_flop
from lbp.lab.pool import Failure, Place, train_all, train_missing
from lbp.lab.record import Epoch, Record
from lbp.lab.run import Goal, Trainers, run
from lbp.lab.store import Store
from tests import toys

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
TINY = RunConfig(
    width=1 / 32, dataset="stand-in", train_images=50, test_images=20, batch=25, lr=0.01
)
GOALS = [Goal(replace(TINY, seed=seed), 2) for seed in (0, 1, 2)]
WORKERS_GOALS = [
    Goal(replace(TINY, seed=10, momentum=0.9, head="mlp"), 2),
    Goal(replace(TINY, seed=11, momentum=0.9, lr=0.1), 2),
    Goal(replace(TINY, seed=12, rule="bp", l2=0.1), 2),
    Goal(replace(TINY, seed=13, rule="bp", augment=True), 3),
]


def new_place(folder: Path, kind: type[Store] = Store) -> Place:
    return Place(folder / "data", kind(folder / "results"), folder / "checkpoints")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path)


def train(
    place: Place, goals: list[Goal] = GOALS, jobs: int | None = 1, minutes: float | None = None
) -> list[Failure]:
    return train_all(goals, place, devices=[CPU], jobs=jobs, minutes=minutes)


def lengths_of(store: Store) -> dict[int, int]:
    """Return the number of epochs in a store, by the runs' seeds."""
    return {record.config.seed: len(record) for record in store}


def lengths(place: Place) -> dict[int, int]:
    return lengths_of(place.store)


def numbers(record: Record | None) -> str:
    """Return all that must be the same however a run was trained."""
    assert record is not None
    rows = [asdict(row) | {"seconds": 0} for row in record.epochs]
    threads = {stretch.origin.threads for stretch in record.stretches}
    return repr((record.config, rows, [asdict(glance) for glance in record.layers], threads))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[RunConfig, str]:
    """The numbers of all the runs here, each by a trainer of its own."""
    folder = tmp_path_factory.mktemp("alone")
    records = [
        run(
            goal,
            trainers=Trainers(folder, CPU),
            budget=Budget(),
            store=Store(folder / "results"),
            checkpoints=folder / "checkpoints",
        )
        for goal in [*GOALS, *WORKERS_GOALS]
    ]
    return {record.config: numbers(record) for record in records if record}


def assert_alike(place: Place, alone: dict[RunConfig, str]) -> None:
    for record in place.store:
        assert numbers(record) == alone[record.config]


# --- one after the other


def test_runs_by_one_trainer_are_those_of_their_own(
    place: Place, alone: dict[RunConfig, str]
) -> None:
    assert train(place) == []
    assert lengths(place) == {0: 2, 1: 2, 2: 2}
    assert_alike(place, alone)


def test_runs_are_trained_in_the_order_given(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(goal: Goal, **options: Any) -> Record | None:
        seen.append((goal.config.seed, lengths(place)))
        return run(goal, **options)

    monkeypatch.setattr(pool, "run", spy)
    train(place, GOALS[::-1])
    assert seen == [(2, {}), (1, {2: 2}), (0, {2: 2, 1: 2})]


def test_nothing_to_train(place: Place) -> None:
    assert train(place, []) == []
    assert train_missing([], place, [CPU]) == []
    assert not place.store.folder.exists()


class Failing(Store):
    """A store that fails in an unforeseen way for one run."""

    def put(self, record: Record) -> bool:
        if record.config.seed == GOALS[0].config.seed:
            raise RuntimeError("cuDNN error: 8\nand more")
        return super().put(record)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_unforeseen_error_is_a_failure_of_its_run_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], jobs: int
) -> None:
    place = new_place(tmp_path, Failing)
    failures = train(place, GOALS, jobs)
    reason = "it ended with RuntimeError: cuDNN error: 8 (the lines above say where)"
    assert failures == [Failure(GOALS[0], reason)]
    assert "Traceback" in capfd.readouterr().err
    assert [record.config for record in place.store] == [
        record.config for record in place.store if record.config != GOALS[0].config
    ]
    assert len(list(place.store)) == len(GOALS) - 1


@pytest.mark.parametrize("jobs", [0, -1, 65])
def test_jobs_out_of_range(place: Place, jobs: int) -> None:
    with pytest.raises(LbpError, match=f"jobs = {jobs} is out of range: choose from 1 to 64"):
        train(place, jobs=jobs)
    assert not place.store.folder.exists()


def test_more_cores_than_jobs_are_no_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(200)), raising=False)
    assert train(place, GOALS[:1], jobs=None) == []
    assert lengths(place) == {0: 2}


@pytest.mark.parametrize("start", [train_all, train_missing])
def test_by_default_every_core_or_gpu_has_a_run_and_time_is_not_limited(
    place: Place, monkeypatch: pytest.MonkeyPatch, start: Callable[..., list[Failure]]
) -> None:
    def spy(goals: Any, place: Any, devices: Any, jobs: int, budget: Budget, show: Any) -> Any:
        asked.append((jobs, budget.minutes))
        return []

    asked: list[tuple[int, float | None]] = []
    monkeypatch.setattr(pool, "_train_in_processes", spy)
    monkeypatch.setattr(pool, "_cores", lambda: 3)
    start(GOALS, place, devices=[CPU])
    start(GOALS, place, devices=[torch.device("cuda", number) for number in range(2)])
    assert asked == [(3, None), (2, None)]


def test_two_goals_of_one_run_are_one_run_that_grows(place: Place) -> None:
    goals = [Goal(TINY, 1), Goal(TINY, 3), Goal(TINY, 2)]
    assert train(place, goals) == []
    assert lengths(place) == {0: 3}


def test_only_goals_that_are_not_reached_are_trained(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(pool, "train_all", lambda goals, place, **options: asked.extend(goals))
    diverged = replace(TINY, seed=5)
    place.store.put(toys.record(GOALS[0].config, [60.0, 50.0]))
    place.store.put(toys.record(GOALS[1].config, [60.0]))
    place.store.put(toys.record(diverged, [60.0], diverged=True))
    train_missing([*GOALS, *GOALS, Goal(diverged, 9)], place, [CPU])
    assert asked == GOALS[1:]


def test_images_are_checked_before_training_only_if_they_are_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(root: Path, dataset: str) -> None:
        raise LbpError(f"there is no {cifar10.DATASETS[dataset]} in {root}")

    monkeypatch.setattr(cifar10, "verify", missing)
    monkeypatch.setattr(pool, "train_all", lambda goals, place, **options: [])
    real = RunConfig(width=1 / 32)
    with pytest.raises(LbpError, match="there is no CIFAR-10"):
        train_missing([Goal(TINY, 1), Goal(real, 1)], place, [CPU])
    assert train_missing([Goal(TINY, 1)], place, [CPU]) == []
    with pytest.raises(LbpError, match="there is no CIFAR-100"):
        train_missing([Goal(replace(real, dataset="cifar100"), 1)], place, [CPU])
    place.store.put(toys.record(real, [60.0]))
    assert train_missing([Goal(TINY, 1), Goal(real, 1)], place, [CPU]) == []


# --- one run fails


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_out_of_memory_is_tried_again_alone_after_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    calls, kept = [], []

    def scarce(goal: Goal, *, trainers: Trainers, **options: Any) -> Record | None:
        calls.append(goal.config.seed)
        kept.append(len(trainers._trainers))
        if goal.config.seed == 1 and calls.count(1) <= times:
            trainers.get(goal.config)  # what it holds of the memory
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(goal, trainers=trainers, **options)

    monkeypatch.setattr(pool, "run", scarce)
    failures = train(place)
    assert calls == [0, 1, 2, 1]
    assert kept == [0, 1, 0, 1]  # the memory was given back after the error
    if times == 1:
        assert failures == []
        assert lengths(place) == {0: 2, 1: 2, 2: 2}
    else:
        assert failures == [Failure(GOALS[1], "out of GPU memory, also alone")]
        assert lengths(place) == {0: 2, 2: 2}


def test_a_run_out_of_memory_has_failed_where_no_time_is_left_for_a_second_try(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(goal: Goal, *, budget: Budget, **options: Any) -> Record | None:
        budget.interrupted = True
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pool, "run", scarce)
    assert train(place, GOALS[:1]) == [Failure(GOALS[0], "out of GPU memory")]


def test_a_damaged_checkpoint_is_a_failure_of_its_run_alone(place: Place) -> None:
    place.checkpoints.mkdir()
    path = place.checkpoints / f"{GOALS[1].config.key}.pt"
    path.write_bytes(b"not a checkpoint")
    (failure,) = train(place)
    assert failure.goal == GOALS[1]
    assert re.match(f"the checkpoint {path} cannot be used .*: delete it", failure.reason)
    assert lengths(place) == {0: 2, 2: 2}
    path.unlink()
    assert train(place, GOALS[1:2]) == []
    assert lengths(place) == {0: 2, 1: 2, 2: 2}


def test_a_damaged_record_is_a_failure_of_its_run_alone(place: Place) -> None:
    place.store.folder.mkdir()
    place.store.path(GOALS[1].config).write_text("{")
    (failure,) = train(place)
    assert failure.goal == GOALS[1]
    assert "is damaged" in failure.reason
    assert place.store.get(GOALS[2].config) is not None


def test_a_run_that_another_process_trains_is_left_to_it(place: Place) -> None:
    lock = place.checkpoints / "locks" / f"{GOALS[1].config.key}.lock"
    with files.locked(lock, wait=False):
        assert train(place) == [Failure(GOALS[1], "another process trains it now")]
    assert lengths(place) == {0: 2, 2: 2}
    assert train(place) == []
    assert lengths(place) == {0: 2, 1: 2, 2: 2}


def test_a_run_that_another_process_has_finished_meanwhile_is_not_trained(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(place, GOALS[:1])
    monkeypatch.setattr(Trainers, "get", lambda *arguments: pytest.fail("trained"))
    assert train(place, GOALS[:1]) == []


# --- the budget


def test_minutes_end_it_between_epochs_and_the_next_call_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, alone: dict[RunConfig, str]
) -> None:
    clock, epochs, show = [0.0], [], Board.show

    def told(board: Board, progress: Progress) -> None:
        if progress.row:
            epochs.append((progress.goal.config.seed, progress.row.epoch))
            clock[0] += 61.0
        show(board, progress)

    monkeypatch.setattr(Board, "show", told)
    with monkeypatch.context() as patched:
        patched.setattr(budgets, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        assert train(place, minutes=1) == []
    assert lengths(place) == {0: 1}
    assert train(place) == []
    assert epochs == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert_alike(place, alone)


def test_no_minutes_left_train_nothing(place: Place) -> None:
    assert train(place, minutes=1e-9) == []
    assert not place.store.folder.exists()
    assert not place.checkpoints.exists()
    with pytest.raises(LbpError, match="minutes = 0 is out of range"):
        train(place, minutes=0)


def test_handlers_of_signals_are_given_back(place: Place) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(place, GOALS[:1])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- several processes


def test_goals_of_one_run_wait_for_each_other() -> None:
    a, b, c = (Goal(replace(TINY, seed=seed), 1) for seed in range(3))
    longer = replace(a, epochs=2)
    assert pool._ready([a, longer, b, c], [], 2) == [a, b]
    assert pool._ready([longer, b, c], [a], 1) == [b]
    assert pool._ready([longer], [a, b], 0) == []
    assert pool._ready([longer, c], [b], 5) == [longer, c]


def test_signals_wait_for_the_end_of_the_block_where_the_system_can_hold_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came: list[int] = []
    monkeypatch.setattr(pool, "_SIGNALS", (signal.SIGUSR1,))
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        with pool._signals_left_to_parent():
            signal.raise_signal(signal.SIGUSR1)
            assert came == []
        assert came == [signal.SIGUSR1]
        monkeypatch.delattr(signal, "pthread_sigmask")  # as on Windows
        with pool._signals_left_to_parent():
            signal.raise_signal(signal.SIGUSR1)
            assert came == 2 * [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_processes_start_with_variables_that_the_user_has_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LBP_TEST_SET", "the user's")
    monkeypatch.delenv("LBP_TEST_UNSET", raising=False)
    show = "import os; print(os.environ['LBP_TEST_SET'], os.environ.get('LBP_TEST_UNSET'))"
    command = [sys.executable, "-c", show]
    with pool._environment({"LBP_TEST_SET": "ours", "LBP_TEST_UNSET": "ours"}):
        within = subprocess.check_output(command, text=True)
    after = subprocess.check_output(command, text=True)
    assert (within, after) == ("the user's ours\n", "the user's None\n")


class ScarceStore(Store):
    """Stands for a device that is too small for two runs at once."""

    def put(self, record: Record) -> bool:
        alone = os.environ.get("LBP_TEST_PARENT") == str(os.getpid())
        if record.config.seed == 12 or (record.config.seed == 11 and not alone):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().put(record)


@pytest.mark.slow
def test_two_workers_record_what_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: dict[RunConfig, str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setenv("LBP_TEST_PARENT", str(os.getpid()))
    place = new_place(tmp_path, ScarceStore)
    earlier = replace(WORKERS_GOALS[3], epochs=1)  # of the same run
    failures = train(place, [earlier, *WORKERS_GOALS], jobs=None)  # one for each core
    assert failures == [Failure(WORKERS_GOALS[2], "out of GPU memory, also alone")]
    assert lengths(place) == {10: 2, 11: 2, 13: 3}
    assert_alike(place, alone)
    assert [len(s.stretches) for s in place.store if s.config.seed == 13] == [2]


class FatalStore(Store):
    """Stands for a machine that kills an idle worker, which holds the lock of the queue of runs."""

    def put(self, record: Record) -> bool:
        done = super().put(record)
        idle = self.folder / "pid"
        if record.config == GOALS[0].config:
            idle.write_text(str(os.getpid()))
        else:
            while lengths_of(self).get(0) != 2:
                time.sleep(0.1)
            time.sleep(0.5)
            os.kill(int(idle.read_text()), signal.SIGKILL)
        return done


@pytest.mark.slow
def test_a_killed_worker_is_told_in_a_line(tmp_path: Path, alone: dict[RunConfig, str]) -> None:
    with pytest.raises(LbpError, match=r"a worker process was killed, perhaps .* --jobs") as error:
        train(new_place(tmp_path, FatalStore), GOALS[:2], jobs=2)
    assert "\n" not in str(error.value)
    place = new_place(tmp_path)  # nothing is in the way of the next call
    assert train(place) == []
    assert_alike(place, alone)


# --- the end of the whole process

# An hour of training: at TINY's learning rate they would diverge after some 30 epochs, and end.
SLOW = replace(TINY, lr=1e-4, momentum=0.9, augment=True)
LONG = [Goal(replace(SLOW, seed=seed), 10_000) for seed in (20, 21)]


def serve() -> None:
    """Train in two workers as the command line does, once for each folder that is read.

    Print the id of the process that trains, and how it ended. They are forked from this one, which
    has imported PyTorch once: that takes seconds.
    """
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would let it be ignored
            try:
                sys.exit(len(train(new_place(Path(line.strip())), LONG, jobs=2)))
            except KeyboardInterrupt:
                sys.exit(130)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def processes(session: int) -> int:
    """Return how many processes of a session have not ended."""
    number = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        number += int(its_session) == session and state != "Z"
    return number


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


KILL, TERM, HUP, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_however_training_ends_no_process_stays_and_nothing_is_lost(
    place: Place, tmp_path: Path
) -> None:
    draw, errors = random.Random(0), tmp_path / "stderr"
    with errors.open("w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-c", "from tests.test_pool import serve; serve()"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def disturb(
        server: subprocess.Popen[str], send: Callable[[int, int], None], *signals: int, when: str
    ) -> int:
        """Send signals to a process that trains, or to all of its group; return how it ended."""
        assert server.stdin
        assert server.stdout
        before = sum(lengths(place).values())
        print(tmp_path, file=server.stdin, flush=True)
        parent = int(server.stdout.readline())
        if when == "starting":
            wait_until(lambda: processes(parent) > 2)  # the first worker is there
            time.sleep(draw.uniform(0, 1.5))
        else:
            wait_until(lambda: len(lengths(place)) == 2 and sum(lengths(place).values()) > before)
            time.sleep(draw.uniform(0, 0.3))
        for number in signals:
            send(parent, number)
            time.sleep(0.05)
        ended, _, _ = select.select([server.stdout], [], [], 90)
        if not ended:
            os.killpg(parent, KILL)  # or this test would go on as long as the training
        assert ended
        status = int(server.stdout.readline())
        wait_until(lambda: processes(parent) == 0)  # one that starts sees it after its imports
        return status

    with server:
        assert disturb(server, os.kill, KILL, when="starting") == -KILL
        assert disturb(server, os.kill, TERM, TERM, when="starting") == 130
        assert disturb(server, os.kill, KILL, when="training") == -KILL
        assert disturb(server, os.kill, HUP, when="training") == -HUP
        assert disturb(server, os.kill, TERM, TERM, when="training") == 130
        assert disturb(server, os.killpg, INT, INT, when="training") == 130  # as a terminal does
        assert disturb(server, os.killpg, INT, when="training") == 0
    assert "Traceback" not in errors.read_text()
    assert errors.read_text().count("stopping after this epoch") == 4

    last = max(lengths(place).values()) + 1
    goals = [replace(goal, epochs=last) for goal in LONG]
    assert train(place, goals) == []
    undisturbed = new_place(tmp_path / "undisturbed")
    assert train(undisturbed, goals) == []
    found = [place.store.get(goal.config) for goal in goals]
    assert [numbers(record) for record in found] == [
        numbers(undisturbed.store.get(goal.config)) for goal in goals
    ]
    assert not any(record.diverged for record in found if record)
    assert max(len(record.stretches) for record in found if record) > 2


# --- what the user sees


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(boards, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def epoch(number: int) -> Epoch:
    return replace(toys.epoch(number), train_loss=1.5)


def test_lines_tell_the_runs_done_and_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = Goal(replace(TINY, lr=1e-4), 2), Goal(replace(TINY, rule="bp", seed=4), 6)
    assert training_flop(long.config, 6) == pytest.approx(3 * training_flop(short.config, 2))
    board = Board([short, long])
    board.show(Progress(short, 0.5))  # goes on from a checkpoint
    clock[0] += 10
    board.show(Progress(short, 1.0, epoch(2)))  # the last epoch has a line at once
    # Half a short run took 10 s; three short runs' worth is to come.
    assert capsys.readouterr().err == (
        f"{short.config}: epoch 2/2, loss 1.500, test 40.0 % (1 of 2 runs, about 01:00 left)\n"
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
        f"{long.config}: epoch 2/6, loss 1.500, test 40.0 % (1 of 2 runs, about 00:40 left)\n"
    )
    board.close()
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_on_does_not_count_as_fast(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """What a checkpoint holds was not computed in this call's time, also if it comes late."""
    first, second = GOALS[:2]
    board = Board([first, second])
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


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now, terminal = [1000.0], Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    board = Board(GOALS[:2])
    board.show(Progress(GOALS[0], 0.5))
    now[0] += 40
    board.show(Progress(GOALS[0], 1.0, epoch(2)))  # half a run in 40 s
    board.close()
    shown = terminal.getvalue()
    assert "25%|" in shown
    assert re.search(r"50%\|.* 00:40 gone, 01:20 left, .*: epoch 2/2, loss 1.500, test 40", shown)
    assert "runs, about" not in shown


def test_training_tells_how_far_it_is(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    train(place, GOALS[:2])
    lines = capsys.readouterr().err.splitlines()
    # Each run's last epoch has a line; no run of this size takes 15 s.
    told = [re.search(r"seed (\d), .* epoch 2/2, .*\((\d) of 2 runs", line) for line in lines]
    assert [match.groups() for match in told if match] == [("0", "1"), ("1", "2")]
    assert lines[-1].endswith("about 00:00 left)")


def test_the_last_line_of_a_run_tells_that_it_diverged(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    train(place, [Goal(replace(TINY, lr=100.0, l2=0.1, activation="relu"), 40)])
    assert "loss nan" in capsys.readouterr().err


def test_runs_are_trained_where_there_is_no_standard_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as Python has it where it is closed
    assert train(place, GOALS[:1]) == []
    assert lengths(place) == {0: 2}
