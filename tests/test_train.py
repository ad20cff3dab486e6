"""The trainer against a plain loop and PyTorch's SGD; one trainer for many runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lbp.lab import images
from lbp.lab import train as train_module
from lbp.lab.config import RunConfig
from lbp.lab.models import build
from lbp.lab.run import Trainers
from lbp.lab.train import Trainer
from lbp.linearization import activation_modules

CPU = torch.device("cpu")
SMALL = RunConfig(
    width=1 / 32, dataset="stand-in", train_images=100, test_images=40, lr=0.01, batch=32
)
RESNET18 = RunConfig(model="resnet18", dataset="stand-in", train_images=10, test_images=20, batch=5)
# Dynamo's own use of torch.autograd.Function.
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


def load(config: RunConfig = SMALL, device: torch.device = CPU) -> images.Split:
    return images.load(config, Path(), device)


def weights(trainer: Trainer) -> torch.Tensor:
    """Return a copy of all that is trained, as float32 [N] on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in trainer.model.parameters()])


def state(trainer: Trainer) -> list[torch.Tensor]:
    """Return copies of all that a run changes in a trainer."""
    return [t.clone() for t in (*trainer.model.state_dict().values(), *trainer._velocity)]


# --- an epoch


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, lr=1e-3, rule="bp", momentum=0.9, l2=3.0),
        replace(SMALL, lr=1e-4, rule="linear"),
        replace(SMALL, lr=1e-3, activation="relu", rule="bp", normalisation="unit"),
        replace(SMALL, lr=1e-3, activation="relu", rule="bp", augment=True),
        replace(SMALL, lr=1e-3, batch_norm_scale="uniform", seed=3),
        pytest.param(RESNET18, marks=pytest.mark.slow),
    ],
)
def test_an_epoch_is_that_of_a_plain_loop(config):
    split = load(config)
    trainer = Trainer(config, split)
    start_weights = weights(trainer)
    found = trainer.epoch()

    torch.manual_seed(config.seed)
    model = build(config).to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    torch.manual_seed((config.seed << 20) + 1)
    order = torch.randperm(len(split.train))
    drawn = images.draw_augmentation(len(order)) if config.augment else None
    losses, right = [], 0
    for start in range(0, len(order), config.batch):
        chosen = order[start : start + config.batch]
        pixels = split.train.images[chosen]
        if config.augment:
            pixels = images.augment(pixels, drawn[chosen])
        y = split.train.labels[chosen]
        logits = model(images.Normalise(config.normalisation)(pixels))
        loss = F.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g, v in zip(parameters, gradients, velocity, strict=True):
                v.mul_(config.momentum).add_(g + config.l2 * p)
                p -= config.lr * v
        losses += [loss.item()] * len(chosen)
        right += (logits.argmax(1) == y).sum().item()
    # The trainer's fused step rounds differently; the whole epoch's update must be the same.
    update = torch.cat([p.detach().flatten() for p in parameters]) - start_weights
    assert (weights(trainer) - start_weights - update).norm() < 0.02 * update.norm()
    assert found.epoch == 1
    assert found.train_loss == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    one = 100 / len(order) + 0.1  # rounding may decide over one image
    assert found.train_accuracy == pytest.approx(100 * right / len(order), abs=one)

    model.eval()
    inputs = []
    for module in activation_modules(model).values():
        module.register_forward_hook(lambda m, i, o: inputs.append(i[0].abs().max().item()))
    with torch.no_grad():
        logits = model(images.Normalise(config.normalisation)(split.test.images))
    labels = split.test.labels
    wrong = logits.argmax(1) != labels
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert found.test_loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-3)
    one = 100 / len(labels) + 0.1
    top5 = 100 * (ranks >= 5).float().mean().item()
    assert found.test_error == pytest.approx(100 * wrong.float().mean().item(), abs=one)
    assert found.test_error_top5 == pytest.approx(top5, abs=one)
    halves = (found.test_error_half_0 + found.test_error_half_1) / 2
    assert halves == pytest.approx(found.test_error, abs=1e-3)
    assert found.max_preactivation == pytest.approx(max(inputs), rel=1e-2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_is_that_of_pytorchs_sgd(momentum):
    config = replace(SMALL, lr=0.05, l2=0.1, momentum=momentum)
    trainer = Trainer(config, load())
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


def test_the_learning_rate_of_an_epoch_is_the_one_that_its_steps_take():
    dropped = Trainer(replace(SMALL, lr=1e-2, schedule="apl-cifar10"), load())
    constant = Trainer(replace(SMALL, lr=1e-2), load())
    for trainer in (dropped, constant):
        trainer.train_epoch()
    torch.testing.assert_close(weights(dropped), weights(constant), rtol=0, atol=0)
    steps = []
    for trainer, lr in ((dropped, 1e-3), (constant, 1e-2)):
        before = weights(trainer).clone()
        gradients = [torch.ones_like(p) for p in trainer.model.parameters()]
        trainer.epochs_done = 120
        trainer._sizes = []  # no step but the one below
        trainer.train_epoch()
        trainer._update(list(trainer.model.parameters()), gradients, [])
        steps.append(before - weights(trainer))
        assert steps[-1].mean().item() == pytest.approx(lr, rel=1e-3)


@pytest.mark.parametrize(
    ("batch", "expected"), [(32, [32, 32, 32, 4]), (50, [50, 50]), (128, [100])]
)
def test_every_image_is_trained_on_once_an_epoch(batch, expected):
    trainer = Trainer(replace(SMALL, batch=batch), load())
    sizes, seen = [], []
    step = trainer._step

    def spy(size, forward, update):
        seen.extend(trainer._order[trainer._position + trainer._offsets[:size]].tolist())
        step(size, forward, update)

    trainer._step = spy
    trainer.epoch(sizes.append)
    assert sizes == expected
    assert sorted(seen) == list(range(100))
    first = seen.copy()
    seen.clear()
    trainer.epoch()
    assert sorted(seen) == list(range(100))
    assert seen != first


def test_bf16_trains_with_float32_weights():
    trainer = Trainer(replace(SMALL, precision="bf16"), load())
    row = trainer.epoch()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    exact = Trainer(SMALL, load()).epoch()
    assert row.train_loss != exact.train_loss
    assert row.train_loss == pytest.approx(exact.train_loss, rel=0.05)


def test_training_learns_the_stand_in():
    config = replace(SMALL, train_images=200, batch=20, lr=0.05, activation="relu", rule="bp")
    trainer = Trainer(config, load(config))
    rows = [trainer.epoch() for _ in range(4)]
    assert rows[-1].train_loss < rows[0].train_loss - 0.2
    assert min(row.test_error for row in rows) < 80  # guessing has 90


def test_the_rule_changes_the_training():
    losses = {Trainer(replace(SMALL, rule=r), load()).epoch().train_loss for r in ("bp", "linear")}
    assert len(losses) == 2


# --- one trainer, many runs


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, batch=50, momentum=0.9),
        replace(SMALL, head="mlp", augment=True),
    ],
)
def test_a_used_trainer_gives_what_a_fresh_one_gives_bit_for_bit(config):
    used, fresh = Trainer(config, load(config)), Trainer(config, load(config))
    used.begin(replace(config, lr=0.1, l2=0.3, seed=7))
    other = used.epoch()
    used.layers()
    used.begin(config)
    for _ in range(2):
        again, expected = used.epoch(), fresh.epoch()
        assert replace(again, seconds=0) == replace(expected, seconds=0)
        assert again.train_loss != other.train_loss
    assert used.layers() == fresh.layers()
    for a, b in zip(state(used), state(fresh), strict=True):
        assert torch.equal(a, b)


