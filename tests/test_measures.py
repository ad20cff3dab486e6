"""The numbers, tables, sentences and figures of the experiments, on toy records.

Every one of them has to stand any subset of records: none, one rule, one seed, runs of different
lengths, diverged runs.
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from lbp.experiments import (
    EXPERIMENTS,
    apl_units,
    card,
    claims,
    fig2_vgg19_tanh,
    fig3_relu,
    fig4_sweep,
    larger_step,
    notebook,
    own_model,
    paper,
    precision,
    premise,
    recipe,
    selection,
    table_binarized,
    width,
    work_list,
)
from lbp.experiments.numbers import Measure
from lbp.experiments.results import Results
from lbp.experiments.scales import NARROW, PAPER, SMOKE, Scale
from lbp.experiments.table import Table
from lbp.lab.config import RunConfig
from lbp.lab.models import build
from lbp.lab.probe import probe
from lbp.lab.record import Record
from lbp.lab.run import Goal, is_glance
from lbp.linearization import activation_modules
from tests import toys

Errors = list[float] | None


def results_of(
    stem: str,
    errors: Callable[[RunConfig, int], Errors],
    scale: Scale = NARROW,
    diverged: Callable[[RunConfig], bool] = lambda config: False,
) -> Results:
    """Return results whose runs have the errors that `errors(config, epochs)` gives them."""
    goals = EXPERIMENTS[stem].goals(scale)
    longest: dict[RunConfig, int] = {}
    for goal in goals:
        longest[goal.config] = max(goal.epochs, longest.get(goal.config, 0))
    records: dict[RunConfig, Record] = {}
    for config, epochs in longest.items():
        if (values := errors(config, epochs)) is not None:
            records[config] = toys.record(config, values, diverged=diverged(config))
    return Results(stem, scale, goals, records, {})


def values(found: dict[str, Measure]) -> dict[str, float]:
    return {name: measure.value for name, measure in found.items()}


def windows(found: dict[str, Measure]) -> dict[str, tuple[int, int]]:
    return {name: (measure.first, measure.last) for name, measure in found.items()}


# --- by hand


def test_figure_2_by_hand():
    def errors(config, epochs):
        if config.rule == "bp":  # jumps by 2 points up and down
            return [50.0, 52.0] * 20
        return [80.0 - n for n in range(40)]  # rises by 1 point each epoch

    found = fig2_vgg19_tanh.measures(results_of("fig2_vgg19_tanh", errors))
    by_hand = {
        "bp_final": 49.0,  # epochs 37 to 40
        "linear_final": 100 - (44 + 43 + 42 + 41) / 4,
        "early_lead": 49.0 - (100 - (80 + 51) / 2),  # 30 epochs
        "bp_sd": math.sqrt(2),
        "linear_sd": math.sqrt(0.5),
        "sd_ratio": 2.0,
        "final_gap": 57.5 - 49.0,
    }
    assert {name: values(found)[name] for name in by_hand} == pytest.approx(by_hand)
    final, half, whole = (37, 40), (21, 40), (1, 40)
    assert windows(found) == {
        "early_lead": (1, 30),
        **dict.fromkeys(("bp_final", "linear_final", "final_gap"), final),
        **dict.fromkeys(("bp_sd", "linear_sd", "sd_ratio"), half),
        **dict.fromkeys(("bp_distance", "linear_distance"), whole),
    }


def test_runs_of_different_lengths_are_compared_over_what_both_have():
    def errors(config, epochs):
        return [50.0] * 12 if config.rule == "bp" else [60.0] * 5 + [0.0] * 20

    found = fig2_vgg19_tanh.measures(results_of("fig2_vgg19_tanh", errors))
    assert found["early_lead"].last == 12
    assert found["early_lead"].value == pytest.approx(50 - (5 * 40 + 7 * 100) / 12)


def test_rules_are_compared_by_seed():
    """With one seed missing, that of the other rule does not count either."""

    def errors(config, epochs):
        if config.rule == "bp":
            return [50.0 + config.seed] * 10 if config.seed else None
        return [60.0] * 10 if config.seed < 2 else None

    found = fig2_vgg19_tanh.measures(results_of("fig2_vgg19_tanh", errors))
    assert found["bp_final"].value == pytest.approx(49)  # of seed 1
    assert found["linear_final"].value == pytest.approx(40)


def test_a_diverged_run_counts_as_guessing_and_its_variance_cannot_be_told():
    def errors(config, epochs):
        return [40.0, 90.0] if config.rule == "bp" else [60.0] * 40

    found = fig2_vgg19_tanh.measures(
        results_of("fig2_vgg19_tanh", errors, diverged=lambda config: config.rule == "bp")
    )
    assert found["bp_final"].value == 10
    assert found["early_lead"].value == pytest.approx((60 + 29 * 10) / 30 - 40)
    assert math.isnan(found["sd_ratio"].value)


@pytest.mark.parametrize(
    ("epochs", "diverged", "state"),
    [
        (2, False, "2 of 3 epochs"),
        (3, False, "3 of 3 epochs"),
        (5, False, "3 of 3 epochs"),  # another experiment asked for more
        (2, True, "diverged in epoch 2"),
        (3, True, "diverged in epoch 3"),
        (5, True, "3 of 3 epochs"),
    ],
)
def test_the_state_of_a_run_is_that_at_its_goal(epochs, diverged, state):
    goal = Goal(RunConfig(), 3)
    records = {goal.config: toys.record(goal.config, [90.0] * epochs, diverged=diverged)}
    results = Results("fig2_vgg19_tanh", NARROW, [goal], records, {})
    assert results.state(goal) == state
    reached = state != "2 of 3 epochs"
    assert results.reached(goal) == reached
    assert (results.missing_flop(goal) == 0) == reached
    stale = replace(results, records={}, stale=records)
    assert stale.state(goal) == "stale, by other numerical code"
    assert not stale.reached(goal)
    assert replace(results, records={}).state(goal) == "not yet run"


def test_figure_3_by_hand():
    def errors(config, epochs):
        swing = {"bp": 3.0, "linear": 1.0}[config.rule] + (config.activation == "relu")
        return [40.0, 40.0 + swing] * 5

    measured = fig3_relu.measures(results_of("fig3_relu", errors))
    for name, window in windows(measured).items():
        final = (10, 10) if name == "relu_gain_bp" or name.endswith("final") else (1, 10)
        assert window == ((6, 10) if "sd" in name else final), name
    found = values(measured)
    assert found["best_gap"] == pytest.approx(0)
    assert found["relu_bp_sd"] == pytest.approx(4 / math.sqrt(2))
    assert found["sd_ratio"] == pytest.approx(4)
    assert found["relu_sd_ratio"] == pytest.approx(2)
    assert found["relu_best_gap"] == pytest.approx(0)
    assert found["relu_gain_bp"] == pytest.approx(3 - 4)  # the last errors are 43 and 44
    assert found["relu_bp_final"] == pytest.approx(100 - 44)


def test_figure_3_says_where_runs_are_that_do_not_tell_how_they_end():
    def errors(config, epochs):
        if (config.activation, config.rule) == ("relu", "linear"):
            return None
        return [60.0, 50.0 - (config.activation == "relu"), 30.0][: 3 if config.rule == "bp" else 2]

    begun = results_of("fig3_relu", errors, PAPER)
    assert fig3_relu.measures(begun) == {}
    assert fig3_relu.answer(begun) == (
        "After 2 epochs at full scale, the test accuracy is 50.0 % with tanh under Backprop, 50.0 "
        "% with tanh under Linear Backprop and 51.0 % with ReLU under Backprop. That is too early "
        "to say how they end. Not yet run there: ReLU under Linear Backprop."
    )
    assert [row[1] for row in fig3_relu.table([begun]).rows] == ["2", "2", "2", "0"]
    # Nine epochs of all are too few as well, ten are not.
    nine, ten = (results_of("fig3_relu", lambda c, n, k=k: [50.0] * k, PAPER) for k in (9, 10))
    assert fig3_relu.answer(nine).endswith("That is too early to say how they end.")
    assert "too early" not in fig3_relu.answer(ten)
    one = results_of("fig3_relu", lambda c, n: [50.0] if c == begun.goals[0].config else None)
    assert fig3_relu.answer(one) == one.undecided


def test_both_activations_are_compared_where_both_rules_have_one_pair():
    def errors(config, epochs):
        if config.l2 not in (0.1, 0.0) or (config.l2 == 0.0 and config.activation == "tanh"):
            return None
        if config.lr < 1e-3:
            return None
        gain = {"tanh": 8.0, "relu": -4.0}[config.activation] * (config.rule == "linear")
        return [60.0 - gain, 60.0][: 2 if config.rule == "bp" else 3]

    found = results_of("selection", errors, PAPER)
    nothing = results_of("selection", lambda c, n: None, PAPER)
    assert selection.by_activation([nothing, found]) == (
        "With the learning rate and the weight decay of both rules equal, Linear Backprop's mean "
        "accuracy minus Backprop's is +4.0 points with tanh and -2.0 points with ReLU at 1e-3 with "
        "0.1, over the first 2 epochs, at full scale (one seed)."
    )
    assert selection.texts([nothing]) == {
        "selection_activations": "No pair has been run under both rules with both activations yet."
    }


SPREADS = [f"{rule}_by_{what}" for rule in ("bp", "linear") for what in ("rate", "decay")]


def test_figure_4_by_hand():
    def errors(config, epochs):
        gain = 0.0
        if config.rule == "linear":
            gain = 5.0 if config.lr == 1e-4 else 2.0
            gain += 7.0 * (config.l2 == 0.1)
        return [80.0 - gain] * epochs

    found = fig4_sweep.measures(results_of("fig4_sweep", errors))
    assert found["early_gap_min"] == Measure(pytest.approx(2.0), 1, 20)
    assert found["weight_decay_gain"] == Measure(pytest.approx(7.0), 91, 100)
    shown = results_of("fig4_sweep", lambda c, n: errors(c, n) if c.lr < 1e-3 else None)
    # The panel that the paper lacks decides nothing of the figure.
    spread = {"spread_ratio", *SPREADS}
    assert fig4_sweep.measures(shown) == {k: m for k, m in found.items() if k not in spread}
    beginning = results_of("fig4_sweep", lambda c, n: errors(c, 3))
    assert fig4_sweep.measures(beginning)["early_gap_min"].last == 3
    one = results_of("fig4_sweep", lambda c, n: errors(c, n) if c.l2 == 0.1 else None)
    assert set(fig4_sweep.measures(one)) == {"early_gap_min", *spread}


def test_figure_4_needs_both_panels_and_pairs_that_have_begun_cut_nothing():
    def errors(config, epochs):
        length = {(1e-4, 1e-1): 5, (1e-4, 1e-4): 1, (1e-5, 1e-4): 4}
        ahead = 30.0 if config.l2 == 1e-1 else 3.0
        return [70.0 - ahead * (config.rule == "linear")] * length.get((config.lr, config.l2), 0)

    both = results_of("fig4_sweep", lambda c, n: errors(c, n) or None)
    assert fig4_sweep.measures(both)["early_gap_min"] == Measure(pytest.approx(3.0), 1, 4)
    one = results_of("fig4_sweep", lambda c, n: errors(c, n) or None if c.lr == 1e-4 else None)
    assert "early_gap_min" not in fig4_sweep.measures(one)


def test_how_sensitive_a_rule_is_by_hand():
    """Backprop's accuracies spread three times as far; pairs of one rule alone do not count."""

    def errors(config, epochs):
        if (config.lr, config.l2, config.rule) == (1e-3, 1e-6, "bp"):
            return None
        if config.l2 not in (0.1, 1e-6):
            return None
        if (config.l2, config.rule) == (1e-6, "linear") and config.lr == 1e-3:
            return [5.0] * epochs  # its counterpart is missing
        place = {1e-3: 0.0, 1e-4: 1.0, 1e-5: 2.0}[config.lr] + (config.l2 == 0.1)
        return [60.0 + place * (6.0 if config.rule == "bp" else 2.0)] * 60

    found = fig4_sweep.measures(results_of("fig4_sweep", errors))
    assert found["spread_ratio"] == Measure(pytest.approx(3.0), 55, 60)
    # Over the rates from 0 to 2 places at the decay 0.1; over the decays by one place.
    assert [found[name].value for name in SPREADS] == pytest.approx([12, 6, 4, 2])
    assert "moves it by up to 12.0 points under Backprop and 4.0 under" in fig4_sweep.answer(
        results_of("fig4_sweep", errors)
    )
    two = results_of("fig4_sweep", lambda c, n: errors(c, n) if c.lr < 1e-3 else None)
    assert "spread_ratio" not in fig4_sweep.measures(two)


