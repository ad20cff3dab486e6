"""The trainer against a plain loop, and the runner's checkpoints, budget and divergence."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lbp import data, experiments, runner
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.models import build
from lbp.paths import ROOT
from lbp.record import Epoch, Record
from lbp.rules import Activation
from lbp.train import Trainer

CPU = torch.device("cpu")
SMALL = RunConfig(
    width=1 / 32, dataset="stand-in", train_images=100, test_images=40, epochs=3, lr=0.01, batch=32
)
# Dynamo's own use of torch.autograd.Function.
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


def train(
    config=SMALL, checkpoints: Path | None = None, budget=None, on_epoch=None, trainers=None
) -> Record | None:
    def on_progress(epochs, row):
        if row and on_epoch:
            on_epoch(row)

    with budget or runner.Budget() as limit:
        return runner.run(
            config,
            trainers=trainers or runner.Trainers(Path(), CPU),
            budget=limit,
            checkpoints=checkpoints,
            on_progress=on_progress,
        )


def same(first: list[Epoch], second: list[Epoch]) -> bool:
    """Whether two runs logged the same numbers, but for the time they took."""
    return [replace(e, seconds=0) for e in first] == [replace(e, seconds=0) for e in second]


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, lr=1e-3, rule="bp", momentum=0.9, l2=3.0),
        replace(SMALL, lr=1e-4, rule="linear", held_out=50),
        replace(SMALL, lr=1e-3, activation="relu", rule="bp", normalisation="unit"),
        replace(SMALL, lr=1e-3, activation="relu", rule="bp", augment=True),
    ],
)
def test_an_epoch_is_that_of_a_plain_loop(config):
    split = data.load(config, Path(), CPU)
    trainer = Trainer(config, split)
    found = trainer.epoch()

    torch.manual_seed(config.seed)
    model = build(config).to(memory_format=torch.channels_last)
    weights = list(model.parameters())
    start_weights = torch.cat([w.detach().flatten() for w in weights])
    velocity = [torch.zeros_like(w) for w in weights]
    torch.manual_seed((config.seed << 20) + 1)
    order = torch.randperm(len(split.train))
    drawn = data.draw_augmentation(len(order)) if config.augment else None
    losses, right = [], 0
    for start in range(0, len(order), config.batch):
        chosen = order[start : start + config.batch]
        images = split.train.images[chosen]
        if config.augment:
            images = data.augment(images, drawn[chosen])
        x = data.Normalise(config.normalisation)(images)
        y = split.train.labels[chosen]
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, g, v in zip(weights, gradients, velocity, strict=True):
                v.mul_(config.momentum).add_(g + config.l2 * w)
                w -= config.lr * v
        losses += [loss.item()] * len(chosen)
        right += (logits.argmax(1) == y).sum().item()
    # The trainer's fused step rounds differently; the whole epoch's update must be the same.
    update = torch.cat([w.detach().flatten() for w in weights]) - start_weights
    theirs = torch.cat([w.detach().flatten() for w in trainer.model.parameters()]) - start_weights
    assert (theirs - update).norm() < 0.02 * update.norm()
    assert found.train_loss == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert found.train_accuracy == pytest.approx(100 * right / len(order), abs=1.1)

    model.eval()
    inputs = []
    for module in model.modules():
        if isinstance(module, Activation):
            module.register_forward_hook(lambda m, i, o: inputs.append(i[0].abs().max().item()))
    with torch.no_grad():
        logits = model(data.Normalise(config.normalisation)(split.test.images))
    labels = split.test.labels
    wrong = logits.argmax(1) != labels
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert found.test_loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-3)
    assert found.test_error == pytest.approx(100 * wrong.float().mean().item(), abs=2.6)
    assert found.test_error_top5 == pytest.approx(100 * (ranks >= 5).float().mean().item(), abs=2.6)
    halves = (found.test_error_half_0 + found.test_error_half_1) / 2
    assert halves == pytest.approx(found.test_error, abs=1e-3)
    assert found.max_preactivation == pytest.approx(max(inputs), rel=1e-2)
    assert (found.held_out_error is None) == (config.held_out == 0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_is_that_of_pytorchs_sgd(momentum):
    config = replace(SMALL, lr=0.05, l2=0.1, momentum=momentum)
    trainer = Trainer(config, data.load(config, Path(), CPU))
    generator = torch.Generator().manual_seed(0)
    shapes = [tuple(p.shape) for p in trainer.model.parameters()]
    ours = [torch.randn(shape, generator=generator) for shape in shapes]
    theirs = [p.clone().requires_grad_() for p in ours]
    velocity = [torch.zeros_like(p) for p in ours] if momentum else []
    optimiser = torch.optim.SGD(theirs, lr=0.05, weight_decay=0.1, momentum=momentum)
    for _ in range(4):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g.clone()
        optimiser.step()
        trainer._update(ours, gradients, velocity)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q.detach(), atol=1e-6, rtol=1e-5)


def test_every_image_is_trained_on_once_an_epoch():
    trainer = Trainer(SMALL, data.load(SMALL, Path(), CPU))
    sizes, seen = [], []
    step = trainer._step

    def spy(size, forward, update):
        seen.extend(trainer._order[trainer._position + trainer._offsets[:size]].tolist())
        step(size, forward, update)

    trainer._step = spy
    trainer.epoch(sizes.append)
    assert sizes == [32, 32, 32, 4]
    assert sorted(seen) == list(range(100))
    first = seen.copy()
    seen.clear()
    trainer.epoch()
    assert sorted(seen) == list(range(100))
    assert seen != first


# --- one trainer, many runs


def state(trainer: Trainer) -> list[torch.Tensor]:
    """Return copies of all that a run changes in a trainer."""
    return [t.clone() for t in (*trainer.model.state_dict().values(), *trainer._velocity)]


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, batch=50, epochs=2, momentum=0.9),
        replace(SMALL, batch=32, epochs=2, head="mlp", augment=True),
    ],
)
def test_a_used_trainer_gives_what_a_fresh_one_gives_bit_for_bit(config):
    other = replace(config, lr=0.1, l2=0.3, seed=7, epochs=1)
    used, fresh = (runner.Trainers(Path(), CPU) for _ in range(2))
    first = train(other, trainers=used)
    trainer = used.get(other)
    again = train(config, trainers=used)
    expected = train(config, trainers=fresh)
    assert same(again.epochs, expected.epochs)
    assert again.layers == expected.layers
    assert again.epochs[0].train_loss != first.epochs[0].train_loss
    # `get` begins a run, so the states are taken from the trainers themselves.
    assert used.get(other) is trainer
    (theirs,) = fresh._trainers.values()
    for t in (trainer, theirs):
        t.begin(config)
        t.train_epoch()
    for a, b in zip(state(trainer), state(theirs), strict=True):
        assert torch.equal(a, b)


def test_a_trainer_is_no_use_to_another_program():
    trainer = Trainer(SMALL, data.load(SMALL, Path(), CPU))
    for changes in ({"rule": "bp"}, {"momentum": 0.5}, {"batch": 50}, {"precision": "bf16"}):
        with pytest.raises(ValueError, match="needs another trainer"):
            trainer.begin(replace(SMALL, **changes))
    trainer.begin(replace(SMALL, lr=0.5, l2=0.5, seed=5, epochs=50))


def test_trainers_are_kept_by_their_program_and_share_their_images():
    trainers = runner.Trainers(Path(), CPU)
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


def test_tf32_is_refused_where_there_is_none():
    """Trained in float32 on the CPU, a record would say tf32."""
    with pytest.raises(LbpError, match="precision 'tf32' needs a CUDA GPU"):
        train(replace(SMALL, precision="tf32"))


@compiles
@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one_and_serves_a_whole_grid():
    config = replace(SMALL, batch=50, l2=0.01, momentum=0.9)
    split = data.load(config, Path(), CPU)
    eager, compiled = (Trainer(config, split) for _ in range(2))
    assert compiled._steps.keys() == {50}
    options = {"fullgraph": True, "dynamic": False, "backend": "aot_eager"}
    forward = torch.compile(compiled._forward, **options)
    update = torch.compile(compiled._update, **options)
    compiled._steps = {50: lambda: compiled._step(50, forward, update)}
    compiled.epoch()
    for again in (config, replace(config, lr=0.05, l2=2.0, seed=4)):
        updates, losses = [], []
        with torch.compiler.set_stance("fail_on_recompile"):
            for trainer in (eager, compiled):
                trainer.begin(again)
                start = torch.cat([p.detach().flatten() for p in trainer._parameters])
                losses.append(trainer.epoch().train_loss)
                end = torch.cat([p.detach().flatten() for p in trainer._parameters])
                updates.append(end - start)
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert (updates[0] - updates[1]).norm() < 1e-3 * updates[0].norm()


def test_one_process_may_compile_every_program_of_a_scale(monkeypatch):
    """Dynamo refuses to compile a function more often than this, and the trainers share one."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    runner._set_up_backends("bf16", torch.device("cuda"))
    for scale in experiments.SCALES:
        programs = {config.program for config in experiments.by_importance(scale)}
        assert 8 < len(programs) < torch._dynamo.config.recompile_limit


