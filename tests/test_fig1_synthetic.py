"""Figure 1: its numbers from networks that can be worked out by hand, its figures, its words."""

import re
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
from torch import nn

from lbp.experiments import fig1_synthetic as fig1
from lbp.lab.small_networks import (
    Optimisation,
    Trained,
    cubic_problem,
    initial_parameters,
    network,
    pre_activations,
    predict,
)

mpl.use("Agg")

ROOT = Path(__file__).resolve().parents[1]
CUBIC = [1, -3, -1, 1]


def networks(activation, sizes, converged, diverged=(False, False, False)):
    """Return networks without weights: a layer's pre-activations are its bias at every point.

    Args:
        activation: Their activation function.
        sizes: A network's biases in its four hidden layers, for each network.
        converged: Which have.
        diverged: Which have.
    """
    rows = [
        torch.cat(
            [torch.zeros(50), torch.full((50,), row[0])]
            + [part for b in row[1:] for part in (torch.zeros(2500), torch.full((50,), b))]
            + [torch.zeros(51)]
        )
        for row in sizes
    ]
    count = len(rows)
    return Trained(
        activation,
        np.array(converged),
        np.array(diverged),
        np.arange(10, 10 + count),
        np.zeros(count),
        torch.stack(rows).double(),
    )


@pytest.fixture
def toy():
    """Three networks under each rule, of which the first two converged and the third did not."""
    two = (True, True, False)
    bp = [(1, 2, 3, 4), (-1, -2, -3, -4), (7, 7, 7, 7)]
    linear = [(2, 2, 9, 4), (-2, -2, -9, -4), (50, 50, 50, 50)]
    return fig1.Figure1(
        problem=cubic_problem(),
        relu={
            "bp": networks("relu", bp, two),
            "linear": networks("relu", linear, (True, False, False)),
            "as-printed": networks("relu", bp, (False, False, False), (True, False, False)),
        },
        relu_mse={
            "bp": np.array([1.0, 3.0, 100.0]),
            "linear": np.array([5.0, 1.0, 100.0]),
            "as-printed": np.array([1.0, 1.0, 1.0]),
        },
        sigmoid={
            "bp": networks("sigmoid", bp, two),
            "linear": networks("sigmoid", linear, two, (False, False, True)),
        },
    )


@pytest.fixture(autouse=True)
def _close():
    yield
    fig1.plt.close("all")


# --- what is computed


def test_each_network_is_trained_as_it_is_said(toy):
    """Against ordinary modules and PyTorch's own Adam, some steps from the same start."""
    result, starts = fig1.compute(inits=2, seed=3, max_steps=4), initial_parameters(2, seed=3)
    assert list(result.relu) == ["bp", "linear", "as-printed"]
    assert set(result.sigmoid) == {"bp", "linear"}
    x, y = result.problem.x[:, None], result.problem.y[:, None]
    assert torch.equal(result.problem.y, cubic_problem(3).y)
    for activation, lr, found in (("relu", 1e-3, result.relu), ("sigmoid", 1e-2, result.sigmoid)):
        for rule, trained in found.items():
            model = network(starts[1], activation, rule)
            optimiser = torch.optim.Adam(model.parameters(), lr=lr)
            for _ in range(4):
                optimiser.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimiser.step()
            expected = nn.utils.parameters_to_vector(model.parameters()).detach()
            torch.testing.assert_close(trained.parameters[1], expected, rtol=1e-8, atol=1e-11)
            assert trained.steps.tolist() == [4, 4]


def test_combinations_stand_beside_their_networks(monkeypatch):
    """Only the second network from He's initialisation converges, with momentum and linear."""
    inits, silent = 2, np.full(6, False)
    alone = np.arange(6) == 3  # two of each of default, he, xavier

    def train(problem, batches):
        starts = [initial_parameters(inits, scheme, 5) for scheme in ("default", "he", "xavier")]
        for batch in batches:
            assert torch.equal(batch.start, torch.cat(starts))
        return [
            Trained(
                batch.activation,
                alone if (o := batch.optimisation) == wanted and batch.rule == "linear" else silent,
                np.arange(6) == 4 if o.optimiser == "adam" else silent,
                np.arange(6),
                np.zeros(6),
                torch.zeros(6, 7801).double(),  # the output is 0 everywhere
            )
            for batch in batches
        ]

    wanted = Optimisation("momentum", 1e-3, max_steps=77)
    monkeypatch.setattr(fig1, "train", train)
    rows = fig1.combinations(inits, seed=5, max_steps=77)
    assert len({(row.optimiser, row.scheme, row.rule) for row in rows}) == len(rows) == 3 * 3 * 2
    assert all(row.networks == 2 for row in rows)
    (row,) = [row for row in rows if row.converged]
    assert (row.optimiser, row.lr, row.scheme, row.rule) == ("momentum", 1e-3, "he", "linear")
    assert (row.converged, row.steps) == (1, 3)
    assert row.mse == pytest.approx(np.mean(np.polyval(CUBIC, np.linspace(-1, 3, 401)) ** 2))
    assert all(np.isnan(r.mse) and np.isnan(r.steps) for r in rows if r is not row)
    assert {(r.optimiser, r.scheme) for r in rows if r.diverged} == {("adam", "xavier")}