def test_which_rule_varies_more_at_equal_pairs():
    """Accuracy that jumps by 2 d from epoch to epoch has the standard deviation d √2."""

    def errors(config, epochs):
        if config.l2 != 0.1 or (config.lr == 1e-5 and config.rule == "linear"):
            return None
        jump = {("bp", 1e-3): 2.0, ("linear", 1e-3): 1.0, ("bp", 1e-4): 1.0}
        step = jump.get((config.rule, config.lr), 3.0)
        return [50.0 + step * (-1) ** n for n in range(60)]

    results = results_of("fig4_sweep", errors)
    text = fig4_sweep.variance([results_of("fig4_sweep", lambda c, n: None, PAPER), results])
    assert "more than Backprop in 1 of the 2 pairs that were run in a narrow network" in text
    assert "over epochs 31 to 60, one seed: 1.41 against 2.83 points at 1e-3 with 0.1; " in text
    assert text.endswith("4.24 against 1.41 points at 1e-4 with 0.1.")
    short = results_of("fig4_sweep", lambda c, n: [50.0] * 59)
    assert fig4_sweep.variance([short]).startswith("No pair has been run for 60 epochs")


def test_linear_backprop_with_the_pair_of_backprop():
    final = {("bp", 1e-3): 30.0, ("linear", 1e-3): 34.0, ("linear", 1e-4): 45.0}
    results = results_of("fig4_sweep", lambda c, n: [final.get((c.rule, c.lr), 80.0)] * 60)
    assert (
        "1e-3 with 0.1, Linear Backprop ends at 66.0 % in a narrow network after 60 epochs: 11.0 "
        "points above its own pair of Figure 2, and 4.0 points below Backprop"
    ) in fig4_sweep.at_backprops_pair([results])
    lacks = results_of("fig4_sweep", lambda c, n: [50.0] * 60 if c.lr < 1e-3 else None)
    assert "has not been run for 60 epochs" in fig4_sweep.at_backprops_pair([lacks])


