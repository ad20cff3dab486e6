"""What the benchmarks compare is the same work, and what they count is counted right."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lbp import bench, bench_training, data, timing
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.models import build
from lbp.train import Trainer

CPU = torch.device("cpu")
SMALL = RunConfig(
    rule="bp", width=1 / 32, dataset="stand-in", train_images=200, test_images=20, batch=32
)


def flat(tensors) -> torch.Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])


@pytest.fixture(scope="module")
def split():
    return data.load(SMALL, Path(), CPU)


# --- the usual loop


def test_the_usual_loop_trains_as_the_trainer_does(split):
    trainer = Trainer(SMALL, split)
    torch.manual_seed(SMALL.seed)
    model = build(SMALL)
    start = flat(model.parameters())
    loss, _ = trainer.train_epoch()

    torch.manual_seed((SMALL.seed << 20) + 1)  # the trainer's first epoch
    order = torch.randperm(len(split.train)).tolist()
    loader = DataLoader(bench_training.PilImages(split.train), SMALL.batch, sampler=order)
    optimiser = torch.optim.SGD(model.parameters(), lr=SMALL.lr)
    assert bench_training.usual_epoch(model, loader, optimiser, CPU) == pytest.approx(
        loss, rel=1e-3
    )

    update = flat(model.parameters()) - start
    theirs = flat(trainer.model.parameters()) - start
    assert (theirs - update).norm() < 0.02 * update.norm()


def test_the_usual_loop_reads_the_same_images_in_its_processes_too(split):
    images = pickle.loads(pickle.dumps(bench_training.PilImages(split.train)))
    assert len(images) == len(split.train)
    expected = data.Normalise("channel")(split.train.images)
    for index in (0, 7, 199):
        image, label = images[index]
        torch.testing.assert_close(image, expected[index])
        assert label == split.train.labels[index]


# --- the share of the peak


@pytest.mark.parametrize(("width", "tolerance"), [(1, 0.005), (1 / 8, 0.05)])
def test_the_arithmetic_of_an_epoch_is_what_a_counter_finds(width, tolerance):
    config = replace(SMALL, width=width, train_images=50, held_out=30, epochs=7)
    with torch.device("meta"):
        model = build(config)
        x, y = torch.empty(20, 3, 32, 32), torch.empty(20, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        logits = model(x)
        forward = counter.get_total_flops()
        F.cross_entropy(logits, y).backward()
    assert forward == pytest.approx(20 * 0.796e9 * width**2, rel=tolerance)
    found = bench_training.epoch_flop(config)  # the 20 images that are not held out
    assert found == pytest.approx(counter.get_total_flops(), rel=tolerance)


def test_the_peak_counts_two_operations_for_each_product(monkeypatch):
    monkeypatch.setattr(bench_training, "PEAK_SECONDS", 0.01)
    monkeypatch.setattr(timing, "seconds", lambda act, device: act().sum() * 0 + 0.5)
    assert bench_training.matmul_peak(10, torch.float32, CPU) == pytest.approx(4000)


# --- several runs at once


@pytest.mark.parametrize("rule", ["bp", "linear"])
def test_batched_weights_take_the_step_of_separate_networks(split, rule):
    config = replace(SMALL, rule=rule)
    torch.manual_seed(0)
    models = [build(config).train() for _ in range(2)]
    networks = bench_training.BatchedNetworks(models, config, split.train)
    before = [w.detach().clone() for w in networks.parameters.values()]
    chosen = torch.randint(len(split.train), (2, config.batch))
    losses = networks.step(chosen)
    moved = [w.detach() - b for w, b in zip(networks.parameters.values(), before, strict=True)]
    for k, model in enumerate(models):
        batch = split.train.take(chosen[k])
        loss = F.cross_entropy(model(data.Normalise("channel")(batch.images)), batch.labels)
        assert losses[k].item() == pytest.approx(loss.item(), rel=1e-5)
        gradient = flat(torch.autograd.grad(loss, list(model.parameters())))
        update = flat(m[k] for m in moved)
        assert (update + config.lr * gradient).norm() < 0.01 * update.norm()
        for name, statistic in model.named_buffers():
            torch.testing.assert_close(networks.buffers[name][k], statistic, rtol=1e-4, atol=1e-5)


def test_an_epoch_of_batched_weights_learns(split):
    torch.manual_seed(0)
    config = replace(SMALL, activation="relu", lr=0.05, batch=50)
    with bench_training.batched_weights(config, Trainer(config, split), 2) as way:
        assert way.images == 400
        epochs = [sum(way.epoch()) for _ in range(8)]
    assert sum(epochs[-2:]) < sum(epochs[:2]) - 0.5


@pytest.mark.slow
def test_processes_train_on_call(tmp_path):
    with bench_training.processes(SMALL, CPU, tmp_path, 2, 1) as way:
        assert way.images == 400
        way.epoch()
        way.epoch()


@pytest.mark.slow
def test_a_failing_process_does_not_keep_the_others_waiting(tmp_path, capfd):
    config = replace(SMALL, dataset="cifar10")
    with (
        pytest.raises(LbpError, match="a process of the benchmark failed"),
        bench_training.processes(config, CPU, tmp_path, 1, 1),
    ):
        pass
    assert f"no CIFAR-10 in {tmp_path}" in capfd.readouterr().err


# --- the command


def test_an_unknown_name_is_one_line_and_status_2(capsys):
    assert bench.main(["figure1", "figure9"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "lbp.bench: unknown benchmark 'figure9': choose from figure1, training\n"
    )


def test_names_choose_the_benchmarks(monkeypatch, capsys):
    calls = []
    for name in bench.BENCHMARKS:
        monkeypatch.setitem(bench.BENCHMARKS, name, lambda name=name: calls.append(name))
    assert bench.main(["training"]) == 0
    assert bench.main([]) == 0
    assert calls == ["training", "figure1", "training"]
    assert capsys.readouterr().out.count(f"PyTorch {torch.__version__}\n") == 2


def test_a_benchmark_of_one_thread_leaves_the_others_theirs():
    torch.set_num_threads(2)
    with bench.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
