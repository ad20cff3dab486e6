"""A run's description: what it accepts, its defaults and its name."""

import hashlib
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbp.errors import LbpError
from lbp.lab.config import RunConfig

DEFAULTS = {
    "activation": "tanh",
    "rule": "linear",
    "hinges": 5,
    "hinges_per": "unit",
    "hinges_learned": True,
    "model": "vgg19",
    "width": 1.0,
    "batch_norm": True,
    "batch_norm_scale": "one",
    "init": "default",
    "head": "linear",
    "dataset": "cifar10",
    "train_images": 50_000,
    "test_images": 10_000,
    "normalisation": "channel",
    "augment": False,
    "lr": 0.001,
    "schedule": "constant",
    "l2": 0.0,
    "unit_l2": 0.0,
    "momentum": 0.0,
    "batch": 128,
    "seed": 0,
    "precision": "float32",
}
OTHER = {
    "activation": "relu",
    "rule": "bp",
    "hinges": 2,
    "hinges_per": "channel",
    "hinges_learned": False,
    "model": "resnet18",
    "width": 0.5,
    "batch_norm": False,
    "batch_norm_scale": "uniform",
    "init": "he",
    "head": "mlp",
    "dataset": "stand-in",
    "train_images": 100,
    "test_images": 100,
    "normalisation": "unit",
    "augment": True,
    "lr": 0.5,
    "schedule": "apl-nin",
    "l2": 0.5,
    "unit_l2": 0.5,
    "momentum": 0.5,
    "batch": 64,
    "seed": 5,
    "precision": "bf16",
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rule", "lin", "unknown rule 'lin': choose from bp, linear, as-printed"),
        ("activation", "swish", "unknown activation 'swish': choose from tanh"),
        ("model", "resnet", "unknown model 'resnet': choose from vgg19, resnet18"),
        ("precision", "tf32", "unknown precision 'tf32': choose from float32, bf16"),
        ("batch_norm_scale", 1, "unknown batch_norm_scale 1: choose from one, uniform"),
        ("lr", -1.0, "lr = -1 is out of range: choose from 1e-8 to 100"),
        ("lr", float("nan"), "lr = nan is out of range"),
        ("lr", "0.1", "lr = '0.1': a value of type float is needed"),
        ("l2", -0.1, "l2 = -0.1 is out of range"),
        ("momentum", 1.0, "momentum = 1 is out of range"),
        ("width", 0.0, "width = 0 is out of range"),
        ("batch_norm", 1, "batch_norm = 1: a value of type bool is needed"),
        ("hinges", -1, "hinges = -1 is out of range: choose from 0 to 100"),
        ("hinges_per", "layer", "unknown hinges_per 'layer': choose from unit, channel"),
        ("schedule", "cosine", "unknown schedule 'cosine': choose from constant, apl-cifar10"),
        ("seed", 2.5, "seed = 2.5: a value of type int is needed"),
        ("seed", True, "seed = True: a value of type int is needed"),
        ("train_images", 60_000, "train_images = 60000 is out of range"),
        ("train_images", 101, "train_images = 101: a multiple of 10 is needed"),
        ("test_images", 10, "test_images = 10 is out of range"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(field, value, message):
    with pytest.raises(LbpError) as error:
        RunConfig(**{field: value})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["epochs", "held_out"])
def test_a_run_has_neither_a_length_nor_held_out_images(field):
    with pytest.raises(LbpError, match=f"unknown field of a run '{field}': choose from"):
        RunConfig.from_differing({field: 5})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train_images", 50, "train_images = 50 is out of range: choose from 100 to 50000"),
        ("test_images", 100, "test_images = 100 is out of range: choose from 200 to 10000"),
        ("train_images", 110, "train_images = 110: a multiple of 100 is needed"),
    ],
)
def test_images_of_a_hundred_classes_come_in_hundreds(field, value, message):
    with pytest.raises(LbpError, match=message):
        RunConfig(dataset="cifar100", **{field: value})
    config = RunConfig(dataset="stand-in-100", train_images=300, test_images=200)
    assert config.classes == 100
    assert RunConfig().classes == RunConfig(dataset="stand-in").classes == 10


def test_a_last_batch_of_one_image_is_refused():
    for images, batch in ((100, 9), (100, 1)):
        with pytest.raises(LbpError, match=f"batch = {batch} leaves one image"):
            RunConfig(model="binarized_resnet", train_images=images, batch=batch)
        RunConfig(train_images=images, batch=batch)  # its layers have several values for each image
    RunConfig(model="binarized_resnet", train_images=110, batch=9)


def test_the_defaults_never_change():
    assert asdict(RunConfig()) == DEFAULTS


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "{}"),
        (
            {"rule": "bp", "lr": 1e-4, "l2": 0.1, "width": 0.125, "augment": True, "seed": 2},
            '{"augment": true, "l2": 0.1, "lr": 0.0001, "rule": "bp", "seed": 2, "width": 0.125}',
        ),
    ],
)
def test_the_names_of_runs_never_change(changes, text):
    assert RunConfig(**changes).key == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_every_field_decides_the_name():
    assert OTHER.keys() == DEFAULTS.keys()
    keys = {RunConfig(**{name: value}).key for name, value in OTHER.items()}
    assert len(keys | {RunConfig().key}) == len(OTHER) + 1


def test_equal_runs_have_equal_names():
    assert RunConfig(l2=0) == RunConfig(l2=0.0)
    assert RunConfig(width=2).key == RunConfig(width=2.0).key
    assert RunConfig(lr=0.1, seed=1).key == RunConfig(seed=1, lr=0.1).key


@given(
    width=st.floats(1 / 64, 4),
    lr=st.floats(1e-8, 100),
    l2=st.floats(0, 10),
    seed=st.integers(0, 2**31 - 1),
    rule=st.sampled_from(["bp", "linear", "as-printed"]),
    augment=st.booleans(),
)
def test_a_config_survives_the_way_through_the_fields_that_differ(**values):
    config = RunConfig(**values)
    differing = config.differing()
    assert differing == {name: v for name, v in values.items() if v != DEFAULTS[name]}
    assert RunConfig.from_differing(differing) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"colour": 1}, "unknown field of a run 'colour': choose from"),
        ({"lr": 0.001}, "lr = 0.001 is the default: leave it out"),
        ({"width": 1}, "width = 1 is the default: leave it out"),
        ({"seed": 3, "rule": "lin"}, "unknown rule 'lin'"),
    ],
)
def test_fields_that_name_no_run_are_told(data, message):
    with pytest.raises(LbpError, match=message):
        RunConfig.from_differing(data)


@pytest.mark.parametrize("field", DEFAULTS)
def test_runs_of_one_program_differ_in_lr_l2_and_seed_only(field):
    changed = replace(RunConfig(), **{field: OTHER[field]})
    assert (changed.program == RunConfig().program) == (field in ("lr", "l2", "seed"))


def test_a_run_is_told_by_what_is_particular_to_it():
    assert str(RunConfig()) == "vgg19 tanh linear, lr 1e-3, l2 0, seed 0"
    config = RunConfig(activation="relu", rule="bp", lr=1e-4, width=0.125, head="mlp")
    assert str(config) == "vgg19 relu bp, lr 1e-4, l2 0, seed 0, width 0.125, head mlp"