def test_the_distance_of_the_sweep_to_the_paper_is_that_of_every_run():
    def errors(away):
        def of(config, epochs):
            if config.lr > 1e-4 or config.l2 < 0.1:
                return None
            curve = paper.sweep_curve(config.lr, config.l2, config.rule)
            mids = dict(zip(curve.epochs, curve.mid, strict=True))
            return [100 - mids[1.0] - away[config.rule], 100 - mids[2.0] + away[config.rule]]

        return of

    near = results_of("fig4_sweep", errors({"bp": 1.5, "linear": 4.0}), PAPER)
    assert (
        "as far as each run goes, is 1.5 points under Backprop and 4.0 points under Linear"
    ) in fig4_sweep.answer(near)


def test_scales_are_compared_where_they_have_the_same_runs():
    def errors(lead, epochs, pairs):
        return lambda c, n: (
            [80.0 - (lead + 10 * c.lr / 1e-3) * (c.rule == "linear")] * epochs
            if (c.lr, c.l2) in pairs
            else None
        )

    narrow = results_of(
        "fig4_sweep", errors(-2.0, 60, {(1e-3, 0.1), (1e-4, 0.1), (1e-5, 0.1)}), NARROW
    )
    full = results_of("fig4_sweep", errors(5.0, 2, {(1e-3, 0.1), (1e-4, 0.1), (1e-4, 0.01)}), PAPER)
    assert fig4_sweep.at_every_scale([full, narrow]) == (
        "With the learning rate and the weight decay of both rules equal, Linear Backprop's mean "
        "accuracy minus Backprop's is +6.0 points at full scale and -1.0 points in a narrow "
        "network at 1e-4 with 0.1, over the first 2 epochs; +15.0 points at full scale and +8.0 "
        "points in a narrow network at 1e-3 with 0.1, over the first 2 epochs."
    )
    nothing = results_of("fig4_sweep", lambda c, n: None)
    for found in ([full], [full, nothing], [nothing]):
        assert fig4_sweep.at_every_scale(found).startswith("No pair has been run")


def test_an_answer_says_nothing_of_the_end_of_a_run_that_has_just_begun():
    for stem in ("fig4_sweep", "selection"):
        begun = results_of(stem, lambda c, n: [50.0] * 2)
        long = results_of(stem, lambda c, n: [50.0] * 60)
        for end in ("final", "best"):
            assert end not in EXPERIMENTS[stem].answer(begun), stem
        assert any(end in EXPERIMENTS[stem].answer(long) for end in ("final", "best")), stem


def test_a_run_that_has_just_begun_does_not_cut_the_comparison_of_the_others():
    def errors(config, epochs):
        return [50.0] * (2 if config.l2 == 1e-5 else 60)

    for stem, name in (
        ("fig4_sweep", "weight_decay_gain"), ("fig4_sweep", "spread_ratio"),
        ("selection", "bp_lead"), ("selection", "best_gap"), ("selection", "leak_mean"),
        ("premise", "decay_saturation"), ("premise", "bp_gain_saturated"),
    ):  # fmt: skip
        assert EXPERIMENTS[stem].measures(results_of(stem, errors))[name].last == 60, (stem, name)
    begun = results_of("larger_step", lambda c, n: [50.0] * (2 if c.lr == 0.1 else 60))
    assert larger_step.measures(begun)["all_rates_gap"].last == 60
    alone = results_of(
        "larger_step",
        lambda c, n: (
            [50.0] * (60 if (c.lr, c.rule) == (0.1, "bp") else 100)
            if (c.lr, c.rule) != (0.1, "linear")
            else None
        ),
    )
    assert larger_step.measures(alone)["all_rates_gap"].last == 100
    (panel,) = larger_step.draw([alone]).axes
    assert "100 epochs" in panel.get_title()
    assert {row[3] for row in own_model.tuning_table(begun).rows} == {"60"}


def test_long_runs_do_not_hide_a_comparison_that_needs_runs_that_have_begun():
    """The pairs of Figures 2 and 3 are complete before the rest of the grid."""
    figures = [goal.config for goal in EXPERIMENTS["fig3_relu"].goals(NARROW)]

    def errors(config, epochs):
        return [50.0] * (100 if config in figures else 12)

    for stem, name, last in (
        ("fig4_sweep", "weight_decay_gain", 12), ("fig4_sweep", "spread_ratio", 12),
        ("selection", "bp_lead", 12), ("selection", "linear_lead", 12),
        ("selection", "leak_mean", 12), ("selection", "best_gap", 100),
        ("premise", "decay_saturation", 10), ("premise", "linear_gain_saturated", 100),
        ("larger_step", "all_rates_gap", 12),
    ):  # fmt: skip
        assert EXPERIMENTS[stem].measures(results_of(stem, errors))[name].last == last, (stem, name)
    table = own_model.tuning_table(results_of("larger_step", errors))
    assert {row[3] for row in table.rows} == {"12"}


def test_the_answer_says_where_its_choices_are_of_runs_of_different_lengths():
    def errors(config, epochs):
        return [50.0] * (60 if config.rule == "bp" else 12)

    mixed = results_of("selection", errors)
    assert "After 12 epochs or more in a narrow network, choosing" in selection.answer(mixed)
    found = selection.measures(mixed)
    assert (found["tanh_bp_best"].last, found["tanh_linear_best"].last) == (60, 12)
    alike = results_of("selection", lambda c, n: [50.0] * 12)
    assert "After 12 epochs in a narrow network, choosing" in selection.answer(alike)


def test_the_first_runs_of_the_narrow_network_give_a_verdict_on_every_claim_about_them():
    trained: dict[RunConfig, int] = {}
    for goal in work_list(NARROW)[:18]:
        trained[goal.config] = max(goal.epochs, trained.get(goal.config, 0))
    for stem in (
        *("fig2_vgg19_tanh", "fig3_relu", "fig4_sweep"),
        *("selection", "premise", "larger_step"),
    ):
        results = results_of(stem, lambda c, n: [50.0] * trained[c] if c in trained else None)
        judged = claims.judge_experiment(stem, {NARROW.name: EXPERIMENTS[stem].measures(results)})
        words = {v.claim.id: v.word for v in judged if NARROW.name in v.claim.least}
        assert words
        assert not {claims.NOT_RUN, claims.BEGUN} & set(words.values()), words


def test_recipes_are_ranked_by_their_distance():
    def errors(config, epochs):
        curve = paper.sweep_curve(config.lr, config.l2, config.rule)
        offset = 5.0 * config.augment + 2.0 * (config.momentum > 0) + 0.5 * config.seed
        return [100 - curve.mid[0] - offset]

    results = results_of("recipe", lambda c, n: None if c.init == "xavier" else errors(c, n), PAPER)
    ranked = recipe.distances(results)
    assert len(ranked) == len(recipe.RECIPES) - 1
    assert list(ranked)[-2:] == ["momentum 0.9", "augmentation"]
    assert recipe.mean_distance(ranked["augmentation"]) == pytest.approx(5)
    assert recipe.mean_distance(ranked["momentum 0.9"]) == pytest.approx(2)
    found = values(recipe.measures(results))
    assert found == pytest.approx({"plain_distance": 0, "seed_difference": 0.5})
    whole = results_of("recipe", errors, PAPER)
    assert values(recipe.measures(whole))["best_distance"] == pytest.approx(0)


