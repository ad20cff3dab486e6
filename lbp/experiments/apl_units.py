"""APL units: learned activation functions under Backprop and under Linear Backprop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lbp.experiments.grid import RULES
from lbp.experiments.numbers import (
    Measure,
    Measures,
    by_name,
    common_epochs,
    counted,
    final_accuracy,
    interval,
    last_tenth,
    mean_of,
    number,
)
from lbp.experiments.panels import Line, Panel, draw_panels, to_draw
from lbp.experiments.results import Results
from lbp.experiments.scales import NARROW, PAPER, Scale
from lbp.experiments.style import COLOURS, LABELS, shade
from lbp.experiments.table import Table
from lbp.lab.config import RunConfig, written
from lbp.lab.models import cnn
from lbp.lab.probe import CHANNELS_SHOWN
from lbp.lab.record import Layers, Record
from lbp.lab.run import Goal

TITLE = "Activation functions that are learned"
PLACE = "another paper: Agostinelli et al. 2014, section 3"
QUESTION = (
    "Do learned activation functions lower the error, and does Linear Backprop train them as well?"
)

# From the code of Agostinelli et al., github.com/ForestAgostinelli/Learned-Activation-Functions-
# Source, examples/cifar10/CNN: batches of 100 images, 90,000 steps, weight decay 0.001 for all
# parameters. Inferred: that it subtracts each channel's mean (the source's file of means is one
# image), and that momentum changes by epoch. The learning rate is that of Backprop, see `RATES`.
SOURCE: dict[str, Any] = {
    "model": "cnn",
    "normalisation": "raw",
    "batch": 100,
    "momentum": 0.9,
    "schedule": "apl-cifar10",
    "l2": 1e-3,
}
EPOCHS = 180
HINGES = 5  # of the source's network for CIFAR-10
ABLATION = (1, 2, 5, 10)
SEEDS = {PAPER.name: (0, 1, 2, 3, 4), NARROW.name: (0, 1), "smoke": (0, 1)}

# What this experiment's scales change in place of the book's.
SCALES: Mapping[str, Scale] = {
    PAPER.name: replace(PAPER, note="Full scale: the source's network on all of CIFAR-10."),
    NARROW.name: replace(
        NARROW,
        note=(
            "Narrow network: every layer has a quarter of the source's channels or units, initial "
            "weights of all layers but the first are twice as large, and a run has 15 epochs. "
            "The rest is as at full scale: all of CIFAR-10, in batches of 100."
        ),
        changes={"width": 1 / 4},
        most_epochs=15,
    ),
}

# By rule. That of Backprop is the source's. Linear Backprop diverges there, so it is tried at
# others, and has that one in a narrow network at which it gets furthest.
RATES = {"bp": 0.01, "linear": 1e-5}
LINEAR_RATES = (1e-2, 1e-3, 1e-4, 1e-5)

NAMES = [(activation, rule) for rule in RULES for activation in ("relu", "apl")]
ACTIVATIONS = {"relu": "ReLU", "apl": f"APL, S = {HINGES}"}


def _goal(scale: Scale, activation: str, rule: str, seed: int, **fields: Any) -> Goal:
    scale = SCALES.get(scale.name, scale)
    learned = activation == "apl" and fields.get("hinges_learned", True)
    fields |= {"unit_l2": SOURCE["l2"]} if learned else {}
    fields = {"lr": RATES[rule], "activation": activation, "rule": rule, "seed": seed} | fields
    return scale.goal(EPOCHS, SOURCE, **fields)


def goals(scale: Scale) -> list[Goal]:
    """Return both activations under both rules, the source's ablation, and other learning rates."""
    seeds = SEEDS[scale.name]
    ablation = [
        _goal(scale, "apl", "bp", seeds[0], hinges=hinges, hinges_learned=learned)
        for learned in (True, False)
        for hinges in ABLATION
        if (hinges, learned) != (HINGES, True)
    ]
    rates = [
        _goal(scale, activation, "linear", seeds[0], lr=lr)
        for lr in LINEAR_RATES
        for activation in ACTIVATIONS
        if lr != RATES["linear"]
    ]
    return [
        *(_goal(scale, *name, seed) for seed in seeds for name in NAMES),
        _goal(scale, "apl", "linear", seeds[0], hinges_learned=False),
        *ablation,
        *rates,
    ]


