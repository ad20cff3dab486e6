"""Is it only a larger step? Higher learning rates, and what the layers do."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lbp.experiments.grid import BEST_OF_FIGURE_4, EPOCHS, RULES, grid_goals
from lbp.experiments.numbers import (
    Measure,
    Measures,
    by_key,
    common_epochs,
    counted,
    final_accuracy,
    guessing,
    last_tenth,
    long_enough,
    number,
    shared_pairs,
)
from lbp.experiments.results import Results, with_records
from lbp.experiments.scales import Scale
from lbp.experiments.style import COLOURS, LABELS, MARKERS, shade
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.record import Layers, Record
from lbp.lab.run import Goal

TITLE = "Is it only a larger step?"
PLACE = "a control that the paper does not run"
QUESTION = "Is the advantage of Linear Backprop more than that of a larger step?"

# The paper's learning rates and two above them.
LEARNING_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
HIGHEST_OF_THE_PAPER = 1e-3
WEIGHT_DECAYS = (1e-1, 1e-4)
SHOWN_LAYERS = (1, 8, 16)


def goals(scale: Scale) -> list[Goal]:
    """Return a grid with learning rates above the paper's."""
    rates = (1e-4, 1e-1) if scale.name == "smoke" else LEARNING_RATES
    return list(grid_goals(scale, "tanh", rates, WEIGHT_DECAYS))


def pair(results: Results) -> dict[str, Record]:
    """Return the grid's runs whose layers are compared, by rule, as far as they are recorded."""
    lr, l2 = BEST_OF_FIGURE_4
    return {record.config.rule: record for record in results.of(lr=lr, l2=l2)}


def measures(results: Results) -> Measures:
    """Return what is left of Linear Backprop's advantage when Backprop has its own best step.

    Over the learning rates and weight decays that both rules have, and the epochs that all these
    runs have; the best run of each rule by its final accuracy in percent.

    - paper_rates_gap: best Linear Backprop minus best Backprop, up to 1e-3, in points;
    - all_rates_gap: the same with a higher rate among them;
    - bp_best, linear_best: the best accuracies, in percent; bp_best_lr, linear_best_lr: where.
    """
    by_pair, shared, _ = _compared(results)
    found: Measures = {}
    for name, rates in (
        ("paper_rates_gap", [lr for lr, _ in shared if lr <= HIGHEST_OF_THE_PAPER]),
        ("all_rates_gap", [lr for lr, _ in shared]),
    ):
        runs = [by_pair[lr, l2, rule] for lr, l2 in shared for rule in RULES if lr in rates]
        if not runs or (name == "all_rates_gap" and max(rates) <= HIGHEST_OF_THE_PAPER):
            continue
        epochs = common_epochs(runs)
        best: dict[str, tuple[float, float]] = {}  # accuracy and learning rate
        for rule in RULES:
            mine = [(final_accuracy(r, epochs), r.config.lr) for r in runs if r.config.rule == rule]
            best[rule] = max(mine)
        window = last_tenth(epochs)
        found[name] = Measure(best["linear"][0] - best["bp"][0], *window)
        for rule, (accuracy, lr) in best.items():
            found[f"{rule}_best"] = Measure(accuracy, *window)
            found[f"{rule}_best_lr"] = Measure(lr, *window)
    return found


Runs = dict[tuple[float, float, str], Record]


def _compared(results: Results) -> tuple[Runs, list[tuple[float, float]], int]:
    """Return the runs that are compared by key, the pairs that both rules have, and the epochs.

    The epochs are those that all runs of these pairs have, or all runs where there is no such pair.
    """
    runs = by_key(long_enough(results.of(), _has_a_higher_rate))
    shared = shared_pairs(runs)
    both = [runs[*pair, rule] for pair in shared for rule in RULES]
    return runs, shared, common_epochs(both or runs.values())


def _has_a_higher_rate(records: Iterable[Record]) -> bool:
    shared = shared_pairs(by_key(records))
    return any(lr > HIGHEST_OF_THE_PAPER for lr, _ in shared)


