"""Runs that grow: records, checkpoints, budgets, and what can happen to each of them."""

import io
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lbp import cli
from lbp.errors import LbpError
from lbp.lab import budget as budget_module
from lbp.lab import checkpoint, fingerprint, provenance
from lbp.lab import run as run_module
from lbp.lab.budget import Budget
from lbp.lab.config import RunConfig
from lbp.lab.record import LONGEST, Epoch, Record
from lbp.lab.run import Goal, Trainers, is_glance, run
from lbp.lab.store import Store
from lbp.lab.train import Trainer
from tests.test_train import CPU, SMALL

ROOT = Path(__file__).resolve().parents[1]
TINY = replace(SMALL, train_images=40, test_images=20, batch=20)
# All that a checkpoint must keep or a new epoch must draw afresh.
RICH = replace(TINY, momentum=0.9, head="mlp", augment=True, l2=0.01)


@dataclass
class Place:
    """A store and checkpoints in a new folder."""

    folder: Path

    @property
    def store(self) -> Store:
        return Store(self.folder / "results")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def checkpoint(self, config: RunConfig = RICH) -> Path:
        return self.checkpoints / f"{config.key}.pt"

    def train(
        self,
        epochs: int,
        config: RunConfig = RICH,
        *,
        on_epoch: Callable[[Epoch], object] = lambda row: None,
        on_step: Callable[[float], object] = lambda epochs: None,
        minutes: float | None = None,
        stop_after: int | None = None,
    ) -> Record | None:
        """Train up to an epoch as a new process would, which is stopped after an earlier one."""

        def on_progress(done: float, row: Epoch | None) -> None:
            on_epoch(row) if row else on_step(done)
            budget.interrupted |= row is not None and row.epoch == stop_after

        with Budget(minutes) as budget:
            return run(
                Goal(config, epochs),
                trainers=Trainers(self.folder / "data", CPU),
                budget=budget,
                store=self.store,
                checkpoints=self.checkpoints,
                on_progress=on_progress,
            )

    def content(self) -> dict[str, bytes]:
        """Return every file of records and checkpoints."""
        return {
            path.name: path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and path.name != ".lock"
        }


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory) -> Place:
    """Five epochs of `RICH`, trained at once."""
    place = Place(tmp_path_factory.mktemp("five"))
    place.train(5)
    return place


@pytest.fixture(scope="module")
def five(at_once) -> Record:
    return at_once.store.get(RICH)


def stretches(record: Record) -> list[tuple[int, int]]:
    return [(stretch.first, stretch.last) for stretch in record.stretches]


def same_numbers(first: Record, second: Record) -> bool:
    """Whether two records are equal but for who trained them and how long it took."""
    return (
        len(first) == len(second)
        and first.begins_like(second)
        and list(first.layers) == list(second.layers)
    )


# --- records grow


def test_a_run_grows_bit_for_bit_as_if_trained_at_once(place, at_once, five):
    two = place.train(2)
    assert len(two) == 2
    assert stretches(two) == [(1, 2)]
    torch.manual_seed(999)  # the state of the process must not matter
    trained = []
    found = place.train(5, on_epoch=trained.append)
    assert [row.epoch for row in trained] == [3, 4, 5]
    assert same_numbers(found, five)
    assert stretches(found) == [(1, 2), (3, 5)]
    assert stretches(five) == [(1, 5)]
    assert place.store.get(RICH) == found
    ours, theirs = (torch.load(p.checkpoint())["trainer"] for p in (place, at_once))
    assert ours["model"].keys() == theirs["model"].keys()
    for name, tensor in ours["model"].items():
        assert torch.equal(tensor, theirs["model"][name]), name
    assert all(map(torch.equal, ours["velocity"], theirs["velocity"]))


def test_a_stretch_says_where_and_how_it_was_trained(five):
    (stretch,) = five.stretches
    assert stretch.step == "plain"
    assert stretch.fingerprint == fingerprint.fingerprint(RICH)
    assert stretch.origin.threads == 1
    assert stretch.origin.torch == torch.__version__
    assert stretch.origin.seconds >= sum(row.seconds for row in five.epochs) > 0


def test_the_record_grows_in_the_store_with_each_epoch(place):
    lengths = []
    place.train(3, TINY, on_epoch=lambda row: lengths.append(len(place.store.get(TINY))))
    assert lengths == [1, 2, 3]


def test_a_goal_that_is_reached_needs_no_training(place, monkeypatch):
    record = place.train(2, TINY)
    monkeypatch.setattr(Trainers, "get", lambda *arguments: pytest.fail("it was trained again"))
    assert place.train(2, TINY) == place.train(1, TINY) == record