def _main(results: Results) -> dict[tuple[str, str], list[Record]]:
    """Return the runs of both activations and rules, of the seeds that all have."""
    records = results.of(hinges=HINGES, hinges_learned=True)
    return by_name([r for r in records if r.config.lr == RATES[r.config.rule]], NAMES)


def _epochs(runs: Mapping[tuple[str, str], Sequence[Record]]) -> int:
    return common_epochs(record for records in runs.values() for record in records)


def measures(results: Results) -> Measures:
    """Return the gains in final accuracy over the epochs that all runs have, in points.

    - {activation}_{rule}_final: the final accuracy itself, in percent;
    - apl_gain, apl_gain_linear: APL with S = 5 minus ReLU, under Backprop and Linear Backprop;
    - linear_gain_relu, linear_gain_apl: Linear Backprop minus Backprop, with either activation;
    - learned_gain, learned_gain_linear: learned minus fixed hinges, S = 5, one seed, under
      Backprop and Linear Backprop;
    - learned_gain_mean: the same under Backprop, mean over S = 1, 2, 5 and 10.
    """
    found: Measures = {}
    if runs := _main(results):
        epochs = _epochs(runs)
        seeds = len(runs["relu", "bp"])
        final = {
            name: mean_of(records, lambda r: final_accuracy(r, epochs))
            for name, records in runs.items()
        }
        for (activation, rule), value in final.items():
            found[f"{activation}_{rule}_final"] = Measure(value, *last_tenth(epochs), seeds)
        pairs = {
            "apl_gain": (("apl", "bp"), ("relu", "bp")),
            "apl_gain_linear": (("apl", "linear"), ("relu", "linear")),
            "linear_gain_relu": (("relu", "linear"), ("relu", "bp")),
            "linear_gain_apl": (("apl", "linear"), ("apl", "bp")),
        }
        for key, (first, second) in pairs.items():
            found[key] = Measure(final[first] - final[second], *last_tenth(epochs), seeds)
    for key, rule in (("learned_gain", "bp"), ("learned_gain_linear", "linear")):
        if (gain := _learned_gain(results, rule, [HINGES])) is not None:
            found[key] = gain
    if (gain := _learned_gain(results, "bp", ABLATION)) is not None:
        found["learned_gain_mean"] = gain
    return found


def _learned_gain(results: Results, rule: str, hinges: Iterable[int]) -> Measure | None:
    """Return how much better learned hinges are than fixed ones, as a mean over some S."""
    pairs = [[_ablated(results, rule, s, learned) for learned in (True, False)] for s in hinges]
    there = [record for pair in pairs for record in pair if record is not None]
    if len(there) < 2 * len(pairs):
        return None
    epochs = common_epochs(there)
    gains = [
        final_accuracy(there[place], epochs) - final_accuracy(there[place + 1], epochs)
        for place in range(0, len(there), 2)
    ]
    return Measure(float(np.mean(gains)), *last_tenth(epochs))


def _ablated(results: Results, rule: str, hinges: int, learned: bool) -> Record | None:
    found = results.of(
        activation="apl",
        rule=rule,
        lr=RATES[rule],
        hinges=hinges,
        hinges_learned=learned,
        seed=SEEDS[results.scale.name][0],
    )
    return found[0] if found else None


def draw(found: Sequence[Results]) -> Figure:
    """Draw test accuracy, a row for each scale: Backprop on the left, Linear Backprop right."""
    rows = []
    for results in to_draw(found):
        row = []
        for rule in RULES:
            lines = [
                Line(
                    f"{LABELS[rule]}, {shown}",
                    shade(COLOURS[rule], 1.0 if activation == "apl" else 0.2),
                    results.of(
                        activation=activation,
                        rule=rule,
                        lr=RATES[rule],
                        hinges=HINGES,
                        hinges_learned=True,
                    ),
                )
                for activation, shown in ACTIVATIONS.items()
            ]
            title = f"{LABELS[rule]}\n({results.scale.title})"
            row.append(Panel(title, lines, results.goals[0].epochs))
        rows.append(row)
    return draw_panels(rows, "below")