def test_a_recipe_that_diverges_is_compared_at_its_one_epoch():
    """Further epochs of the paper's curves, at which it would guess, do not count."""

    def errors(config, epochs):
        curve = paper.sweep_curve(config.lr, config.l2, config.rule)
        return [100 - curve.mid[0] + 3.0 * (config.momentum > 0)]

    lost = results_of("recipe", errors, PAPER, diverged=lambda config: config.momentum > 0)
    ranked = recipe.distances(lost)
    curves = [paper.sweep_curve(1e-4, 1e-4, rule) for rule in ("bp", "linear")]
    guess = sum(curve.mid[0] - 10 for curve in curves) / 2
    assert recipe.mean_distance(ranked["momentum 0.9"]) == pytest.approx(guess)


def test_without_a_pair_of_a_recipe_none_is_excluded():
    one = results_of("recipe", lambda c, n: [60.0 + c.seed] if c.rule == "bp" else None, PAPER)
    assert recipe.measures(one)["seed_difference"].value == pytest.approx(1)
    assert recipe.excluded(one) == []


def test_the_larger_step_by_hand():
    def errors(config, epochs):
        best = {"bp": {1e-2: 40.0}, "linear": {1e-3: 45.0}}[config.rule]
        return [best.get(config.lr, 60.0) + (config.l2 < 0.1)] * epochs

    found = larger_step.measures(results_of("larger_step", errors, PAPER))
    assert values(found) == pytest.approx(
        {"paper_rates_gap": 15.0, "all_rates_gap": -5.0, "bp_best": 60.0, "bp_best_lr": 1e-2,
         "linear_best": 55.0, "linear_best_lr": 1e-3}
    )  # fmt: skip
    assert found["all_rates_gap"].last == 100  # the long runs of Figure 2 are cut
    assert (
        "its best run is 0.0 points behind at 1e-5, 0.0 points behind at 1e-4, 15.0 points ahead "
        "at 1e-3, 20.0 points behind at 0.01, 0.0 points behind at 0.1."
    ) in larger_step.answer(results_of("larger_step", errors, PAPER))
    guessing = results_of("larger_step", lambda c, n: [90.0 if c.lr == 0.1 else 50.0] * 60)
    assert "0.0 points behind at 0.1 (it only guesses)." in larger_step.answer(guessing)
    only = results_of("larger_step", lambda c, n: errors(c, n) if c.lr <= 1e-3 else None)
    assert "all_rates_gap" not in larger_step.measures(only)


def test_precisions_by_hand():
    def errors(config, epochs):
        return [50.0 + config.seed + 3.0 * (config.precision == "bf16")] * epochs

    found = values(precision.measures(results_of("precision", errors)))
    assert found["difference"] == pytest.approx(3)
    assert found["seed_sd"] == pytest.approx(1)
    assert found["ratio"] == pytest.approx(3 / math.sqrt(2 / 3))
    one = results_of("precision", lambda c, n: errors(c, n) if c.seed == 0 else None)
    assert precision.measures(one) == {}
    alike = results_of("precision", lambda c, n: [50.0] * 5)
    assert "0.00 points apart, within the noise of the seeds" in precision.answer(alike)


@pytest.mark.parametrize("rule", ["bp", "linear"])
@pytest.mark.parametrize("arithmetic", precision.PRECISIONS)
def test_precisions_are_compared_over_the_seeds_and_epochs_that_all_have(rule, arithmetic):
    def errors(config, epochs):
        if (config.rule, config.precision) != (rule, arithmetic):
            return [50.0 + config.seed + 3.0 * (config.precision == "bf16")] * epochs
        if config.seed == 1:  # the other three go on with this seed alone
            return None
        return [50.0 + config.seed + 3.0 * (config.precision == "bf16")] * 7

    found = precision.measures(results_of("precision", errors))
    assert found["difference"] == Measure(pytest.approx(3), 1, 7)
    assert found["seed_sd"] == Measure(pytest.approx(math.sqrt(2)), 1, 7)  # of seeds 0 and 2
    assert found["ratio"] == Measure(pytest.approx(3 / math.sqrt(2)), 1, 7)
    without = results_of(
        "precision",
        lambda c, n: None if (c.rule, c.precision) == (rule, arithmetic) else errors(c, n),
    )
    assert precision.measures(without) == {}


def test_what_the_width_changes_by_hand():
    def errors(config, epochs):
        lead = {1 / 8: 10.0, 1 / 4: 4.0}.get(config.width, -1.0)
        level = 50.0 - 8.0 * (config.width == 1 / 4)
        late = [level] * (epochs - 2) + [level - 5.0 * (config.rule == "linear")] * 2
        return [error - lead * (config.rule == "bp") for error in late]

    found = results_of("width", errors)
    assert width.measures(found) == {  # 5 points in 2 of 20 epochs: half a point of the mean
        "lead_1/8": Measure(pytest.approx(9.5), 1, 20),
        "lead_1/4": Measure(pytest.approx(3.5), 1, 20),
        "end_1/8": Measure(pytest.approx(5.0), 19, 20),
        "end_1/4": Measure(pytest.approx(-1.0), 19, 20),
    }
    end = (
        "Over epochs 19 to 20, Backprop's mean accuracy is 5.0 points ahead at width 1/8 and "
        "1.0 points behind at width 1/4. Twice the width changes accuracy there by +2.0 points "
        "under Backprop and +8.0 points under Linear Backprop."
    )
    assert width.answer(found) == (
        "Over the first 20 epochs, Backprop's mean accuracy is 9.5 points ahead at width 1/8 and "
        f"3.5 points ahead at width 1/4. {end}"
    )
    begun = results_of("width", lambda c, n: errors(c, 20)[:1])
    assert width.answer(begun) == (
        "Not yet decided in a narrow network: 1 epoch of 20. Over the first epoch, Backprop's mean "
        "accuracy is 10.0 points ahead at width 1/8 and 4.0 points ahead at width 1/4."
    )
    full = results_of("width", lambda c, n: errors(c, 20)[:2] if c.width == 1 else None, PAPER)
    assert width.answer(full) == (
        "Not yet decided at full scale: 2 epochs of 20 and no pair of runs at width 1/2. Over the "
        "first 2 epochs, Backprop's mean accuracy is 1.0 points behind at width 1."
    )
    assert width.texts([full, found]) == {
        "width_across": "Over the first 2 epochs, which all these widths have, Backprop's mean "
        "accuracy is 10.0 points ahead at width 1/8, 4.0 points ahead at width 1/4 and 1.0 points "
        "behind at width 1.",
        "width_end": end,
    }
    assert width.across([found]).startswith("No further width")
    assert width.at_end_of_each([full, begun]).startswith("No two widths")
    one_rule = results_of("width", lambda c, n: [50.0] if c.rule == "bp" else None)
    assert "too few" in width.answer(one_rule)


