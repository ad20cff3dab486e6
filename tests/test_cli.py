"""The command line as a stranger uses it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from lbp import cifar10, cli, experiments, pool, reproduce, store
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.experiments import runs
from lbp.store import Store
from tests.test_store import record

TINY = [
    "--dataset=stand-in", "--width=0.03125", "--train-images=100", "--test-images=100",
    "--batch=50", "--device=cpu",
]  # fmt: skip
STAND_IN = {
    "width": 1 / 32, "dataset": "stand-in", "train_images": 50, "test_images": 20, "batch": 25,
    "epochs": 1,
}  # fmt: skip
SCALES = ("paper", "cpu")


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    """Keep the project's own store and checkpoints out of it."""
    folder = tmp_path / "results"
    monkeypatch.setattr(store.Store.__init__, "__defaults__", (folder,))
    defaults = (None, None, None, None, tmp_path / "checkpoints")
    assert len(reproduce.train_missing.__defaults__) == len(defaults)
    monkeypatch.setattr(reproduce.train_missing, "__defaults__", defaults)
    kwdefaults = reproduce.reproduce.__kwdefaults__ | {"checkpoints": tmp_path / "checkpoints"}
    monkeypatch.setattr(reproduce.reproduce, "__kwdefaults__", kwdefaults)
    return folder