# --- the shapes of the learned units


@dataclass(frozen=True)
class Unit:
    """One APL unit: the slopes and the offsets of its hinges."""

    slopes: Sequence[float]
    offsets: Sequence[float]

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Return the unit's values at pre-activations."""
        value: np.ndarray = np.maximum(0, z)
        for slope, offset in zip(self.slopes, self.offsets, strict=True):
            value = value + slope * np.maximum(0, offset - z)
        return value


def shown_units(config: RunConfig, glance: Layers) -> list[list[Unit]]:
    """Return the units that a glance shows, layer by layer; empty if it shows none.

    They are those of `APL.shown`.
    """
    values = list(glance.unit_parameters or ())
    if not values:
        return []
    layers = []
    for full in (*cnn.CHANNELS, *cnn.HIDDEN):
        shown = min(CHANNELS_SHOWN, max(1, round(full * config.width)))
        size = config.hinges * shown
        slopes, offsets, values = values[:size], values[size : 2 * size], values[2 * size :]
        layers.append([Unit(slopes[i::shown], offsets[i::shown]) for i in range(shown)])
    return layers


LAYERS = (
    "first convolution",
    "second convolution",
    "third convolution",
    "first linear layer",
    "second linear layer",
)
SHOWN = 4  # units of a layer in the figure, in colours that can be told apart
REACH = 3.0  # pre-activations at which units are drawn, from -REACH to REACH


def draw_shapes(found: Sequence[Results]) -> Figure | None:
    """Draw learned units before and after training, a row for each rule, of the first seed.

    They are of the first scale in `found` that has such runs; None without any.
    """
    shown: dict[str, tuple[RunConfig, list[Layers]]] = {}
    for results in found:
        for rule in () if shown else RULES:
            record = _ablated(results, rule, HINGES, learned=True)
            glances = [g for g in record.layers if np.isfinite(g.weight).all()] if record else []
            if record is not None and glances and glances[-1].unit_parameters:
                shown[rule] = record.config, glances
    if not shown:
        return None
    size = (15, 3 * len(shown) + 0.5)
    figure, grid = plt.subplots(len(shown), len(LAYERS), figsize=size, sharex=True, squeeze=False)
    for (rule, (config, glances)), row in zip(shown.items(), grid, strict=True):
        for place, axes in enumerate(row):
            _draw_units(axes, config, glances, place, COLOURS[rule])
            axes.set_title(f"{LAYERS[place]}\n{counted(glances[-1].epoch)}", fontsize=10)
        row[0].set_ylabel(f"{LABELS[rule]}\nvalue of the unit")
    for axes in grid[-1]:
        axes.set_xlim(-REACH, REACH)
        axes.set_xlabel("pre-activation")
    for line, label in ((":", "at the initialisation"), ("-", "at the last look")):
        grid[0, 0].plot([], [], line, color="black", label=label)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _draw_units(
    axes: Axes, config: RunConfig, glances: Sequence[Layers], place: int, colour: str
) -> None:
    z = np.linspace(-REACH, REACH, 601)
    first, last = (shown_units(config, glance)[place] for glance in (glances[0], glances[-1]))
    for index, (before, after) in enumerate(zip(first[:SHOWN], last[:SHOWN], strict=True)):
        tint = shade(colour, 1 - index / SHOWN)
        axes.plot(z, before(z), linestyle=":", linewidth=1.2, color=tint)
        axes.plot(z, after(z), linestyle="-", linewidth=1.8, color=tint)