def test_what_apl_units_add_by_hand():
    def errors(config, epochs):
        gain = {"relu": 0.0, "apl": 3.0}[config.activation]
        gain += 2.0 * (config.rule == "linear") * (config.activation == "apl")
        gain -= 0.5 * (not config.hinges_learned) * config.hinges
        return [60.0 - gain + config.seed] * epochs

    found = apl_units.measures(results_of("apl_units", errors))
    assert values(found) == pytest.approx(
        {"apl_gain": 3, "apl_gain_linear": 5, "linear_gain_relu": 0, "linear_gain_apl": 2,
         "learned_gain": 2.5, "learned_gain_linear": 2.5, "learned_gain_mean": 2.25,
         "relu_bp_final": 39.5, "apl_bp_final": 42.5, "relu_linear_final": 39.5,
         "apl_linear_final": 44.5}
    )  # fmt: skip
    assert set(windows(found).values()) == {(15, 15)}
    assert found["apl_gain"].seeds == 2
    assert found["learned_gain"].seeds == 1
    lost = results_of("apl_units", errors, diverged=lambda c: c.lr > 1e-4 and c.rule == "linear")
    answer = apl_units.answer(lost)
    assert (
        "ReLU reaches 39.5 % and APL units with five hinges 42.5 % under Backprop, +3.0" in answer
    )
    assert "at the learning rate 1e-5 they reach 39.5 % and 44.5 %, +5.0 points" in answer
    assert "Linear Backprop diverges at 0.01, 1e-3." in answer
    early = results_of(
        "apl_units",
        lambda c, n: [50.0, 90.0] if c.rule == "linear" and c.activation == "apl" else errors(c, n),
        diverged=lambda c: c.rule == "linear" and c.activation == "apl",
    )
    answer = apl_units.answer(early)
    assert "to where it diverges, in epoch 2, with APL units" in answer
    assert "Linear Backprop diverges at" not in answer  # with ReLU it does not
    short = apl_units.measures(
        results_of("apl_units", lambda c, n: errors(c, 3 if c.activation == "relu" else n))
    )
    assert short["apl_gain"].last == 3
    assert short["learned_gain"].last == 15
    one = results_of("apl_units", lambda c, n: errors(c, n) if c.hinges == 5 else None)
    assert "learned_gain_mean" not in apl_units.measures(one)
    assert "learned_gain" in apl_units.measures(one)
    rows = apl_units.table([results_of("apl_units", errors)]).rows
    assert rows[0][2:] == ["39.50 ± 6.35 (2 seeds)", "42.50 ± 6.35 (2 seeds)",
                           "3.00 ± 0.00 (2 seeds)"]  # fmt: skip
    assert apl_units.ablation_table([results_of("apl_units", errors)]).rows[3][2:] == [
        "43.00",
        "38.00",
    ]


def test_a_run_of_the_ablation_that_has_just_begun_does_not_cut_the_others():
    results = results_of("apl_units", lambda c, n: [50.0] * (n if c.hinges_learned else 3))
    rows = apl_units.ablation_table([results]).rows
    assert [row[1:] for row in rows] == [["15", "50.00", "-"]] * 4


def test_the_units_of_a_glance_are_those_of_the_network():
    config = RunConfig(model="cnn", activation="apl", hinges=2, width=1 / 32, dataset="stand-in")
    torch.manual_seed(0)
    model = build(config)
    glance = probe(model, config, torch.randn(4, 3, 32, 32), torch.arange(4), 0)
    layers = apl_units.shown_units(config, glance)
    assert [len(layer) for layer in layers] == [3, 4, 8, 8, 8]
    z = torch.linspace(-2, 2, 9)
    for layer, unit in zip(layers, activation_modules(model).values(), strict=True):
        for channel, shown in enumerate(layer):
            slopes, offsets = unit.slopes[:, channel], unit.offsets[:, channel]
            if slopes.dim() > 1:  # the middle of the maps
                middle = slopes.shape[-1] // 2
                slopes, offsets = slopes[:, middle, middle], offsets[:, middle, middle]
            expected = z.relu() + (slopes[:, None] * (offsets[:, None] - z).relu()).sum(0)
            assert shown(z.numpy()) == pytest.approx(expected.detach().numpy(), abs=2e-3)
    assert apl_units.shown_units(config, toys.glance(0)) == []


def halved(config: RunConfig, first: float, second: float) -> Record:
    """Return a run of 20 epochs whose last two have these errors on the halves."""
    record = toys.record(config, [50.0] * 18 + [(first + second) / 2] * 2)
    rows = [
        replace(row, test_error_half_0=first, test_error_half_1=second) if row.epoch > 18 else row
        for row in record.epochs
    ]
    return replace(record, epochs=rows)


def test_the_choices_by_hand():
    # Accuracies at the end:                        half 0  half 1  whole
    a = halved(RunConfig(seed=1), 15.0, 30.0)  # 85      70      77.5
    b = halved(RunConfig(seed=2), 20.0, 22.0)  # 80      78      79
    c = halved(RunConfig(seed=3), 50.0, 40.0)  # 50      60      55
    for records in ([a, b, c], [c, b, a], [b, a, c]):
        choice = selection.choose(records)
        assert choice.on_test is b
        assert choice.reported == 79
        assert choice.on_halves == (a, b)
        assert choice.judged == (70 + 80) / 2
        assert choice.leak == 4
    gone = toys.record(RunConfig(seed=4), [1.0, 90.0], diverged=True)
    assert selection.choose([gone, c]).on_test is c


def test_what_the_choice_on_the_test_set_is_worth_by_hand():
    """Under Backprop the halves disagree, as in the choices above."""
    results = results_of("selection", lambda c, n: [50.0] * 20 if c.activation == "tanh" else None)
    first, second, *_ = [c for c in results.records if c.rule == "bp"]
    records = dict(results.records)
    records[first] = halved(first, 15.0, 30.0)
    records[second] = halved(second, 20.0, 22.0)
    worth = replace(results, records=records)
    found = selection.measures(worth)
    assert "adds +2.00 points on average over 2 combinations" in selection.answer(worth)
    assert "adds nothing for any of 2 combinations" in selection.answer(results)
    assert values(found) == pytest.approx(
        {"leak_mean": (4 + 0) / 2, "leak_max": 4, "tanh_bp_best": 79, "tanh_linear_best": 50,
         "bp_lead": 77.5 - 79, "linear_lead": 0, "best_gap": 50 - 79}
    )  # fmt: skip
    assert set(windows(found).values()) == {(19, 20)}
    assert selection.measures(replace(results, records={})) == {}
    assert selection.measures(replace(results, records={first: records[first]})) == {}


def test_the_inferred_pairs_against_the_best_by_hand():
    def errors(config, epochs):
        if config.activation == "relu" or config.l2 not in (0.1, 0.01):
            return None
        best = {"bp": (1e-3, 0.1), "linear": (1e-3, 0.01)}[config.rule]
        own = (config.lr, config.l2) == (1e-4, 0.1) and config.rule == "linear"
        return [40.0 if (config.lr, config.l2) == best else 44.0 if own else 70.0] * 60

    found = selection.measures(results_of("selection", errors))
    assert found["bp_lead"] == Measure(30, 55, 60)
    assert found["linear_lead"] == Measure(-4, 55, 60)
    answer = selection.answer(results_of("selection", errors))
    assert "The pair of Figure 2 for Backprop is 30.0 points above the best of the others" in answer
    assert "for Linear Backprop is 4.0 points below the best of the others" in answer
    two = results_of("selection", lambda c, n: errors(c, n) if c.lr < 1e-3 else None)
    assert "linear_lead" not in selection.measures(two)


def test_the_best_of_each_rule_is_that_of_as_many_tries_by_hand():
    """ReLU has the pairs of Figure 3 alone, tanh one pair of both rules and one of Backprop."""
    given = {
        ("relu", "bp", 1e-3, 0.1): 30.0,
        ("relu", "linear", 1e-4, 0.1): 32.0,
        ("tanh", "bp", 1e-5, 0.1): 50.0,
        ("tanh", "linear", 1e-5, 0.1): 40.0,
        ("tanh", "bp", 1e-4, 1e-6): 1.0,  # no counterpart
    }

    def errors(config, epochs):
        error = given.get((config.activation, config.rule, config.lr, config.l2))
        return None if error is None else [error] * epochs

    results = results_of("selection", errors)
    assert selection.measures(results)["best_gap"] == Measure(-2.0, 91, 100)
    assert {r.config.l2 for r in selection.matched(results.of())} == {0.1}
    del given["relu", "linear", 1e-4, 0.1]
    assert selection.measures(results_of("selection", errors))["best_gap"].value == 10


