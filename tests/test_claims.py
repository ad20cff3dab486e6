"""Verdicts from numbers; the file of claims; the paper's curves."""

import math
from dataclasses import replace

import pytest
import yaml

from lbp.errors import LbpError
from lbp.experiments import EXPERIMENTS, claims, cost, fig1_synthetic, fig4_sweep, paper
from lbp.experiments.claims import (
    BEGUN,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    UNTOLD,
    Claim,
    Verdict,
    judge,
)
from lbp.experiments.numbers import Estimate, Measure
from lbp.experiments.scales import NARROW, PAPER
from lbp.experiments.table import Badge
from lbp.lab import paths
from lbp.lab.store import Store
from tests import toys

CLAIM = Claim(
    id="c", name="n", work="yazdani2018", kind="paper", figure="fig2_vgg19_tanh", section="1",
    statement="s", paper="p", source="text", tested="t", epochs="1 to 30", measure="m",
    unit="points", low=1.0, high=2.0, least={"paper": 20, "narrow": 30},
)  # fmt: skip


FULL, NARROWLY = "at full scale, epochs 1 to", "in a narrow network, epochs 1 to"


@pytest.mark.parametrize(
    ("full", "narrow", "text"),
    [
        (None, None, NOT_RUN),
        (Measure(1.0, 1, 30), None, f"reproduced {FULL} 30"),
        (Measure(2.1, 1, 25), Measure(1.5, 1, 30), f"not reproduced {FULL} 25"),
        # Too few epochs at full scale: the narrow network decides.
        (Measure(2.1, 1, 19), Measure(1.5, 1, 30), f"reproduced {NARROWLY} 30"),
        (Measure(1.5, 1, 19), Measure(0.9, 1, 40), f"not reproduced {NARROWLY} 40"),
        # Neither has enough: the one is named that has most of what it needs.
        (Measure(1.5, 1, 19), Measure(1.5, 1, 28), f"{BEGUN} at full scale, 19 of 20 epochs"),
        (Measure(1.5, 1, 18), Measure(1.5, 1, 29), f"{BEGUN} in a narrow network, 29 of 30 epochs"),
        (None, Measure(math.nan, 1, 1), f"{BEGUN} in a narrow network, 1 of 30 epochs"),
        (Measure(math.nan, 1, 30), None, f"cannot be told {FULL} 30"),
    ],
)
def test_verdicts(full, narrow, text):
    numbers = {"paper": full, "narrow": narrow}
    found = {place: {"m": m} for place, m in numbers.items() if m is not None}
    verdict = judge(CLAIM, found)
    assert verdict.text == text
    assert verdict.word in claims.WORDS
    assert text.startswith(verdict.word)


@pytest.mark.parametrize(
    ("value", "seeds", "word"),
    [
        (2.1, 1, UNTOLD),  # 0.1 above the upper bound
        (1.9, 2, UNTOLD),
        (1.9, 3, REPRODUCED),
        (2.1, 3, NOT_REPRODUCED),
        (2.3, 1, NOT_REPRODUCED),
        (0.9, 1, UNTOLD),
        (0.7, 1, NOT_REPRODUCED),
        (1.5, 1, REPRODUCED),
    ],
)
def test_a_number_of_few_seeds_decides_nothing_near_a_bound(value, seeds, word):
    claim = replace(CLAIM, margin=0.25)
    assert judge(claim, {"paper": {"m": Measure(value, 1, 30, seeds)}}).word == word
    # A number without seeds has no margin.
    assert judge(claim, {"paper": {"m": value}}).word in (REPRODUCED, NOT_REPRODUCED)


def test_where_a_scale_cannot_tell_another_that_decides_is_named_beside_it():
    claim = replace(CLAIM, margin=0.25)
    near, inside, above = Measure(0.9, 1, 30, 1), Measure(1.5, 1, 30, 1), Measure(9.0, 1, 30, 1)
    verdict = judge(claim, {"paper": {"m": near}, "narrow": {"m": inside}})
    assert verdict.word == UNTOLD
    assert verdict.text == f"cannot be told {FULL} 30; reproduced {NARROWLY} 30"
    assert verdict.found == "0.9 points; in a narrow network 1.5 points"
    nowhere = judge(claim, {"paper": {"m": Measure(math.nan, 1, 30)}, "narrow": {"m": above}})
    assert nowhere.text == f"cannot be told {FULL} 30; not reproduced {NARROWLY} 30"
    assert nowhere.found == "-; in a narrow network 9 points"
    listed = claims.texts([verdict])["names cannot be told"]
    assert listed == f"1 at full scale (n: reproduced {NARROWLY} 30)"
    # A scale that decides stands alone, and one that cannot tell either adds nothing.
    for full, narrow, text in (
        (inside, above, f"reproduced {FULL} 30"),
        (near, near, f"cannot be told {FULL} 30"),
        (near, Measure(1.5, 1, 1), f"cannot be told {FULL} 30"),
    ):
        judged = judge(claim, {"paper": {"m": full}, "narrow": {"m": narrow}})
        assert (judged.text, judged.beside) == (text, None)