def draw_ablation(found: Sequence[Results]) -> Figure | None:
    """Draw final accuracy over the number of hinges, learned and fixed, a panel for each scale.

    Scales without such runs are left out; None without any.
    """
    shown = [(results, *_ablation(results)) for results in found if _ablation(results)[0]]
    if not shown:
        return None
    figure, grid = plt.subplots(1, len(shown), figsize=(5.4 * len(shown) + 0.6, 4.2), squeeze=False)
    for (results, cells, epochs), axes in zip(shown, grid.flat, strict=True):
        for learned, line, marker in ((True, "-", "o"), (False, ":", "s")):
            x = [s for s in ABLATION if (s, learned) in cells]
            y = [final_accuracy(cells[s, learned], epochs) for s in x]
            label = f"{'learned' if learned else 'fixed'}{'' if x else ': not yet run'}"
            axes.plot(x, y, line, marker=marker, color=COLOURS["bp"], label=label)
            for s, accuracy in zip(x, y, strict=True):
                if cells[s, learned].diverged:
                    place = {"xytext": (-8, 8), "textcoords": "offset points", "ha": "right"}
                    axes.annotate("diverged", (s, accuracy), fontsize=9, **place)
        axes.set_xticks(ABLATION)
        axes.set_xlabel("hinges S")
        axes.set_title(f"Backprop, {counted(epochs)}\n({results.scale.title})")
        axes.legend(loc="best")
    grid[0, 0].set_ylabel("final test accuracy (%)")
    return figure


def _ablation(results: Results) -> tuple[dict[tuple[int, bool], Record], int]:
    """Return the ablation's runs by S and whether it is learned, and their epochs.

    Those that are furthest: one that has just begun does not cut the others.
    """
    there = {
        (s, learned): record
        for s in ABLATION
        for learned in (True, False)
        if (record := _ablated(results, "bp", s, learned)) is not None
    }
    epochs = max(map(len, there.values()), default=0)
    return {name: record for name, record in there.items() if record.reaches(epochs)}, epochs


# --- tables and answers


def table(found: Sequence[Results]) -> Table:
    """Return both rules and both activations with 95 % intervals, and what APL adds by seed."""
    rows = []
    for results in found:
        runs = _main(results)
        epochs = _epochs(runs)
        finals = {
            name: [final_accuracy(record, epochs) for record in records]
            for name, records in runs.items()
        }
        for rule in RULES:
            cells = {a: finals.get((a, rule), []) for a in ACTIVATIONS}
            gains = [apl - relu for relu, apl in zip(*cells.values(), strict=True)]
            shown = [str(interval(v)) if v else "-" for v in (*cells.values(), gains)]
            rows.append([f"{LABELS[rule]}, {results.scale.title}", str(epochs), *shown])
    return Table(
        "Final test accuracy: the mean over the last tenth of the epochs, in percent, and what APL "
        "units add to it, seed by seed. Means over the seeds with their 95 % confidence intervals "
        "(Student's t).",
        ["rule", "epochs", *ACTIVATIONS.values(), "gain (points)"],
        rows,
    )


def rates_table(found: Sequence[Results]) -> Table:
    """Return how far each activation gets under Linear Backprop at several learning rates."""
    rows = []
    for results in found:
        for activation, shown in ACTIVATIONS.items():
            cells = []
            for lr in LINEAR_RATES:
                records = results.of(
                    activation=activation, rule="linear", lr=lr, hinges=HINGES, hinges_learned=True
                )
                cells.append(_reached(records[0]) if records else "-")
            rows.append([f"{shown}, {results.scale.title}", *cells])
    columns = ["activation", *(f"learning rate {written(lr)}" for lr in LINEAR_RATES)]
    caption = (
        f"Linear Backprop at the source's learning rate, {written(RATES['bp'])}, and at smaller "
        "ones: final test accuracy of the first seed."
    )
    return Table(caption, columns, rows)


def _reached(record: Record) -> str:
    if record.diverged:
        return f"diverged in epoch {len(record)}"
    return f"{final_accuracy(record):.1f} % after {counted(len(record))}"


def ablation_table(found: Sequence[Results]) -> Table:
    """Return final accuracies by the number of hinges, learned and fixed."""
    rows = []
    for results in found:
        cells, epochs = _ablation(results)
        for s in ABLATION:
            both = [cells.get((s, learned)) for learned in (True, False)]
            shown = [_final(record, epochs) for record in both]
            rows.append([f"S = {s}, {results.scale.title}", str(epochs), *shown])
    return Table(
        "Final test accuracy in percent under Backprop, one seed. Fixed hinges stay where they "
        "were drawn.",
        ["units", "epochs", "learned", "fixed"],
        rows,
    )


def _final(record: Record | None, epochs: int) -> str:
    if record is not None and record.diverged:
        return f"diverged in epoch {len(record)}"
    return number(final_accuracy(record, epochs) if record else None, ".2f")