def test_every_step_is_told(place):
    config = replace(TINY, train_images=50)
    place.train(1, config)
    told = []
    place.train(3, config, on_step=told.append, on_epoch=told.append)
    parts = [1, 1.4, 1.8, 2, "row", 2.4, 2.8, 3, "row"]  # the last batch has 10 images
    assert [part if isinstance(part, float) else "row" for part in told] == [
        part if part == "row" else pytest.approx(part) for part in parts
    ]
    assert [row.epoch for row in told if isinstance(row, Epoch)] == [2, 3]


def test_the_layers_are_looked_at_ever_more_seldom(place):
    looked = [epoch for epoch in range(351) if is_glance(epoch)]
    assert looked == [0, 1, 2, 5, *range(10, 101, 10), 200, 300]
    record = place.train(6, TINY)
    assert [glance.epoch for glance in record.layers] == [0, 1, 2, 5]


def test_a_run_without_its_images_is_told_and_leaves_nothing(place):
    with pytest.raises(LbpError, match="no CIFAR-10 in"):
        place.train(1, RunConfig())
    assert place.content() == {}


@pytest.mark.parametrize("epochs", [0, -1, LONGEST + 1])
def test_a_goal_out_of_range_is_told(epochs):
    with pytest.raises(LbpError, match=f"epochs = {epochs} is out of range: choose from 1 to"):
        Goal(TINY, epochs)


def test_divergence_ends_a_run_and_reaches_every_goal(place):
    # Each step multiplies the weights by 1 - lr * l2 = -999, whatever the gradient.
    config = replace(TINY, lr=100, l2=10, batch_norm=False)
    record = place.train(1000, config)
    assert record.diverged
    assert len(record) < 1000
    assert record.reaches(LONGEST)
    before = place.content()
    assert len(place.train(LONGEST, config)) == len(record)
    assert place.content() == before


def test_a_later_divergence_ends_a_run_too(place, monkeypatch):
    epoch = Trainer.epoch

    def diverging(self, on_batch):
        row = epoch(self, on_batch)
        return replace(row, train_loss=math.nan) if row.epoch == 3 else row

    monkeypatch.setattr(Trainer, "epoch", diverging)
    record = place.train(7, TINY)
    assert record.diverged
    assert len(record) == 3
    place.store.path(TINY).unlink()
    assert len(place.train(7, TINY, on_epoch=lambda row: pytest.fail("it went on"))) == 3


# --- records and checkpoints of different lengths


def test_a_record_longer_than_the_checkpoint_stays_until_a_longer_one_is_there(place, five):
    place.train(2)
    older = place.checkpoint().read_bytes()
    place.train(5)
    place.checkpoint().write_bytes(older)
    lengths, trained = [], []

    def look(row):
        trained.append(row.epoch)
        lengths.append(len(place.store.get(RICH)))

    found = place.train(7, on_epoch=look)
    assert trained == [3, 4, 5, 6, 7]
    assert lengths == [5, 5, 5, 6, 7]
    assert stretches(found) == [(1, 2), (3, 7)]
    assert found.begins_like(five)


@pytest.mark.parametrize("left", ["no record", "an older record"])
def test_a_killed_process_may_have_got_no_further_than_its_checkpoint(place, five, left):
    place.train(2)
    older = place.store.path(RICH).read_bytes()
    whole = place.train(4)
    if left == "no record":
        place.store.path(RICH).unlink()
    else:
        place.store.path(RICH).write_bytes(older)
    assert place.train(3, on_epoch=lambda row: pytest.fail("it was trained again")) == whole
    assert place.store.get(RICH) == whole
    assert same_numbers(place.train(5), five)


def test_without_a_checkpoint_a_run_begins_again_and_replaces_its_record_once_longer(place, five):
    two = place.train(2)
    place.checkpoint().unlink()
    assert place.train(5, stop_after=1) is None
    assert place.store.get(RICH) == two
    lengths = []
    found = place.train(5, on_epoch=lambda row: lengths.append(len(place.store.get(RICH))))
    assert lengths == [2, 3, 4, 5]
    assert stretches(found) == [(1, 1), (2, 5)]
    assert same_numbers(found, five)