def record_of(config):
    return record(**config.to_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --rule lin", "unknown rule 'lin': choose from bp, linear, as-printed"),
        ("train --activation gelu", "unknown activation 'gelu': choose from tanh"),
        ("train --lr -1", "lr = -1 is out of range: choose from 1e-08 to 100"),
        ("train --lr fast", "argument --lr: invalid float value: 'fast'"),
        ("train --l2 11", "l2 = 11 is out of range"),
        ("train --width 0", "width = 0 is out of range"),
        ("train --epochs 0", "epochs = 0 is out of range"),
        ("train --device tpu", "unknown device 'tpu'"),
        ("train --device cuda:9", "no device 'cuda:9' here"),
        ("train --device cpu --precision tf32", "precision 'tf32' needs a CUDA GPU"),
        ("train --jobs 2", "unrecognized arguments: --jobs 2"),
        ("train --minutes 0", "minutes = 0 is out of range"),
        ("train --colour red", "unrecognized arguments: --colour red"),
        ("train --data /nowhere", "no CIFAR-10 in /nowhere: run `lbp data`"),
        ("reproduce fig9", "unknown figure 'fig9': choose from recipe, fig2"),
        ("reproduce fig9", ", width, all"),
        ("reproduce fig2 --profile gpu", "unknown profile 'gpu': choose from recorded"),
        ("reproduce fig2 --profile cpu --data /nowhere", "no CIFAR-10 in /nowhere"),
        ("reproduce all --profile cpu --data /nowhere", "no CIFAR-10 in /nowhere"),
        ("reproduce fig2 --profile smoke --jobs 0", "jobs = 0 is out of range: choose from 1"),
        ("reproduce fig2 --profile cpu --data /nowhere --jobs 0", "jobs = 0 is out of range"),
        ("reproduce fig2 --profile smoke --jobs 65", "jobs = 65 is out of range"),
        ("reproduce fig2 --profile smoke --jobs two", "invalid int value: 'two'"),
        ("reproduce fig2 --profile smoke --minutes -1", "minutes = -1 is out of range"),
        ("reproduce fig2 --profile smoke --device cpu,cpu", "'cpu,cpu' names a device twice"),
        ("reproduce fig2 --profile smoke --device cpu,tpu", "unknown device 'tpu'"),
        ("reproduce", "the following arguments are required: figure"),
        ("dance", "invalid choice: 'dance'"),
        ("", "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("lbp: ")
    assert err.count("\n") == 1


def test_no_gpu_for_the_papers_scale(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert cli.main(["reproduce", "fig2", "--profile", "paper"]) == 2
    assert "profile 'paper' needs a CUDA GPU" in capsys.readouterr().err


def test_train_records_once(capsys, empty_store):
    arguments = ["train", *TINY, "--epochs", "2", "--no-batch-norm"]
    assert cli.main(arguments) == 0
    (path,) = empty_store.iterdir()
    written = path.read_bytes()
    first = capsys.readouterr().out
    assert re.search(r"test accuracy \d+\.\d % after 2 epochs; .*\.json", first)
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == first
    assert path.read_bytes() == written  # never computed again
    (record,) = Store(empty_store)
    assert record.config.batch_norm is False
    assert not list((empty_store.parent / "checkpoints").iterdir())


def test_a_run_in_pieces(capsys, empty_store):
    arguments = ["train", *TINY, "--epochs", "2", "--minutes", "1e-9"]
    assert cli.main(arguments) == 1
    assert "the same command goes on" in capsys.readouterr().out
    assert not empty_store.exists()


def test_a_failure_is_told_in_a_line(capsys, empty_store):
    arguments = ["train", *TINY, "--epochs", "2"]
    config = RunConfig(
        dataset="stand-in", width=1 / 32, train_images=100, test_images=100, batch=50, epochs=2
    )
    path = empty_store.parent / "checkpoints" / f"{config.key}.pt"
    path.parent.mkdir()
    path.write_bytes(b"no checkpoint")
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"lbp: the checkpoint {path} cannot be used")
    assert err.count("\n") == 1


def test_smoke_leaves_nothing_behind(capsys, empty_store, monkeypatch):
    monkeypatch.setitem(experiments.LONG, "smoke", STAND_IN)
    assert cli.main(["reproduce", "fig2", "--profile", "smoke", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "not CIFAR-10" in out
    for seed in (0, 1):
        assert re.search(rf"tanh, linear, seed {seed}: test accuracy .* after 1 epochs", out)
    assert list(empty_store.parent.iterdir()) == []


@pytest.fixture
def few(monkeypatch):
    """Two figures that share a run, at full scale by name only; fig2's are the more important."""
    a, b, c = (RunConfig(**STAND_IN, seed=seed) for seed in range(3))
    figures = {"recipe": {"a": a, "b": b}, "fig2": {"b": b, "c": c}}
    monkeypatch.setattr(experiments, "FIGURES", tuple(figures))
    monkeypatch.setattr(experiments, "runs", lambda figure, scale, pairs=None: figures[figure])
    monkeypatch.setattr(experiments, "by_importance", lambda scale, pairs=None: [c, b, a])
    monkeypatch.setattr(reproduce, "chosen_pairs", lambda store: None)
    return a, b, c


def test_reproduce_all_trains_each_run_once_in_the_order_of_importance(
    few, capsys, empty_store, monkeypatch
):
    a, b, c = few
    Store(empty_store).add(record_of(c))
    trained = []
    run = pool.run

    def spy(config, **options):
        trained.append(config)
        return run(config, **options)

    monkeypatch.setattr(pool, "run", spy)
    arguments = ["reproduce", "all", "--profile", "cpu", "--jobs", "1", "--device", "cpu"]
    assert cli.main(arguments) == 0
    assert trained == [b, a]
    out = capsys.readouterr().out
    assert out.index("recipe, cpu (") < out.index("fig2, cpu (")
    assert re.findall(r"^  (\w): (\w+)", out, re.M) == [
        ("a", "test"), ("b", "test"), ("b", "test"), ("c", "test")
    ]  # fmt: skip
    assert "c: test accuracy 40.0 % after 1 epochs, stale: by other numerical code" in out
    assert len(list(Store(empty_store))) == 3
    trained.clear()
    assert cli.main(arguments) == 0  # nothing is missing
    assert cli.main(["reproduce", "recipe", "--profile", "paper", "--device", "cpu"]) == 0
    assert trained == []
    assert cli.main([*arguments, "--jobs", "0"]) == 2
    assert cli.main([*arguments, "--minutes", "0"]) == 2


def test_a_figure_trains_its_own_runs_only(few, capsys, empty_store):
    _, b, c = few
    arguments = ["reproduce", "fig2", "--profile", "cpu", "--jobs", "1", "--device", "cpu"]
    assert cli.main(arguments) == 0
    assert {record.config for record in Store(empty_store)} == {b, c}
    capsys.readouterr()
    assert cli.main(["reproduce", "all"]) == 1  # at the profile "recorded", which trains nothing
    out = capsys.readouterr().out
    assert out.count("  a: missing") == 2  # at both scales
    assert out.count("  b: test accuracy") == 4


def test_reproduce_tells_what_failed_and_does_the_rest(few, capsys, empty_store, monkeypatch):
    a, b, c = few
    run = pool.run

    def fails(config, **options):
        if config == b:
            raise LbpError("the checkpoint is of no use")
        return run(config, **options)

    monkeypatch.setattr(pool, "run", fails)
    assert cli.main(["reproduce", "all", "--profile", "cpu", "--jobs", "1", "--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert out.endswith(f"failed: {b}: the checkpoint is of no use\n")
    assert out.count("failed: ") == 1
    assert out.count("  b: missing") == 2
    assert {record.config for record in Store(empty_store)} == {a, c}


def test_the_options_and_what_is_missing_reach_the_training(
    few, monkeypatch, tmp_path, empty_store
):
    a, b, c = few
    Store(empty_store).add(record_of(b))
    given = {}

    def spy(configs, **options):
        given.update(options, configs=configs)
        return []

    monkeypatch.setattr(pool, "train_all", spy)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    options = f"--profile paper --device cuda:1,cuda:0 --jobs 5 --minutes 3 --data {tmp_path}"
    assert cli.main(["reproduce", "all", *options.split()]) == 1
    assert [str(device) for device in given["devices"]] == ["cuda:1", "cuda:0"]
    assert (given["jobs"], given["minutes"], given["data_root"]) == (5, 3.0, tmp_path)
    assert given["configs"] == [c, a]
    assert cli.main(["reproduce", "all", "--profile", "paper"]) == 1
    assert (given["jobs"], given["minutes"]) == (None, None)
    assert [str(device) for device in given["devices"]] == ["cuda:0"]
    assert cli.main(["reproduce", "all", "--profile", "smoke"]) == 1
    assert given["configs"] == [c, b, a]  # those are stored elsewhere
    assert given["jobs"] == 1  # tiny runs are not worth the start of processes


def test_status_lists_every_run(capsys, empty_store):
    stale = record_of(runs("fig4", "paper")["tanh, bp, lr 0.0001, l2 0.01"])
    Store(empty_store).add(stale)
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    number = sum(len(runs(name, scale)) for name in experiments.FIGURES for scale in SCALES)
    entries = re.findall(r"^  (.+): (missing|recorded|stale), ", out, re.M)
    assert len(entries) == number
    for name in experiments.FIGURES:
        for scale in SCALES:
            assert f"\n{name}, {scale} (" in out
            for label in runs(name, scale):
                assert f"\n  {label}: " in out
    # 0.796 GFLOP times three for each of 50,000 images and once for each of 10,000, 1000 times;
    # six such runs of Figure 2 and nine of Figure 3.
    assert out.count("missing, 127 PFLOP of arithmetic") == 6 + 9
    assert "stale, by other numerical code, 0.0 min on a processor, 2 cores" in out
    others = [state for _, state in entries if state != "missing"]
    # The same run is also one of the recipes or of the larger steps, if it is.
    assert others == ["stale"] * sum(
        stale.config in runs(name, "paper").values() for name in experiments.FIGURES
    )


def test_damaged_record_is_named_by_the_command(empty_store, capsys):
    path = Store(empty_store).path(runs("fig2", "cpu")["tanh, bp, seed 0"])
    empty_store.mkdir()
    path.write_text("{")
    assert cli.main(["reproduce", "fig2"]) == 2
    assert f"the record {path} is damaged" in capsys.readouterr().err


def test_download_says_where_it_is_and_why_not(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setattr(cifar10._torchvision(), "__init__", fail)
    assert cli.main(["data", "--data", str(tmp_path)]) == 2
    assert "could not be downloaded to" in capsys.readouterr().err
    monkeypatch.setattr(cifar10, "faults", lambda root: {})
    assert cli.main(["data", "--data", str(tmp_path)]) == 0
    assert f"{tmp_path}/cifar-10-batches-py" in capsys.readouterr().out


@pytest.mark.slow
def test_as_a_process_no_traceback_and_status_2():
    command = Path(sys.executable).with_name("lbp")
    done = subprocess.run(
        [command, "train", "--rule", "lin"], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    help_text = subprocess.run([command, "train", "--help"], capture_output=True, text=True).stdout
    for word in ("--rule", "--lr", "--width", "--minutes", "--device", "--no-batch-norm"):
        assert word in help_text


@pytest.mark.slow
def test_training_needs_few_packages():
    """A rented GPU machine may have PyTorch and little else."""
    absent = ("scipy", "yaml", "matplotlib", "seaborn", "pandas", "papermill", "IPython")
    code = f"""
import sys
for name in {absent}:
    sys.modules[name] = None  # importing it fails
from lbp import cli
sys.exit(cli.main(["reproduce", "fig9"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("lbp: unknown figure 'fig9'")