def test_a_trainer_is_no_use_to_another_program():
    trainer = Trainer(SMALL, load())
    for changes in ({"rule": "bp"}, {"momentum": 0.5}, {"batch": 50}, {"precision": "bf16"}):
        with pytest.raises(ValueError, match="needs another trainer"):
            trainer.begin(replace(SMALL, **changes))
    trainer.begin(replace(SMALL, lr=0.5, l2=0.5, seed=5))


# --- compiled and captured steps


class OnAGpu(Trainer):
    """A trainer on the CPU that tries to capture its step, as one on a GPU does, and fails."""

    error: Exception

    def _prepare(self, plain):
        return super()._prepare(plain=False)

    def _captured(self, size):
        self._step(size, self._forward, self._update)  # the failure comes after some work
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("no compiler\nhere"), AssertionError()])
def test_where_capturing_fails_the_plain_step_is_taken_and_this_is_said_once(error, capsys):
    train_module._say_plain.cache_clear()
    OnAGpu.error = error
    config = replace(SMALL, momentum=0.9)
    trainers = [kind(config, load()) for kind in (OnAGpu, OnAGpu, Trainer)]
    assert [trainer.step for trainer in trainers] == ["plain"] * 3
    rows = [replace(trainer.epoch(), seconds=0) for trainer in trainers]
    assert rows[0] == rows[1] == rows[2]
    reason = "no compiler" if str(error) else "AssertionError"
    assert capsys.readouterr().err == (
        f"the training step cannot be compiled and captured here ({reason}): training goes on with "
        "the plain step, which is slower\n"
    )


