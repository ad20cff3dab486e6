"""The command line as a stranger uses it, and what it calls."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from lbp import cli, experiments
from lbp.errors import LbpError
from lbp.experiments import EXPERIMENTS, reproduce
from lbp.experiments.scales import NARROW, PAPER
from lbp.lab import cifar10, pool
from lbp.lab.config import RunConfig
from lbp.lab.run import Goal
from lbp.lab.store import Store
from tests import toys

TINY = [
    "--dataset=stand-in", "--width=0.03125", "--train-images=50", "--test-images=20", "--batch=25",
    "--device=cpu",
]  # fmt: skip
STAND_IN = {
    "width": 1 / 32, "dataset": "stand-in", "train_images": 50, "test_images": 20, "batch": 25,
}  # fmt: skip
FIG2 = "fig2_vgg19_tanh"


@pytest.fixture
def store(clone):
    return Store(clone / "data" / "results")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --rule lin", "unknown rule 'lin': choose from bp, linear, as-printed"),
        ("train --activation swish", "unknown activation 'swish': choose from tanh"),
        (
            "train --batch-norm-scale two",
            "unknown batch_norm_scale 'two': choose from one, uniform",
        ),
        ("train --lr -1", "lr = -1 is out of range: choose from 1e-8 to 100"),
        ("train --lr fast", "argument --lr: invalid float value: 'fast'"),
        ("train --l2 11", "l2 = 11 is out of range"),
        ("train --width 0", "width = 0 is out of range"),
        ("train --epochs 0", "epochs = 0 is out of range: choose from 1 to 100000"),
        ("train --device tpu", "unknown device 'tpu'"),
        ("train --device cuda:9", "no device 'cuda:9' here"),
        ("train --precision tf32", "unknown precision 'tf32': choose from float32, bf16"),
        ("train --jobs 2", "unrecognized arguments: --jobs 2"),
        ("train --minutes 0", "minutes = 0 is out of range"),
        ("train --colour red", "unrecognized arguments: --colour red (see lbp train --help)"),
        ("train --no-batch-norm --batch-norm-scale uniform", "batch_norm_scale = 'uniform' has no"),
        ("train --data /nowhere", "no CIFAR-10 in /nowhere: run `lbp data`"),
        ("reproduce fig9", "unknown experiment 'fig9': choose from recipe, fig4_sweep"),
        ("reproduce fig9", ", apl_units, premise, all"),
        (f"reproduce {FIG2} --profile cpu", "unknown profile 'cpu': choose from recorded"),
        (f"reproduce {FIG2} --profile narrow --data /nowhere", "the folder /nowhere of CIFAR-10"),
        ("reproduce all --epochs 0", "epochs = 0 is out of range: choose from 1 to 100000"),
        ("reproduce all --epochs 100001", "epochs = 100001 is out of range"),
        ("reproduce all --epochs two", "invalid int value: 'two'"),
        # Wrong values are refused even where nothing is to be trained.
        (f"reproduce {FIG2} --jobs 0", "jobs = 0 is out of range: choose from 1 to 64"),
        (f"reproduce {FIG2} --minutes 0", "minutes = 0 is out of range"),
        (f"reproduce {FIG2} --device foo", "unknown device 'foo'"),
        (f"reproduce {FIG2} --data /nowhere", "the folder /nowhere of CIFAR-10 does not exist"),
        (f"reproduce {FIG2} --profile smoke --jobs 65", "jobs = 65 is out of range"),
        (f"reproduce {FIG2} --profile smoke --device cpu,cpu", "'cpu,cpu' names a device twice"),
        ("reproduce", "the following arguments are required: experiment"),
        ("status fig9", "unknown experiment 'fig9'"),
        ("cost --profile cpu", "unknown profile 'cpu': choose from recorded"),
        ("results add /nowhere/runs.zip", "there is no such file"),
        ("results pack runs.zip", "there are no records to pack"),
        ("--project /nowhere status", "/nowhere is not a clone of this project"),
        ("--project= status", "--project is empty: give the folder of a clone"),
        ("--project ~nosuchuser status", "'~nosuchuser' names a home folder that does not exist"),
        (f"reproduce {FIG2} --data ~nosuchuser", "names a home folder that does not exist"),
        ("dance", "invalid choice: 'dance'"),
        ("", "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(clone, arguments, message, capsys):
    assert cli.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("lbp: ")
    assert err.count("\n") == 1


def test_a_run_grows_and_is_never_trained_twice(capsys, store):
    arguments = ["train", *TINY, "--no-batch-norm", "--epochs"]
    assert cli.main([*arguments, "2"]) == 0
    (path,) = store.folder.glob("*.json")
    written = path.read_bytes()
    first = capsys.readouterr().out
    assert re.search(r"test accuracy \d+\.\d % after epoch 2; .*\.json", first)
    assert cli.main([*arguments, "2"]) == 0
    assert capsys.readouterr().out == first
    assert path.read_bytes() == written
    assert cli.main([*arguments, "3"]) == 0
    (record,) = store
    assert len(record) == 3
    assert record.config.batch_norm is False
    assert [(s.first, s.last) for s in record.stretches] == [(1, 2), (3, 3)]


def test_a_command_without_time_says_that_it_goes_on(capsys, store):
    assert cli.main(["train", *TINY, "--epochs", "2", "--minutes", "1e-9"]) == 1
    assert "no epoch is finished; the same command begins again" in capsys.readouterr().out
    assert list(store) == []


def test_a_stale_record_is_no_success(capsys, store):
    assert cli.main(["train", *TINY, "--epochs", "1"]) == 0
    (record,) = store
    old = [replace(stretch, fingerprint="0" * 16) for stretch in record.stretches]
    store.path(record.config).write_text(replace(record, stretches=old).to_json())
    assert cli.main(["train", *TINY, "--epochs", "1"]) == 2
    assert "was made by other numerical code: delete it to train" in capsys.readouterr().err


def test_a_field_that_a_run_does_not_use_is_told_before_its_data_are_missed(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("LBP_DATA", str(tmp_path))
    assert cli.main(["train", "--unit-l2", "5"]) == 2
    assert "unit_l2 = 5.0: the activation tanh has no such field" in capsys.readouterr().err
    fixed = ["--activation", "apl", "--no-hinges-learned", "--unit-l2", "5"]
    assert cli.main(["train", *fixed]) == 2
    assert "hinges that are not learned have no weight decay" in capsys.readouterr().err
    assert cli.main(["train", "--model", "cnn", "--init", "he"]) == 2
    assert "init = 'he': the network cnn has only activation, width" in capsys.readouterr().err


def test_one_run_takes_one_device(capsys):
    assert cli.main(["train", *TINY, "--device", "cpu,cpu"]) == 2
    assert "device 'cpu,cpu'" in capsys.readouterr().err


def test_what_a_command_does_not_do_is_said(capsys, tmp_path):
    assert cli.main(["reproduce", "width", "--minutes", "5"]) in (0, 1)
    assert "nothing is trained with --profile recorded" in capsys.readouterr().out
    assert cli.main(["reproduce", "recipe", "--profile", "narrow"]) == 0
    assert "this experiment has no runs at this scale" in capsys.readouterr().out
    assert cli.main(["cost", "--device", "cpu"]) == 0
    assert "nothing is measured with --profile recorded" in capsys.readouterr().out
    assert cli.main(["results", "check", str(tmp_path)]) == 2
    assert f"no record is in {tmp_path}" in capsys.readouterr().err


def test_a_failure_is_told_in_a_line(capsys, clone):
    config = RunConfig(**STAND_IN)
    path = clone / "data" / "checkpoints" / f"{config.key}.pt"
    path.parent.mkdir()
    path.write_bytes(b"no checkpoint")
    assert cli.main(["train", *TINY, "--epochs", "2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"lbp: the checkpoint {path} cannot be used")
    assert err.count("\n") == 1


def test_smoke_leaves_nothing_behind(capsys, clone, store):
    before = sorted(clone.rglob("*"))
    assert cli.main(["reproduce", "width", "--profile", "smoke", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "not CIFAR-10" in out
    assert out.count("2 of 2 epochs, test accuracy") == 4
    assert sorted(clone.rglob("*")) == before


@pytest.fixture
def few(monkeypatch):
    """Two experiments that share a run, at full scale by name only."""
    a, b, c = (RunConfig(**STAND_IN, seed=seed) for seed in range(3))

    class Toy:
        def __init__(self, title, *goals):
            self.TITLE = self.PLACE = title
            self._goals = list(goals)

        def goals(self, scale):
            return self._goals

    few = {
        "first": Toy("First", Goal(a, 1), Goal(b, 1)),
        "second": Toy("Second", Goal(b, 2), Goal(c, 1)),
    }
    for module in (experiments, reproduce):
        monkeypatch.setattr(module, "EXPERIMENTS", few)
    listed = [Goal(c, 1), Goal(b, 1), Goal(a, 1), Goal(b, 2)]
    monkeypatch.setattr(reproduce, "work_list", lambda scale: listed)
    return a, b, c


ALONE = ["--profile", "narrow", "--jobs", "1", "--device", "cpu"]


def test_reproduce_all_goes_down_the_work_list(few, capsys, store, monkeypatch):
    a, b, c = few
    store.put(toys.record(c, [60.0], fingerprint="0" * 16))
    trained = []
    run = pool.run

    def spy(goal, **options):
        trained.append((goal.config, goal.epochs))
        return run(goal, **options)

    monkeypatch.setattr(pool, "run", spy)
    assert cli.main(["reproduce", "all", *ALONE]) == 1  # c is stale
    assert trained == [(b, 1), (a, 1), (b, 2)]
    out = capsys.readouterr().out
    assert out.index("first, narrow") < out.index("second, narrow")
    assert f"{b}: 2 of 2 epochs, test accuracy" in out
    assert f"{c}: stale, by other numerical code" in out
    assert {r.config: len(r) for r in store} == {a: 1, b: 2, c: 1}
    trained.clear()
    cli.main(["reproduce", "all", *ALONE])  # nothing is missing
    assert trained == []


def test_epochs_say_how_far_runs_are_trained(few, capsys, store):
    _, b, c = few
    assert cli.main(["reproduce", "second", *ALONE, "--epochs", "1"]) == 0
    assert {r.config: len(r) for r in store} == {b: 1, c: 1}
    assert f"{b}: 1 of 2 epochs" in capsys.readouterr().out
    assert cli.main(["reproduce", "second"]) == 1  # at the profile "recorded", which trains nothing
    assert cli.main(["reproduce", "second", *ALONE]) == 0
    assert {r.config: len(r) for r in store} == {b: 2, c: 1}


def test_reproduce_tells_what_failed_and_does_the_rest(few, capsys, store, monkeypatch):
    a, b, _ = few
    run = pool.run

    def fails(goal, **options):
        if goal.config == b:
            raise LbpError("the checkpoint is of no use")
        return run(goal, **options)

    monkeypatch.setattr(pool, "run", fails)
    assert cli.main(["reproduce", "first", *ALONE]) == 1
    out = capsys.readouterr().out
    assert out.endswith(f"failed: {b}: the checkpoint is of no use\n")
    assert out.count("failed: ") == 1
    assert {record.config for record in store} == {a}


def test_the_options_and_what_is_missing_reach_the_training(few, monkeypatch, tmp_path, store):
    a, b, c = few
    store.put(toys.record(a, [60.0]))
    given = {}

    def spy(goals, place, **options):
        given.update(options, goals=goals, place=place)
        return []

    monkeypatch.setattr(pool, "train_all", spy)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    options = (
        f"--profile paper --device cuda:1,cuda:0 --jobs 5 --minutes 3 --data {tmp_path} --eager"
    )
    assert cli.main(["reproduce", "all", *options.split()]) == 1
    assert [str(device) for device in given["devices"]] == ["cuda:1", "cuda:0"]
    assert (given["jobs"], given["minutes"]) == (5, 3.0)
    assert (given["place"].data_root, given["place"].eager) == (tmp_path, True)
    assert given["goals"] == [Goal(c, 1), Goal(b, 1), Goal(b, 2)]
    assert cli.main(["reproduce", "all", "--profile", "paper"]) == 1
    assert (given["jobs"], given["minutes"], given["place"].eager) == (None, None, False)
    assert [str(device) for device in given["devices"]] == ["cuda:0"]
    assert cli.main(["reproduce", "all", "--profile", "smoke"]) == 1
    assert given["goals"] == [Goal(c, 1), Goal(b, 1), Goal(a, 1), Goal(b, 2)]  # stored elsewhere
    assert given["jobs"] == 1  # tiny runs are not worth the start of processes


def test_status_says_how_far_each_experiment_is(capsys, store):
    goals = EXPERIMENTS["precision"].goals(NARROW)
    store.put(toys.record(goals[0].config, [60.0] * goals[0].epochs))
    store.put(toys.record(goals[1].config, [60.0] * 3))
    store.put(toys.record(goals[2].config, [60.0, 90.0], diverged=True))
    store.put(toys.record(goals[3].config, [60.0], fingerprint="0" * 16))
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "precision, narrow: 3 of 12 runs begun, 2 complete, 1 stale" in out
    assert "precision, paper: 0 of 12 runs begun, 0 complete\n" in out
    assert all(f"\n{stem}, paper: " in f"\n{out}" for stem in EXPERIMENTS)
    assert cli.main(["status", "precision"]) == 0
    out = capsys.readouterr().out
    assert out.count(NARROW.note) == out.count(PAPER.note) == 1
    assert f"  {goals[1].config}: 3 of 100 epochs, test accuracy 40.0 %" in out
    assert f"  {goals[2].config}: diverged in epoch 2" in out
    assert f"  {goals[3].config}: stale, by other numerical code" in out
    assert f"  {goals[4].config}: not yet run" in out


def test_a_damaged_record_is_named_by_every_command(clone, store, capsys):
    path = store.path(EXPERIMENTS[FIG2].goals(NARROW)[0].config)
    path.parent.mkdir()
    path.write_text("{")
    for command in (f"reproduce {FIG2}", "status", "claims", "results pack x.zip"):
        assert cli.main(command.split()) == 2
        err = capsys.readouterr().err
        assert f"the record {path} is damaged" in err
        assert err.count("\n") == 1
    path.write_text('{"config": {}, "outcome": "finished"}')
    assert cli.main(["status"]) == 2
    assert "it is of an older form, from before runs could grow" in capsys.readouterr().err


def test_records_move_between_machines(clone, store, tmp_path, capsys):
    config = EXPERIMENTS[FIG2].goals(NARROW)[0].config
    store.put(toys.record(config, [60.0, 55.0]))
    archive = tmp_path / "runs.zip"
    assert cli.main(["results", "pack", str(archive)]) == 0
    assert capsys.readouterr().out == f"packed 1 record into {archive}\n"
    assert cli.main(["results", "add", str(archive)]) == 0
    assert "0 added, 1 known already" in capsys.readouterr().out
    store.path(config).unlink()
    store.put(toys.record(config, [61.0]))
    assert cli.main(["results", "add", str(archive)]) == 2
    out, err = capsys.readouterr()
    assert "0 added" in out
    assert (
        f"1 records differ from those here in the epochs that both have, which stay: {config}"
        in err
    )
    assert cli.main(["results", "add", "--replace", str(archive)]) == 0
    (record,) = store
    assert len(record) == 2


def test_download_says_where_it_is_and_why_not(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setattr(cifar10._torchvision(), "__init__", fail)
    assert cli.main(["data", "--data", str(tmp_path)]) == 2
    assert "could not be downloaded to" in capsys.readouterr().err
    monkeypatch.setattr(cifar10, "faults", lambda root, dataset: {})
    assert cli.main(["data", "--data", str(tmp_path)]) == 0
    assert f"{tmp_path}/cifar-10-batches-py" in capsys.readouterr().out
    assert cli.main(["data", "--dataset", "cifar100", "--data", str(tmp_path)]) == 0
    assert f"CIFAR-100 is whole, in {tmp_path}/cifar-100-python" in capsys.readouterr().out
    assert cli.main(["data", "--dataset", "mnist"]) == 2
    assert "unknown dataset 'mnist': choose from cifar10, cifar100" in capsys.readouterr().err


def test_a_shorter_goal_is_reached_by_a_longer_record(store):
    goal = EXPERIMENTS[FIG2].goals(NARROW)[0]
    store.put(toys.record(goal.config, [60.0] * 5))
    (results,) = [r for r in reproduce.reproduce(FIG2, "recorded") if r.scale is NARROW]
    assert not results.reached(goal)
    assert results.reached(replace(goal, epochs=5))
    assert [len(r) for r in results.of(rule=goal.config.rule)] == [5]


def run_lbp(*arguments: str, code: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, after some code."""
    code = f"{code}\nimport sys\nfrom lbp import cli\nsys.exit(cli.main({list(arguments)}))"
    environment = {k: v for k, v in os.environ.items() if k != "LBP_PROJECT"} | env
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.slow
def test_as_a_process_no_traceback_and_status_2():
    command = Path(sys.executable).with_name("lbp")
    done = subprocess.run([command, "train", "--rule", "lin"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    help_text = subprocess.run([command, "train", "--help"], capture_output=True, text=True).stdout
    for word in ("--rule", "--lr", "--width", "--minutes", "--device", "--no-batch-norm"):
        assert word in help_text


@pytest.mark.slow
def test_an_interrupt_while_pytorch_is_imported_is_one_line():
    """That takes seconds, so Ctrl-C often comes then."""
    code = """
import sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
"""
    done = run_lbp("status", code=code)
    assert done.stderr == "lbp: stopped\n"
    assert done.returncode == 130


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "lbp.cli", "status"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "lbp: No space left on device\n"


@pytest.mark.slow
def test_a_terminal_without_the_letters_is_no_error(clone):
    done = run_lbp(
        "results", "pack", "größe-€.zip", PYTHONIOENCODING="ascii", LBP_PROJECT=str(clone)
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lbp: there are no records to pack")
    done = run_lbp(
        "results", "add", "größe-€.zip", PYTHONIOENCODING="ascii", LBP_PROJECT=str(clone)
    )
    assert done.returncode == 2
    assert r"gr\xf6\xdfe-\u20ac.zip" in done.stderr


@pytest.mark.slow
def test_training_needs_few_packages():
    """A rented GPU machine may have PyTorch and little else."""
    absent = "scipy", "yaml", "seaborn", "pandas", "papermill", "IPython", "myst_nb", "markdown_it"
    code = f"import sys\nfor name in {absent}: sys.modules[name] = None"
    done = run_lbp("reproduce", "fig9", code=code)
    assert done.returncode == 2
    assert done.stderr.startswith("lbp: unknown experiment 'fig9'")
    done = run_lbp("claims", code=code)
    assert done.returncode == 2
    assert done.stderr == "lbp: this command needs yaml: pip install '.[book]' in a clone\n"
    code += "\nsys.modules['tqdm'] = None"
    for command in ("status", "train", "data"):
        done = run_lbp(command, code=code)
        assert done.returncode == 2
        assert done.stderr == "lbp: lbp.lab needs tqdm: pip install '.[lab]' in a clone\n"


@pytest.mark.slow
def test_with_the_library_alone_help_works():
    absent = ("numpy", "torchvision", "tqdm", "filelock", "matplotlib", "yaml")
    done = run_lbp("--help", code=f"import sys\nfor name in {absent}: sys.modules[name] = None")
    assert done.returncode == 0
    assert "reproduce" in done.stdout
