"""Figures show every run for what it is: diverged, missing, stale; and the axes tell the truth."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from lbp import cost, experiments, paper, plots
from lbp.errors import LbpError
from lbp.provenance import provenance
from tests.test_claims import results_of

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plots.plt.close("all")


def half(config):
    return [50.0] * config.epochs


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def drawn(axes, name: str):
    """Return the lines of a label and those without one that follow it in its colour."""
    (first,) = [line for line in axes.lines if line.get_label().startswith(f"{name}: this book")]
    return [line for line in axes.lines if line.get_color() == first.get_color()]


def test_every_seed_has_a_line_and_steps_are_counted_below_full_scale():
    (axes,) = plots.figure2([results_of("fig2", "cpu", half)]).axes
    mine = [line for line in drawn(axes, "tanh, bp") if line.get_linestyle() == "-"]
    assert len(mine) == 3
    # 20,000 images in batches of 32 are 625 steps an epoch.
    np.testing.assert_allclose(mine[0].get_xdata(), 0.625 * np.arange(1, 11))
    np.testing.assert_allclose(mine[0].get_ydata(), 50.0)
    assert axes.get_xlabel() == "steps of SGD (thousands)"
    assert "reduced scale" in axes.get_title()
    assert "tanh, bp: this book (3 seeds)" in legend(axes)


def test_the_papers_curve_is_where_it_was_digitised():
    (axes,) = plots.figure2([results_of("fig2", "paper", lambda config: None)]).axes
    (line,) = [line for line in axes.lines if line.get_label() == "tanh, linear: the paper"]
    curve = paper.curves(2)["tanh, linear"]
    np.testing.assert_allclose(line.get_xdata(), curve.epochs)
    np.testing.assert_allclose(line.get_ydata(), curve.mid)
    assert axes.get_xlabel() == "epoch"
    assert [text.get_text() for text in axes.texts] == ["this book: not yet run"]


@pytest.mark.parametrize("seed", experiments.SEEDS)
def test_a_diverged_run_is_drawn_with_a_cross_where_it_ends(seed):
    label = f"tanh, bp, seed {seed}"

    def errors(config):
        return [80.0, 90.0] if (config.rule, config.seed) == ("bp", seed) else half(config)

    (axes,) = plots.figure2([results_of("fig2", "cpu", errors, diverged=[label])]).axes
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    np.testing.assert_allclose(cross.get_xdata(), [2 * 0.625])
    np.testing.assert_allclose(cross.get_ydata(), [10.0])
    assert [text for text in legend(axes) if "diverged" in text] == [
        f"tanh, bp: seed {seed} diverged"
    ]
    assert "tanh, bp: this book (3 seeds)" in legend(axes)


def test_a_stale_run_is_not_drawn():
    stale = [f"tanh, bp, seed {seed}" for seed in experiments.SEEDS]
    (axes,) = plots.figure2([results_of("fig2", "cpu", half, stale=stale)]).axes
    assert "tanh, bp: not yet run" in legend(axes)


def test_figure_3_has_both_panels():
    figure = plots.figure3([results_of("fig3", scale, half) for scale in ("paper", "cpu")])
    left, right, *_ = figure.axes
    assert len(figure.axes) == 4
    shown = [{line.get_label().split(":")[0] for line in axes.lines} for axes in (left, right)]
    assert {"relu, bp", "tanh, linear"} <= shown[0]
    assert {"relu, bp", "relu, linear"} <= shown[1]


def test_figure_4_has_a_panel_for_each_rate_and_a_shade_for_each_decay():
    figure = plots.figure4([results_of("fig4", "paper", half)])
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == [f"learning rate {lr:g}" for lr in experiments.LEARNING_RATES]
    dashed = [any(line.get_linestyle() == "--" for line in axes.lines) for axes in figure.axes]
    assert dashed == [False, True, True]  # the paper has no panel for 1e-3
    lines = [line for line in figure.axes[1].lines if "this book" in line.get_label()]
    assert len(lines) == 12
    shades = {line.get_label(): to_rgb(line.get_color()) for line in lines}
    assert len(set(shades.values())) == 12
    darkness = [
        -sum(shades[f"linear, l2 {l2:g}: this book"]) for l2 in sorted(experiments.WEIGHT_DECAYS)
    ]
    assert darkness == sorted(darkness)


def test_learning_rates_are_on_their_places_and_divergence_is_said():
    label = "tanh, linear, lr 0.1, l2 0.1"

    def errors(config):
        return [90.0] if (config.lr, config.l2, config.rule) == (0.1, 0.1, "linear") else [60.0] * 4

    (axes,) = plots.learning_rates(
        [results_of("larger-step", "cpu", errors, diverged=[label])]
    ).axes
    (line,) = [line for line in axes.lines if line.get_label() == "Linear Backprop, l2 0.1"]
    np.testing.assert_allclose(line.get_xdata(), experiments.EXTENDED_LEARNING_RATES)
    np.testing.assert_allclose(line.get_ydata(), [40.0] * 4 + [10.0])
    assert [text.get_text() for text in axes.texts].count("diverged") == 1


def test_the_recipes_stand_in_their_order():
    rows = {f"{rule}, lr {lr:g}, l2 {l2:g}": 3.0 for rule in ("bp", "linear")
            for lr, l2 in experiments.RECIPE_PAIRS}  # fmt: skip
    figure = plots.recipe_distances({"near": rows | {"mean": 3.0}, "far": rows | {"mean": 9.0}})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["near", "far"]
    bars = [line for line in axes.lines if line.get_marker() == "|" and len(line.get_xdata())]
    assert [bar.get_xdata()[0] for bar in bars] == [3.0, 9.0]
    assert axes.yaxis_inverted()


def test_layers_show_updates_beside_their_weights():
    (records,) = [results_of("fig2", "cpu", half).of(seed=0)]
    figure = plots.layers(*records)
    size, cosine, saturated = figure.axes
    np.testing.assert_allclose(size.lines[0].get_ydata(), [0.5 / 2.0])
    np.testing.assert_allclose(cosine.lines[0].get_ydata(), [0.25])
    np.testing.assert_allclose(saturated.lines[0].get_ydata(), [0.125])
    assert size.get_yscale() == "log"


def test_precisions_are_told_apart():
    (axes,) = plots.precisions([results_of("precision", "cpu", half)]).axes
    styles = [line.get_linestyle() for line in axes.lines if len(line.get_xdata())]
    assert styles.count(":") == styles.count("-") == 6


def comparisons(mode):
    cases = [c for c in cost.SETTINGS["cpu"].cases if c.mode == mode]
    origin = provenance("float32", torch.device("cpu"), 1.0)
    return [
        cost.Comparison(
            case=case,
            seconds={
                "bp": [1.0] * 15,
                "linear": [0.8 + 0.01 * place] * 15,
                "bp again": np.linspace(0.9, 1.1, 15),
            },
            steps=1,
            kept={"bp": 4_000_000, "linear": 1_000_000 * (1 + place % 2)},
            provenance=origin,
        )
        for place, case in enumerate(cases)
    ]


def test_step_times_stand_beside_their_cases():
    found = {"paper": [], "cpu": comparisons("eager") + comparisons("compiled")}
    figure = plots.step_times(found)
    eager, compiled = figure.axes
    assert [axes.get_title() for axes in figure.axes] == [
        "eager, on a processor",
        "compiled, on a processor",
    ]
    for axes in (eager, compiled):
        (linear,) = [line for line in axes.lines if line.get_marker() == "^"]
        np.testing.assert_allclose(linear.get_xdata(), 0.8 + 0.01 * np.arange(8))
        heights = dict(zip(axes.get_yticks(), axes.get_yticklabels(), strict=True))
        names = [heights[round(y)].get_text() for y in linear.get_ydata()]
        assert names[:2] == ["VGG19, tanh", "VGG19, ReLU"]
        assert names[-1] == "ResNet-18, SiLU"
        assert names[0] == heights[max(heights)].get_text()  # the first one on top
        again = axes.collections[0].get_segments()  # fourth and twelfth of fifteen
        np.testing.assert_allclose(again[0][:, 0], [0.9 + 3 * 0.2 / 14, 0.9 + 11 * 0.2 / 14])


def test_kept_bytes_are_bars_of_megabytes():
    found = {"paper": comparisons("eager"), "cpu": comparisons("eager")}
    gpu, processor = plots.kept_bytes(found).axes
    assert gpu.get_title() == "eager, on a GPU"
    widths = [bar.get_width() for bar in processor.patches]
    assert widths == [4.0] * 8 + [1.0, 2.0] * 4
    assert [text.get_text() for text in processor.texts if text.get_text()] == [
        " 25 %",
        " 50 %",
    ] * 4


@pytest.mark.parametrize("draw", [plots.step_times, plots.kept_bytes])
def test_nothing_measured_is_told_in_one_line(draw):
    with pytest.raises(LbpError, match="no comparison of cost is recorded: restore data/cost"):
        draw({"paper": [], "cpu": []})
