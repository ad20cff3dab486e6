"""The paper's premise: under Backprop gradients vanish, units saturate, and learning then stops."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lbp.experiments.grid import PAIRS, RULES, WEIGHT_DECAYS, grid_goals
from lbp.experiments.numbers import (
    Measure,
    Measures,
    by_key,
    common_epochs,
    compares_decays,
    counted,
    last_tenth,
    long_enough,
    number,
    ratio,
)
from lbp.experiments.results import Results, with_records
from lbp.experiments.scales import Scale
from lbp.experiments.style import COLOURS, LABELS, MARKERS, label_epochs, shade
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.record import Layers, Record
from lbp.lab.run import Goal

TITLE = "Do gradients vanish?"
PLACE = "section 1, gradients and saturation"
QUESTION = (
    "Do gradients vanish under Backprop, do units saturate, and does learning stop where they do?"
)

LEARNING_RATE = 1e-4  # at which the paper's Figure 4 has the weight decay matter
LARGEST_DECAY = max(WEIGHT_DECAYS)
COMPARED = (LEARNING_RATE, LARGEST_DECAY)  # the pair at which the rules are compared
SHOWN = (COMPARED, (LEARNING_RATE, 1e-2), PAIRS["tanh", "bp"])  # learning rates and weight decays
# A layer with so large a share of saturated units lets little of the error through.
SATURATED = 0.5
LEFT = 10  # points of training accuracy that a run must lack, or there is nothing to stop

Key = TypeVar("Key")


def goals(scale: Scale) -> list[Goal]:
    """Return the grid's runs at one learning rate, and those at Backprop's pair of Figure 2."""
    decays = WEIGHT_DECAYS[:2] if scale.name == "smoke" else WEIGHT_DECAYS
    lr, l2 = PAIRS["tanh", "bp"]
    return [
        *grid_goals(scale, "tanh", [LEARNING_RATE], decays),
        *grid_goals(scale, "tanh", [lr], [l2]),
    ]


# --- numbers of one run


def gradient_ratio(glances: Iterable[Layers]) -> float:
    """Return the norm of the true gradient, first layer over last: the glances' geometric mean."""
    ratios = [ratio(glance.gradient[0], glance.gradient[-1]) for glance in glances]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else math.nan


def share(glance: Layers) -> float:
    """Return the share of saturated units in percent, the mean over the layers."""
    return 100 * float(np.mean(glance.saturated))


def train_accuracy(record: Record, first: int, last: int) -> float:
    """Return the training accuracy in percent, averaged over epochs `first` to `last`."""
    return float(np.mean([row.train_accuracy for row in record.epochs[first - 1 : last]]))


def saturated_from(record: Record) -> int | None:
    """Return the first epoch after which a layer is seen with half of its units saturated.

    None where no layer comes so far before the last tenth, where less than 10 points are left to
    learn by then, and for a run that diverged.
    """
    first, last = last_tenth(len(record))
    start = next(
        (g.epoch for g in record.layers if g.epoch and max(g.saturated) >= SATURATED), last
    )
    if record.diverged or start >= first or train_accuracy(record, start, start) > 100 - LEFT:
        return None
    return start


def gain_when_saturated(record: Record) -> float:
    """Return how much training accuracy rises once a layer has half of its units saturated.

    In points, from the epoch of `saturated_from` to the last tenth of the run; NaN without one.
    """
    start = saturated_from(record)
    if start is None:
        return math.nan
    return train_accuracy(record, *last_tenth(len(record))) - train_accuracy(record, start, start)


def late_gain(record: Record) -> float:
    """Return by how much training accuracy rises from the tenth before the last to the last."""
    first, last = last_tenth(len(record))
    before = 2 * first - last - 1
    if before < 1:
        return math.nan
    return train_accuracy(record, first, last) - train_accuracy(record, before, first - 1)


def overfit(record: Record, epochs: int) -> float:
    """Return training minus test accuracy over the last tenth of the epochs, in points."""
    first, last = last_tenth(epochs)
    test = float(np.mean(record.test_accuracy[first - 1 : last]))
    return train_accuracy(record, first, last) - test


# --- of all runs


