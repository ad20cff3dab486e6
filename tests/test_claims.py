"""Verdicts from measures, measures from records, and the paper's curves."""

import math
from dataclasses import replace

import pytest
import yaml

from lbp import claims, experiments, measures, paper, provenance
from lbp.claims import NOT_REPRODUCED, NOT_RUN, REDUCED, REPRODUCED, Claim, judge
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.record import Record
from lbp.reproduce import Results
from lbp.store import Store
from tests.test_store import PROVENANCE, epoch

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


def run(label: str, errors: list[float], fingerprint: str, **outcome) -> Record:
    config = replace(experiments.runs("fig2", "cpu")[label], epochs=len(errors))
    rows = [replace(epoch(n), test_error=error) for n, error in enumerate(errors, start=1)]
    return Record(config, "finished", rows, replace(PROVENANCE, fingerprint=fingerprint))


def fig2_results(**records: Record) -> Results:
    runs = experiments.runs("fig2", "cpu")
    return Results("fig2", "cpu", runs, {f"tanh, {rule}": r for rule, r in records.items()})


def test_figure_2s_measures_by_hand():
    now = provenance.fingerprint()
    # bp jumps by 2 points up and down; linear rises by 1 point each epoch.
    bp = run("tanh, bp", [50.0, 52.0] * 10, now)
    linear = run("tanh, linear", [60.0 - n for n in range(20)], now)
    found = measures.fig2(fig2_results(bp=bp, linear=linear))
    assert found["bp_final"] == pytest.approx(49.0)
    assert found["linear_final"] == pytest.approx(58.5)
    assert found["final_gap"] == pytest.approx(9.5)
    # 625 steps an epoch: the first 12,500 steps are all 20 epochs.
    assert found["early_lead"] == pytest.approx(49.0 - 49.5)
    assert found["bp_sd"] == pytest.approx(math.sqrt(2))
    assert found["linear_sd"] == pytest.approx(math.sqrt(0.5))
    assert found["sd_ratio"] == pytest.approx(2)


def test_no_measures_of_missing_or_stale_runs():
    now = provenance.fingerprint()
    bp, linear = run("tanh, bp", [50.0] * 4, now), run("tanh, linear", [50.0] * 4, "stale")
    assert measures.fig2(fig2_results(bp=bp)) == {}
    assert measures.fig2(fig2_results(bp=bp, linear=linear)) == {}
    assert fig2_results(bp=bp, linear=linear).stale == ["tanh, linear"]
    assert fig2_results(bp=bp).missing == ["tanh, linear"]


def test_the_committed_reduced_runs_are_complete_and_present():
    from lbp.reproduce import recorded

    results = recorded("fig2", "cpu")
    assert results.complete
    assert results.stale == []
    assert set(measures.fig2(results)) == {
        "early_lead", "bp_final", "linear_final", "final_gap", "bp_sd", "linear_sd", "sd_ratio"
    }  # fmt: skip


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
    with pytest.raises(LbpError, match="unknown figure 'fig9': choose from fig2"):
        experiments.runs("fig9", "cpu")
    with pytest.raises(LbpError, match="unknown profile 'gpu': choose from recorded, smoke"):
        experiments.scales("gpu")


def test_the_store_is_read_only_for_figures(tmp_path):
    from lbp.reproduce import recorded

    recorded("fig2", "paper", Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
