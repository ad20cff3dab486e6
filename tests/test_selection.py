"""The choice of the best run, by hand, and the pairs of the long runs that follow from it."""

import math
from dataclasses import replace

import pytest

from lbp import experiments
from lbp.config import RunConfig
from lbp.provenance import fingerprint
from lbp.record import Record
from lbp.selection import choose, chosen_pairs, final_accuracy
from lbp.store import Store
from tests.test_store import LAYERS, PROVENANCE, epoch

HALVES = ("test_error_half_0", "test_error_half_1")
FRESH = replace(PROVENANCE, fingerprint=fingerprint())


def record(first: list[float], second: list[float], *, seed: int = 0, epochs: int = 20) -> Record:
    """Return a run whose last errors on the halves of the test set are these; 0 before."""
    early = epochs - len(first)
    errors = [(0.0, 0.0)] * early + list(zip(first, second, strict=True))
    rows = [
        replace(epoch(number), test_error=(a + b) / 2, test_error_half_0=a, test_error_half_1=b)
        for number, (a, b) in enumerate(errors, 1)
    ]
    return Record(RunConfig(epochs=epochs, seed=seed), "finished", rows, [LAYERS], FRESH)


def diverged(errors: list[float], *, seed: int) -> Record:
    rows = [
        replace(epoch(number), test_error=error, test_error_half_0=error, test_error_half_1=error)
        for number, error in enumerate(errors, 1)
    ]
    rows[-1] = replace(rows[-1], train_loss=math.nan)
    return Record(RunConfig(epochs=20, seed=seed), "diverged", rows, [LAYERS], FRESH)


# Accuracies at the end:   half 0  half 1  whole
A = record([10, 20], [30, 30], seed=1)  # 85      70      77.5
B = record([20, 20], [20, 24], seed=2)  # 80      78      79
C = record([50, 50], [40, 40], seed=3)  # 50      60      55


def test_the_final_accuracy_is_the_mean_over_the_last_tenth():
    assert [final_accuracy(r) for r in (A, B, C)] == [77.5, 79, 55]
    assert [final_accuracy(A, half) for half in HALVES] == [85, 70]
    short = record([40, 10, 30], [40, 10, 30], epochs=5)
    assert final_accuracy(short) == 70  # one epoch at least
    long = record([20.0] * 9 + [10.0], [20.0] * 9 + [10.0], epochs=109)
    assert final_accuracy(long) == 81  # the last ten


@pytest.mark.parametrize("records", [(A, B, C), (C, B, A), (B, A, C)])
def test_the_choices_by_hand(records):
    choice = choose(records)
    assert choice.on_test is B
    assert choice.reported == 79
    assert choice.on_halves == (A, B)
    assert choice.judged == (70 + 80) / 2
    assert choice.leak == 4


def test_where_one_run_is_best_everywhere_nothing_leaks():
    choice = choose([C, B])
    assert choice.on_test is B
    assert choice.on_halves == (B, B)
    assert choice.judged == choice.reported == 79
    assert choice.leak == 0
    assert choose([C]).on_test is C


def test_a_diverged_run_counts_as_its_last_epoch():
    late = diverged([1, 1, 1, 1, 90], seed=4)
    assert final_accuracy(late) == 10
    choice = choose([late, C])
    assert choice.on_test is C
    assert choice.on_halves == (C, C)
    many = diverged([2.0] * 19 + [90], seed=5)
    assert final_accuracy(many) == 10  # not the mean of two epochs
    only = choose([late])
    assert (only.reported, only.judged) == (10, 10)


# --- the pairs of the long runs

BEST = {  # one for each curve, none of them inferred
    ("tanh", "bp"): (1e-4, 1e-3),
    ("tanh", "linear"): (1e-5, 1e-6),
    ("relu", "bp"): (1e-4, 1e-1),
    ("relu", "linear"): (1e-3, 1e-2),
}


def grid(figure: str) -> list[RunConfig]:
    return list(experiments.runs(figure, "paper").values())


def recorded(config: RunConfig, error: float | None = None, provenance=FRESH) -> Record:
    """Return a run with an error of 20 % if it is the best of its curve, else of 30 %."""
    best = BEST[config.activation, config.rule] == (config.lr, config.l2)
    if error is None:
        error = 20.0 if best else 30.0
    rows = [replace(epoch(number), test_error=error) for number in range(1, config.epochs + 1)]
    if not best:  # better at first
        rows[0] = replace(rows[0], test_error=1.0)
    return Record(config, "finished", rows, [LAYERS], provenance)


def test_without_records_the_pairs_are_the_inferred_ones(tmp_path):
    assert chosen_pairs(Store(tmp_path)) == experiments.INFERRED_PAIRS


def test_a_whole_grid_decides_its_own_activation_alone(tmp_path):
    store = Store(tmp_path)
    for config in grid("fig4"):
        store.add(recorded(config))
    tanh = {name: pair for name, pair in BEST.items() if name[0] == "tanh"}
    assert chosen_pairs(store) == experiments.INFERRED_PAIRS | tanh
    for config in grid("relu-grid"):
        store.add(recorded(config))
    assert chosen_pairs(store) == BEST
    found = experiments.runs("fig3", "paper", chosen_pairs(store))
    assert (found["relu, bp, seed 1"].lr, found["relu, bp, seed 1"].l2) == (1e-4, 1e-1)


@pytest.mark.parametrize("lost", [("linear", 1e-5, 1e-6), ("linear", 1e-3, 1e-1)])
def test_one_missing_run_leaves_its_rule_to_inference(tmp_path, lost):
    store = Store(tmp_path)
    for config in grid("fig4"):
        if (config.rule, config.lr, config.l2) != lost:
            store.add(recorded(config))
    found = chosen_pairs(store)
    assert found["tanh", "linear"] == experiments.INFERRED_PAIRS["tanh", "linear"]
    assert found["tanh", "bp"] == BEST["tanh", "bp"]


def test_stale_records_decide_nothing(tmp_path):
    store = Store(tmp_path)
    for config in grid("fig4"):
        stale = (config.rule, config.lr, config.l2) == ("bp", 1e-3, 1e-1)
        store.add(recorded(config, provenance=PROVENANCE if stale else FRESH))
    found = chosen_pairs(store)
    assert found["tanh", "bp"] == experiments.INFERRED_PAIRS["tanh", "bp"]


def test_reduced_runs_decide_nothing(tmp_path):
    store = Store(tmp_path)
    for config in experiments.runs("fig4", "cpu").values():
        store.add(recorded(config))
    assert chosen_pairs(store) == experiments.INFERRED_PAIRS


def test_a_tie_goes_to_the_first_and_a_diverged_run_does_not_win(tmp_path):
    store = Store(tmp_path)
    for config in grid("fig4"):
        if (config.lr, config.l2) == BEST["tanh", config.rule]:
            row = replace(epoch(1), test_error=1.0)
            rows = [row, replace(row, epoch=2, test_error=90.0, train_loss=math.nan)]
            store.add(Record(config, "diverged", rows, [LAYERS], FRESH))
        else:
            store.add(recorded(config, error=30.0))
    first = next(c for c in grid("fig4") if c.rule == "bp")
    assert chosen_pairs(store)["tanh", "bp"] == (first.lr, first.l2)