def _losses(record: Record, last: int) -> str:
    """Say from where to where the training loss goes up to an epoch, or that it diverges before."""
    rows = record.epochs[:last]
    end = f"{rows[-1].train_loss:.2f}"
    if record.diverged and len(record) <= last:
        end = f"where it diverges, in epoch {len(record)},"
    return f"from {rows[0].train_loss:.2f} to {end}"


def answer(results: Results) -> str:
    """Say in a few sentences what the runs of a scale show."""
    found = measures(results)
    where = results.scale.where
    if "apl_gain" not in found:
        return results.undecided
    gain, linear = found["apl_gain"], found["apl_gain_linear"]
    finals = {
        rule: [f"{found[f'{activation}_{rule}_final'].value:.1f} %" for activation in ACTIVATIONS]
        for rule in RULES
    }
    runs = _main(results)
    by_seed = [
        final_accuracy(apl, gain.last) - final_accuracy(relu, gain.last)
        for relu, apl in zip(runs["relu", "bp"], runs["apl", "bp"], strict=True)
    ]
    each = f" (seed by seed {', '.join(f'{g:+z.1f}' for g in by_seed)})" if len(by_seed) > 1 else ""
    text = (
        f"After {counted(gain.last)} {where}, ReLU reaches {finals['bp'][0]} and APL units with "
        f"five hinges {finals['bp'][1]} under Backprop, {gain.value:+z.1f} points{each}. Under "
        f"Linear Backprop at the learning rate {written(RATES['linear'])} they reach "
        f"{finals['linear'][0]} and {finals['linear'][1]}, {linear.value:+z.1f} points."
    )
    relu, apl = (_losses(runs[activation, "linear"][0], gain.last) for activation in ACTIVATIONS)
    text += f" Its training loss goes {relu} with ReLU and {apl} with APL units (first seed)."
    tried = results.of(rule="linear", seed=SEEDS[results.scale.name][0], hinges_learned=True)
    going = {r.config.lr for r in tried if not r.diverged}
    if lost := sorted({r.config.lr for r in tried} - going, reverse=True):
        text += f" Linear Backprop diverges at {', '.join(map(written, lost))}."
    if learned := found.get("learned_gain_linear"):
        text += (
            f" Under Linear Backprop, learned hinges change the accuracy of fixed ones by "
            f"{learned.value:+z.1f} points (one seed, epoch {learned.last})."
        )
    return text


@dataclass(frozen=True)
class Further:
    """A further task of the source that this book has code for and has not run.

    Attributes:
        task: The task.
        run: How to run it.
        needs: What it needs that is missing here.
    """

    task: str
    run: str
    needs: str


FURTHER = (
    Further(
        "CIFAR-100, the same network, S = 2",
        "`lbp data --dataset cifar100`, then `lbp train --rule bp --model cnn --dataset cifar100 "
        "--activation apl --hinges 2 --schedule apl-cifar100 --normalisation raw --lr 0.001 "
        "--momentum 0.9 --l2 0.001 --unit-l2 0.001 --batch 100 --epochs 300`",
        "CIFAR-100 and a GPU",
    ),
    Further(
        "CIFAR-10 and CIFAR-100, network in network, S = 1",
        "`lbp train --rule bp --model nin --activation apl --hinges 1 --schedule apl-nin "
        "--normalisation raw --lr 0.05 --momentum 0.9 --l2 0.0001 --unit-l2 0.001 --batch 100 "
        "--augment --epochs 660`",
        "a GPU, and CIFAR-100 for the second",
    ),
    Further(
        "Higgs to tau tau, eight layers, S = 2",
        "`lbp higgs TRAIN TEST --hinges 2`, with files of events in the format of `lbp.lab.higgs`",
        "the 80 million events and a GPU",
    ),
)


def further_table() -> Table:
    """Return the source's further tasks, how to run them, and what they need."""
    rows = [[f.task, f"not yet run: needs {f.needs}", f.run] for f in FURTHER]
    return Table(
        "Further tasks of the source, tested here on generated data.",
        ["task", "state", "how to run it"],
        rows,
    )