def _by_rate(results: Results) -> str:
    """Say how far Linear Backprop's best run is ahead at each learning rate that both rules have.

    With the epochs and the pairs that `measures` compares.
    """
    runs, shared, epochs = _compared(results)
    parts = []
    for lr in sorted({lr for lr, _ in shared}):
        best = {
            rule: max(
                (runs[*pair, rule] for pair in shared if pair[0] == lr),
                key=lambda record: final_accuracy(record, epochs),
            )
            for rule in RULES
        }
        final = {rule: final_accuracy(record, epochs) for rule, record in best.items()}
        gap = final["linear"] - final["bp"]
        side = "ahead" if gap > 0 else "behind"
        level = guessing(best["linear"].config) + 1
        guesses = " (it only guesses)" if final["linear"] <= level else ""
        parts.append(f"{abs(gap):.1f} points {side} at {written(lr)}{guesses}")
    return ", ".join(parts)


def draw(found: Sequence[Results]) -> Figure | None:
    """Draw final accuracy over the learning rate, a panel for each scale; None without records."""
    shown = with_records(found)
    if not shown:
        return None
    figure, panels = plt.subplots(
        1, len(shown), figsize=(5.4 * len(shown) + 0.6, 4.9), sharey=True, squeeze=False
    )
    for axes, results in zip(panels[0], shown, strict=True):
        runs, _, epochs = _compared(results)  # as the verdict does
        records = [record for record in runs.values() if record.reaches(epochs)]
        for rule in RULES:
            for l2, fill in zip(WEIGHT_DECAYS, ("full", "none"), strict=True):
                mine = sorted(
                    (r for r in records if (r.config.rule, r.config.l2) == (rule, l2)),
                    key=lambda r: r.config.lr,
                )
                x = [record.config.lr for record in mine]
                y = [final_accuracy(record, epochs) for record in mine]
                style: dict[str, Any] = {
                    "marker": MARKERS[rule],
                    "fillstyle": fill,
                    "color": COLOURS[rule],
                }
                label = f"{LABELS[rule]}, weight decay {written(l2)}"
                axes.plot(x, y, "-", markersize=8, label=label, **style)
                for lr, accuracy, record in zip(x, y, mine, strict=True):
                    if record.diverged:
                        place = (lr, accuracy)
                        axes.annotate(
                            "diverged", place, (0, 8), textcoords="offset points", fontsize=8
                        )
        axes.axvspan(1e-5 / 1.5, HIGHEST_OF_THE_PAPER * 1.5, color="black", alpha=0.05, linewidth=0)
        place = axes.get_xaxis_transform()
        text = "the paper's learning rates"
        axes.text(1e-5, 0.98, text, fontsize=9, va="top", transform=place)
        axes.set_xscale("log")
        axes.set_xlim(min(LEARNING_RATES) / 1.5, max(LEARNING_RATES) * 1.5)
        after = f", after {counted(epochs)}" if epochs else ""
        axes.set_title(f"VGG19 with tanh\n({results.scale.title}{after})")
        axes.set_xlabel("learning rate (dimensionless)")
    panels[0][0].set_ylabel("final test accuracy (%)")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def draw_layers(found: Sequence[Results]) -> Figure | None:
    """Draw what the layers do under both rules at one learning rate: updates, cosine, saturation.

    At the first scale that has both runs; None without any.
    """
    runs, scale = _shown_pair(found)
    if scale is None:
        return None
    figure, panels = plt.subplots(1, 3, figsize=(10.8, 4.4))
    for rule, record in runs.items():
        glances = _spread(record.layers)
        for index, glance in enumerate(glances):
            colour = shade(COLOURS[rule], (index + 1) / len(glances))
            style: dict[str, Any] = {"color": colour, "marker": MARKERS[rule], "markersize": 4}
            label = f"{LABELS[rule]}, epoch {glance.epoch}"
            relative = np.array(glance.update) / np.array(glance.weight)
            values = (relative, glance.cosine, 100 * np.array(glance.saturated))
            for axes, shown in zip(panels, values, strict=True):
                axes.plot(range(1, len(shown) + 1), shown, "-", label=label, **style)
    titles = ("size of an update", "direction of an update", "saturation")
    labels = (
        "norm of update / norm of weights",
        "cosine with the true gradient",
        "saturated units (%)",
    )
    lr, l2 = map(written, BEST_OF_FIGURE_4)
    figure.suptitle(f"Learning rate {lr}, weight decay {l2} ({scale.title})", fontsize=12)
    for axes, title, ylabel in zip(panels, titles, labels, strict=True):
        axes.set_title(title)
        axes.set_ylabel(ylabel)
        axes.set_xlabel("layer, from the input on")
        axes.set_xticks(range(1, 18, 4))
    panels[0].set_yscale("log")
    panels[1].set_ylim(-0.25, 1.05)
    panels[2].set_ylim(-2, 102)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _shown_pair(found: Sequence[Results]) -> tuple[dict[str, Record], Scale | None]:
    for results in found:
        runs = pair(results)
        if len(runs) == len(RULES):
            epochs = common_epochs(runs.values())
            return {rule: record.until(epochs) for rule, record in runs.items()}, results.scale
    return {}, None