# --- its measures


def test_measures_count_what_they_say(toy):
    found = fig1.measures(toy)
    assert found["inits"] == 3
    assert (found["relu_bp_converged"], found["relu_linear_converged"]) == (2, 1)
    assert (found["relu_as_printed_converged"], found["relu_as_printed_diverged"]) == (0, 1)
    assert found["converged_min"] == 1
    assert (found["relu_bp_steps"], found["relu_linear_steps"]) == (10.5, 10)
    assert (found["relu_bp_mse"], found["relu_linear_mse"]) == (2, 5)
    assert found["mse_ratio"] == 2.5
    assert found["relu_linear_better"] == 0  # only the first converged under both
    assert (found["sigmoid_linear_converged"], found["sigmoid_linear_diverged"]) == (2, 1)


def test_the_better_rule_is_counted_where_both_converge(toy):
    relu = {rule: replace(t, converged=np.array([True] * 3)) for rule, t in toy.relu.items()}
    found = fig1.measures(replace(toy, relu=relu))
    assert found["relu_linear_better"] == pytest.approx(1 / 3)
    assert found["as_printed_mse_ratio"] == pytest.approx(1 / 3)


def test_measures_of_pre_activations(toy):
    found = fig1.measures(toy)
    # Sizes 1, 2, 3, 4 in the converged networks under bp, and 7 in the other one.
    assert (found["sigmoid_bp_median"], found["sigmoid_bp_mean"]) == (2.5, 2.5)
    assert (found["sigmoid_bp_q99"], found["sigmoid_bp_all_q99"]) == (4, 7)
    assert found["sigmoid_bp_all_median"] == 3.5
    assert found["sigmoid_bp_all_mean"] == pytest.approx((2 * 10 + 28) / 12)
    # Sizes 2, 2, 9, 4 under linear, where the other one diverged.
    assert found["sigmoid_linear_median"] == found["sigmoid_linear_all_median"] == 3
    assert found["sigmoid_preactivation_ratio"] == pytest.approx(3 / 2.5)
    assert found["sigmoid_preactivation_ratio_mean"] == pytest.approx(4.25 / 2.5)
    assert found["sigmoid_preactivation_ratio_all_mean"] == pytest.approx(4.25 / 4)
    ratios = [found[f"sigmoid_preactivation_ratio_layer{k}_median"] for k in (1, 2, 3, 4)]
    assert ratios == [2, 1, 3, 1]
    assert found["sigmoid_preactivation_ratio_min_layer"] == 1
    # Where |z| > 2 ln(3 + sqrt 10) = 3.64: one layer of four, and the network with 7.
    assert found["sigmoid_bp_saturated"] == 0.25
    assert found["sigmoid_bp_all_saturated"] == 0.5
    assert found["relu_preactivation_ratio_layer3_median"] == 3


def test_measures_without_converged_networks_are_not_a_number(toy):
    none = np.array([False] * 3)
    relu = {rule: replace(trained, converged=none) for rule, trained in toy.relu.items()}
    sigmoid = {rule: replace(trained, converged=none) for rule, trained in toy.sigmoid.items()}
    found = fig1.measures(replace(toy, relu=relu, sigmoid=sigmoid))
    assert found["relu_bp_converged"] == 0
    for name in ("mse_ratio", "sigmoid_preactivation_ratio", "relu_linear_better", "relu_bp_steps"):
        assert np.isnan(found[name])
    assert not np.isnan(found["sigmoid_preactivation_ratio_all_mean"])


# --- its drawing


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_figure_shows_the_networks(toy):
    result = replace(toy, relu=fig1.compute(inits=3, max_steps=2).relu)
    result.relu["bp"].converged[:] = [False, True, True]
    result.relu["linear"].converged[:] = [True, False, True]
    fits, mse, histogram = fig1.draw(result).axes
    assert legend(fits) == ["without noise", "Backprop", "Linear Backprop", "training points"]
    target, bp, linear, points = fits.lines
    np.testing.assert_allclose(target.get_ydata(), np.polyval(CUBIC, target.get_xdata()), atol=1e-9)
    np.testing.assert_allclose(points.get_xdata(), [-1, 0, 1, 2, 3], atol=1e-12)
    np.testing.assert_allclose(points.get_ydata(), result.problem.y)
    for line, rule in ((bp, "bp"), (linear, "linear")):  # the last start has converged under both
        model = network(result.relu[rule].parameters[2], "relu", rule)
        expected = model(result.problem.grid[:, None])[:, 0].detach()
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-9)

    labels = [label.get_text() for label in mse.get_xticklabels()]
    assert labels == ["Backprop\n2/3 converged", "Linear Backprop\n2/3 converged"]
    assert [sorted(line.get_ydata()) for line in mse.lines] == [[3, 100], [5, 100]]
    bars = [segment[0, 1] for bars in mse.collections for segment in bars.get_segments()]
    assert bars == [51.5, 52.5]

    assert legend(histogram) == [
        "Backprop, 2/3 converged",
        "Linear Backprop, 2/3 converged",
        "Linear Backprop, all 2",
    ]


