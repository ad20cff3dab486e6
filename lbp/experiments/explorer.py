"""The explorer of the sweep: one setting of Figure 4 at a time, on the page.

The page holds a picture of the first view, a table of all curves and their numbers as JSON. Where
scripts run, `book/_static/explorer.js` puts controls and a drawing in the place of the picture.
Where they do not, as in print, the picture stays.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.figure import Figure

from lbp.experiments import paper
from lbp.experiments.grid import BEST_OF_FIGURE_4, RULES
from lbp.experiments.numbers import number
from lbp.experiments.panels import Line, Panel, draw_panels
from lbp.experiments.results import Results
from lbp.experiments.style import COLOURS, LABELS, MARKERS
from lbp.experiments.table import Table
from lbp.lab.config import written

PAPERS_DECAYS = (1e-1, 1e-2)  # the weight decays whose curves the paper's figure tells apart
TABLE_EPOCHS = (1, 2, 5, 10, 20, 30, 50, 70, 98)  # the paper's curves were digitised there
FIRST_EPOCH = 20  # "early in learning"


def sweep_data(found: Sequence[Results]) -> dict[str, Any]:
    """Return everything that the explorer shows, for JSON; the runs in the order of the goals."""
    goals = [goal for results in found for goal in results.goals]
    return {
        "scales": [{"name": r.scale.name, "title": r.scale.title} for r in found],
        "rates": sorted({goal.config.lr for goal in goals}, reverse=True),
        "decays": sorted({goal.config.l2 for goal in goals}, reverse=True),
        "rules": [
            {"name": rule, "label": LABELS[rule], "colour": COLOURS[rule], "mark": MARKERS[rule]}
            for rule in RULES
        ],
        "runs": [run for results in found for run in _runs(results)],
        "paper": [
            _paper(lr, l2, rule)
            for lr in paper.SHOWN_RATES
            for l2 in sorted({goal.config.l2 for goal in goals}, reverse=True)
            for rule in RULES
        ],
        "first": {
            "scale": _first_scale(found).scale.name,
            "lr": BEST_OF_FIGURE_4[0],
            "l2": BEST_OF_FIGURE_4[1],
            "epoch": FIRST_EPOCH,
        },
    }


def _runs(results: Results) -> list[dict[str, Any]]:
    runs = []
    for goal in results.goals:
        config, record = goal.config, results.records.get(goal.config)
        shown = record.until(goal.epochs) if record else None
        runs.append(
            {
                "scale": results.scale.name,
                "lr": config.lr,
                "l2": config.l2,
                "rule": config.rule,
                "goal": goal.epochs,
                "state": results.state(goal),
                "diverged": shown.diverged if shown else False,
                "accuracy": [round(value, 2) for value in shown.test_accuracy] if shown else [],
            }
        )
    return runs


def _paper(lr: float, l2: float, rule: str) -> dict[str, Any]:
    curve = paper.sweep_curve(lr, l2, rule)
    points = {"epochs": curve.epochs, "low": curve.low, "mid": curve.mid, "high": curve.high}
    return {"lr": lr, "l2": l2, "rule": rule, **points}


def _first_scale(found: Sequence[Results]) -> Results:
    """Return the first scale that has a run of the first view; else the first one."""
    lr, l2 = BEST_OF_FIGURE_4
    return next((results for results in found if results.of(lr=lr, l2=l2)), found[0])


def draw(found: Sequence[Results]) -> Figure:
    """Draw the first view."""
    results, (lr, l2) = _first_scale(found), BEST_OF_FIGURE_4
    lines = [
        Line(
            LABELS[rule],
            COLOURS[rule],
            results.of(lr=lr, l2=l2, rule=rule),
            paper.sweep_curve(lr, l2, rule),
        )
        for rule in RULES
    ]
    title = f"learning rate {written(lr)}, weight decay {written(l2)}\n({results.scale.title})"
    return draw_panels([[Panel(title, lines, max(goal.epochs for goal in results.goals))]])


def table(data: dict[str, Any]) -> Table:
    """Return every curve at some epochs."""
    titles = {scale["name"]: scale["title"] for scale in data["scales"]}
    rows = []
    for curve in data["paper"]:
        if curve["l2"] in PAPERS_DECAYS:
            mid = dict(zip(curve["epochs"], curve["mid"], strict=True))
            rows.append(
                [_name(curve, "the paper"), *(number(mid.get(epoch)) for epoch in TABLE_EPOCHS)]
            )
    for run in data["runs"]:
        if run["accuracy"]:
            there = dict(enumerate(run["accuracy"], start=1))
            name = f"{_name(run, titles[run['scale']])}: {run['state']}"
            rows.append([name, *(number(there.get(epoch)) for epoch in TABLE_EPOCHS)])
    missing = sum(not run["accuracy"] for run in data["runs"])
    return Table(
        "Test accuracy in percent after the epochs that head the columns. The paper's curves with "
        f"weight decays below 0.01 lie on that with 0.01. {missing} of this book's "
        f"{len(data['runs'])} runs have no numbers yet.",
        ["curve", *map(str, TABLE_EPOCHS)],
        rows,
    )


def _name(curve: dict[str, Any], where: str) -> str:
    rate, decay = f"learning rate {written(curve['lr'])}", f"weight decay {written(curve['l2'])}"
    return f"{LABELS[curve['rule']]}, {rate}, {decay} ({where})"


def page(found: Sequence[Results]) -> str:
    """Return the explorer's HTML."""
    data, picture = sweep_data(found), io.BytesIO()
    figure = draw(found)
    figure.savefig(picture, dpi=100)
    plt.close(figure)
    source = base64.b64encode(picture.getvalue()).decode()
    text = json.dumps(data, separators=(",", ":"), sort_keys=True).replace("<", "\\u003c")
    (lr, l2), where = BEST_OF_FIGURE_4, _first_scale(found).scale.where
    alt = (
        f"Test accuracy over epochs {where} at the learning rate {written(lr)} and the weight "
        f"decay {written(l2)}: Backprop orange, Linear Backprop blue; solid lines are this book's "
        "runs, where there are any, dashed lines with bands the paper's curves."
    )
    return (
        '<div class="lbp-explorer">\n'
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{source}">\n'
        f'<script type="application/json">{text}</script>\n'
        f"<details>\n<summary>The curves as a table</summary>\n{table(data).html()}</details>\n"
        "</div>"
    )


def show(found: Sequence[Results]) -> None:
    """Show the explorer in a notebook."""
    display(HTML(page(found)))  # type: ignore[no-untyped-call]