CHILD = """
import sys
from pathlib import Path
import torch
from tests.test_run import Place
torch.set_num_threads(1)
Place(Path(sys.argv[1])).train(1000, on_epoch=lambda row: print(row.epoch, flush=True))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint_bit_for_bit(place, five):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(place.folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        for line in child.stdout:
            if line == "2\n":
                break
        child.kill()
    assert child.returncode == -signal.SIGKILL
    kept = len(place.store.get(RICH))
    assert kept >= 2
    place.checkpoint().with_name(f"{RICH.key}.pt.part").write_bytes(b"half a checkpoint")
    found = place.train(max(5, kept + 1))
    assert found.begins_like(five)
    assert stretches(found)[0][1] >= kept
    assert [path.name for path in place.checkpoints.iterdir()] == [f"{RICH.key}.pt"]


# --- checkpoints that cannot be used or written


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory) -> Place:
    """Two epochs of `RICH`, of another seed and of another rule; to be copied."""
    place = Place(tmp_path_factory.mktemp("two"))
    for config in (RICH, ANOTHER_SEED, ANOTHER_RULE):
        place.train(2, config)
    return place


@pytest.fixture
def copied(two_epochs, tmp_path) -> Place:
    shutil.copytree(two_epochs.folder, tmp_path / "copy")
    return Place(tmp_path / "copy")


ANOTHER_SEED = replace(RICH, seed=1)
ANOTHER_RULE = replace(RICH, rule="bp")


def rewritten(change: Callable[[dict], object]) -> Callable[[Place], None]:
    """Return a function that changes what a checkpoint holds."""

    def rewrite(place: Place) -> None:
        state = torch.load(place.checkpoint())
        change(state)
        torch.save(state, place.checkpoint())

    return rewrite


def of_another_run(config: RunConfig) -> Callable[[Place], object]:
    return lambda place: shutil.copy(place.checkpoint(config), place.checkpoint())


def cut(place: Place) -> None:
    content = place.checkpoint().read_bytes()
    place.checkpoint().write_bytes(content[: len(content) // 2])


def of_an_older_form(place: Place) -> None:
    state = {"config": "...", "epochs": [], "layers": [], "model": {}, "velocity": []}
    torch.save(state, place.checkpoint())


def lead_nowhere(place: Place) -> None:
    place.checkpoint().unlink()
    place.checkpoint().symlink_to(place.folder / "nowhere")


FAULTS = {
    "another run": (of_another_run(ANOTHER_SEED), "it is of another run, .* seed 1"),
    "another rule": (of_another_run(ANOTHER_RULE), "it is of another run, vgg19 tanh bp"),
    "no checkpoint": (lambda place: place.checkpoint().write_bytes(b"none"), "not a zip file"),
    "empty": (lambda place: place.checkpoint().write_bytes(b""), "not a zip file"),
    "cut": (cut, "not a zip file"),
    "a link": (lead_nowhere, "No such file"),
    "an older form": (of_an_older_form, "it is of an older form, from before runs could grow"),
    "a list": (lambda place: torch.save([1], place.checkpoint()), "it is of an older form"),
    "other code": (
        rewritten(lambda state: state.update(fingerprint="0" * 16)),
        "it was written by other numerical code",
    ),
    "weights of another epoch": (
        rewritten(lambda state: state["trainer"].update(epochs_done=3)),
        "its weights are of epoch 3",
    ),
    "an altered record": (
        rewritten(lambda state: state.update(record=state["record"].replace("[1, 2]", "[1, 3]"))),
        "",
    ),
    "a record cut short": (
        rewritten(lambda state: state.update(record=state["record"][:-40])),
        "",
    ),
    "no velocity": (rewritten(lambda state: state["trainer"]["velocity"].pop()), ""),
    "no weights": (rewritten(lambda state: state["trainer"]["model"].popitem()), ""),
    "weights of another shape": (
        rewritten(lambda state: state["trainer"]["model"].update({"head.0.bias": torch.ones(3)})),
        "",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_checkpoint_that_cannot_be_used_is_named_and_nothing_is_changed(copied, spoil, reason):
    spoil(copied)
    before = copied.content()
    with pytest.raises(LbpError) as error:
        copied.train(3)
    message = str(error.value)
    assert message.startswith(f"the checkpoint {copied.checkpoint()} cannot be used (")
    assert message.endswith("): delete it to start afresh")
    assert re.search(reason, message)
    assert "\n" not in message
    assert copied.content() == before


def structure(path: Path) -> list[range]:
    """Return where a zip file holds no member's content but headers and directory."""
    with zipfile.ZipFile(path) as file:
        starts = [info.header_offset for info in file.infolist()]
        headers = [range(start, start + 30 + 40) for start in starts]
        return [*headers, range(file.start_dir, path.stat().st_size)]


