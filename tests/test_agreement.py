"""The distance of two records and its tolerance, against numbers by hand and draws of seeds."""

import random
from dataclasses import replace

import pytest

from lbp.experiments import agreement
from lbp.experiments.agreement import compare, distance
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from tests import toys

CONFIG = RunConfig(width=1 / 8)


def record(errors: list[float], seed: int = 0, diverged: bool = False) -> Record:
    return toys.record(replace(CONFIG, seed=seed), errors, diverged=diverged)


def test_the_distance_by_hand():
    first, second = record([60.0, 50.0, 40.0]), record([61.0, 52.0, 40.5, 10.0])
    assert distance(first, second, 2) == 2.0  # the last tenth, one epoch; the mean is 1.5
    assert distance(first, second, 3) == pytest.approx(3.5 / 3)  # the mean; the last one is 0.5


def test_a_forged_end_of_a_long_run_does_not_vanish_in_the_mean():
    first, second = [40.0] * 100, [40.0] * 90 + [20.0] * 10
    assert distance(record(first), record(second), 100) == 20.0


def test_without_enough_seeds_the_default_stands():
    runs = [record([60.0, 50.0]), record([70.0, 50.0], seed=1)]
    found = compare(record([61.0, 51.0]), runs[0], runs)
    assert (found.epochs, found.distance, found.seeds) == (2, 1.0, 0)
    assert found.tolerance == agreement.FACTOR * agreement.SEED_DISTANCE
    assert found.holds


def test_the_tolerance_comes_from_the_seeds():
    runs = [record([error] * 4, seed) for seed, error in enumerate([40.0, 42.0, 46.0])]
    short = record([90.0], seed=3)  # has not got as far
    found = compare(record([50.0] * 4), runs[0], [*runs, short])
    assert found.seeds == 3
    assert found.tolerance == pytest.approx(3 * (2 + 4 + 6) / 3)
    assert (found.distance, found.holds) == (10.0, True)
    assert not compare(record([52.5] * 4), runs[0], runs).holds


def test_seeds_that_agree_by_chance_leave_the_noise_of_the_test_set():
    runs = [record([90.0] * 3, seed) for seed in range(3)]
    assert compare(record([90.0] * 3), runs[0], runs).tolerance == 1.5
    few = replace(CONFIG, test_images=100)
    assert compare(toys.record(few, [90.0]), toys.record(few, [89.0]), []).tolerance == 15


def test_only_epochs_that_both_have_count_and_divergence_is_guessing():
    found = compare(record([60.0, 50.0]), record([60.0, 50.0, 1.0]), [])
    assert (found.epochs, found.distance) == (2, 0.0)
    diverged = record([60.0, 50.0], diverged=True)  # its second epoch counts as 10 %
    found = compare(record([60.0, 50.0, 40.0]), diverged, [])
    assert found.epochs == 3
    assert found.distance == pytest.approx(50.0)  # the last epoch: 60 % against 10 %
    assert compare(diverged, diverged, []).distance == 0


def test_another_device_rarely_differs_and_another_recipe_does():
    """Reruns that differ as seeds do pass; a shift of ten such standard deviations does not."""
    draw = random.Random(0)

    def run(mean: float, seed: int = 0) -> Record:
        return record([round(mean + draw.gauss(0, 2), 2) for _ in range(10)], seed)

    holds = {0.0: 0, 20.0: 0}
    for _ in range(50):
        runs = [run(50.0, seed) for seed in range(3)]
        for shift in holds:
            holds[shift] += compare(run(50.0 + shift), runs[0], runs).holds
    assert holds[0.0] >= 48
    assert holds[20.0] == 0


def test_the_statement_names_the_constants():
    for number in ("3 times", "2 points", "0.5 points with 10,000 test images"):
        assert number in agreement.STATEMENT