def test_the_histogram_counts_what_lies_beyond_its_limits(toy):
    far = networks("sigmoid", [(1, 1, 1, 1000)] * 3, [True] * 3)
    _, _, axes = fig1.draw(replace(toy, sigmoid={"bp": far, "linear": far})).axes
    (filled, *_) = axes.patches
    x, y = filled.get_xy().T
    assert (x.min(), x.max()) == (-40, 40)
    assert y[(x > 38) & (x < 40.1)].max() == pytest.approx(0.25)
    assert y.max() == pytest.approx(0.75)


def test_fits_that_did_not_converge_are_named(toy):
    fits, mse = fig1.draw_as_printed(toy).axes
    assert "as printed, not converged" in legend(fits)
    labels = [label.get_text() for label in mse.get_xticklabels()]
    assert labels[2] == "as printed\n0/3 converged"


def test_a_figure_without_converged_networks_can_be_drawn(toy):
    none = np.array([False] * 3)
    relu = {rule: replace(trained, converged=none) for rule, trained in toy.relu.items()}
    sigmoid = {rule: replace(trained, converged=none) for rule, trained in toy.sigmoid.items()}
    empty = replace(toy, relu=relu, sigmoid=sigmoid)
    fig1.draw(empty).canvas.draw()
    fig1.draw_as_printed(empty).canvas.draw()


# --- its tables, and the numbers in the notebook's prose


def row(rule, converged, diverged=0, steps=np.nan, mse=np.nan):
    return fig1.Combination("adam", 1e-3, "he", rule, 6, converged, diverged, steps, mse)


def test_tables_show_the_measures(toy):
    relu = fig1.relu_table(toy)
    assert relu.rows == [
        ["Backprop", "2 of 3", "10", "2.000"],
        ["Linear Backprop", "1 of 3", "10", "5.000"],
    ]
    sigmoid = fig1.sigmoid_table(toy)
    assert sigmoid.rows[0] == ["Backprop", "2 of 3 converged", "2.50", "2.5", "4", "25%"]
    assert sigmoid.rows[3][:3] == ["Linear Backprop", "all", "3.00"]
    layers = fig1.layers_table(toy)
    assert layers.rows[0] == ["sigmoid", "2.00", "1.00", "3.00", "1.00"]
    silent = fig1.silent_table([row("bp", 6, 0, 259.0, 0.204), row("linear", 0, 2)])
    assert silent.rows == [
        ["Adam", "1e-3", "He's", "Backprop", "6 of 6", "0", "259", "0.20"],
        ["Adam", "1e-3", "He's", "Linear Backprop", "0 of 6", "2", "-", "-"],
    ]
    for table in (relu, sigmoid, layers, silent):
        assert {len(cells) for cells in table.rows} == {len(table.columns)}


def test_texts_are_what_the_notebook_shows(toy):
    rows = [row("bp", 6), row("linear", 0), row("bp", 6), row("linear", 3)]
    texts = fig1.texts(toy, rows)
    notebook = nbformat.read(ROOT / "notebooks" / "fig1_synthetic.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert set(re.findall(r"\{glue:text\}`(\w+)`", prose)) == set(texts)
    assert texts["fig1_mse_ratio"] == "2.5"
    assert texts["fig1_better"] == "0%"
    assert texts["fig1_as_printed_ratio"] == "-"
    assert (texts["fig1_bp_every"], texts["fig1_linear_every"]) == ("2", "0")
    assert (texts["fig1_bp_none"], texts["fig1_linear_none"]) == ("0", "1")
    assert texts["fig1_combinations"] == "2"


def test_toy_networks_are_what_they_are_said_to_be():
    trained = networks("relu", [(1, -2, 3, -4)], [True], [False])
    found = pre_activations(trained.parameters, cubic_problem().x, "relu")
    expected = torch.tensor([1.0, -2.0, 3.0, -4.0]).double().view(1, 4, 1, 1)
    assert torch.equal(found, expected.expand(1, 4, 5, 50))
    assert not predict(trained.parameters, cubic_problem().x, "relu").any()