def test_a_claim_has_no_negative_margin():
    with pytest.raises(LbpError, match=r"the claim c has the margin -1.0: at least 0 is needed"):
        replace(CLAIM, margin=-1.0)


def test_a_level_is_not_judged_in_a_narrow_network():
    claim = replace(CLAIM, least={"paper": 0})
    assert judge(claim, {"narrow": {"m": Measure(1.5, 1, 100)}}).word == NOT_RUN


def test_numbers_without_epochs_are_judged_as_they_are():
    claim = replace(CLAIM, least={"gpu": 0, "processor": 0})
    assert judge(claim, {"processor": {"m": 1.5}}).text == "reproduced on a processor"
    both = {"processor": {"m": 1.5}, "gpu": {"m": 0.5}}
    assert judge(claim, both).text == "not reproduced on a GPU"
    assert judge(claim, {"gpu": {"other": 1.5}}).word == NOT_RUN


def test_the_number_found_has_a_unit():
    assert judge(CLAIM, {"paper": {"m": Measure(1.234, 1, 30)}}).found == "1.23 points"
    assert judge(CLAIM, {"paper": {"m": Measure(math.nan, 1, 30)}}).found == "-"
    assert judge(CLAIM, {}).found == "-"


def test_the_table_of_verdicts_has_a_row_for_each():
    judged = [judge(CLAIM, {"paper": {"m": Measure(1.234, 1, 30)}}), judge(CLAIM, {})]
    short, long = claims.table(judged), claims.table(judged, details=True)
    assert short.columns == ["place", "claim", "verdict"]
    badges = Badge(REPRODUCED, f"reproduced {FULL} 30"), Badge(NOT_RUN, NOT_RUN)
    assert short.rows == [["1", "s", badge] for badge in badges]
    assert long.columns == [*short.columns, "paper", "source", "reproduced if", "found"]
    source = ["p", "the paper's text", "1 to 2 points"]
    assert long.rows == [[*short.rows[0], *source, "1.23 points"], [*short.rows[1], *source, "-"]]


def test_a_claim_of_another_paper_names_it_where_it_stands():
    other = replace(CLAIM, work="agostinelli2014", section="3")
    assert claims.table([judge(other, {})]).rows[0][0] == "Agostinelli et al. 2014, 3"
    assert claims.table([judge(CLAIM, {})]).rows[0][0] == "1"
    assert other.is_of_another_paper
    assert not other.is_of_the_paper
    assert not CLAIM.is_of_another_paper
    assert CLAIM.is_of_the_paper
    assert not replace(CLAIM, kind="control").is_of_the_paper
    control = replace(CLAIM, kind="control")
    assert claims.table([judge(control, {})]).rows[0][0] == "this book's control"


def test_the_file_of_claims_is_whole():
    loaded = claims.load()
    known = {*EXPERIMENTS, "fig1_synthetic", "cost", "table_binarized", "apl_cifar100", "apl_nin"}
    assert {claim.figure for claim in loaded} <= known
    for claim in loaded:
        assert claim.statement.endswith(".")
        assert claim.tested.endswith(".")
        assert (claim.source == "none") == (claim.kind == "control")
        # A claim about runs says which epochs it looks at, and needs some.
        assert bool(claim.epochs) == (claim.figure not in ("fig1_synthetic", "cost"))
        assert all(epochs > 0 for epochs in claim.least.values()) == bool(claim.epochs)
        for name, most in ((PAPER.name, PAPER.most_epochs), (NARROW.name, NARROW.most_epochs)):
            assert claim.least.get(name, 0) <= most