def _spread(glances: Sequence[Layers]) -> list[Layers]:
    """Return four of the glances at most: the first, the last and some between."""
    places = np.unique(np.linspace(0, len(glances) - 1, 4).round().astype(int))
    return [glances[place] for place in places]


def table(found: Sequence[Results]) -> Table:
    """Return the final accuracy of every run of the grid, at each scale."""
    rows = []
    for results in found:
        records = by_key(results.of())
        for rule in RULES:
            for l2 in WEIGHT_DECAYS:
                cells = []
                for lr in LEARNING_RATES:
                    record = records.get((lr, l2, rule))
                    text = number(final_accuracy(record)) if record else "-"
                    if record and record.diverged:
                        text += f" (diverged in epoch {len(record)})"
                    elif record and len(record) < EPOCHS:
                        text += f" ({len(record)})"
                    cells.append(text)
                label = f"{LABELS[rule]}, weight decay {written(l2)}, {results.scale.title}"
                rows.append([label, *cells])
    return Table(
        "Final accuracy in percent by learning rate: the mean over the last tenth of the epochs. "
        "In brackets: after how many epochs, where the run is not complete.",
        ["run", *(f"{written(lr)}" for lr in LEARNING_RATES)],
        rows,
    )


def layers_table(found: Sequence[Results]) -> Table:
    """Return what three of the layers do at the start and at the end of the two runs."""
    runs, _ = _shown_pair(found)
    rows = []
    for rule, record in runs.items():
        for glance in dict.fromkeys((0, len(record.layers) - 1)):
            at = record.layers[glance]
            cells = []
            for layer in (n - 1 for n in SHOWN_LAYERS):
                relative = at.update[layer] / at.weight[layer]
                share = number(100 * at.saturated[layer], ".0f")
                cells.append(
                    f"{number(relative, '.1e')}; {number(at.cosine[layer], '.2f')}; {share} %"
                )
            rows.append([f"{LABELS[rule]}, epoch {at.epoch}", *cells])
    lr, l2 = BEST_OF_FIGURE_4
    return Table(
        "Size of an update beside the weights; cosine with the true gradient; share of saturated "
        f"units. Learning rate {written(lr)}, weight decay {written(l2)}.",
        ["run", *(f"layer {layer}" for layer in SHOWN_LAYERS)],
        rows or [["not yet run", *["-"] * len(SHOWN_LAYERS)]],
    )


def first_step_ratio(runs: dict[str, Record], layer: int) -> float:
    """Return how many times as large Linear Backprop's first step is, at equal learning rates.

    Args:
        runs: The runs of both rules, by rule.
        layer: From 1.
    """
    size = {}
    for rule, record in runs.items():
        start = record.layers[0]
        size[rule] = start.update[layer - 1] / start.weight[layer - 1] / record.config.lr
    return size["linear"] / size["bp"] if len(size) == len(RULES) else math.nan


def answer(results: Results) -> str:
    """Say what is left of the advantage at a scale, and what the layers do."""
    where = results.scale.where
    parts = []
    if gap := measures(results).get("all_rates_gap"):
        end = "above" if gap.value > 0 else "below"
        parts.append(
            f"With learning rates above the paper's for both rules, the best final accuracy of "
            f"Linear Backprop is {abs(gap.value):.1f} points {end} that of Backprop, {where} after "
            f"{counted(gap.last)}. By learning rate, its best run is {_by_rate(results)}."
        )
    runs = pair(results)
    if len(runs) == len(RULES):
        parts.append(
            f"At the start and at one learning rate, the first layer's step is "
            f"{first_step_ratio(runs, 1):.0f} times as large under Linear Backprop, {where}."
        )
    return " ".join(parts) or results.undecided
