"""What is said of the paper's figures, against their digitised curves."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest

from lbp.experiments import claims, paper, reading
from lbp.experiments.results import Results
from lbp.experiments.scales import NARROW, PAPER
from lbp.lab import paths
from lbp.lab.config import RunConfig
from lbp.lab.run import Goal
from tests import toys


def read(figure, curve, panel=""):
    """Return a curve's rows of the file of digitised curves by epoch: low, mid, high."""
    rows = list(csv.reader(paths.paper_curves().read_text().splitlines()))
    return {
        int(row[3]): [float(number) for number in row[4:]]
        for row in rows
        if row[:3] == [str(figure), panel, curve]
    }


def last_tenth(curve, column=1):
    return np.mean([row[column] for epoch, row in curve.items() if epoch >= 900])


def test_what_the_curves_of_figure_2_do_after_100_epochs():
    bp, linear = (read(2, f"tanh, {rule}") for rule in ("bp", "linear"))
    text = reading.after_100()
    for curve in (bp, linear):
        assert f"by {last_tenth(curve) - curve[100][1]:+.1f} points" in text
    assert f"{linear[100][1] - bp[100][1]:.1f} points ahead at epoch 100" in text
    assert f"{last_tenth(linear) - last_tenth(bp):.1f} points at the end" in text


def test_where_the_two_figures_seem_to_disagree():
    bp, linear = (read(2, f"tanh, {rule}") for rule in ("bp", "linear"))
    text = reading.two_figures()
    lead = [bp[e][1] - linear[e][1] for e in (10, 20, 30)]
    assert f"Backprop is {min(lead):.1f} to {max(lead):.1f} points ahead in Figure 2" in text
    low = [read(4, f"tanh, {rule}, all l2", "lr 1e-5") for rule in ("bp", "linear")]
    gaps = [low[1][e][1] - low[0][e][1] for e in (10, 20, 30)]
    assert f"{min(gaps):.1f} to {max(gaps):.1f} points at 1e-5" in text
    assert "the only larger one of the grid is 1e-3" in text


def test_the_papers_numbers_in_claims_are_those_of_its_curves():
    written = {claim.id: claim.paper for claim in claims.load()}
    tanh = read(2, "tanh, bp")
    relu, linear = read(3, "relu, bp", "left"), read(3, "relu, linear", "right")
    gap = last_tenth(relu) - last_tenth(tanh)
    assert written["fig3-tanh-bp"] == f"{gap:.0f} points below"
    tops = [max(row[2] for row in curve.values()) for curve in (linear, relu)]
    assert written["fig3-relu-linear"] == f"top {tops[0]:.1f} % against {tops[1]:.1f} %"
    bands = [
        np.mean([row[2] - row[0] for epoch, row in curve.items() if epoch > 500])
        for curve in (relu, linear)
    ]
    assert (
        written["fig3-relu-linear-variance"] == f"bands of {bands[0]:.0f} and {bands[1]:.0f} points"
    )


def runs(shift, epochs, noise=0.0):
    """Return results on the paper's four curves, if its epoch e is this book's e + shift."""
    goals, records = [], {}
    for place, (lr, rule) in enumerate(
        (lr, rule) for lr in (1e-4, 1e-5) for rule in ("bp", "linear")
    ):
        config = RunConfig(rule=rule, lr=lr, l2=0.1)
        at = np.arange(1, epochs + 1) - shift
        accuracy = reading.at(paper.sweep_curve(lr, 0.1, rule), at) + noise * (-1) ** place
        goals.append(Goal(config, 100))
        records[config] = toys.record(config, list(100 - accuracy))
    return Results("fig4_sweep", PAPER, goals, records, {})


@pytest.mark.parametrize("shift", [0, 1])
def test_the_first_epoch_of_the_axis_is_told_where_it_can_be(shift):
    results = runs(shift, 6)
    gains = reading.shift_gains(results.of())
    assert len(gains) == 4
    assert {gain > 0 for gain in gains} == {shift == 1}
    assert f"Counting from {1 - shift} fits better." in reading.first_epoch([results])


def test_the_first_epoch_is_compared_at_the_same_points():
    """Two epochs: the paper's first is this book's first or second."""
    config = RunConfig(rule="bp", lr=1e-4, l2=0.1)
    mid = read(4, "tanh, bp, all l2", "lr 1e-4")[1][1]
    record = toys.record(config, [100 - mid - 3, 100 - mid - 5])
    assert reading.shift_gains([record]) == pytest.approx([3 - 5])
    text = reading.first_epoch(
        [Results("fig4_sweep", PAPER, [Goal(config, 9)], {config: record}, {})]
    )
    assert "cannot be told" in text  # a single curve leaves no interval
    assert "2.0 points further away" in text


def test_where_the_curves_disagree_the_first_epoch_cannot_be_told():
    early, late = runs(0, 6), runs(1, 6)
    mixed = {c: (early if c.rule == "bp" else late).records[c] for c in early.records}
    assert "cannot be told" in reading.first_epoch([replace(early, records=mixed)])


def test_runs_that_cannot_tell_the_first_epoch_do_not_count():
    short, narrow = runs(0, 1), replace(runs(0, 6), scale=NARROW)
    for found in ([], [short], [narrow]):
        text = reading.first_epoch(found)
        assert text.endswith("no run at full scale has two epochs.")
    config = RunConfig(rule="bp", lr=1e-4, l2=0.1)
    assert reading.shift_gains([toys.record(config, [50.0, 90.0, 90.0], diverged=True)]) == []
    assert reading.shift_gains([toys.record(replace(config, lr=1e-3), [50.0] * 5)]) == []
    assert not re.search(r"\bnan\b", reading.first_epoch([short]))
