"""Verdicts from measures, measures from records, and the paper's curves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import yaml

from lbp import claims, experiments, measures, paper, provenance
from lbp.claims import NOT_REPRODUCED, NOT_RUN, REDUCED, REPRODUCED, Claim, judge
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.paper import PaperCurve
from lbp.record import Record
from lbp.reproduce import Results, recorded
from lbp.store import Store
from tests.test_store import LAYERS, PROVENANCE, epoch

CLAIM = Claim(
    id="c", figure="fig2", section="1", statement="s", paper="p", tested="t", measure="m",
    unit="points", low=1.0, high=2.0, scales=("paper", "cpu"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("full", "reduced", "word", "scale"),
    [
        ({}, {}, NOT_RUN, None),
        ({"m": 1.0}, {}, REPRODUCED, "paper"),
        ({"m": 2.1}, {"m": 1.5}, NOT_REPRODUCED, "paper"),  # the paper's scale decides
        ({}, {"m": 1.5}, REDUCED, "cpu"),
        ({}, {"m": 0.9}, NOT_REPRODUCED, "cpu"),
        ({"other": 1.5}, {}, NOT_RUN, None),
        ({"m": math.nan}, {}, NOT_REPRODUCED, "paper"),
    ],
)
def test_verdicts(full, reduced, word, scale):
    verdict = judge(CLAIM, {"fig2": {"paper": full, "cpu": reduced}})
    assert (verdict.word, verdict.scale) == (word, scale)


def test_a_level_is_not_judged_at_reduced_scale():
    claim = replace(CLAIM, scales=("paper",))
    assert judge(claim, {"fig2": {"cpu": {"m": 1.5}}}).word == NOT_RUN


def test_the_file_of_claims_is_whole():
    loaded = claims.load()
    assert {claim.figure for claim in loaded} >= {
        "fig1",
        "fig2",
        "fig3",
        "fig4",
        "binarized",
        "cost",
    }
    for claim in loaded:
        assert claim.statement.endswith(".")
        assert claim.tested.endswith(".")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entries: entries[0].update(colour="red"), "unknown field of the claim .*'colour'"),
        (lambda entries: entries[0].pop("measure"), "is damaged .*measure"),
        (lambda entries: entries[0].update(low=2, high=1), "has the bounds 2 to 1"),
        (lambda entries: entries[0].update(scales=["gpu"]), "unknown scale of the claim"),
        (lambda entries: entries.append(entries[0]), "two claims have one id"),
    ],
)
def test_a_damaged_file_of_claims_is_named(tmp_path, monkeypatch, damage, message):
    entries = yaml.safe_load(claims.CLAIMS.read_text())
    damage(entries)
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(claims, "CLAIMS", path)
    with pytest.raises(LbpError, match=message):
        claims.load()


def results_of(figure: str, scale: str, errors, stale=(), diverged=()) -> Results:
    """Return a figure's results, each run with the test errors that `errors(config)` gives it."""
    now = provenance.fingerprint()
    runs = experiments.runs(figure, scale)
    records = {}
    for label, config in runs.items():
        values = errors(config)
        if values is None:
            continue
        rows = [replace(epoch(n), test_error=error) for n, error in enumerate(values, start=1)]
        outcome = "finished"
        if label in diverged:
            rows[-1] = replace(rows[-1], train_loss=math.nan)
            outcome = "diverged"
        mark = "another" if label in stale else now
        provenance_ = replace(PROVENANCE, fingerprint=mark)
        records[label] = Record(config, outcome, rows, [LAYERS], provenance_)
    return Results(figure, scale, runs, records)


def test_figure_2s_measures_by_hand():
    def errors(config):
        if config.rule == "bp":  # jumps by 2 points up and down
            return [50.0, 52.0] * 5
        return [60.0 - n for n in range(10)]  # rises by 1 point each epoch

    found = measures.fig2(results_of("fig2", "cpu", errors))
    assert found["bp_final"] == pytest.approx(48.0)  # the last of ten epochs
    assert found["linear_final"] == pytest.approx(49.0)
    assert found["final_gap"] == pytest.approx(1.0)
    # 625 steps an epoch: ten epochs are within the first 12,500 steps.
    assert found["early_lead"] == pytest.approx(49.0 - 44.5)
    assert found["bp_sd"] == pytest.approx(math.sqrt(2))
    assert found["linear_sd"] == pytest.approx(math.sqrt(0.5))
    assert found["sd_ratio"] == pytest.approx(2)