def shaped(config, accuracies, layers, errors=None):
    """Return a run with these training accuracies in percent, and these glances at its layers.

    Args:
        config: The run.
        accuracies: By epoch.
        layers: By the epoch of a glance, the shares of saturated units and the gradients.
        errors: On the test set, in percent; 50 by default.
    """
    glances = [
        replace(toys.glance(epoch), saturated=list(shares), gradient=list(gradients))
        for epoch, (shares, gradients) in layers.items()
    ]
    record = toys.record(config, errors or [50.0] * len(accuracies), layers=glances)
    rows = [
        replace(row, train_accuracy=accuracy)
        for row, accuracy in zip(record.epochs, accuracies, strict=True)
    ]
    return replace(record, epochs=rows)


def test_learning_is_measured_from_the_epoch_at_which_a_layer_saturates():
    few, half = ([0.1, 0.2], [1.0, 1.0]), ([0.1, 0.5], [1.0, 1.0])
    rising = [2.0 * n for n in range(1, 21)]  # 2 to 40 %, the last tenth is 38 and 40
    run = shaped(RunConfig(), rising, {0: half, 1: few, 10: half, 20: half})
    assert premise.gain_when_saturated(run) == pytest.approx(39 - 20)
    assert premise.late_gain(run) == pytest.approx(39 - 35)
    never = shaped(RunConfig(), rising, {0: half, 10: few})
    late = shaped(RunConfig(), rising, {10: few, 19: half})
    learnt = shaped(RunConfig(), [95.0] * 20, {10: half})
    for nothing in (never, late, learnt):
        assert math.isnan(premise.gain_when_saturated(nothing))
    gone = toys.record(RunConfig(), [50.0] * 20, diverged=True)
    assert math.isnan(premise.gain_when_saturated(gone))
    assert math.isnan(premise.late_gain(shaped(RunConfig(), [50.0], {0: few})))


def test_the_gradient_of_the_first_layer_over_the_last_is_a_geometric_mean():
    layers = {0: ([0.0], [1.0, 7.0, 10.0]), 1: ([0.0], [2.0, 7.0, 2000.0])}
    run = shaped(RunConfig(), [50.0], layers)
    assert premise.gradient_ratio(run.layers) == pytest.approx(0.01)  # of 0.1 and 0.001
    assert premise.gradient_ratio([replace(toys.glance(0), gradient=[0.0, 1.0])]) == 0
    assert math.isnan(premise.gradient_ratio([]))


def test_the_premise_by_hand():
    shares = {"bp": 0.2, "linear": 0.6}

    def record(goal):
        config = goal.config
        end = shares[config.rule] + 0.2 * (config.l2 < 0.1)
        layers = {
            n: ([s, s], [10.0 ** -(config.rule == "bp"), 1.0])
            for n, s in ((0, 0.0), (10, end / 2), (60, end))
        }
        rising = config.rule == "linear"
        accuracies = [40.0] * 10 + [40.0 + 30.0 * rising] * 50
        return shaped(config, accuracies, layers, [45.0] * 60)

    empty = results_of("premise", lambda c, n: None)
    results = replace(empty, records={g.config: record(g) for g in empty.goals})
    found = premise.measures(results)
    assert found["gradient_ratio"] == Measure(pytest.approx(0.1), 1, 60)
    assert found["bp_saturated"] == Measure(pytest.approx(20), 60, 60)
    assert found["linear_saturated"] == Measure(pytest.approx(60), 60, 60)
    assert found["bp_overfit"] == Measure(pytest.approx(40 - 55), 55, 60)
    assert found["linear_overfit"] == Measure(pytest.approx(70 - 55), 55, 60)
    assert found["decay_saturation"] == Measure(pytest.approx(20), 60, 60)
    # At epoch 10 a layer has 30 or 40 % of its units saturated, at the last glance it is too late.
    assert math.isnan(found["bp_gain_saturated"].value)
    assert math.isnan(found["linear_gain_saturated"].value)
    answer = premise.answer(results)
    assert "in the first layer is 0.1 times that in the last" in answer
    assert "20 % of the units are saturated under Backprop and 60 % under Linear Backprop" in answer
    assert "Under Backprop and under Linear Backprop, no run in a narrow network had half" in answer
    shares["linear"] = 0.8  # half of it, and the 0.2 more of a small weight decay, at epoch 10
    results = replace(empty, records={g.config: record(g) for g in empty.goals})
    assert premise.measures(results)["linear_gain_saturated"] == Measure(pytest.approx(30), 10, 60)
    assert premise.measures(empty) == {}
    (row, *_) = premise.table([results]).rows
    assert row[1:] == ["60", "0.1", "20", "20", "40.0", "+0.0", "-15.0"]


def test_the_premise_says_how_far_its_saturated_runs_are_apart():
    empty = results_of("premise", lambda c, n: None)
    configs = [g.config for g in empty.goals if g.config.rule == "linear"]
    half = {10: ([0.6], [1.0])}

    def answer(*rises):
        runs = {
            config: shaped(config, [40.0] * 10 + [40.0 + rise] * 50, half)
            for config, rise in zip(configs, rises, strict=False)
        }
        results = replace(empty, records=runs)
        return premise.answer(results), premise.measures(results)["linear_gain_saturated"]

    decays = "0.1", "0.01", "1e-3"
    each = "{:+.1f} points at 1e-4 with {}, from epoch 10 on"
    three = [each.format(rise, l2) for rise, l2 in zip((20, -4, 1), decays, strict=True)]
    text, found = answer(20, -4, 1)
    assert "3 runs in a narrow network had half of a layer's units saturated" in text
    assert f"changes by {'; '.join(three)}." in text
    assert found == Measure(pytest.approx(1.0), 10, 60)  # the median: one run decides nothing
    text, found = answer(20)
    assert "Under Linear Backprop, one run in a narrow network had half" in text
    assert f"changes by {three[0]}." in text


def test_the_premise_is_drawn_where_the_runs_are_longest():
    def some(scale, epochs):
        return results_of("premise", lambda c, n: [50.0] * epochs, scale)

    figure = premise.draw([some(PAPER, 5), some(NARROW, 60)])
    assert figure.get_suptitle() == "VGG19 with tanh (narrow network)"
    for axes in figure.axes:
        assert len(axes.lines) == 6
        assert {line.get_linestyle() for line in axes.lines} == {"-"}  # dashed is the paper
    gradients, saturated, gap = figure.axes
    assert set(gradients.lines[0].get_ydata()) == {1.0}
    assert list(saturated.lines[0].get_xdata()) == [0, 1, 2, 5, *range(10, 61, 10)]
    assert set(gap.lines[0].get_ydata()) == {0.0}  # 50 % in training and in the test
    assert premise.draw([some(PAPER, 5)]).get_suptitle() == "VGG19 with tanh (full scale)"
    empty = results_of("premise", lambda c, n: None)
    assert premise.draw([empty, empty]) is None
    bare = {c: toys.record(c, [50.0], layers=[]) for c in some(NARROW, 1).records}
    assert premise.draw([replace(empty, records=bare)]) is None
    plt.close("all")


