"""The explorer shows what is recorded beside the paper's curves, with and without scripts."""

import base64
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from lbp.experiments import explorer, paper
from lbp.experiments.scales import NARROW, PAPER, SMOKE
from tests.test_measures import results_of

ROOT = Path(__file__).resolve().parents[1]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def some(config, epochs):
    """Give only the runs at 1e-4 records: three epochs, and 30 with the largest weight decay."""
    if config.lr != 1e-4:
        return None
    return [60.0 - n for n in range(30 if config.l2 == 0.1 else 3)]


def found(narrow=some, diverged=lambda config: False):
    return [
        results_of("fig4_sweep", lambda c, n: None, PAPER),
        results_of("fig4_sweep", narrow, NARROW, diverged=diverged),
    ]


def one(curves, **fields):
    (curve,) = [c for c in curves if all(c[name] == value for name, value in fields.items())]
    return curve


@pytest.mark.parametrize("narrow", [lambda c, n: None, some, lambda c, n: [50.0] * n])
def test_every_run_has_its_numbers_and_its_state(narrow):
    results = found(narrow)
    data = explorer.sweep_data(results)
    assert len(data["runs"]) == 2 * 36
    for run in data["runs"]:
        (record,) = results[run["scale"] == "narrow"].of(
            lr=run["lr"], l2=run["l2"], rule=run["rule"]
        ) or [None]
        expected = [round(100 - row.test_error, 2) for row in record.epochs] if record else []
        assert run["accuracy"] == expected
        if not expected:
            assert run["state"] == "not yet run"
        elif len(expected) < 100:
            assert run["state"] == f"{len(expected)} of 100 epochs"


def test_the_papers_curves_are_those_of_the_same_setting():
    curves = explorer.sweep_data(found())["paper"]
    assert len(curves) == 2 * 6 * 2
    for curve in curves:
        digitised = paper.sweep_curve(curve["lr"], curve["l2"], curve["rule"])
        assert (curve["epochs"], curve["mid"]) == (digitised.epochs, digitised.mid)
        assert len(curve["low"]) == len(curve["high"]) == len(curve["epochs"])


def test_a_diverged_run_and_the_first_scale_that_has_runs():
    data = explorer.sweep_data(found(diverged=lambda c: c.l2 == 1e-3))
    run = one(data["runs"], scale="narrow", lr=1e-4, l2=1e-3, rule="bp")
    assert (run["diverged"], run["state"]) == (True, "diverged in epoch 3")
    assert data["first"]["scale"] == "narrow"
    assert explorer.sweep_data(found(lambda c, n: None))["first"]["scale"] == "paper"


def test_the_page_holds_the_data_a_picture_and_a_table():
    page = explorer.page(found())
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(text) == json.loads(json.dumps(explorer.sweep_data(found())))
    (alt,) = re.findall(r'<img alt="([^"]+)"', page)
    assert "in a narrow network at the learning rate 1e-4 and the weight decay 0.1" in alt
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(source).startswith(b"\x89PNG")
    assert page == explorer.page(found())
    assert "//" not in re.sub(r'src="[^"]+"', "", page)  # no other host


def test_the_table_by_hand():
    table = explorer.table(explorer.sweep_data(found()))
    rows = {name: cells for name, *cells in table.rows}
    assert len(rows) == 8 + 12  # the paper's curves, and the runs at 1e-4
    name = "Backprop, learning rate 1e-4, weight decay 1e-3 (narrow network): 3 of 100 epochs"
    at = dict(zip(table.columns[1:], rows[name], strict=True))
    assert (at["1"], at["2"], at["5"]) == ("40.0", "41.0", "-")
    papers = rows["Linear Backprop, learning rate 1e-4, weight decay 0.1 (the paper)"]
    assert dict(zip(table.columns[1:], papers, strict=True))["1"] == "49.4"
    assert "60 of this book's 72 runs have no numbers yet" in table.caption


def test_the_smallest_sweep_is_shown():
    (results,) = [results_of("fig4_sweep", lambda c, n: [50.0] * n, SMOKE)]
    data = explorer.sweep_data([results])
    assert (data["rates"], data["decays"]) == ([1e-3, 1e-4, 1e-5], [1e-1, 1e-6])
    assert "generated images" in explorer.page([results])


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
def test_scripts_put_controls_in_the_place_of_the_picture(tmp_path):
    script = (ROOT / "book" / "_static" / "explorer.js").read_text()
    path = tmp_path / "page.html"
    page = explorer.page(found())
    path.write_text(f"<!doctype html><meta charset=utf-8>{page}<script>{script}</script>")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000")
    done = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={tmp_path}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    dom = unescape(done.stdout)
    (said,) = re.findall(r'<p role="status">(.*?)</p>', dom)
    assert said == (
        "Epoch 20, learning rate 1e-4, weight decay 0.1, narrow network. "
        "Backprop: this book 59.0 %, the paper 50.5 % (49.3 to 51.6) at epoch 15. "
        "Linear Backprop: this book 59.0 %, the paper 72.7 % (70.5 to 75.0)."
    )
    assert "<img" not in dom
    assert dom.count("<select>") == 4
    assert dom.count('class="book" points') == dom.count('class="paper" points') == 2
    (points,) = set(re.findall(r'class="book" points="([^"]*)"', dom))
    assert len(points.split()) == 30