def test_a_want_of_memory_is_no_reason_for_the_plain_step(capsys):
    OnAGpu.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        OnAGpu(SMALL, load())
    assert capsys.readouterr().err == ""


@compiles
@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one_and_serves_a_whole_grid():
    config = replace(SMALL, batch=50, l2=0.01, momentum=0.9)
    eager, compiled = (Trainer(config, load()) for _ in range(2))
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
                start = weights(trainer)
                losses.append(trainer.epoch().train_loss)
                updates.append(weights(trainer) - start)
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert (updates[0] - updates[1]).norm() < 1e-3 * updates[0].norm()


@pytest.mark.filterwarnings("default")  # the compiler gives advice
@needs_gpu
def test_a_captured_step_is_that_of_the_cpu_and_reads_each_runs_own_numbers():
    config = replace(SMALL, lr=1e-4, momentum=0.9)
    trainers = [Trainers(Path(), device) for device in (CPU, torch.device("cuda:0"))]
    ends = []
    for run in (config, replace(config, lr=1e-3), replace(config, l2=3.0)):
        updates, losses = [], []
        for one, step in zip(trainers, ("plain", "captured"), strict=True):
            trainer = one.get(run)
            assert trainer.step == step
            start = weights(trainer)
            losses.append(trainer.epoch().train_loss)
            ends.append(weights(trainer))
            updates.append(ends[-1] - start)
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        assert (updates[0] - updates[1]).norm() < 0.05 * updates[0].norm()
    assert len({end.norm().item() for end in ends[1::2]}) == 3


@pytest.mark.filterwarnings("default")  # the compiler gives advice
@needs_gpu
def test_a_used_trainer_on_a_gpu_starts_afresh():
    config = replace(SMALL, lr=1e-4, momentum=0.9, head="mlp", augment=True)
    used = Trainer(config, load(config, torch.device("cuda:0")))
    first = used.epoch()
    used.begin(replace(config, lr=0.1, seed=7))
    used.epoch()
    used.begin(config)
    assert used.epoch().train_loss == pytest.approx(first.train_loss, rel=1e-3)


@needs_gpu
def test_a_gpu_takes_the_plain_step_if_asked():
    split = load(SMALL, torch.device("cuda:0"))
    assert Trainer(SMALL, split, eager=True).step == "plain"


@pytest.mark.filterwarnings("default")  # the compiler gives advice
@needs_gpu
def test_bf16_on_a_gpu_learns_the_stand_in():
    config = replace(
        SMALL, train_images=500, activation="relu", rule="bp", lr=0.05, precision="bf16"
    )
    trainer = Trainers(Path(), torch.device("cuda:0")).get(config)
    rows = [trainer.epoch() for _ in range(5)]
    assert rows[-1].train_loss < rows[0].train_loss - 0.2
