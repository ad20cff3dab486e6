"""Figure 4: the sweep of learning rate and weight decay, VGG19 with tanh."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lbp.experiments import paper, reading
from lbp.experiments.grid import EPOCHS, LEARNING_RATES, RULES, WEIGHT_DECAYS, grid_goals
from lbp.experiments.numbers import (
    Measure,
    Measures,
    by_key,
    common_epochs,
    compares_decays,
    counted,
    final_accuracy,
    first_epochs,
    last_tenth,
    long_enough,
    mean_accuracy,
    number,
    ratio,
    shared_pairs,
    sweep_distance,
)
from lbp.experiments.panels import Line, Panel, draw_panels, to_draw
from lbp.experiments.results import Results
from lbp.experiments.scales import Scale
from lbp.experiments.style import LABELS
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.record import Record
from lbp.lab.run import Goal

TITLE = "Learning rate and weight decay"
PLACE = "appendix B, Figure 4"
QUESTION = (
    "Is Linear Backprop ahead early in learning, and does it need more weight decay "
    "at the larger learning rate?"
)

EARLY = 20  # "early in learning", in epochs
EVERY = "every weight decay"  # where the curves of the paper lie on each other
LARGEST_DECAY = max(WEIGHT_DECAYS)
# From light to dark, in steps that colour-blind readers can tell apart and order.
_SHADES = plt.get_cmap("viridis_r")(np.linspace(0.12, 1, len(WEIGHT_DECAYS)))
DECAY_COLOURS = dict(zip(sorted(WEIGHT_DECAYS), map(tuple, _SHADES), strict=True))


def goals(scale: Scale) -> list[Goal]:
    """Return the paper's grid with tanh under both rules; its panels lack the rate 1e-3."""
    decays = WEIGHT_DECAYS[::5] if scale.name == "smoke" else WEIGHT_DECAYS
    return list(grid_goals(scale, "tanh", (1e-4, 1e-5, 1e-3), decays))


def measures(results: Results) -> Measures:
    """Return Figure 4's numbers, as far as its runs go.

    - early_gap_min: Linear Backprop minus Backprop, mean over the first 20 epochs, in points: the
      least of the pairs that both rules have; needs one in each of the paper's two panels;
    - weight_decay_gain: at 1e-4, Linear Backprop's final accuracy with 0.1 minus the best of those
      with less, in points;
    - spread_ratio: the standard deviation of final accuracy over the pairs that both rules have,
      Backprop's over Linear Backprop's; needs a pair at each learning rate of the grid;
    - distance: to the paper's curves, mean over the runs of its two panels, in points.
    """
    shown = [r for r in results.of() if r.config.lr in paper.SHOWN_RATES]
    runs = by_key(shown)
    pairs = {pair: [runs[*pair, rule] for rule in RULES] for pair in shared_pairs(runs)}
    found: Measures = {}
    if {lr for lr, _ in pairs} == set(paper.SHOWN_RATES):
        # As far as both panels have a pair; pairs that are shorter do not cut the others.
        reach = {pair: common_epochs(records) for pair, records in pairs.items()}
        early = min(
            EARLY,
            *(max(reach[pair] for pair in pairs if pair[0] == lr) for lr in paper.SHOWN_RATES),
        )
        gaps = [
            mean_accuracy(linear, 1, early) - mean_accuracy(bp, 1, early)
            for pair, (bp, linear) in pairs.items()
            if reach[pair] >= early
        ]
        found["early_gap_min"] = Measure(min(gaps), 1, early)
    of_one_rate = results.of(lr=1e-4, rule="linear")
    decays = {r.config.l2: r for r in long_enough(of_one_rate, compares_decays)}
    if compares_decays(decays.values()):
        epochs = common_epochs(decays.values())
        final = {l2: final_accuracy(record, epochs) for l2, record in decays.items()}
        gain = final.pop(LARGEST_DECAY) - max(final.values())
        found["weight_decay_gain"] = Measure(gain, *last_tenth(epochs))
    long = by_key(long_enough(results.of(), _has_each_rate))
    both = shared_pairs(long)
    if _has_each_rate(long.values()):
        epochs = common_epochs(long[*pair, rule] for pair in both for rule in RULES)
        sd = {
            rule: float(np.std([final_accuracy(long[*pair, rule], epochs) for pair in both]))
            for rule in RULES
        }
        found["spread_ratio"] = Measure(ratio(sd["bp"], sd["linear"]), *last_tenth(epochs))
    if shown:
        away = [sweep_distance(record) for record in shown]
        found["distance"] = Measure(float(np.mean(away)), 1, max(map(len, shown)))
    return found