def measures(results: Results) -> Measures:
    """Return what gradients, saturation and learning have to do with each other.

    Runs that diverged do not count, but for `gradient_ratio`.

    - gradient_ratio: at Backprop's pair of Figure 2, see `gradient_ratio`;
    - bp_saturated, linear_saturated: the share of saturated units in percent where the rules are
      compared, at the last glance that both have;
    - bp_overfit, linear_overfit: training minus test accuracy there, in points;
    - bp_gain_saturated, linear_gain_saturated: see `gain_when_saturated`, the median of the runs
      for which it is a number; NaN if there is none;
    - decay_saturation: at one learning rate under Linear Backprop, the share of saturated units
      with each smaller weight decay minus that with 0.1, the least of these, in percentage points.
    """
    runs = by_key(results.of())
    found: Measures = {}
    if (record := runs.get((*PAIRS["tanh", "bp"], "bp"))) and record.layers:
        found["gradient_ratio"] = Measure(gradient_ratio(record.layers), 1, len(record))
    going = {key: record for key, record in runs.items() if not record.diverged}
    both = {rule: going[*COMPARED, rule] for rule in RULES if (*COMPARED, rule) in going}
    if len(both) == len(RULES):
        epochs = common_epochs(both.values())
        for rule, record in both.items():
            found[f"{rule}_overfit"] = Measure(overfit(record, epochs), *last_tenth(epochs))
        for rule, glance in _last_glances(both).items():
            found[f"{rule}_saturated"] = Measure(share(glance), glance.epoch, glance.epoch)
    for rule in RULES:
        if records := _compared(results, rule):
            gains = gains_when_saturated(results, rule)
            median = float(np.median([gain for _, gain in gains])) if gains else math.nan
            starts = [start for record, _ in gains if (start := saturated_from(record))]
            window = min(starts, default=1), common_epochs(records)
            found[f"{rule}_gain_saturated"] = Measure(median, *window)
    of_one_rate = [
        r for (lr, _, rule), r in going.items() if (lr, rule) == (LEARNING_RATE, "linear")
    ]
    enough = long_enough(of_one_rate, compares_decays)
    last = _last_glances({record.config.l2: record for record in enough})
    if last and compares_decays(enough):
        shares = {l2: share(glance) for l2, glance in last.items()}
        least = min(shares[l2] for l2 in shares if l2 != LARGEST_DECAY)
        at = last[LARGEST_DECAY].epoch
        found["decay_saturation"] = Measure(least - shares[LARGEST_DECAY], at, at)
    return found


def gains_when_saturated(results: Results, rule: str) -> list[tuple[Record, float]]:
    """Return the runs whose gain is a number, and it; in points, see `gain_when_saturated`."""
    gains = [(record, gain_when_saturated(record)) for record in _compared(results, rule)]
    return [(record, gain) for record, gain in gains if not math.isnan(gain)]


def _compared(results: Results, rule: str) -> list[Record]:
    """Return the runs of a rule that did not diverge, all cut to the epochs that they share."""
    of_rule = [record for record in by_key(results.of()).values() if record.config.rule == rule]
    records = long_enough(record for record in of_rule if not record.diverged)
    epochs = common_epochs(records)
    return [record.until(epochs) for record in records]


def _last_glances(runs: Mapping[Key, Record]) -> dict[Key, Layers]:
    """Return each run's glance at the last epoch after which all have one, if there is such one."""
    glances = {key: {g.epoch: g for g in record.layers if g.epoch} for key, record in runs.items()}
    shared = set.intersection(*map(set, glances.values())) if glances else set()
    return {key: of_run[max(shared)] for key, of_run in glances.items()} if shared else {}


def table(found: Sequence[Results]) -> Table:
    """Return each recorded run's gradients, saturation and learning at its end, at each scale."""
    rows = []
    for results in found:
        for (lr, l2, rule), record in by_key(results.of()).items():
            epochs = len(record)
            cells = ["-"] * 6
            if record.layers and not record.diverged:
                end = record.layers[-1]
                cells = [
                    number(gradient_ratio(record.layers), ".2g"),
                    number(share(end), ".0f"),
                    number(100 * max(end.saturated), ".0f"),
                    number(train_accuracy(record, *last_tenth(epochs))),
                    number(late_gain(record), "+.1f"),
                    number(overfit(record, epochs), "+.1f"),
                ]
            label = f"{_label(rule, lr, l2)}, {results.scale.title}"
            rows.append([label, f"{epochs} (diverged)" if record.diverged else str(epochs), *cells])
    return Table(
        "Gradient: the norm of the true gradient, first layer over last, as a geometric mean over "
        "all looks at the layers. Saturated units: at the last look. Training accuracy: the mean "
        "over the last tenth of the epochs, its change from the tenth before, and how far it is "
        "above test accuracy.",
        [
            *("run", "epochs", "gradient", "saturated units (%)", "most saturated layer (%)"),
            *("training accuracy (%)", "change (points)", "above test accuracy (points)"),
        ],
        rows or [["not yet run", *["-"] * 7]],
    )


def _pair(record: Record) -> str:
    return f"{written(record.config.lr)} with {written(record.config.l2)}"


def _gain(numbers: Measures, rule: str) -> float:
    """Return a rule's gain when saturated, NaN where no run came so far, 0 without any run."""
    name = f"{rule}_gain_saturated"
    return numbers[name].value if name in numbers else 0.0


