"""Figure 4: the sweep of learning rate and weight decay, VGG19 with tanh."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lbp.experiments import paper
from lbp.experiments.grid import EPOCHS, LEARNING_RATES, RULES, WEIGHT_DECAYS, grid_goals
from lbp.experiments.numbers import (
    Measure,
    Measures,
    by_key,
    common_epochs,
    final_accuracy,
    last_tenth,
    mean_accuracy,
    number,
    sweep_distance,
)
from lbp.experiments.panels import Line, Panel, draw_panels
from lbp.experiments.results import Results
from lbp.experiments.scales import Scale
from lbp.experiments.style import COLOURS, LABELS, shade
from lbp.experiments.table import Table
from lbp.lab.run import Goal

TITLE = "Learning rate and weight decay"
PLACE = "appendix B, Figure 4"

EARLY = 20  # "early in learning", in epochs
LARGEST_DECAY = max(WEIGHT_DECAYS)


def goals(scale: Scale) -> list[Goal]:
    """Return the paper's grid with tanh under both rules; its panels lack the rate 1e-3."""
    decays = WEIGHT_DECAYS[::5] if scale.name == "smoke" else WEIGHT_DECAYS
    return list(grid_goals(scale, "tanh", (1e-4, 1e-5, 1e-3), decays))


def measures(results: Results) -> Measures:
    """Return Figure 4's numbers, as far as its runs go.

    - early_gap_min: Linear Backprop minus Backprop, mean over the first 20 epochs, in points: the
      least of all pairs of the paper's two panels that both rules have;
    - weight_decay_gain: at 1e-4, Linear Backprop's final accuracy with 0.1 minus the best of those
      with less, in points;
    - distance: to the paper's curves, mean over the runs of its two panels, in points.
    """
    shown = [r for r in results.of() if r.config.lr in paper.SHOWN_RATES]
    runs = by_key(shown)
    pairs = [
        (runs[lr, l2, "linear"], runs[lr, l2, "bp"])
        for lr, l2, rule in runs
        if rule == "bp" and (lr, l2, "linear") in runs
    ]
    found: Measures = {}
    if pairs:
        early = min(EARLY, common_epochs(record for pair in pairs for record in pair))
        gaps = [mean_accuracy(a, 1, early) - mean_accuracy(b, 1, early) for a, b in pairs]
        found["early_gap_min"] = Measure(min(gaps), 1, early)
    decays = {r.config.l2: r for r in shown if (r.config.lr, r.config.rule) == (1e-4, "linear")}
    if LARGEST_DECAY in decays and len(decays) > 1:
        epochs = common_epochs(decays.values())
        final = {l2: final_accuracy(record, epochs) for l2, record in decays.items()}
        gain = final.pop(LARGEST_DECAY) - max(final.values())
        found["weight_decay_gain"] = Measure(gain, *last_tenth(epochs))
    if shown:
        away = [sweep_distance(record) for record in shown]
        found["distance"] = Measure(float(np.mean(away)), 1, max(map(len, shown)))
    return found


def draw(found: Sequence[Results]) -> Figure:
    """Draw Figure 4 with the learning rate that the paper leaves out, a row for each scale."""
    return draw_panels(
        [[_panel(results, lr) for lr in LEARNING_RATES] for results in found], legend_below=True
    )


def _panel(results: Results, lr: float) -> Panel:
    decays = sorted({goal.config.l2 for goal in results.goals})
    lines = []
    for place, l2 in enumerate(decays, start=1):
        for rule in RULES:
            # The paper's figure tells no more of its curves apart.
            shown = lr in paper.SHOWN_RATES and l2 in (LARGEST_DECAY, min(decays))
            lines.append(
                Line(
                    f"{LABELS[rule]}, weight decay {l2:g}",
                    shade(COLOURS[rule], place / len(decays)),
                    results.of(lr=lr, l2=l2, rule=rule),
                    paper.sweep_curve(lr, l2, rule) if shown else None,
                )
            )
    epochs = max(goal.epochs for goal in results.goals)
    return Panel(f"learning rate {lr:g}\n({results.scale.title})", lines, epochs)


def table(results: Results) -> Table:
    """Return the final accuracy of every run at one scale."""
    decays = sorted({goal.config.l2 for goal in results.goals}, reverse=True)
    rows = []
    for lr in sorted({goal.config.lr for goal in results.goals}, reverse=True):
        for rule in RULES:
            cells = []
            for l2 in decays:
                record = next(iter(results.of(lr=lr, l2=l2, rule=rule)), None)
                text = number(final_accuracy(record)) if record else "-"
                short = record is not None and not record.reaches(EPOCHS)
                cells.append(f"{text} ({len(record)})" if short and record else text)
            rows.append([f"{LABELS[rule]}, learning rate {lr:g}", *cells])
    return Table(
        f"Final accuracy in percent {results.scale.where}: the mean over the last tenth of the "
        "epochs. In brackets: after how many epochs, where the run is not complete.",
        ["run", *(f"weight decay {l2:g}" for l2 in decays)],
        rows,
    )


def answer(results: Results) -> str:
    """Say in a sentence or two what the runs of a scale show."""
    numbers = measures(results)
    where = results.scale.where
    parts = []
    if early := numbers.get("early_gap_min"):
        ahead = early.value > 0
        bound, side = ("at least", "ahead of") if ahead else ("up to", "behind")
        parts.append(
            f"Over the first {early.last} epochs {where}, Linear Backprop is {bound} "
            f"{abs(early.value):.1f} points {side} Backprop at the learning rates of the paper's "
            "two panels."
        )
    if gain := numbers.get("weight_decay_gain"):
        side = "above" if gain.value > 0 else "below"
        parts.append(
            f"At the learning rate 1e-4 and after {gain.last} epochs, Linear Backprop with the "
            f"weight decay 0.1 is {abs(gain.value):.1f} points {side} its best run with less."
        )
    return " ".join(parts) or f"Not yet run {where}."