def _has_each_rate(records: Iterable[Record]) -> bool:
    return {lr for lr, _ in shared_pairs(by_key(records))} == set(LEARNING_RATES)


def texts(found: Sequence[Results]) -> dict[str, str]:
    """Return what the page says of how the paper's figure is read, by name."""
    return {"fig4_beside_fig2": reading.two_figures(), "fig4_axis": reading.first_epoch(found)}


def draw(found: Sequence[Results]) -> Figure:
    """Draw Figure 4: a row for each rule and scale, a column for each learning rate.

    The learning rate that the paper leaves out has a column where one of its runs is recorded.
    """
    shown = to_draw(found)
    run = {record.config.lr for results in shown for record in results.of()}
    rates = [lr for lr in LEARNING_RATES if lr in run.union(paper.SHOWN_RATES)]
    rows = [[_panel(results, rule, lr) for lr in rates] for results in shown for rule in RULES]
    figure = draw_panels(rows, legend="none")
    steps = ListedColormap([DECAY_COLOURS[l2] for l2 in sorted(WEIGHT_DECAYS)])
    marks = np.arange(len(WEIGHT_DECAYS) + 1) - 0.5
    scale = ScalarMappable(BoundaryNorm(marks, steps.N), steps)
    bar = figure.colorbar(scale, ax=figure.axes, ticks=range(len(WEIGHT_DECAYS)), aspect=40)
    bar.set_ticklabels([written(l2) for l2 in sorted(WEIGHT_DECAYS)])
    bar.set_label("weight decay (dimensionless)")
    colour = DECAY_COLOURS[LARGEST_DECAY]
    looks = {
        "this book": Line2D([], [], linestyle="-", color=colour),
        "the paper": Line2D([], [], linestyle="--", color=colour),
        f"the paper, {EVERY}": Line2D([], [], linestyle="--", color="black"),
    }
    figure.legend(looks.values(), looks.keys(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _panel(results: Results, rule: str, lr: float) -> Panel:
    in_paper = lr in paper.SHOWN_RATES
    lines = []
    if in_paper:
        shared, _ = paper.sweep_parts(lr, LARGEST_DECAY, rule)
        lines.append(Line(EVERY, "k", [], shared))
    for l2 in sorted({goal.config.l2 for goal in results.goals}):
        # The paper's figure tells no more of its curves apart.
        drawn = in_paper and l2 in (LARGEST_DECAY, min(WEIGHT_DECAYS))
        curve = paper.sweep_parts(lr, l2, rule)[1] if drawn else None
        records = results.of(lr=lr, l2=l2, rule=rule)
        lines.append(Line(f"weight decay {written(l2)}", DECAY_COLOURS[l2], records, curve))
    epochs = max(goal.epochs for goal in results.goals)
    title = f"{LABELS[rule]}, learning rate {written(lr)}\n({results.scale.title})"
    return Panel(title, lines, epochs, beside=max(map(len, results.of()), default=0))


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
                partial = record is not None and not record.reaches(EPOCHS)
                cells.append(f"{text} ({len(record)})" if partial and record else text)
            rows.append([f"{LABELS[rule]}, learning rate {written(lr)}", *cells])
    return Table(
        f"Final accuracy in percent {results.scale.where}: the mean over the last tenth of the "
        "epochs. In brackets: after how many epochs, where the run is not complete.",
        ["run", *(f"weight decay {written(l2)}" for l2 in decays)],
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
            f"Over {first_epochs(early.last)} {where}, Linear Backprop is {bound} "
            f"{abs(early.value):.1f} points {side} Backprop at the learning rates of the paper's "
            "two panels."
        )
    if gain := numbers.get("weight_decay_gain"):
        side = "above" if gain.value > 0 else "below"
        parts.append(
            f"At the learning rate 1e-4 and after {counted(gain.last)}, Linear Backprop with the "
            f"weight decay 0.1 is {abs(gain.value):.1f} points {side} its best run with less."
        )
    if spread := numbers.get("spread_ratio"):
        parts.append(
            f"Over the pairs that both rules have, and after {counted(spread.last)}, the final "
            f"accuracy of Backprop spreads {number(spread.value)} times as much as that of Linear "
            "Backprop."
        )
    return " ".join(parts) or results.undecided
