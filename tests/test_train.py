"""The trainer against a plain loop, and the runner's checkpoints, budget and divergence."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lbp import data, runner
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.models import build
from lbp.record import Epoch, Record
from lbp.rules import Activation
from lbp.train import Trainer

CPU = torch.device("cpu")
SMALL = RunConfig(
    width=1 / 32, dataset="stand-in", train_images=200, test_images=100, epochs=3, lr=0.01, batch=32
)


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
    losses, right = [], 0
    for start in range(0, len(order), config.batch):
        chosen = order[start : start + config.batch]
        x = data.Normalise(config.normalisation)(split.train.images[chosen])
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
    assert found.test_error == pytest.approx(100 * wrong.float().mean().item(), abs=2)
    assert found.test_error_top5 == pytest.approx(100 * (ranks >= 5).float().mean().item(), abs=2)
    halves = (found.test_error_half_0 + found.test_error_half_1) / 2
    assert halves == pytest.approx(found.test_error, abs=1e-3)
    assert found.max_preactivation == pytest.approx(max(inputs), rel=1e-2)
    assert (found.held_out_error is None) == (config.held_out == 0)


def test_training_learns_the_stand_in():
    record = train(
        replace(SMALL, train_images=500, epochs=5, activation="relu", rule="bp", lr=0.05)
    )
    assert record.outcome == "finished"
    assert record.epochs[-1].train_loss < record.epochs[0].train_loss - 0.2
    assert max(record.test_accuracy) > 25  # guessing is 10


def test_the_rule_changes_the_training():
    assert (
        train(SMALL).epochs[-1].train_loss != train(replace(SMALL, rule="bp")).epochs[-1].train_loss
    )


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


def test_devices(monkeypatch):
    assert runner.choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert runner.choose_device("auto").type == "cpu"
    for name, message in (
        ("tpu", "unknown device 'tpu': choose from auto, cpu, cuda"),
        ("cuda", "no device 'cuda' here: PyTorch sees 0 CUDA GPUs"),
        ("cuda:1", "no device 'cuda:1' here"),
    ):
        with pytest.raises(LbpError, match=message):
            runner.choose_device(name)
    with pytest.raises(LbpError, match="precision 'tf32' needs a CUDA GPU"):
        runner.choose_device("cpu", "tf32")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runner.choose_device("auto").type == "cuda"
    assert runner.choose_device("cuda:1").index == 1
    with pytest.raises(LbpError, match="no device 'cuda:2' here: PyTorch sees 2"):
        runner.choose_device("cuda:2")


def test_bf16_trains_with_float32_weights():
    trainer = Trainer(replace(SMALL, precision="bf16"), data.load(SMALL, Path(), CPU))
    row = trainer.epoch()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    exact = Trainer(SMALL, data.load(SMALL, Path(), CPU)).epoch()
    assert row.train_loss != exact.train_loss
    assert row.train_loss == pytest.approx(exact.train_loss, rel=0.05)