def _label(rule: str, lr: float, l2: float) -> str:
    return f"{LABELS[rule]}, learning rate {written(lr)}, weight decay {written(l2)}"


def draw(found: Sequence[Results]) -> Figure | None:
    """Draw gradients, saturation and overfitting over the epochs; None without records.

    At the scale at which the runs are longest.
    """
    drawn = [(runs, results.scale) for results in with_records(found) if (runs := _drawn(results))]
    if not drawn:
        return None
    runs, scale = max(drawn, key=lambda item: max(map(len, item[0].values())))
    figure, panels = plt.subplots(1, 3, figsize=(10.8, 4.4))
    for (lr, l2, rule), record in runs.items():
        style: dict[str, Any] = {
            "color": shade(COLOURS[rule], 1 if lr == LEARNING_RATE else 0.3),
            "marker": MARKERS[rule],
            "fillstyle": "full" if l2 == LARGEST_DECAY else "none",
            "markersize": 5,
            "label": _label(rule, lr, l2),
        }
        glances = [glance for glance in record.layers if math.isfinite(share(glance))]
        at = [glance.epoch for glance in glances]
        panels[0].plot(at, [gradient_ratio([glance]) for glance in glances], "-", **style)
        panels[1].plot(at, [share(glance) for glance in glances], "-", **style)
        gaps = [row.train_accuracy + row.test_error - 100 for row in record.epochs]
        every = max(1, len(gaps) // 10)
        panels[2].plot(range(1, len(gaps) + 1), gaps, "-", markevery=every, **style)
    titles = ("gradients", "saturation", "overfitting")
    labels = (
        "gradient norm, first layer / last",
        "saturated units (%)",
        "training - test accuracy (points)",
    )
    for axes, title, ylabel in zip(panels, titles, labels, strict=True):
        axes.set_title(title)
        axes.set_ylabel(ylabel)
        label_epochs(axes)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_formatter("")
    figure.suptitle(f"VGG19 with tanh ({scale.title})", fontsize=12)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _drawn(results: Results) -> dict[tuple[float, float, str], Record]:
    """Return the runs that the figure shows, of those that have glances at their layers."""
    runs = by_key(results.of())
    keys = [(*pair, rule) for pair in SHOWN for rule in RULES]
    return {key: runs[key] for key in keys if key in runs and runs[key].layers}


def answer(results: Results) -> str:
    """Say whether gradients vanish, which rule saturates, and what becomes of learning then."""
    numbers = measures(results)
    where = results.scale.where
    known = {name: m for name, m in numbers.items() if not math.isnan(m.value)}
    parts = []
    if gradient := known.get("gradient_ratio"):
        parts.append(
            f"Under Backprop with its pair of Figure 2, the norm of the gradient in the first "
            f"layer is {gradient.value:.2g} times that in the last {where}, the geometric mean of "
            f"the looks over {counted(gradient.last)}."
        )
    lr, l2 = map(written, COMPARED)
    if {"bp_saturated", "linear_saturated"} <= set(known):
        bp, linear = known["bp_saturated"], known["linear_saturated"]
        parts.append(
            f"At the learning rate {lr} with the weight decay {l2}, {bp.value:.0f} % of the units "
            f"are saturated under Backprop and {linear.value:.0f} % under Linear Backprop, after "
            f"epoch {bp.last} {where}."
        )
    for rule in RULES:
        if gain := known.get(f"{rule}_gain_saturated"):
            gains = gains_when_saturated(results, rule)
            each = "; ".join(
                f"{points:+z.1f} points at {_pair(record)}, from epoch {saturated_from(record)} on"
                for record, points in gains
            )
            runs = "one run" if len(gains) == 1 else f"{len(gains)} runs"
            parts.append(
                f"Under {LABELS[rule]}, {runs} {where} had half of a layer's units saturated while "
                "much was left to learn. From the first look that shows it to the last tenth of "
                f"{counted(gain.last)}, training accuracy changes by {each}."
            )
    if none := [rule for rule in RULES if math.isnan(_gain(numbers, rule))]:
        rules = " and ".join(f"under {LABELS[rule]}" for rule in none)
        last = min(numbers[f"{rule}_gain_saturated"].last for rule in none)
        parts.append(
            f"{rules[0].upper()}{rules[1:]}, no run {where} had half of a layer's units saturated "
            f"while much was left to learn, up to epoch {last}."
        )
    if {"bp_overfit", "linear_overfit"} <= set(known):
        bp, linear = known["bp_overfit"], known["linear_overfit"]
        parts.append(
            f"Training accuracy minus test accuracy is {bp.value:.1f} points under Backprop and "
            f"{linear.value:.1f} points under Linear Backprop, after {counted(bp.last)} {where}."
        )
    return " ".join(parts) or results.undecided
