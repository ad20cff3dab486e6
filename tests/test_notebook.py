"""The check of a notebook's parameters."""

import math
import subprocess
import sys

import pytest

from lbp.errors import LbpError
from lbp.notebook import check_parameters

FRESH = {"__name__": "__main__", "_i1": "x", "In": [], "Out": {}, "math": math, "exit": exit}


def test_right_parameters_pass():
    check_parameters(FRESH | {"profile": "smoke", "minutes": 1}, profile=str, minutes=float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profil": "smoke"}, r"unknown parameter 'profil': this notebook has profile \(str\)"),
        ({"profile": "gpu"}, "unknown profile 'gpu': choose from recorded, smoke, cpu, paper"),
        ({"profile": 3}, "parameter profile = 3: a value of type str is needed"),
    ],
)
def test_wrong_ones_are_told(given, message):
    with pytest.raises(LbpError, match=message):
        check_parameters(FRESH | {"profile": "recorded"} | given, profile=str)


def test_a_notebook_shows_the_line_alone():
    assert LbpError("what to do")._render_traceback_() == ["LbpError: what to do"]


def test_notebooks_do_not_wait_for_the_compiler():
    code = "import sys, lbp.notebook, lbp.plots; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