def test_every_claim_finds_its_measure():
    """A misspelt measure would leave a claim "not yet run" for ever."""
    from tests.test_measures import results_of

    names = {
        stem: set(experiment.measures(results_of(stem, lambda c, n: [50.0] * n, PAPER)))
        for stem, experiment in EXPERIMENTS.items()
    }
    names["cost"] = set(cost.measures(cost.recorded("processor")))
    names["fig1_synthetic"] = set(fig1_synthetic.measures(fig1_synthetic.compute(1, 0, 2)))
    for claim in claims.load():
        if claim.figure in names:
            assert claim.measure in names[claim.figure], claim.id


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entries: entries[0].update(colour="red"), "unknown field of the claim .*'colour'"),
        (lambda entries: entries[0].pop("measure"), "is damaged .*measure"),
        (lambda entries: entries[0].update(low=2, high=1), "has the bounds 2 to 1"),
        (lambda entries: entries[0].update(least={"cpu": 1}), "unknown place of the claim .*'cpu'"),
        (lambda entries: entries[0].update(kind="guess"), "unknown kind of the claim .*'guess'"),
        (lambda entries: entries[0].update(work="me"), "unknown work of the claim .*'me'"),
        (lambda entries: entries[0].update(source="me"), "unknown source of the claim .*'me'"),
        (lambda entries: entries.append(entries[0]), "two claims have one id"),
    ],
)
def test_a_damaged_file_of_claims_is_named(tmp_path, monkeypatch, damage, message):
    entries = yaml.safe_load(paths.claims().read_text())
    damage(entries)
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(paths, "claims", lambda: path)
    with pytest.raises(LbpError, match=message):
        claims.load()
    path.unlink()
    with pytest.raises(LbpError, match=r"claims\.yml is damaged"):
        claims.load()


def test_an_experiments_claims_are_judged_in_their_order():
    entries = yaml.safe_load(paths.claims().read_text())
    for stem in (*EXPERIMENTS, "fig1_synthetic", "cost"):
        judged = claims.judge_experiment(stem, {})
        assert [v.claim.id for v in judged] == [e["id"] for e in entries if e["figure"] == stem]
        assert {verdict.word for verdict in judged} <= {NOT_RUN}
    count, time = claims.judge_experiment("cost", {"gpu": {"step_time_ratio": 0.5}})
    assert (count.text, time.text) == (NOT_RUN, "reproduced on a GPU")


@pytest.mark.parametrize(
    ("low", "value", "high", "word"),
    [
        (1.1, 1.5, 1.9, REPRODUCED),
        (0.9, 1.5, 1.9, UNTOLD),
        (1.1, 1.9, 2.1, UNTOLD),
        (2.1, 2.2, 2.3, NOT_REPRODUCED),
        (math.nan, 1.5, math.nan, REPRODUCED),  # too few for an interval
    ],
)
def test_an_interval_that_holds_a_bound_decides_nothing(low, value, high, word):
    verdict = judge(CLAIM, {"paper": {"m": Estimate(value, low, high)}})
    assert (verdict.word, verdict.where) == (word, "at full scale")
    assert verdict.found.startswith(f"{value:g} points")
    assert (f"({low:g} to {high:g})" in verdict.found) == (not math.isnan(low))


def test_every_number_reaches_its_verdict(tmp_path, monkeypatch):
    loaded = claims.load()

    def numbers(stem, place):
        """Every measure that a place can decide, not a number and over many epochs."""
        mine = [claim for claim in loaded if claim.figure == stem and place in claim.least]
        return {claim.measure: Measure(math.nan, 1, 10**6) for claim in mine}

    for experiment in EXPERIMENTS.values():
        monkeypatch.setattr(experiment, "measures", lambda r: numbers(r.stem, r.scale.name))
    monkeypatch.setattr(cost, "recorded", lambda name: name)
    monkeypatch.setattr(cost, "measures", lambda name: numbers("cost", name))
    monkeypatch.setattr(fig1_synthetic, "compute", lambda: PAPER.name)
    monkeypatch.setattr(fig1_synthetic, "measures", lambda name: numbers("fig1_synthetic", name))
    found = claims.measure_all(Store(tmp_path))
    assert set(found) == {*EXPERIMENTS, "fig1_synthetic", "cost"}
    assert set(found["cost"]) == {"gpu", "processor"}
    assert all(set(found[stem]) == {"paper", "narrow"} for stem in EXPERIMENTS)
    monkeypatch.setattr(claims, "measure_all", lambda: found)
    for verdict in claims.verdicts():
        claim = verdict.claim
        places = [place for place in claims.WHERE if place in claim.least]
        if claim.figure in found and places:
            assert (verdict.word, verdict.where) == (UNTOLD, claims.WHERE[places[0]]), claim.id
        else:
            assert verdict.word == NOT_RUN


