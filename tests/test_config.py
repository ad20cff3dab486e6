"""A run's description: what it accepts, and its name."""

import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbp.config import RunConfig
from lbp.errors import LbpError


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rule", "lin", "unknown rule 'lin': choose from bp, linear, as-printed"),
        ("activation", "swish", "unknown activation 'swish': choose from tanh"),
        ("model", "resnet", "unknown model 'resnet': choose from vgg19"),
        ("precision", "fp8", "unknown precision 'fp8': choose from float32, tf32, bf16"),
        ("lr", -1.0, "lr = -1 is out of range: choose from 1e-08 to 100"),
        ("lr", float("nan"), "lr = nan is out of range"),
        ("l2", -0.1, "l2 = -0.1 is out of range"),
        ("width", 0.0, "width = 0 is out of range"),
        ("epochs", 0, "epochs = 0 is out of range: choose from 1"),
        ("epochs", 2.5, "epochs = 2.5: a value of type int is needed"),
        ("batch_norm", 1, "batch_norm = 1: a value of type bool is needed"),
        ("lr", "0.1", "lr = '0.1': a value of type float is needed"),
        ("train_images", 60_000, "train_images = 60000 is out of range"),
        ("train_images", 101, "train_images = 101: a multiple of 10 is needed"),
        ("held_out", 50_000, "held_out = 50000 is out of range"),
    ],
)
def test_wrong_values_are_told_in_one_line(field, value, message):
    with pytest.raises(LbpError) as error:
        RunConfig(**{field: value})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_last_batch_of_one_image_is_refused():
    with pytest.raises(LbpError, match="batch = 9 leaves one image"):
        RunConfig(train_images=100, batch=9)
    RunConfig(train_images=100, batch=9, batch_norm=False)
    RunConfig(train_images=100, held_out=10, batch=9)


OTHER = {  # than the defaults
    "activation": "relu", "rule": "bp", "width": 0.5, "batch_norm": False, "init": "he",
    "head": "mlp", "dataset": "stand-in", "train_images": 100, "held_out": 10,
    "test_images": 100, "normalisation": "unit", "augment": True, "lr": 0.5, "l2": 0.5,
    "momentum": 0.5, "batch": 64, "epochs": 5, "seed": 5, "precision": "bf16",
}  # fmt: skip


def test_every_field_decides_the_name():
    only_choice = {"model"}
    assert OTHER.keys() | only_choice == {field.name for field in fields(RunConfig)}
    keys = {replace(RunConfig(), **{name: value}).key for name, value in OTHER.items()}
    assert len(keys | {RunConfig().key}) == len(OTHER) + 1


def test_equal_runs_have_equal_names():
    assert RunConfig(l2=0).key == RunConfig(l2=0.0).key
    code = "from lbp.config import RunConfig; print(RunConfig().key)"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == RunConfig().key  # not Python's own, salted hash


@given(
    lr=st.floats(1e-8, 100),
    l2=st.floats(0, 10),
    seed=st.integers(0, 2**31 - 1),
    rule=st.sampled_from(["bp", "linear", "as-printed"]),
)
def test_a_config_survives_the_way_through_plain_data(lr, l2, seed, rule):
    config = RunConfig(lr=lr, l2=l2, seed=seed, rule=rule)
    assert RunConfig.from_dict(config.to_dict()) == config


def test_missing_and_unknown_fields_are_told():
    data = RunConfig().to_dict()
    with pytest.raises(LbpError, match="unknown field of a run 'colour': choose from"):
        RunConfig.from_dict(data | {"colour": 1})
    del data["lr"]
    with pytest.raises(LbpError, match="lacks lr"):
        RunConfig.from_dict(data)


def test_steps_per_epoch_are_the_papers():
    assert RunConfig().steps_per_epoch == 391
    assert RunConfig(held_out=5000).steps_per_epoch == 352


def test_runs_of_one_program_differ_in_lr_l2_seed_and_length_only():
    config = RunConfig(lr=0.5, l2=0.25, seed=3, epochs=7, momentum=0.9, head="mlp")
    assert replace(config, lr=0.1, l2=0.0, seed=1, epochs=2).program == config.program
    for field in fields(RunConfig):
        alike = field.name in ("lr", "l2", "seed", "epochs", "model")  # there is one model
        if not alike:
            other = OTHER[field.name]
            assert replace(RunConfig(), **{field.name: other}).program != RunConfig().program
