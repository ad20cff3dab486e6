"""What the notebooks share: parameters, tables, texts."""

import math
import subprocess
import sys

import pytest

from lbp.errors import LbpError
from lbp.experiments.notebook import check_parameters, runs_table, show_table
from lbp.experiments.table import Table
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


def test_a_table_is_shown_with_its_caption(capsys):
    show_table(Table("What it is.", ["a"], [["1"]]))
    assert "Markdown" in capsys.readouterr().out


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
