"""What the notebooks share: parameters, tables, texts."""

import math
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from lbp.errors import LbpError
from lbp.experiments import card, claims
from lbp.experiments.claims import REPRODUCED, Verdict
from lbp.experiments.notebook import NOTHING, check_parameters, runs_table, show_table
from lbp.experiments.table import Badge, Table
from tests.test_measures import results_of

FRESH = {"__name__": "__main__", "_i1": "x", "In": [], "Out": {}, "math": math, "exit": exit}


def test_right_parameters_pass():
    check_parameters(FRESH | {"profile": "smoke", "minutes": 1}, profile=str, minutes=float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profil": "smoke"}, r"unknown parameter 'profil': this notebook has profile \(str\)"),
        ({"profile": "cpu"}, "unknown profile 'cpu': choose from recorded, smoke, narrow, paper"),
        ({"profile": 3}, "parameter profile = 3: a value of type str is needed"),
        ({"jobs": True}, "parameter jobs = True: a value of type int is needed"),
        ({"jobs": 1.5}, r"parameter jobs = 1\.5: a value of type int is needed"),
    ],
)
def test_wrong_ones_are_told(given, message):
    with pytest.raises(LbpError, match=message):
        check_parameters(FRESH | {"profile": "recorded", "jobs": 0} | given, profile=str, jobs=int)


def test_a_notebook_shows_the_line_alone():
    assert LbpError("what to do")._render_traceback_() == ["LbpError: what to do"]


def test_a_table_in_markdown():
    table = Table("What it is.", ["a", "b"], [["1", "x|y"], ["2", "-"]])
    assert table.markdown() == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n| 2 | - |"


def test_a_table_in_html_has_a_caption_and_headers_and_breaks_no_number():
    table = Table(
        "What *it* is.", ["a", "b `c`"], [["1 < 2", "1e-3"], ["x", Badge(REPRODUCED, "yes")]]
    )
    page = ElementTree.fromstring(table.html())
    assert page.findtext(".//caption/em") == "it"
    assert ["".join(th.itertext()) for th in page.findall(".//th[@scope='col']")] == ["a", "b c"]
    assert ["".join(th.itertext()) for th in page.findall(".//th[@scope='row']")] == ["1 < 2", "x"]
    first, second = page.findall(".//td")
    assert first.text == "1e\N{NON-BREAKING HYPHEN}3"
    assert first.get("data-label") == "b c"
    assert second.find("span").get("class") == "verdict reproduced"


@pytest.mark.parametrize("cell", ["1.0", "x" * 40])
def test_a_wide_table_scrolls_and_can_be_reached_by_keyboard_or_is_a_list(cell):
    table = Table("t", ["a", "b"], [["1", cell]])
    page = ElementTree.fromstring(table.html())
    assert (page.get("tabindex") == "0") == (len(cell) < 10)
    assert ("as-list" in page.get("class")) == (len(cell) > 10)


def test_a_table_without_a_number_is_left_out_and_that_is_said(capsys):
    show_table(Table("t", ["a", "b"], [["1", "-"], ["2", "0"]]))
    assert NOTHING in capsys.readouterr().out
    show_table(Table("t", ["a", "b"], [["1", "-"], ["2", "1"]]))
    assert "| 2 | 1 |" in capsys.readouterr().out


def verdict(word):
    return Verdict(replace(claims.load()[0], statement="It *holds*."), word, 1.0, "at full scale")


def test_a_card_has_the_question_the_answers_and_the_verdicts():
    page = ElementTree.fromstring(
        card.card("Is it?", ["Yes, at 1e-3.", ""], [verdict(w) for w in claims.WORDS], "Scale.")
    )
    assert page.findtext("p[@class='question']") == "Is it?"
    assert [p.text for p in page.findall("p")][1:] == [
        "Yes, at 1e\N{NON-BREAKING HYPHEN}3.",
        "Scale.",
    ]
    items = ["".join(item.itertext()) for item in page.findall(".//li")]
    assert len(items) == len(claims.WORDS)
    for word, item in zip(claims.WORDS, items, strict=True):
        assert item.endswith(f"{word} at full scale It holds.")
    assert len({item[0] for item in items}) == len(items)  # told apart without colours


def test_provenance_is_that_of_the_records(clone):
    results = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] * 3 if c.seed < 2 else None)
    table = card.provenance("fig2_vgg19_tanh", [results])
    (row,) = table.rows
    shown = dict(zip(table.columns, row, strict=True))
    stretch = next(iter(results.records.values())).stretches[0]
    assert (shown["records"], shown["seeds"]) == ("4", "0, 1")
    assert stretch.origin.device in shown["device"]
    assert stretch.origin.torch in shown["versions"]
    (clone / "_config.yml").write_text("repository:\n  url: https://host/me/book\n  branch: v1\n")
    (row,) = card.provenance("fig2_vgg19_tanh", [results]).rows
    assert row[1] == "[4](https://host/me/book/tree/v1/data/results)"
    assert card.provenance("fig2_vgg19_tanh", []) is None


def test_the_runs_table_says_how_far_the_runs_are():
    def errors(config, epochs):
        if config.seed == 2:
            return None
        return [50.0] * (epochs if config.seed == 0 else 3)

    def diverged(config):
        return config.seed == 1 and config.rule == "bp"

    results = results_of("fig2_vgg19_tanh", errors, diverged=diverged)
    (row,) = runs_table([results]).rows
    assert row[1] == "4 of 6 begun, 3 complete"
    # 0.796 GFLOP forward for an image at full width, an eighth squared of it, twice that backward.
    missing = (97 + 2 * 100) * (3 * 50_000 + 10_000) * 0.796e9 / 8**2 / 1e15
    assert float(row[3].removesuffix(" PFLOP")) == pytest.approx(missing, rel=0.05)
    assert "diverged: " in row[4]
    empty = results_of("fig2_vgg19_tanh", lambda c, n: [50.0] * n)
    assert runs_table([empty]).rows[0][3] == "none"
    assert runs_table([empty]).caption == empty.scale.note
    assert runs_table([empty], {"narrow": "A quarter."}).caption == "A quarter."
    assert runs_table([empty], {"paper": "A quarter."}).caption == empty.scale.note


def test_notebooks_do_not_wait_for_the_compiler():
    code = (
        "import sys, lbp.experiments.notebook\n"
        "late = ('torch._dynamo', 'triton', 'scipy.stats', 'pandas')\n"
        "print([name for name in late if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