@pytest.mark.filterwarnings("default")  # the compiler gives advice
@needs_gpu
def test_a_captured_step_is_that_of_the_cpu_and_reads_each_runs_own_numbers():
    config = replace(SMALL, lr=1e-4, momentum=0.9)
    trainers = [runner.Trainers(Path(), device) for device in (CPU, torch.device("cuda:0"))]
    ends = []
    for run in (config, replace(config, lr=1e-3), replace(config, l2=3.0)):
        updates, losses = [], []
        for one in trainers:
            trainer = one.get(run)
            start = torch.cat([p.detach().flatten().cpu() for p in trainer._parameters])
            losses.append(trainer.epoch().train_loss)
            ends.append(torch.cat([p.detach().flatten().cpu() for p in trainer._parameters]))
            updates.append(ends[-1] - start)
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        assert (updates[0] - updates[1]).norm() < 0.05 * updates[0].norm()
    assert len({end.norm().item() for end in ends[1::2]}) == 3


@pytest.mark.filterwarnings("default")  # the compiler gives advice
@needs_gpu
def test_a_used_trainer_on_a_gpu_starts_afresh():
    config = replace(SMALL, lr=1e-4, momentum=0.9, head="mlp", augment=True)
    device = torch.device("cuda:0")
    used = Trainer(config, data.load(config, Path(), device))
    first = used.epoch()
    used.begin(replace(config, lr=0.1, seed=7))
    used.epoch()
    used.begin(config)
    assert used.epoch().train_loss == pytest.approx(first.train_loss, rel=1e-3)