def recipes_of(away):
    """Return full-scale results of recipes so many points from the paper's curves, by name."""

    def errors(config, epochs):
        for name in away:
            if replace(config, seed=0) in {
                g.config for lr in recipe.LEARNING_RATES for g in recipe.goals_of(PAPER, name, lr)
            }:
                curve = paper.sweep_curve(config.lr, config.l2, config.rule)
                return [100 - curve.mid[0] - away[name] - 0.5 * config.seed]
        return None

    return results_of("recipe", errors, PAPER)


@pytest.mark.parametrize(
    ("away", "excluded", "words"),
    [
        (
            {recipe.PLAIN: 1.9, recipe.OWN: 1.0, "momentum 0.9": 2.1},
            ["momentum 0.9"],
            "This book trains with the nearest one.",
        ),
        (
            {recipe.PLAIN: 1.4, recipe.OWN: 1.3, "augmentation": 1.0},
            [],
            "is 0.3 points further away than the nearest, not more than a seed",
        ),
        (
            {recipe.PLAIN: 1.9, recipe.OWN: 3.0, "augmentation": 1.0, "momentum 0.9": 1.5},
            [recipe.OWN],
            "is 2.0 points further away than the nearest, more than a seed",
        ),
    ],
)
def test_which_recipes_are_excluded(away, excluded, words):
    """Two seeds are 0.5 points apart, so that more than 1 point excludes a recipe."""
    results = recipes_of(away)
    assert recipe.excluded(results) == excluded
    answer = recipe.answer(results)
    assert f"Of the {len(away)} recipes" in answer
    assert f'the nearest to the paper\'s curves is "{min(away, key=away.get)}", 1.0' in answer
    assert "differs by up to 0.5 points" in answer
    assert ("Excluded" in answer) == bool(excluded)
    assert words in answer
    assert "at 1e-5 the distances are" in answer
    assert f'{away[recipe.PLAIN]:.1f} for "{recipe.PLAIN}"' in answer


def test_no_recipe_is_excluded_before_a_second_seed():
    results = recipes_of({recipe.PLAIN: 1.0, "momentum 0.9": 20.0})
    first = {c: r for c, r in results.records.items() if c.seed == 0}
    results = replace(results, records=first)
    assert recipe.excluded(results) == []
    assert "so no recipe is excluded" in recipe.answer(results)
    without = recipes_of({"augmentation": 1.0, "momentum 0.9": 20.0})
    assert "so no recipe is excluded" in recipe.answer(without)
    assert "fewer than two recipes" in recipe.answer(recipes_of({recipe.PLAIN: 1.0}))


def test_the_steps_of_the_own_model_chapter_are_compared_by_seed():
    def sized(config, epochs):
        return [50.0] * 5

    results = results_of("fig2_vgg19_tanh", sized)
    records = {}
    for config, record in results.records.items():
        if config.rule == "bp" and config.seed == 0:
            continue
        size = (config.seed + 1) * (30 if config.rule == "linear" else 1) * config.lr
        layers = [
            replace(toys.glance(n, 0.5), update=[size] * 17) for n in range(6) if is_glance(n)
        ]
        records[config] = replace(record, layers=layers)
    pairs = own_model.pairs(replace(results, records=records), "tanh")
    assert [{r.config.seed for r in pair.values()} for pair in pairs] == [{1}, {2}]
    assert [larger_step.first_step_ratio(pair, 1) for pair in pairs] == pytest.approx([30, 30])
    assert own_model.span([1.0, 3.0, math.nan]) == "1.0 to 3.0"
    assert own_model.span([2.0]) == "2.0"
    assert own_model.span([]) == "-"


def binarized(c, rule, lr=1e-3):
    return (c.model, c.rule, c.lr) == ("binarized_resnet", rule, lr)


def test_the_binarized_network_by_hand():
    def errors(config, epochs):
        if config.model == "vgg19":  # 50 % after the second epoch under either rule
            return [70.0, 50.0] + [45.0] * 8
        start = {1e-3: 80.0, 1e-4: 84.0, 1e-5: 90.0}[config.lr]
        step = 4.0 if config.rule == "linear" else 2.0
        return [start - step * n for n in range(10)]

    found = table_binarized.measures(results_of("table_binarized", errors))
    by_hand = {
        "bp_error": 62.0, "linear_error": 44.0, "bp_error5": 31.0, "linear_error5": 22.0,
        "error_gain": 18.0, "error5_gain": 9.0,
        "top1_distance": (62 - 28.11 + 44 - 18.43) / 2,
        "top5_distance": (31 - 28.11 + 22 - 18.43) / 2,
        "early_gap": 9.0,  # mean errors of 71 and 62
        # Under Backprop to 38 %: ten epochs against two. Under Linear Backprop to 55 %: ten
        # against three.
        "slower": 10 / 3,
    }  # fmt: skip
    assert values(found) == pytest.approx(by_hand)
    assert windows(found) == dict.fromkeys(by_hand, (10, 10)) | dict.fromkeys(
        ("early_gap", "slower"), (1, 10)
    )
    # Where one rule has hardly learnt anything, a race to the level of guessing does not count.
    hardly = results_of(
        "table_binarized",
        lambda c, n: [89.0] * 9 + [86.0] if binarized(c, "bp", c.lr) else errors(c, n),
    )
    assert table_binarized.measures(hardly)["slower"] == Measure(pytest.approx(10 / 3), 1, 10)
    neither = results_of(
        "table_binarized", lambda c, n: [86.0] * 10 if c.model != "vgg19" else errors(c, n)
    )
    assert math.isnan(table_binarized.measures(neither)["slower"].value)
    alone = results_of("table_binarized", lambda c, n: errors(c, n) if c.rule == "bp" else None)
    assert set(table_binarized.measures(alone)) == {"bp_error", "bp_error5"}


def test_the_binarized_networks_are_compared_over_the_epochs_that_all_have():
    def errors(config, epochs, more=6):
        return [50.0] * 3 + [5.0] * (0 if binarized(config, "bp", 1e-5) else more)

    found = table_binarized.measures(results_of("table_binarized", errors))
    assert set(windows(found).values()) == {(3, 3), (1, 3)}
    assert found["linear_error"].value == 50
    # A pair that has just begun does not cut those that have the ten epochs of the question.
    found = table_binarized.measures(results_of("table_binarized", lambda c, n: errors(c, n, 7)))
    assert set(windows(found).values()) == {(10, 10), (1, 10)}
    assert found["linear_error"].value == 5


def test_a_diverged_binarized_network_has_no_top5_error():
    results = results_of(
        "table_binarized",
        lambda c, n: [50.0, 90.0] if c.rule == "bp" else [40.0] * 10,
        diverged=lambda c: c.rule == "bp",
    )
    found = values(table_binarized.measures(results))
    assert found["bp_error"] == 90
    assert math.isnan(found["bp_error5"])
    assert "cannot be told: a best run diverged" in table_binarized.answer(results)


@pytest.mark.parametrize(("rates", "words"), [(1, "both at the only"), (2, "each at its best")])
def test_a_best_pair_is_named_only_where_there_was_a_choice(rates, words):
    shown = (1e-3, 1e-4)[:rates]
    results = results_of("table_binarized", lambda c, n: [50.0] * 5 if c.lr in shown else None)
    assert words in table_binarized.answer(results)


@pytest.mark.parametrize(("error", "named"), [(89.9, True), (60.0, False)])
def test_guessing_is_named_beside_a_network_that_hardly_learns(error, named):
    results = results_of("table_binarized", lambda c, n: [error if c.rule == "bp" else 50.0] * 10)
    assert ("Guessing has an error of 90 %." in table_binarized.answer(results)) == named