def test_seeds_are_averaged_and_stale_runs_left_out():
    def errors(config):
        if config.rule == "bp":
            return [50.0 + config.seed] * 10
        return [60.0] * 10 if config.seed == 1 else None

    stale = ["tanh, bp, seed 2"]
    results = results_of("fig2", "cpu", errors, stale)
    found = measures.fig2(results)
    assert found["bp_final"] == pytest.approx(49.5)
    assert found["linear_final"] == pytest.approx(40.0)
    assert results.missing == ["tanh, linear, seed 0", "tanh, linear, seed 2"]
    assert results.stale == stale
    only_bp = results_of("fig2", "cpu", lambda c: [50.0] * 10 if c.rule == "bp" else None)
    assert measures.fig2(only_bp) == {}


def test_a_diverged_run_counts_as_guessing():
    def errors(config):
        return [90.0] if config.rule == "bp" else [60.0] * 10

    bp = [f"tanh, bp, seed {seed}" for seed in (0, 1, 2)]
    found = measures.fig2(results_of("fig2", "cpu", errors, diverged=bp))
    assert found["bp_final"] == pytest.approx(10.0)
    assert found["early_lead"] == pytest.approx(-30.0)
    assert math.isnan(found["bp_sd"])


def test_figure_3s_measures_by_hand():
    def errors(config):
        swing = {"bp": 3.0, "linear": 1.0}[config.rule] + (config.activation == "relu")
        return [40.0, 40.0 + swing] * 5

    found = measures.fig3(results_of("fig3", "cpu", errors))
    assert found["best_gap"] == pytest.approx(0.0)
    assert found["relu_bp_sd"] == pytest.approx(4 / math.sqrt(2))
    assert found["sd_ratio"] == pytest.approx(4.0)
    assert found["relu_sd_ratio"] == pytest.approx(2.0)


def test_figure_4s_measures_by_hand():
    def errors(config):
        gain = 0.0
        if config.rule == "linear":
            gain = 5.0 if config.lr == 1e-4 else 2.0
            gain += 7.0 * (config.l2 == 0.1)
        return [80.0 - gain] * config.epochs

    found = measures.fig4(results_of("fig4", "cpu", errors))
    assert found["early_gap_min"] == pytest.approx(2.0)
    assert found["weight_decay_gain"] == pytest.approx(7.0)
    part = results_of("fig4", "cpu", lambda c: errors(c) if c.l2 > 1e-6 else None)
    assert measures.fig4(part) == {}
    shown = results_of("fig4", "cpu", lambda c: errors(c) if c.lr < 1e-3 else None)
    assert measures.fig4(shown) == found  # the panel that the paper lacks decides nothing


def test_the_distance_is_taken_at_equal_steps():
    # 10,000 images in batches of 32: 313 steps an epoch; the paper has 391.
    config = experiments.runs("fig4", "cpu")["tanh, bp, lr 0.0001, l2 0.1"]
    rows = [replace(epoch(n), test_error=100.0 - 10 * n) for n in (1, 2, 3, 4)]
    record = Record(config, "finished", rows, [LAYERS], PROVENANCE)
    curve = PaperCurve([0.5, 1, 2, 50], [0.0] * 4, [99.0, 10.0, 20.0, 99.0], [0.0] * 4)
    first = abs(10 * 391 / 313 - 10.0)  # accuracy rises by 10 points each 313 steps
    second = abs(10 * 782 / 313 - 20.0)
    assert measures.distance(record, curve) == pytest.approx((first + second) / 2)
    assert math.isnan(measures.distance(record, PaperCurve([50], [0.0], [1.0], [0.0])))


