"""Does the fast arithmetic change the curves? bfloat16 against float32."""

import math
from collections.abc import Sequence
from typing import get_args, get_type_hints

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lbp.experiments.grid import BEST_OF_FIGURE_4, EPOCHS, RULES, SEEDS
from lbp.experiments.numbers import (
    Measure,
    Measures,
    accuracies,
    common_epochs,
    counted,
    furthest,
    number,
    ratio,
)
from lbp.experiments.results import Results, with_records
from lbp.experiments.scales import Scale
from lbp.experiments.style import COLOURS, LABELS, label_epochs
from lbp.experiments.table import Table
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from lbp.lab.run import Goal

TITLE = "Does the fast arithmetic change the curves?"
PLACE = "a control that the paper does not run"
QUESTION = "Does training in bfloat16 change the curves?"

PRECISIONS = get_args(get_type_hints(RunConfig)["precision"])
NAMES = {"float32": "float32", "bf16": "bfloat16"}


def goals(scale: Scale) -> list[Goal]:
    """Return both rules in both precisions, seed by seed."""
    lr, l2 = BEST_OF_FIGURE_4
    return [
        scale.goal(EPOCHS, rule=rule, lr=lr, l2=l2, seed=seed, precision=precision)
        for seed in (SEEDS[:2] if scale.name == "smoke" else SEEDS)
        for precision in PRECISIONS
        for rule in RULES
    ]


def _complete_seeds(results: Results) -> dict[tuple[str, str], list[Record]]:
    """Return the runs by rule and precision, of the seeds that all have: the furthest, but two."""
    keys = [(rule, precision) for rule in RULES for precision in PRECISIONS]
    found = {key: {r.config.seed: r for r in results.of(rule=key[0], precision=key[1])}
             for key in keys}  # fmt: skip
    seeds = furthest(found.values(), least=2)
    return {key: [runs[seed] for seed in seeds] for key, runs in found.items()} if seeds else {}


def measures(results: Results) -> Measures:
    """Return how far the curves of two precisions lie apart, against the noise of the seeds.

    Over the seeds and epochs that all have; none of the numbers with fewer than two seeds.

    - difference: between the means over the seeds, averaged over epochs and rules, in points;
    - seed_sd: standard deviation over the seeds, averaged likewise, in points;
    - ratio: the difference over the standard error that the seeds alone give it.
    """
    runs = _complete_seeds(results)
    seeds = len(next(iter(runs.values()), []))
    if seeds < 2:
        return {}
    epochs = common_epochs(record for records in runs.values() for record in records)
    differences, deviations = [], []
    for rule in RULES:
        first, second = (
            np.array([accuracies(record, epochs) for record in runs[rule, precision]])
            for precision in PRECISIONS
        )  # [seeds, epochs] each
        differences.append(np.abs(first.mean(0) - second.mean(0)).mean())
        pooled = np.sqrt((first.var(0, ddof=1) + second.var(0, ddof=1)) / 2)
        deviations.append(pooled.mean())
    difference, sd = float(np.mean(differences)), float(np.mean(deviations))
    return {
        "difference": Measure(difference, 1, epochs),
        "seed_sd": Measure(sd, 1, epochs),
        "ratio": Measure(ratio(difference, sd * math.sqrt(2 / seeds)), 1, epochs),
    }


def draw(found: Sequence[Results]) -> Figure | None:
    """Draw the runs of both precisions, a panel for each scale with records; None without any."""
    shown = with_records(found)
    if not shown:
        return None
    figure, panels = plt.subplots(
        1, len(shown), figsize=(5.4 * len(shown) + 0.6, 4.4), sharey=True, squeeze=False
    )
    for axes, results in zip(panels[0], shown, strict=True):
        for rule in RULES:
            for precision in PRECISIONS:
                line = ":" if precision == "bf16" else "-"
                records = results.of(rule=rule, precision=precision)
                label = f"{LABELS[rule]}, {NAMES[precision]}{'' if records else ': not yet run'}"
                axes.plot([], [], line, color=COLOURS[rule], label=label)
                for record in records:
                    epochs = [row.epoch for row in record.epochs]
                    axes.plot(epochs, record.test_accuracy, line, color=COLOURS[rule])
        axes.set_title(f"VGG19 with tanh\n({results.scale.title})")
        label_epochs(axes)
        axes.set_xlim(left=0)
    panels[0][0].set_ylabel("test accuracy (%)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def table(found: Sequence[Results]) -> Table:
    """Return the difference beside the noise, at each scale."""
    rows = []
    for results in found:
        numbers = measures(results)
        values = [numbers.get(name) for name in ("difference", "seed_sd", "ratio")]
        epochs = str(values[0].last) if values[0] else "-"
        cells = [number(m.value if m else None, ".2f") for m in values]
        rows.append([results.scale.title, epochs, *cells])
    return Table(
        "The difference between the mean curves of both precisions, the standard deviation over "
        "the seeds, and the difference over the standard error that the seeds alone give it.",
        ["scale", "epochs", "difference (points)", "seeds (points)", "ratio"],
        rows,
    )


def answer(results: Results) -> str:
    """Say in a sentence what the runs of a scale show."""
    numbers = measures(results)
    if not numbers:
        return results.undecided
    difference, sd, noise = (numbers[name] for name in ("difference", "seed_sd", "ratio"))
    word = "outside" if noise.value > 2 else "within"
    return (
        f"Over {counted(difference.last)} {results.scale.where}, the curves of both precisions lie "
        f"{difference.value:.2f} points apart, {word} the noise of the seeds, whose standard "
        f"deviation is {sd.value:.2f} points."
    )