@pytest.mark.parametrize(
    ("epochs", "top5", "words"),
    [
        (10, (20.0, 15.0), "so they are probably top-1 errors"),
        (10, (20.0, 19.0), "cannot be told after 10 epochs"),
        (1, (30.0, 20.0), "cannot be told after 1 epoch:"),
        (100, (2.0, 1.0), "they are rather top-1 errors"),
        (100, (28.0, 18.0), "they are rather top-5 errors"),
    ],
)
def test_how_the_papers_numbers_are_read(epochs, top5, words):
    fifth = dict(zip(("bp", "linear"), top5, strict=True))
    results = results_of("table_binarized", lambda c, n: [31.0] * epochs, PAPER)
    records = {
        c: toys.record(c, [31.0] * epochs, top5=[fifth[c.rule]] * epochs) for c in results.records
    }
    assert words in table_binarized.answer(replace(results, records=records))


def test_sign_flips_are_shown_where_they_are_logged():
    results = results_of(
        "table_binarized", lambda c, n: [50.0] * 3 if binarized(c, "linear") else None
    )
    (config, record), *_ = results.records.items()
    assert table_binarized.flips_table([results]).rows[0][4:6] == ["-", "-"]
    rows = [replace(row, sign_flips=0.5 / row.epoch) for row in record.epochs]
    results = replace(results, records={config: replace(record, epochs=rows)})
    (shown,) = table_binarized.flips_table([results]).rows
    assert shown == [
        "Linear Backprop, narrow network", "1e-3", "1e-4", "3", "0.5", "0.17", "0.67", "50.0"
    ]  # fmt: skip


# --- any subset


def subset(number: int) -> Callable[[RunConfig, int], Errors]:
    """Return errors of a random part of the runs: of any length, some of them diverged."""
    draw = random.Random(number)
    share = draw.choice([0.0, 0.1, 0.5, 0.9, 1.0])

    def errors(config, epochs):
        if draw.random() > share:
            return None
        length = draw.choice([1, 2, min(5, epochs), epochs])
        return [draw.uniform(5, 95) for _ in range(length)]

    return errors


def everything_shown(stem: str, found: list[Results]) -> list[object]:
    """Call everything that the notebook of an experiment shows."""
    module = EXPERIMENTS[stem]
    shown: list[object] = [notebook.runs_table(found)]
    of_each_scale = {"recipe": ("table", "draw"), "fig4_sweep": ("table",)}
    each = ("answer", *of_each_scale.get(stem, ()))
    drawings = ("draw", "draw_layers", "draw_shapes", "draw_ablation")
    tables = (
        "table",
        "layers_table",
        "flips_table",
        "races_table",
        "ablation_table",
        "rates_table",
    )
    for name in (*drawings, *tables, "answer"):
        function = getattr(module, name, None)
        if function is None:
            continue
        shown += [function(r) for r in found] if name in each else [function(found)]
    shown += [card.provenance(stem, found) or "-"]
    plt.close("all")
    return shown


@pytest.mark.parametrize("stem", EXPERIMENTS)
@pytest.mark.parametrize("number", range(6))
def test_any_subset_of_records_can_be_shown(stem, number):
    found = [
        results_of(stem, subset(number + 100 * place), scale, lambda c: int(c.key, 16) % 5 == 0)
        for place, scale in enumerate((PAPER, NARROW) if number else (SMOKE,))
    ]
    for results in found:
        for measure in EXPERIMENTS[stem].measures(results).values():
            assert 1 <= measure.first <= measure.last
    for shown in everything_shown(stem, found):
        text = shown.markdown() + shown.caption if isinstance(shown, Table) else str(shown)
        assert "nan" not in text.lower().replace("cannot", ""), text
        if isinstance(shown, Table):
            assert {len(row) for row in shown.rows} <= {len(shown.columns)}
    if stem == "larger_step":
        own_model.tuning_table(own_model.best_scale(found))
    if stem == "fig2_vgg19_tanh":
        own_model.layers_table([own_model.best_scale(found)])


def test_the_chapter_on_own_models_shows_the_scale_with_the_longest_run():
    short = results_of("larger_step", lambda c, n: [50.0], PAPER)
    long = results_of("larger_step", lambda c, n: [50.0] * 12 if c.rule == "bp" else None)
    none = results_of("larger_step", lambda c, n: None, PAPER)
    assert own_model.best_scale([short, long]) is long
    assert own_model.best_scale([none, long]) is long
    assert own_model.best_scale([short, none]) is short


@pytest.mark.parametrize("stem", ["fig2_vgg19_tanh", "fig3_relu", "apl_units"])
def test_a_seed_that_has_just_begun_does_not_cut_the_comparison_of_the_others(stem):
    def errors(config, epochs):
        return [50.0 - 10 * config.seed] * (1 if config.seed else epochs)

    measures = EXPERIMENTS[stem].measures
    both = measures(results_of(stem, errors))
    alone = measures(results_of(stem, lambda c, n: errors(c, n) if c.seed == 0 else None))
    assert windows(both) == windows(alone)
    assert values(both) == pytest.approx(values(alone), nan_ok=True)


def test_ratios_of_deviations_count_their_seeds():
    def errors(config, epochs):
        step = 2.0 if config.rule == "bp" else 1.0
        return [50.0 + step * (-1) ** n for n in range(epochs)]

    assert fig2_vgg19_tanh.measures(results_of("fig2_vgg19_tanh", errors))["sd_ratio"].seeds == 3
    found = fig3_relu.measures(results_of("fig3_relu", errors))
    assert [found[name].seeds for name in ("sd_ratio", "relu_sd_ratio")] == [3, 3]


def test_the_distance_to_the_papers_curve_is_over_the_epochs_that_both_rules_have():
    def errors(last):
        return lambda c, n: [60.0] * 20 + [10.0] * (80 if c.rule == "bp" and last else 0)

    short, long = (
        fig2_vgg19_tanh.measures(results_of("fig2_vgg19_tanh", errors(last))) for last in (0, 1)
    )
    assert short["bp_distance"] == long["bp_distance"]
    assert long["bp_distance"].last == 20


def test_recipes_are_ranked_only_with_both_rules_at_the_higher_rate():
    def errors(config, epochs):
        if config.init == "he" and config.batch_norm:  # one rule at each rate
            return [50.0] if (config.rule == "bp") == (config.lr == 1e-4) else None
        if config.augment:
            return [50.0] if config.lr == 1e-5 else None
        return [60.0] if config.batch_norm_scale == "one" else None

    ranked = recipe.distances(results_of("recipe", errors, PAPER))
    assert "augmentation" not in ranked
    assert "He initialisation" not in ranked
    assert recipe.PLAIN in ranked
    assert not any(math.isnan(recipe.mean_distance(found)) for found in ranked.values())


def test_the_table_of_the_sweep_says_where_a_run_diverged():
    results = results_of(
        "fig4_sweep", lambda c, n: [50.0, 60.0, 90.0], diverged=lambda c: c.l2 == 0.1
    )
    (row, *_) = fig4_sweep.table(results).rows
    assert row[1:3] == ["10.0 (diverged in epoch 3)", "10.0 (3)"]


def test_the_own_model_chapter_compares_the_rules_at_one_epoch():
    results = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] * (20 if c.rule == "bp" else 10))
    for pair in own_model.pairs(results, "tanh"):
        assert {len(record) for record in pair.values()} == {10}
        assert {record.layers[-1].epoch for record in pair.values()} == {10}
