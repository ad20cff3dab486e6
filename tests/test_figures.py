"""What is drawn is what is recorded, beside the paper's curves, and what is missing is said."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgb

from lbp.experiments import (
    apl_units,
    fig2_vgg19_tanh,
    fig3_relu,
    fig4_sweep,
    larger_step,
    paper,
    precision,
    recipe,
    style,
    table_binarized,
    width,
)
from lbp.experiments.scales import NARROW, PAPER
from tests.test_measures import results_of


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_each_seed_has_a_line_as_far_as_it_has_been_trained():
    results = results_of("fig2_vgg19_tanh", lambda c, n: [60.0 - c.seed] * 40)
    (axes,) = fig2_vgg19_tanh.draw([results]).axes
    ours = [line for line in axes.lines if len(line.get_xdata()) == 40]
    assert len(ours) == 6
    assert {tuple(line.get_ydata()) for line in ours} == {(40.0 + s,) * 40 for s in (0, 1, 2)}
    assert list(ours[0].get_xdata()) == list(range(1, 41))
    assert "this book: 40 of 100 epochs" in words(axes)
    assert "tanh, Backprop: this book (3 seeds)" in lines(axes)


def test_a_panel_says_how_far_its_shortest_and_its_longest_run_are():
    results = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] * (12 if c.rule == "bp" else 100))
    (axes,) = fig2_vgg19_tanh.draw([results]).axes
    assert "this book: 12 to 100 of 100 epochs" in words(axes)


def test_the_papers_curve_is_where_it_was_digitised_as_far_as_the_axis_goes():
    results = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] * 40)
    (axes,) = fig2_vgg19_tanh.draw([results]).axes
    curve = paper.curves(2)["tanh, bp"]
    drawn = lines(axes)["tanh, Backprop: the paper"]
    shown = [e for e in curve.epochs if e <= 48]
    assert list(drawn.get_xdata()) == shown
    assert list(drawn.get_ydata()) == curve.mid[: len(shown)]


def test_one_place_of_the_papers_curve_has_a_bar_in_place_of_a_band():
    results = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] * 5, PAPER)
    (axes,) = fig2_vgg19_tanh.draw([results]).axes
    bars = {tuple(end) for bar in axes.collections for end in bar.get_segments()[0]}
    curves = [curve.between(0, 5) for curve in paper.curves(2).values()]
    assert {tuple(curve.epochs) for curve in curves} == {(5,)}
    assert bars == {(5, height) for curve in curves for height in (*curve.low, *curve.high)}


def test_what_is_not_yet_run_is_said():
    none = results_of("fig2_vgg19_tanh", lambda c, n: None, PAPER)
    half = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] if c.rule == "bp" else None)
    (axes,) = fig2_vgg19_tanh.draw([none, half]).axes  # a scale without a run has no panel
    assert "tanh, Linear Backprop: not yet run" in lines(axes)
    assert "this book: 1 of 100 epochs" in words(axes)
    (axes,) = fig2_vgg19_tanh.draw([none, none]).axes  # the paper's curves alone
    assert "this book: not yet run" in words(axes)


@pytest.mark.parametrize(
    "draw",
    [
        larger_step.draw, larger_step.draw_layers, precision.draw, table_binarized.draw,
        apl_units.draw_shapes, apl_units.draw_ablation,
    ],
)  # fmt: skip
def test_no_figure_is_drawn_without_runs_or_a_curve_of_the_paper(draw):
    stem = draw.__module__.rsplit(".", 1)[-1]
    assert draw([results_of(stem, lambda c, n: None, scale) for scale in (PAPER, NARROW)]) is None


def test_a_diverged_run_is_drawn_with_a_cross_where_it_ends():
    results = results_of(
        "fig2_vgg19_tanh",
        lambda c, n: [60.0, 55.0, 90.0] if c.seed == 1 else [50.0] * 9,
        diverged=lambda c: c.seed == 1,
    )
    (axes,) = fig2_vgg19_tanh.draw([results]).axes
    cross = lines(axes)["tanh, Backprop: seed 1 diverged"]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (3, 10)


def test_the_papers_curve_has_the_width_of_the_papers_network():
    results = results_of("width", lambda c, n: [50.0] * n)
    (axes,) = width.draw([results]).axes
    papers = {label for label in lines(axes) if label.endswith("the paper")}
    assert papers == {"Backprop, width 1: the paper", "Linear Backprop, width 1: the paper"}
    assert "Backprop, width 1/4: this book" in lines(axes)


def test_figure_4_has_a_row_for_each_rule_and_a_colour_for_each_decay():
    results = results_of("fig4_sweep", lambda c, n: [40.0 + (c.rule == "bp")] * n)
    *panels, bar = fig4_sweep.draw([results]).axes
    assert [axes.get_title().splitlines()[0] for axes in panels] == [
        f"{rule}, learning rate {lr}"
        for rule in ("Backprop", "Linear Backprop")
        for lr in ("1e-3", "1e-4", "1e-5")
    ]
    decays = ["1e-6", "1e-5", "1e-4", "1e-3", "0.01", "0.1"]
    assert [label.get_text() for label in bar.get_yticklabels()] == decays
    # At 1e-5 the paper's curves all lie on each other; at 1e-4 two part from the shared one.
    for axes, papers in zip(panels, (0, 3, 1) * 2, strict=True):
        drawn = lines(axes)
        assert sum("the paper" in label for label in drawn) == papers
        ours = [drawn[f"weight decay {l2}: this book"] for l2 in decays]
        assert {y for line in ours for y in line.get_ydata()} == {
            59 if axes.get_title().startswith("Backprop") else 60
        }
        shades = [sum(to_rgb(line.get_color())) for line in ours]
        assert shades == sorted(shades, reverse=True)


def test_the_panels_of_figure_4_have_one_axis_of_epochs_at_a_scale():
    results = results_of("fig4_sweep", lambda c, n: [50.0] * (20 if c.lr == 1e-4 else 5))
    *panels, _ = fig4_sweep.draw([results]).axes
    ends = {axes.get_xlim()[1] for axes in panels}
    assert len(ends) == 1
    assert 20 < ends.pop() < 30


def test_figure_4_leaves_out_a_learning_rate_that_neither_the_paper_nor_this_book_has():
    results = results_of("fig4_sweep", lambda c, n: [50.0] if c.lr == 1e-4 else None)
    *panels, _ = fig4_sweep.draw([results]).axes
    assert len(panels) == 4


def test_the_binarized_network_has_a_panel_for_each_rate_and_one_shade_for_a_decay():
    def errors(config, epochs):
        is_first = (config.lr, config.l2) == (1e-3, 1e-4)
        return [60.0, 50.0] if is_first and config.model != "vgg19" else None

    full = results_of("table_binarized", errors, PAPER)
    narrow = results_of("table_binarized", lambda c, n: [70.0] * n)
    figure = table_binarized.draw([full, narrow])
    assert len(figure.axes) == 6
    assert len(table_binarized.draw([full]).axes) == 1
    label = "Linear Backprop, weight decay 1e-4: this book"
    ours, empty, theirs = (lines(figure.axes[place]) for place in (0, 1, 3))
    assert list(ours[label].get_ydata()) == [40, 50]
    assert len(theirs[label].get_xdata()) == 10
    assert ours[label].get_color() == theirs[label].get_color()
    rules = [label, "Backprop, weight decay 1e-4: this book"]
    for drawn, wanted in ((ours, rules), (theirs, rules), (empty, [])):
        named = [name for name in drawn if not name.startswith("_")]
        assert sorted(named) == sorted(wanted)  # VGG19 and what is not yet run are not drawn
        (guessing,) = [line for name, line in drawn.items() if name not in named]
        assert set(guessing.get_ydata()) == {10}
    assert "this book: not yet run" in words(figure.axes[1])


def test_the_axis_of_accuracies_shows_the_range_in_question():
    results = results_of("fig3_relu", lambda c, n: [22.0] * n)
    low, high = fig3_relu.draw([results]).axes[0].get_ylim()
    assert 0 < low < 78 < high <= 100


def test_learning_rates_are_in_their_places_and_divergence_is_said():
    def errors(config, epochs):
        return [50.0, 90.0] if config.lr == 0.1 else [60.0 - config.lr] * epochs

    results = results_of("larger_step", errors, NARROW, lambda c: c.lr == 0.1)
    (axes,) = larger_step.draw([results]).axes
    drawn = lines(axes)["Backprop, weight decay 0.1"]
    assert list(drawn.get_xdata()) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert list(drawn.get_ydata()) == pytest.approx(
        [40 + lr for lr in (1e-5, 1e-4, 1e-3, 1e-2)] + [10]
    )
    assert words(axes).count("diverged") == 4
    assert axes.get_xscale() == "log"


def test_learning_rates_of_short_runs_do_not_cut_the_long_ones():
    def errors(config, epochs):
        return [60.0] * (12 if config.lr == 1e-5 else 60)

    (axes,) = larger_step.draw([results_of("larger_step", errors)]).axes
    assert "after 60 epochs" in axes.get_title()
    assert {min(line.get_xdata()) for line in lines(axes).values()} == {1e-4}


def test_layers_show_updates_beside_their_weights():
    results = results_of("larger_step", lambda c, n: [50.0] * 5)
    size, cosine, saturated = larger_step.draw_layers([results]).axes
    assert size.get_yscale() == "log"
    assert len(size.lines) == 8  # four glances of each rule
    assert list(size.lines[0].get_ydata()) == [1.0] * 17
    assert [len(line.get_xdata()) for line in (cosine.lines[0], saturated.lines[0])] == [17, 16]


def test_precisions_are_told_apart():
    results = results_of("precision", lambda c, n: [50.0] * 3)
    (axes,) = precision.draw([results]).axes
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert sorted(line.get_linestyle() for line in drawn) == ["-"] * 6 + [":"] * 6


def test_the_recipes_stand_in_their_order():
    def errors(config, epochs):
        return [50.0 + 20.0 * config.augment]

    results = results_of("recipe", errors, PAPER)
    axes = recipe.draw(results).axes[0]
    names = [label.get_text().partition("\n")[0] for label in axes.get_yticklabels()]
    assert names == ["the paper's curves", *recipe.distances(results)]
    assert axes.yaxis_inverted()  # the first one on top
    ours = {
        names[int(y)]: set(line.get_xdata())
        for line in axes.lines
        if line.get_marker() in style.MARKERS.values()
        for y in line.get_ydata()
    }
    assert ours == {name: {30.0 if name == "augmentation" else 50.0} for name in names[1:]}
    # Dashed: the paper's first epoch, of each rule at each learning rate.
    dashed = {line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"}
    papers = {
        paper.sweep_curve(lr, recipe.WEIGHT_DECAY, rule).mid[0]
        for lr in recipe.LEARNING_RATES
        for rule in ("bp", "linear")
    }
    assert dashed == papers


def test_epochs_are_counted_in_whole_numbers():
    results = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] * 12)
    (axes,) = fig2_vgg19_tanh.draw([results]).axes
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_rules_have_colours_and_marks_of_their_own():
    for table in (style.COLOURS, style.LABELS, style.MARKERS):
        assert len(set(table.values())) == len(table) == 3
    assert style.shade("#000000", 1) == (0, 0, 0)


def test_the_titles_of_narrow_panels_do_not_touch_each_other():
    results = results_of("fig4_sweep", lambda c, n: [50.0] * 5)
    with plt.rc_context():
        style.use_style()
        figure = fig4_sweep.draw([results])
        figure.canvas.draw()
    *panels, _ = figure.axes
    for row in (panels[:3], panels[3:]):
        boxes = [axes.title.get_window_extent() for axes in row]
        gap = boxes[0].height / 2  # as wide as one of the two lines is high
        assert all(left.x1 + gap < right.x0 for left, right in pairwise(boxes))