@pytest.mark.parametrize("where", ["anywhere", "headers and directory"])
def test_a_flipped_bit_is_noticed_or_harmless(copied, where):
    path = copied.checkpoint()
    content = path.read_bytes()
    chosen = random.Random(0)
    places = range(len(content))
    if where != "anywhere":
        places = [place for part in structure(path) for place in part]
    trainer = Trainers(Path(), CPU).get(RICH)
    whole = checkpoint.load(trainer, copied.checkpoints)
    expected = torch.load(path)["trainer"]
    refused = 0
    for _ in range(80):
        flipped = bytearray(content)
        flipped[chosen.choice(places)] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        for tensor in (*trainer.model.parameters(), *trainer._velocity):
            tensor.detach().fill_(math.nan)
        try:
            found = checkpoint.load(trainer, copied.checkpoints)
        except LbpError as error:
            refused += 1
            message = str(error)
            assert message.startswith(f"the checkpoint {path} cannot be used (")
            assert "\n" not in message
        else:
            assert found == whole
            for part in ("model", "velocity"):
                torch.testing.assert_close(trainer.state()[part], expected[part], rtol=0, atol=0)
        assert path.read_bytes() == flipped
    assert refused > 10


def test_a_want_of_gpu_memory_is_no_fault_of_the_checkpoint(copied, monkeypatch):
    def load(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(torch.OutOfMemoryError):
        copied.train(3)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("No space left\nat")])
def test_a_checkpoint_that_cannot_be_written_is_told_and_the_last_one_stays(
    copied, five, monkeypatch, error
):
    before = copied.content()
    save = torch.save

    def full_disk(state, path):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(LbpError) as told:
        copied.train(5)
    assert str(told.value) == f"{copied.checkpoint()} cannot be written (No space left)"
    assert copied.content() == before
    monkeypatch.setattr(torch, "save", save)
    assert same_numbers(copied.train(5), five)


# --- trainers that are used again


def test_trainers_are_kept_by_their_program_and_share_their_images():
    trainers = Trainers(Path(), CPU)
    batches = (10, 20, 25, 40)
    kept = [trainers.get(replace(SMALL, batch=batch)) for batch in batches]
    assert len({id(trainer.split) for trainer in kept}) == 1
    assert trainers.get(replace(SMALL, batch=10, lr=0.5)) is kept[0]
    trainers.get(replace(SMALL, batch=50))  # drops the one that was used longest ago
    assert trainers.get(replace(SMALL, batch=10)) is kept[0]
    assert trainers.get(replace(SMALL, batch=20)) is not kept[1]
    other = trainers.get(replace(SMALL, train_images=50))
    assert len(other.split.train) == 50
    trainers.clear()
    assert trainers.get(replace(SMALL, batch=10)) is not kept[0]


def test_memory_is_given_back_to_a_gpu(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    Trainers(Path(), CPU).clear()
    assert emptied == []
    Trainers(Path(), torch.device("cuda")).clear()
    assert emptied == ["cuda"]


@pytest.mark.parametrize("eager", [True, False])
def test_trainers_take_the_plain_step_if_asked(monkeypatch, eager):
    asked = []

    class Spy(Trainer):
        def __init__(self, config, split, *, eager):
            asked.append(eager)
            super().__init__(config, split, eager=eager)

    monkeypatch.setattr(run_module, "Trainer", Spy)
    Trainers(Path(), CPU, eager=eager).get(TINY)
    assert asked == [eager]


# --- budgets


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf])
def test_a_time_out_of_range_is_told(minutes):
    with pytest.raises(LbpError, match=f"minutes = {minutes:g} is out of range"):
        Budget(minutes)