def test_the_interval_is_students():
    found = measures.interval([1.0, 2.0, 3.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t table, 2 degrees
    assert str(found) == "2.00 ± 2.48 (3 seeds)"
    assert str(measures.interval([1.5])) == "1.50 (one seed)"


def test_recipes_are_ranked_by_their_distance():
    def errors(config):
        curve = paper.sweep_curve(config.lr, config.l2, config.rule)
        offset = 5.0 * config.augment + 2.0 * (config.momentum > 0)
        steps = [n * config.steps_per_epoch / 391 for n in range(1, config.epochs + 1)]
        inside = np.interp(steps, curve.epochs, curve.mid)
        return list(100 - inside - offset)

    results = results_of("recipe", "cpu", lambda c: None if c.init == "xavier" else errors(c))
    ranked = measures.recipe_distances(results)
    assert len(ranked) == len(experiments.RECIPES) - 1
    assert list(ranked)[-2:] == ["with momentum 0.9", "with augmentation"]
    # Between the epochs of a run the curve is a straight line: some tenths of a point.
    assert ranked["with augmentation"]["mean"] == pytest.approx(5.0, abs=0.7)
    assert ranked["with momentum 0.9"]["mean"] == pytest.approx(2.0, abs=0.7)
    assert measures.recipe(results) == {}
    assert measures.recipe(results_of("recipe", "cpu", errors))["best_distance"] < 0.7


def test_the_larger_step_by_hand():
    def errors(config):
        best = {"bp": {1e-2: 40.0}, "linear": {1e-3: 45.0}}[config.rule]
        return [best.get(config.lr, 60.0) + (config.l2 < 0.1)] * config.epochs

    found = measures.larger_step(results_of("larger-step", "cpu", errors))
    assert found == pytest.approx(
        {"paper_rates_gap": 15.0, "all_rates_gap": -5.0, "bp_best": 60.0, "bp_best_lr": 1e-2,
         "linear_best": 55.0, "linear_best_lr": 1e-3}
    )  # fmt: skip
    assert measures.larger_step(results_of("larger-step", "cpu", lambda c: None)) == {}


def test_precisions_by_hand():
    def errors(config):
        return [50.0 + config.seed + 3.0 * (config.precision == "bf16")] * config.epochs

    found = measures.precision(results_of("precision", "cpu", errors))
    assert found["difference"] == pytest.approx(3.0)
    assert found["seed_sd"] == pytest.approx(1.0)
    assert found["ratio"] == pytest.approx(3.0 / math.sqrt(2 / 3))


@pytest.mark.parametrize("figure", experiments.FIGURES)
def test_the_committed_reduced_runs_are_complete_and_present(figure):
    results = recorded(figure, "cpu")
    assert results.missing == []
    assert results.stale == []
    if figure in measures.BY_FIGURE:
        assert all(math.isfinite(value) for value in measures.BY_FIGURE[figure](results).values())


def test_a_curve_of_the_sweep_is_pieced_together():
    large, small = (paper.sweep_curve(1e-4, l2, "linear") for l2 in (0.1, 1e-3))
    assert large.epochs == sorted(set(large.epochs))
    assert large.epochs[0] == small.epochs[0] == 1
    assert large.mid[0] == small.mid[0]
    assert large.mid[-1] > small.mid[-1] + 10  # 86.5 against 74.5 % in the paper's figure
    assert paper.sweep_curve(1e-5, 0.1, "bp") == paper.sweep_curve(1e-5, 1e-6, "bp")
    with pytest.raises(LbpError, match=r"unknown learning rate of Figure 4 0\.001: choose from"):
        paper.sweep_curve(1e-3, 0.1, "bp")
    with pytest.raises(LbpError, match="no curve of the rule 'as-printed'"):
        paper.sweep_curve(1e-4, 0.1, "as-printed")


def test_the_papers_curves():
    curves = paper.curves(2)
    assert set(curves) == {"tanh, bp", "tanh, linear"}
    for curve in curves.values():
        assert curve.epochs == sorted(curve.epochs)
        for low, mid, high in zip(curve.low, curve.mid, curve.high, strict=True):
            assert 0 <= low <= mid <= high <= 100
    assert max(curves["tanh, linear"].epochs) == 980
    assert len(paper.curves(4, "lr 1e-5")) == 2
    with pytest.raises(LbpError, match="no panel 'middle' of figure 3: choose from 2 '', 3 'left'"):
        paper.curves(3, "middle")


def test_every_figure_has_runs_at_every_scale():
    for figure in experiments.FIGURES:
        for scale in experiments.SCALES:
            runs = experiments.runs(figure, scale)
            assert all(isinstance(run, RunConfig) for run in runs.values())
            on_stand_in = {run.dataset == "stand-in" for run in runs.values()}
            assert on_stand_in == {scale == "smoke"}
    with pytest.raises(LbpError, match="unknown figure 'fig9': choose from recipe, fig2"):
        experiments.runs("fig9", "cpu")
    with pytest.raises(LbpError, match="unknown profile 'gpu': choose from recorded, smoke"):
        experiments.scales("gpu")


def test_the_store_is_read_only_for_figures(tmp_path):
    recorded("fig2", "paper", Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