@pytest.mark.filterwarnings("default")  # the compiler gives advice
@needs_gpu
def test_bf16_on_a_gpu_learns_the_stand_in():
    config = replace(
        SMALL, train_images=500, epochs=5, activation="relu", rule="bp", lr=0.05, precision="bf16"
    )
    record = train(config, trainers=runner.Trainers(Path(), torch.device("cuda:0")))
    assert record.epochs[-1].train_loss < record.epochs[0].train_loss - 0.2


# --- whole runs


def test_training_learns_the_stand_in():
    config = replace(SMALL, train_images=500, test_images=100, epochs=5, lr=0.05)
    record = train(replace(config, activation="relu", rule="bp"))
    assert record.outcome == "finished"
    assert record.epochs[-1].train_loss < record.epochs[0].train_loss - 0.2
    assert max(record.test_accuracy) > 20  # guessing is 10


def test_the_rule_changes_the_training():
    assert (
        train(SMALL).epochs[-1].train_loss != train(replace(SMALL, rule="bp")).epochs[-1].train_loss
    )


def test_glances_are_at_one_two_five_and_the_ends():
    thousand = {0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}
    assert runner.glances(1000) == thousand
    assert runner.glances(100) == {0, 1, 2, 5, 10, 20, 50, 100}
    assert runner.glances(99) == {0, 1, 2, 5, 10, 20, 50, 99}
    assert runner.glances(3) == {0, 1, 2, 3}
    assert runner.glances(1) == {0, 1}