def test_the_papers_claims_are_counted_without_the_controls():
    judged = claims.verdicts({})
    assert {verdict.word for verdict in judged} == {NOT_RUN}
    others = [v for v in judged if v.claim.kind == "control" or v.claim.work != "yazdani2018"]
    assert {v.claim.kind for v in others} == {"control", "paper"}
    texts = claims.texts(judged)
    assert texts["claims"] == texts[f"claims {NOT_RUN}"] == str(len(judged) - len(others))
    names = {word: texts[f"names {word}"].split("; ") for word in claims.WORDS}
    assert {word for word, of_word in names.items() if of_word == ["none"]} == {
        REPRODUCED, NOT_REPRODUCED, UNTOLD, BEGUN,
    }  # fmt: skip
    assert len(set(names[NOT_RUN])) == int(texts["claims"])
    (_, only) = claims.answers(judged)
    assert only.startswith(f"**{texts['claims']} {NOT_RUN}**: ")


def test_names_say_where_the_claims_were_decided():
    def verdict(name, where):
        return Verdict(replace(CLAIM, name=name), REPRODUCED, 1.0, where)

    wide, narrow = PAPER.where, NARROW.where
    judged = [verdict("a", wide), verdict("b", narrow), verdict("c", wide)]
    names = claims.texts(judged)[f"names {REPRODUCED}"]
    assert names == f"2 {wide} (a; c), 1 {narrow} (b)"
    assert claims.texts(judged[:1])[f"names {REPRODUCED}"] == f"1 {wide} (a)"


@pytest.mark.parametrize(
    ("low", "high", "unit", "text"),
    [
        (1.0, math.inf, "points", "at least 1 point"),
        (-math.inf, 2.0, "points", "at most 2 points"),
        (0.0, 1.0, "points", "0 to 1 point"),
        (2.0, math.inf, "times", "at least 2 times"),
        (1.0, math.inf, "times", "at least 1.0 times"),
        (50.0, 50.0, "of 50", "exactly 50 of 50"),
        (-3.0, 3.0, "", "-3 to 3"),
    ],
)
def test_bounds_in_words(low, high, unit, text):
    assert claims.bounds(replace(CLAIM, low=low, high=high, unit=unit)) == text


def test_an_empty_store_is_read_and_left_alone(tmp_path):
    store = Store(tmp_path / "none")
    rows = claims.runs_table(store).rows
    assert all(" 0 of" in f" {row[1]}" for row in rows[:-1])
    assert not (tmp_path / "none").exists()


def test_the_runs_that_are_counted_are_the_projects(clone):
    goal = fig4_sweep.goals(NARROW)[0]
    Store(paths.results()).put(toys.record(goal.config, [60.0]))
    (row,) = [row for row in claims.runs_table().rows if row[0] == fig4_sweep.TITLE]
    wanted = len(fig4_sweep.goals(PAPER)), len(fig4_sweep.goals(NARROW))
    assert row[1:] == [
        f"0 of {wanted[0]} begun, 0 complete",
        f"1 of {wanted[1]} begun, 0 complete",
    ]


def test_runs_that_were_repeated_are_counted(tmp_path):
    store = Store(tmp_path)
    assert claims.seeds(store)["claims seeds"].startswith("No run in a narrow network has been")
    runs = [g.config for g in EXPERIMENTS["fig2_vgg19_tanh"].goals(NARROW)]
    for run in [r for r in runs if r.rule == "bp" or r.seed == 0]:
        store.put(toys.record(run, [60.0]))
    assert claims.seeds(store)["claims seeds"].startswith(
        "1 of the 2 runs in a narrow network has been"
    )


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


def test_a_curve_of_the_sweep_has_a_shared_part_and_one_of_its_own():
    for rule in ("bp", "linear"):
        parts = [paper.sweep_parts(1e-4, l2, rule) for l2 in (0.1, 1e-6)]
        assert parts[0][0] == parts[1][0]
        assert parts[0][1] != parts[1][1]
        for l2, (shared, own) in zip((0.1, 1e-6), parts, strict=True):
            whole = paper.sweep_curve(1e-4, l2, rule)
            assert shared.epochs + own.epochs[1:] == whole.epochs
            assert shared.mid + own.mid[1:] == whole.mid
            assert own.epochs[0] == shared.epochs[-1]
        assert paper.sweep_parts(1e-5, 0.1, rule) == (paper.sweep_curve(1e-5, 0.1, rule), None)


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


@pytest.mark.parametrize(
    "text", ["", "a,b\n", "figure,panel,curve,epoch,low,mid,high\n2,,x,1,2,3\n"]
)
def test_a_damaged_file_of_curves_is_named(tmp_path, monkeypatch, text):
    path = tmp_path / "figures.csv"
    path.write_text(text)
    monkeypatch.setattr(paths, "paper_curves", lambda: path)
    paper._panels.cache_clear()
    with pytest.raises(LbpError, match=r"figures\.csv is damaged"):
        paper.curves(2)
    paper._panels.cache_clear()