def test_a_budget_ends_before_an_epoch_that_does_not_fit(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(budget_module, "time", SimpleNamespace(monotonic=lambda: now))
    budget, endless = Budget(2), Budget()
    assert not budget.spent(119)
    assert budget.spent(121)
    now += 60
    assert budget.minutes == pytest.approx(1)
    assert not budget.spent(59)
    assert budget.spent(61)
    now += 61
    assert budget.spent()
    assert budget.minutes > 0  # so that a worker that starts now can be given it
    assert not endless.spent(1e9)
    assert endless.minutes is None


def test_a_worker_asks_the_process_that_it_works_for():
    stopped = threading.Event()
    budget = Budget(stop=stopped.is_set)
    assert not budget.spent()
    stopped.set()
    assert budget.spent()


def test_a_budget_that_is_spent_begins_nothing(place):
    assert place.train(1, TINY, minutes=1e-9) is None
    assert place.content() == {}


def test_a_run_begins_no_epoch_for_which_the_time_is_short(place, monkeypatch):
    epoch = Trainer.epoch

    def slow(self, on_batch):
        return replace(epoch(self, on_batch), seconds=660.0)

    monkeypatch.setattr(Trainer, "epoch", slow)
    assert place.train(5, TINY, minutes=10) is None
    assert place.train(5, TINY, minutes=10) is None
    assert len(place.store.get(TINY)) == 1
    for module in (run_module, provenance):  # what is slow there may be fast on another device
        monkeypatch.setattr(module, "device_name", lambda device: "a faster one")
    assert place.train(5, TINY, minutes=10) is None
    assert len(place.store.get(TINY)) == 2


def test_a_budget_that_ends_in_between_loses_nothing(place, five):
    for epoch in (1, 3):
        assert place.train(5, stop_after=epoch) is None
        assert len(place.store.get(RICH)) == epoch
    found = place.train(5)
    assert stretches(found) == [(1, 1), (2, 3), (4, 5)]
    assert same_numbers(found, five)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_ends_a_run_after_the_epoch_in_progress(place, capfd, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    sent = []

    def interrupt(done):
        if done > 1 and not sent:
            sent.append(done)
            os.kill(os.getpid(), number)

    assert place.train(5, TINY, on_step=interrupt) is None
    assert 1 < sent[0] < 2
    assert len(place.store.get(TINY)) == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert capfd.readouterr().err == "stopping after this epoch; Ctrl-C again stops at once\n"


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["closed", "without a descriptor"])
def test_a_signal_that_cannot_be_told_ends_the_run_as_well(place, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    sent = []

    def interrupt(done):
        if done > 1 and not sent:
            sent.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    assert place.train(5, TINY, on_step=interrupt) is None
    assert len(place.store.get(TINY)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once_and_loses_the_epoch(place, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(done):
        if done > 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        place.train(5, TINY, on_step=interrupt)
    assert len(place.store.get(TINY)) == 1
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert len(place.train(2, TINY)) == 2


def test_outside_the_main_thread_a_budget_takes_no_signals():
    before = signal.getsignal(signal.SIGINT)

    def spent():
        with Budget() as budget:
            return budget.spent(), signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(spent).result() == (False, before)


# --- the command, stopped from outside

COMMAND = RunConfig(  # an epoch takes about half a second
    width=1 / 32, dataset="stand-in", train_images=600, test_images=20, batch=100, seed=1
)


class Project:
    """A project of its own for `lbp train`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "data").mkdir()
        for name in ("_toc.yml", "data/claims.yml"):  # what a clone is known by
            (root / name).touch()

    @property
    def record(self) -> Record | None:
        return Store(self.root / "data" / "results").get(COMMAND)

    @staticmethod
    def arguments(epochs: int) -> list[str]:
        fields = COMMAND.differing().items()
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields]
        return ["train", "--device=cpu", f"--epochs={epochs}", *flags]

    @contextmanager
    def training(self, until: int) -> Iterator[subprocess.Popen]:
        """Train in a process, and yield it as soon as that many epochs are recorded."""
        with subprocess.Popen(
            [sys.executable, "-m", "lbp.cli", *self.arguments(1000)],
            cwd=ROOT,
            env=os.environ | {"LBP_PROJECT": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while self.record is None or len(self.record) < until:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            yield process


@pytest.mark.slow
def test_a_command_is_stopped_after_an_epoch_or_at_once_and_goes_on(tmp_path, monkeypatch, capsys):
    project = Project(tmp_path)
    with project.training(until=1) as process:
        before = len(project.record)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 1
    first = len(project.record)
    assert first - before in (0, 1)  # 0 if the signal came between two epochs
    assert out.endswith(f"after epoch {first}; the same command goes on from its checkpoint\n")
    assert "stopping after this epoch; Ctrl-C again stops at once\n" in err
    assert "Traceback" not in err

    with project.training(until=first + 1) as process:
        before = len(project.record)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("stopping after this epoch; Ctrl-C again stops at once\nlbp: stopped\n")
    assert stretches(project.record) == [(1, first), (first + 1, before)]

    monkeypatch.setenv("LBP_PROJECT", str(tmp_path))
    assert cli.main(project.arguments(first)) == 0  # there is nothing to train
    assert f"after epoch {before}; {tmp_path}" in capsys.readouterr().out