def test_the_layers_are_looked_at_and_every_step_is_told():
    config = replace(SMALL, epochs=4)
    told = []
    record = runner.run(
        config,
        trainers=runner.Trainers(Path(), CPU),
        budget=runner.Budget(),
        checkpoints=None,
        on_progress=lambda epochs, row: told.append((epochs, row)),
    )
    assert [glance.epoch for glance in record.layers] == [0, 1, 2, 4]
    sizes = {
        "update": 17, "weight": 17, "gradient": 17, "cosine": 17, "preactivation": 16,
        "saturated": 16,
    }  # fmt: skip
    for glance in record.layers:
        assert {name: len(getattr(glance, name)) for name in sizes} == sizes
    assert [row for _, row in told if row] == record.epochs
    parts = [0, 0.32, 0.64, 0.96, 1, 1]  # the last batch has 4 images; then the epoch's own report
    expected = [0, *(epoch + part for epoch in range(4) for part in parts[1:])]
    assert [epochs for epochs, _ in told] == pytest.approx(expected)
    assert told[5][1] is record.epochs[0]


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, augment=True, head="mlp", momentum=0.9)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(config, tmp_path):
    whole = train(config)
    budget = runner.Budget()

    def stop(row):
        budget.interrupted = row.epoch == 2

    assert train(config, tmp_path, budget, on_epoch=stop) is None
    torch.manual_seed(999)  # the state of the process must not matter
    calls = []
    resumed = train(config, tmp_path, on_epoch=calls.append)
    assert [row.epoch for row in calls] == [3]
    assert same(resumed.epochs, whole.epochs)
    assert resumed.layers == whole.layers


def test_the_budget_ends_a_run_between_epochs_and_keeps_its_checkpoint(tmp_path):
    assert train(SMALL, tmp_path, runner.Budget(1e-9)) is None  # not even one epoch
    assert not list(tmp_path.iterdir())
    with pytest.raises(LbpError, match="minutes = -1 is out of range"):
        runner.Budget(-1)
    with pytest.raises(LbpError, match="minutes = nan is out of range"):
        runner.Budget(float("nan"))


def test_ctrl_c_ends_a_run_after_the_epoch_in_progress(tmp_path, capsys):
    def interrupt(row):
        if row.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    rows = []
    assert train(SMALL, tmp_path, on_epoch=lambda row: (rows.append(row), interrupt(row))) is None
    assert len(rows) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{SMALL.key}.pt"]
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again stops at once" in capsys.readouterr().err


def test_divergence_is_a_result(tmp_path):
    config = replace(SMALL, lr=100, rule="as-printed", batch_norm=False, init="he", l2=1.0)
    record = train(config, tmp_path)
    assert record.outcome == "diverged"
    assert len(record.epochs) <= config.epochs


def test_a_damaged_or_foreign_checkpoint_is_named_and_kept(tmp_path, monkeypatch):
    path = tmp_path / f"{SMALL.key}.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(LbpError, match=f"{path} cannot be used .*delete it to start afresh"):
        train(SMALL, tmp_path)
    assert path.read_bytes() == b"no checkpoint"
    path.unlink()
    budget = runner.Budget()
    train(SMALL, tmp_path, budget, on_epoch=lambda row: setattr(budget, "interrupted", True))
    monkeypatch.setattr(runner, "fingerprint", lambda: "another")
    with pytest.raises(LbpError, match="it was written by other numerical code"):
        train(SMALL, tmp_path)
    assert path.exists()


