"""What the benchmarks compare is the same work, and what they count is counted right."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lbp.bench import __main__ as command
from lbp.bench import figure1, training
from lbp.lab import images, timing
from lbp.lab.config import RunConfig
from lbp.lab.models import build
from lbp.lab.small_networks import (
    Batch,
    Optimisation,
    cubic_problem,
    initial_parameters,
    network,
    train,
)
from lbp.lab.train import Trainer

CPU = torch.device("cpu")
SMALL = RunConfig(
    rule="bp", width=1 / 32, dataset="stand-in", train_images=200, test_images=20, batch=32
)


def flat(tensors) -> torch.Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])


# --- Figure 1's networks


@pytest.mark.parametrize("rule", figure1.RULES)
def test_the_loop_trains_as_the_batch_does(rule):
    problem, optimisation = cubic_problem(), Optimisation(tolerance=1e-2, max_steps=200)
    start = initial_parameters(2)
    (trained,) = train(problem, [Batch(start, "relu", rule, optimisation)])
    for row, steps, converged in zip(start, trained.steps, trained.converged, strict=True):
        model = network(row, "relu", rule)
        assert figure1.train_alone(model, problem, optimisation) == (steps, converged)


def test_a_benchmark_of_one_thread_leaves_the_others_theirs():
    torch.set_num_threads(2)
    with figure1.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_figure1_prints_a_line_for_each_comparison(monkeypatch, capsys):
    monkeypatch.setattr(figure1, "NETWORKS", 2)
    monkeypatch.setattr(figure1, "Optimisation", lambda **given: Optimisation(max_steps=3))
    figure1.figure1()
    lines = capsys.readouterr().out.splitlines()[2:]
    each = ["bp", "linear", "bp and linear"]
    assert [line[:9].strip() for line in lines] == ["float32"] * 3 + ["float64"] * 3
    assert [line[9:23].strip() for line in lines] == each * 2
    ends = [line.rpartition("x  ")[2] for line in lines]
    assert ends == ["2/2, 2/2", "2/2, 2/2", "4/4, 4/4"] * 2


# --- the usual loop


@pytest.fixture(scope="module")
def split():
    return images.load(SMALL, Path(), CPU)


def test_the_usual_loop_trains_as_the_trainer_does(split):
    trainer = Trainer(SMALL, split)
    torch.manual_seed(SMALL.seed)
    model = build(SMALL)
    start = flat(model.parameters())
    loss, _ = trainer.train_epoch()

    torch.manual_seed((SMALL.seed << 20) + 1)  # the trainer's first epoch
    order = torch.randperm(len(split.train)).tolist()
    loader = DataLoader(training.PilImages(split.train), SMALL.batch, sampler=order)
    optimiser = torch.optim.SGD(model.parameters(), lr=SMALL.lr)
    assert training.usual_epoch(model, loader, optimiser, CPU) == pytest.approx(loss, rel=1e-3)

    update = flat(model.parameters()) - start
    theirs = flat(trainer.model.parameters()) - start
    assert (theirs - update).norm() < 0.02 * update.norm()


def test_the_usual_loop_reads_the_same_images_in_its_processes_too(split):
    found = pickle.loads(pickle.dumps(training.PilImages(split.train)))
    assert len(found) == len(split.train)
    expected = images.Normalise("channel")(split.train.images)
    for index in (0, 7, 199):
        image, label = found[index]
        torch.testing.assert_close(image, expected[index])
        assert label == split.train.labels[index]


def test_the_peak_counts_two_operations_for_each_product(monkeypatch):
    monkeypatch.setattr(training, "PEAK_SECONDS", 0.01)
    monkeypatch.setattr(timing, "seconds", lambda act, device: act().sum() * 0 + 0.5)
    assert training.matmul_peak(10, torch.float32, CPU) == pytest.approx(4000)


def test_the_lines_of_the_benchmark_follow_from_its_times(monkeypatch, capsys):
    """200 images are trained on in 2 s, by the usual loop in 4 s, and 20 are evaluated in 0.1 s."""
    task = training.Task(SMALL, 64, torch.float32, 2, 1.1)
    seconds = np.tile([2.0, 4.0, 0.1], (training.ROUNDS, 1))
    monkeypatch.setattr(training.Task, "of", lambda device, dataset: task)
    monkeypatch.setattr(training, "choose_devices", lambda: [CPU])
    monkeypatch.setattr(training.cifar10, "faults", lambda root: {})
    monkeypatch.setattr(training, "usual_epoch", lambda *arguments: 0.0)
    monkeypatch.setattr(training, "matmul_peak", lambda *arguments: 1e9)
    monkeypatch.setattr(timing, "in_turn", lambda device, actions, rounds: seconds)
    training.training()
    lines = dict(line[2:].split("  ", 1) for line in capsys.readouterr().out.splitlines()[2:])
    found = {name: text.strip() for name, text in lines.items()}
    assert found["an epoch's training"] == "500 s for 50,000 images, 100 images/s"
    assert found["its evaluation"] == "50 s for 10,000 images, 200 images/s"
    assert found["the usual loop"] == "1e+03 s for 50,000 images (float32, 2 loader processes)"
    assert found["ratio of the two"] == "2.00x (2.00 to 2.00; the target is 1.1x)"
    # A convolution of 3 x 3 takes two operations for each product, and a third pass does not need
    # the gradient with respect to the images.
    shapes = [(3, 2, 32), (2, 2, 32), (2, 4, 16), (4, 4, 16), (4, 8, 8), *[(8, 8, 8)] * 3]
    shapes += [(8, 16, 4), *[(16, 16, 4)] * 3, *[(16, 16, 2)] * 4]
    forward = [2 * 9 * i * o * side**2 for i, o, side in shapes]
    operations = 3 * (sum(forward) + 2 * 16 * 10) - forward[0]
    percent = 100 * (200 * operations / 2) / 1e9
    assert found["share of the peak"].startswith(f"{percent:.0f} %: ")


# --- the command


def test_an_unknown_name_is_one_line_and_status_2(capsys):
    assert command.main(["figure1", "figure9"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "lbp.bench: unknown benchmark 'figure9': choose from figure1, training, faults\n"
    )


def test_names_choose_the_benchmarks(monkeypatch, capsys):
    calls = []
    for name in command.BENCHMARKS:
        monkeypatch.setitem(command.BENCHMARKS, name, lambda name=name: calls.append(name))
    assert command.main(["training"]) == 0
    assert command.main([]) == 0
    assert calls == ["training", *command.BENCHMARKS]
    assert capsys.readouterr().out.count(f"PyTorch {torch.__version__}\n") == 2
