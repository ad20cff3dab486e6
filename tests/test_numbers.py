"""Numbers of records, by hand."""

import math

import numpy as np
import pytest

from lbp.experiments import numbers
from lbp.experiments.paper import PaperCurve
from lbp.lab.config import RunConfig
from tests import toys

CONFIG = RunConfig()


def test_a_diverged_run_counts_as_guessing_from_the_epoch_on_in_which_it_did():
    record = toys.record(CONFIG, [40.0, 30.0, 20.0], diverged=True)
    assert numbers.accuracies(record, 5).tolist() == [60, 70, 10, 10, 10]
    assert numbers.accuracies(record, 2).tolist() == [60, 70]
    assert numbers.final_accuracy(record) == 10
    assert numbers.final_accuracy(record, 100) == 10
    assert numbers.mean_accuracy(record, 2, 4) == 30
    assert math.isnan(numbers.epoch_to_epoch_sd(record, 8))


def test_epochs_that_are_not_trained_are_not_made_up():
    with pytest.raises(ValueError, match="has 2 epochs, not 3"):
        numbers.accuracies(toys.record(CONFIG, [40.0, 30.0]), 3)


def test_runs_are_compared_over_the_epochs_that_all_have():
    long, short = toys.record(CONFIG, [40.0] * 7), toys.record(CONFIG, [40.0] * 4)
    diverged = toys.record(CONFIG, [40.0, 90.0], diverged=True)
    assert numbers.common_epochs([long, short]) == 4
    assert numbers.common_epochs([long, diverged]) == 7
    assert numbers.common_epochs([diverged]) == 2
    assert numbers.common_epochs([]) == 0


@pytest.mark.parametrize(
    ("epochs", "window"),
    [(1, (1, 1)), (9, (9, 9)), (19, (19, 19)), (20, (19, 20)), (100, (91, 100)), (105, (96, 105))],
)
def test_the_last_tenth_has_one_epoch_at_least(epochs, window):
    assert numbers.last_tenth(epochs) == window


def test_the_final_accuracy_is_the_mean_over_the_last_tenth():
    record = toys.record(CONFIG, [90.0] * 18 + [20.0, 10.0, 50.0])
    assert numbers.final_accuracy(record, 20) == 85
    assert numbers.final_accuracy(record) == pytest.approx(70)


def test_a_slow_rise_is_no_variance_and_jumps_are():
    jumping = toys.record(CONFIG, [50.0, 52.0] * 5)
    rising = toys.record(CONFIG, [60.0 - n for n in range(10)])
    assert numbers.epoch_to_epoch_sd(jumping, 10) == pytest.approx(math.sqrt(2))
    assert numbers.epoch_to_epoch_sd(rising, 10) == pytest.approx(math.sqrt(0.5))
    # Independent values of a standard deviation of 3 have differences of 3 sqrt(2).
    noise = np.random.default_rng(0).normal(50, 3, 4000)
    noisy = toys.record(CONFIG, list(noise))
    assert numbers.epoch_to_epoch_sd(noisy, 4000) == pytest.approx(3, rel=0.05)
    assert math.isnan(numbers.epoch_to_epoch_sd(jumping, 3))
    later = toys.record(CONFIG, [*jumping.test_accuracy, 90.0], diverged=True)
    assert numbers.epoch_to_epoch_sd(later, len(jumping)) == pytest.approx(
        numbers.epoch_to_epoch_sd(jumping, len(jumping))
    )
    assert math.isnan(numbers.epoch_to_epoch_sd(later, len(later)))


def test_the_distance_is_taken_where_the_curve_was_digitised():
    record = toys.record(CONFIG, [90.0, 80.0, 70.0, 60.0])  # 10, 20, 30 and 40 %
    curve = PaperCurve([1, 2, 4, 50], [0.0] * 4, [13.0, 20.0, 34.0, 99.0], [0.0] * 4)
    assert numbers.distance(record, curve) == pytest.approx((3 + 0 + 6) / 3)
    # If the paper counts from 0, its 1 and 2 are the second and third epoch.
    assert numbers.distance(record, curve, shift=1) == pytest.approx((7 + 10) / 2)
    late = PaperCurve([50], [0.0], [1.0], [0.0])
    assert math.isnan(numbers.distance(record, late))
    diverged = toys.record(CONFIG, [90.0, 90.0], diverged=True)
    assert numbers.distance(diverged, late) == pytest.approx(9)
    assert numbers.distance(diverged, late, shift=2) == pytest.approx(9)
    assert numbers.distance(record, curve, epochs=2) == pytest.approx((3 + 0) / 2)
    assert math.isnan(numbers.distance(diverged, late, epochs=49))


def test_no_epoch_of_the_run_stands_for_one_before_the_first():
    record = toys.record(CONFIG, [90.0, 80.0, 40.0])  # 10, 20 and 60 %
    curve = PaperCurve([0, 1, 2], [0.0] * 3, [50.0, 13.0, 20.0], [0.0] * 3)
    assert numbers.distance(record, curve) == pytest.approx((3 + 0) / 2)
    assert numbers.distance(record, curve, shift=1) == pytest.approx((40 + 7 + 40) / 3)


def test_the_interval_is_students():
    found = numbers.interval([1.0, 2.0, 3.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t table, 2 degrees
    assert str(found) == "2.00 ± 2.48 (3 seeds)"
    assert str(numbers.interval([1.5])) == "1.50 (one seed)"


def test_only_seeds_that_all_have_are_compared():
    names = [("tanh", "bp"), ("tanh", "linear")]

    def run(rule, seed):
        return toys.record(RunConfig(rule=rule, seed=seed), [50.0 + seed])

    found = numbers.by_name([run("bp", 2), run("bp", 0), run("linear", 0), run("linear", 1)], names)
    assert {name: [r.config.seed for r in rs] for name, rs in found.items()} == {
        ("tanh", "bp"): [0],
        ("tanh", "linear"): [0],
    }
    assert numbers.by_name([run("bp", 0), run("linear", 1)], names) == {}
    assert numbers.by_name([], names) == {}


def test_what_is_missing_is_a_dash():
    assert [numbers.number(v) for v in (None, math.nan, 1.26)] == ["-", "-", "1.3"]