def test_a_checkpoint_is_of_its_own_epoch_though_training_goes_on(tmp_path, monkeypatch):
    config = replace(SMALL, momentum=0.9)
    trained = [threading.Event() for _ in range(config.epochs + 1)]
    write, kept, ahead = runner._write, tmp_path / "kept", []

    def write_late(path, state):
        number = len(state["epochs"])
        if number < config.epochs:
            assert trained[number + 1].wait(30)
        if number + 2 <= config.epochs:
            ahead.append(trained[number + 2].wait(0.5))  # several epochs of this size
        write(path, state)
        write(kept / str(number) / path.name, state)

    def told(epochs, row):
        # Steps are told as soon as they are taken: here the next epoch's last one.
        if row is None and epochs > 1 and abs(epochs - round(epochs)) < 1e-9:
            trained[round(epochs)].set()

    monkeypatch.setattr(runner, "_write", write_late)
    whole = runner.run(
        config,
        trainers=runner.Trainers(Path(), CPU),
        budget=runner.Budget(),
        checkpoints=tmp_path,
        on_progress=told,
    )
    monkeypatch.setattr(runner, "_write", write)
    assert ahead == [False]  # no more than an epoch is at risk
    for number in (1, 2):
        trained_here = []
        again = train(config, kept / str(number), on_epoch=trained_here.append)
        assert [row.epoch for row in trained_here] == list(range(number + 1, 4))
        assert same(again.epochs, whole.epochs)
        assert again.layers == whole.layers


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_last_one_stays(tmp_path, monkeypatch):
    whole = train(SMALL)
    save = torch.save

    def full_disk(state, path):
        if len(state["epochs"]) == 1:
            return save(state, path)
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    budget = runner.Budget()

    def stop(row):
        budget.interrupted = row.epoch == 2  # nothing waits for this epoch's checkpoint but the end

    with pytest.raises(LbpError, match=r"the checkpoint .* cannot be written \(.*No space left"):
        train(SMALL, tmp_path, budget, on_epoch=stop)
    monkeypatch.setattr(torch, "save", save)
    assert [path.name for path in tmp_path.iterdir()] == [f"{SMALL.key}.pt"]
    rows = []
    resumed = train(SMALL, tmp_path, on_epoch=rows.append)
    assert [row.epoch for row in rows] == [2, 3]
    assert same(resumed.epochs, whole.epochs)


KILLED = replace(SMALL, epochs=6, momentum=0.9)
CHILD = """
import sys
from pathlib import Path
import torch
from tests.test_train import KILLED, train
torch.set_num_threads(1)
train(KILLED, Path(sys.argv[1]), on_epoch=lambda row: print(row.epoch, flush=True))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint_bit_for_bit(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with child:
        for line in child.stdout:
            if line == "3\n":
                break
        child.kill()
    assert child.returncode == -signal.SIGKILL  # and not 0: it had epochs to go
    (tmp_path / f"{KILLED.key}.4711.part").write_bytes(b"half a checkpoint")
    rows = []
    resumed = train(KILLED, tmp_path, on_epoch=rows.append)
    assert rows[0].epoch >= 3  # two epochs at least were kept
    assert [row.epoch for row in rows] == list(range(rows[0].epoch, 7))
    whole = train(KILLED)
    assert same(resumed.epochs, whole.epochs)
    assert resumed.layers == whole.layers


def test_devices(monkeypatch):
    def chosen(*arguments):
        return [str(device) for device in runner.choose_devices(*arguments)]

    assert chosen("cpu") == ["cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert chosen("auto") == chosen() == ["cpu"]
    for name, message in (
        ("tpu", "unknown device 'tpu': choose from auto, cpu, cuda"),
        ("", "unknown device '': choose from auto"),
        ("cpu,", "unknown device '': choose from auto"),
        ("cuda", "no device 'cuda' here: PyTorch sees 0 CUDA GPUs"),
        ("cuda:1", "no device 'cuda:1' here"),
        ("cpu,cpu", "device 'cpu,cpu' names a device twice: use --jobs"),
        ("auto, cpu", "device 'auto, cpu' names a device twice"),
    ):
        with pytest.raises(LbpError, match=message):
            runner.choose_devices(name)
    for name in ("cpu", "auto"):
        with pytest.raises(LbpError, match="precision 'tf32' needs a CUDA GPU"):
            runner.choose_devices(name, "tf32")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen("auto") == chosen("cuda") == ["cuda:0"]
    assert chosen("cuda:1") == ["cuda:1"]
    assert chosen("cuda:1, cuda:0", "tf32") == ["cuda:1", "cuda:0"]
    with pytest.raises(LbpError, match="no device 'cuda:2' here: PyTorch sees 2"):
        runner.choose_devices("cuda:0,cuda:2")
    for name in ("cuda:0,cuda:0", "cuda,cuda:0", "auto,cuda:0"):
        with pytest.raises(LbpError, match="names a device twice"):
            runner.choose_devices(name)


def test_bf16_trains_with_float32_weights():
    trainer = Trainer(replace(SMALL, precision="bf16"), data.load(SMALL, Path(), CPU))
    row = trainer.epoch()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    exact = Trainer(SMALL, data.load(SMALL, Path(), CPU)).epoch()
    assert row.train_loss != exact.train_loss
    assert row.train_loss == pytest.approx(exact.train_loss, rel=0.05)
