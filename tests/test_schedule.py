"""Learning rate and momentum over the epochs, against the source's solver files."""

import math

import pytest

from lbp.lab.config import RunConfig
from lbp.lab.schedule import SCHEDULES, lr_in, momentum_in


def test_constant_is_constant():
    config = RunConfig(lr=0.3, momentum=0.9)
    assert {config.lr_in(epoch) for epoch in range(1, 999)} == {0.3}
    assert {config.momentum_in(epoch) for epoch in range(1, 999)} == {0.9}


@pytest.mark.parametrize(
    ("schedule", "lr", "rates"),
    [
        ("apl-cifar10", 0.01, {1: 0.01, 120: 0.01, 121: 1e-3, 161: 1e-4, 171: 1e-5, 180: 1e-5}),
        ("apl-cifar100", 0.001, {160: 0.001, 161: 5e-4, 201: 1e-4, 241: 1e-5, 300: 1e-5}),
        ("apl-nin", 0.05, {400: 0.05, 401: 0.01, 601: 1e-3, 621: 1e-4, 641: 1e-5, 660: 1e-5}),
    ],
)
def test_the_learning_rates_are_the_sources(schedule, lr, rates):
    assert {epoch: lr_in(epoch, lr, 0, schedule) for epoch in rates} == pytest.approx(rates)


@pytest.mark.parametrize(("schedule", "first"), [("apl-cifar10", 0.5), ("apl-nin", 0.1)])
def test_momentum_rises_as_in_the_sources_solver(schedule, first):
    steps = 500  # of an epoch
    for epoch in (1, 2, 15, 180):
        expected = 0.9 - (0.9 - first) * math.exp(-steps * (epoch - 1) / 10_000)
        assert momentum_in(epoch, 0.9, schedule) == pytest.approx(expected)
    assert momentum_in(1, 0.0, schedule) == 0


def test_a_drop_and_a_schedule_multiply():
    assert lr_in(121, 1.0, 100, "apl-cifar10") == pytest.approx(0.01)


def test_every_schedule_names_its_factors_in_order():
    for schedule in SCHEDULES.values():
        assert list(schedule.factors) == sorted(schedule.factors)
