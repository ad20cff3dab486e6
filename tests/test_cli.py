"""The command line as a stranger uses it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest

from lbp import cifar10, cli, reproduce, store
from lbp.store import Store

TINY = [
    "--dataset",
    "stand-in",
    "--width",
    "0.03125",
    "--train-images",
    "100",
    "--test-images",
    "100",
    "--batch",
    "50",
    "--device",
    "cpu",
]


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    """Keep the project's own store and checkpoints out of it."""
    folder = tmp_path / "results"
    monkeypatch.setattr(store.Store.__init__, "__defaults__", (folder,))
    monkeypatch.setattr(reproduce.train, "__defaults__", (None, None, tmp_path / "checkpoints"))
    kwdefaults = reproduce.reproduce.__kwdefaults__ | {"checkpoints": tmp_path / "checkpoints"}
    monkeypatch.setattr(reproduce.reproduce, "__kwdefaults__", kwdefaults)
    return folder


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
        ("train --minutes 0", "minutes = 0 is out of range"),
        ("train --colour red", "unrecognized arguments: --colour red"),
        ("train --data /nowhere", "no CIFAR-10 in /nowhere: run `lbp data`"),
        ("reproduce fig9", "unknown figure 'fig9': choose from fig2"),
        ("reproduce fig2 --profile gpu", "unknown profile 'gpu': choose from recorded"),
        ("reproduce fig2 --profile cpu --data /nowhere", "no CIFAR-10 in /nowhere"),
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


def test_smoke_leaves_nothing_behind(capsys, empty_store):
    assert cli.main(["reproduce", "fig2", "--profile", "smoke", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "not CIFAR-10" in out
    assert "tanh, linear: test accuracy" in out
    assert list(empty_store.parent.iterdir()) == []


def test_status_lists_every_run(capsys):
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert out.count("missing, ") == 4
    # 0.796 GFLOP times three for each of 50,000 images and once for each of 10,000, 1000 times.
    assert out.count("127 PFLOP of arithmetic") == 2


def test_damaged_record_is_named_by_the_command(empty_store, capsys):
    from lbp import experiments

    path = Store(empty_store).path(experiments.runs("fig2", "cpu")["tanh, bp"])
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
