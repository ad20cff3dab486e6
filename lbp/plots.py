"""Figures: each function takes plain data and returns a matplotlib figure."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lbp.config import RunConfig
from lbp.paper import PaperCurve
from lbp.record import Record
from lbp.reproduce import Results
from lbp.synthetic import Figure1, pre_activations, predict

# Okabe and Ito's palette: colours that colour-blind readers can tell apart. Every figure gives a
# rule the same colour.
COLOURS = {"bp": "#D55E00", "linear": "#0072B2", "as-printed": "#009E73"}
LABELS = {"bp": "Backprop", "linear": "Linear Backprop", "as-printed": "as printed"}
PAPER_GREY = "#6e6e6e"


def use_style() -> None:
    """Set the book's style: white, light grid, readable on a phone."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        rc={
            "figure.dpi": 100,
            "savefig.dpi": 144,
            "axes.titlesize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        },
    )


def accuracy_curves(results: Sequence[Results], paper: Mapping[str, PaperCurve]) -> Figure:
    """Draw test accuracy over epochs, a panel for each scale, over the paper's digitised curves.

    Args:
        results: What there is at each scale; the labels of the runs are those of the paper's curves
            and end with the rule, such as "tanh, linear".
        paper: The paper's curves by the same labels.
    """
    figure, panels = plt.subplots(
        1, len(results), figsize=(5.2 * len(results) + 0.8, 4.6), sharey=True, squeeze=False
    )
    for axes, result in zip(panels[0], results, strict=True):
        full = result.scale == "paper"
        # Epochs of different lengths do not compare: below full scale the axis counts steps.
        per_epoch = {
            label: 1.0 if full else run.steps_per_epoch / 1000 for label, run in result.runs.items()
        }
        last = max(run.epochs * per_epoch[label] for label, run in result.runs.items())
        for label in result.runs:
            colour = COLOURS[label.split(", ")[-1]]
            paper_epoch = 1.0 if full else RunConfig().steps_per_epoch / 1000
            _paper_band(axes, paper[label], colour, label, paper_epoch, until=last)
            if label in result.records:
                name = f"{label}: this book{', stale' if label in result.stale else ''}"
                _run_curve(axes, result.records[label], colour, name, per_epoch[label])
        for label in result.missing:
            axes.plot([], [], color="none", label=f"{label}: not yet run")
        axes.set_title("\n".join(textwrap.wrap(_SCALE_TITLES[result.scale], 44)))
        axes.set_xlabel("epoch" if full else "steps of SGD (thousands)")
        axes.set_xlim(0, last * 1.02)
        axes.set_ylim(0, 100)
        axes.legend(loc="lower right", fontsize=9)
    panels[0][0].set_ylabel("test accuracy (%)")
    return figure


_SCALE_TITLES = {
    "paper": "Full scale: VGG19 with tanh on CIFAR-10",
    "cpu": "Reduced scale: narrower VGG19, fewer images and epochs",
    "smoke": "Test run on generated stand-in images, NOT CIFAR-10",
}


def _paper_band(
    axes: Axes, curve: PaperCurve, colour: str, label: str, per_epoch: float, until: float
) -> None:
    """Draw a curve of the paper as a band with a dashed middle, up to `until` on the axis."""
    shown = [index for index, epoch in enumerate(curve.epochs) if epoch * per_epoch <= until]
    x = [curve.epochs[index] * per_epoch for index in shown]
    low, mid, high = (
        [values[index] for index in shown] for values in (curve.low, curve.mid, curve.high)
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, mid, "--", color=colour, linewidth=1.2, label=f"{label}: the paper")


def _run_curve(axes: Axes, record: Record, colour: str, name: str, per_epoch: float) -> None:
    x = [epoch * per_epoch for epoch in record.curve("epoch")]
    if record.outcome == "diverged":
        name += f" (diverged in epoch {len(x)})"
        axes.plot(x[-1], 10, "x", color=colour, markersize=10, markeredgewidth=2.5)
    axes.plot(x, record.test_accuracy, color=colour, linewidth=1.8, label=name)


LINES = {"bp": "-", "linear": "--", "as-printed": "-."}  # for those who do not see the colours
MARKERS = {"bp": "o", "linear": "^", "as-printed": "s"}


def figure1(result: Figure1) -> Figure:
    """Draw the paper's Figure 1: fits, generalisation MSE, pre-activations of sigmoid units.

    Args:
        result: The networks that `lbp.synthetic.figure1` trained.
    """
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4.3))
    _fitted_curves(panels[0], result, ("bp", "linear"))
    _mse_distributions(panels[1], result, ("bp", "linear"))
    _pre_activation_histogram(panels[2], result)
    return figure


def figure1_as_printed(result: Figure1) -> Figure:
    """Draw what becomes of Figure 1 with Algorithm 2 as it is printed.

    Args:
        result: The networks that `lbp.synthetic.figure1` trained.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.4))
    _fitted_curves(panels[0], result, ("bp", "as-printed"))
    _mse_distributions(panels[1], result, ("bp", "linear", "as-printed"))
    return figure


def _fitted_curves(axes: Axes, result: Figure1, rules: Sequence[str]) -> None:
    """Draw the points, the target and the fits from the first initialisation that has them all."""
    problem, trained = result.problem, result.relu
    converged = np.logical_and.reduce([trained.of(rule).converged for rule in rules])  # [inits]
    init = int(converged.argmax())
    axes.plot(problem.grid, problem.target, color="black", linestyle=":", label="without noise")
    for rule in rules:
        row = trained.of(rule).parameters[init : init + 1]
        output = predict(row, problem.grid, trained.activation)[0]
        label = LABELS[rule] + ("" if converged[init] else ", not converged")
        axes.plot(problem.grid, output, color=COLOURS[rule], linestyle=LINES[rule], label=label)
    axes.plot(problem.x, problem.y, "o", color="black", label="training points", zorder=3)
    axes.set_title("ReLU: fits from one initialisation")
    axes.set_xlabel("input x (dimensionless)")
    axes.set_ylabel("output y (dimensionless)")
    axes.legend(fontsize=9)


def _mse_distributions(axes: Axes, result: Figure1, rules: Sequence[str]) -> None:
    """Draw a mark for each converged network's MSE, and each rule's median as a bar."""
    labels = []
    for place, rule in enumerate(rules):
        mine = result.relu.rules == rule
        mse = result.relu_mse[mine & result.relu.converged]
        # Sideways by rank, so that neighbours in height lie apart; nothing is random.
        spread = 0.45 * (np.argsort(np.argsort(mse)) * 0.381966 % 1 - 0.5)
        axes.plot(
            place + spread,
            mse,
            MARKERS[rule],
            color=COLOURS[rule],
            alpha=0.7,
            markersize=5,
            markeredgewidth=0,
        )
        if len(mse):
            axes.hlines(np.median(mse), place - 0.35, place + 0.35, color="black", linewidth=2)
        labels.append(f"{LABELS[rule]}\n{len(mse)}/{mine.sum()} converged")
    axes.set_xticks(range(len(rules)), labels, fontsize=10)
    axes.set_xlim(-0.6, len(rules) - 0.4)
    if not np.isin(result.relu.rules, rules)[result.relu.converged].any():
        axes.set_ylim(0.1, 10)  # nothing to take the limits from
    axes.set_yscale("log")
    axes.grid(axis="x", visible=False)
    axes.set_title("ReLU: one mark a network, bar: median")
    axes.set_ylabel("generalisation MSE (dimensionless)")


def _pre_activation_histogram(axes: Axes, result: Figure1, limit: float = 40) -> None:
    """Draw pre-activations with shared bins; those beyond ±limit count in the outermost bins."""
    trained = result.sigmoid
    a = pre_activations(trained.parameters, result.problem.x, trained.activation).numpy()
    bins = np.linspace(-limit, limit, 41).tolist()
    styles: list[tuple[str, dict[str, Any], bool]] = [
        ("bp", {"histtype": "stepfilled", "alpha": 0.4, "hatch": "///"}, False),
        ("linear", {"histtype": "step", "linewidth": 1.8}, False),
        ("linear", {"histtype": "step", "linewidth": 1.8, "linestyle": ":"}, True),
    ]
    for rule, style, everything in styles:
        mine = trained.rules == rule
        chosen = mine & (~trained.diverged if everything else trained.converged)
        label = f"{LABELS[rule]}, {chosen.sum()}/{mine.sum()} converged"
        if everything:
            label = f"{LABELS[rule]}, all {chosen.sum()}"
        values = np.clip(a[chosen].ravel(), -limit, limit)
        weights = np.full(values.shape, 1 / max(values.size, 1))
        axes.hist(values, bins, weights=weights, color=COLOURS[rule], label=label, **style)
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 40)  # room for the legend
    axes.set_title("Sigmoid: pre-activations after training")
    axes.set_xlabel("pre-activation (dimensionless)")
    axes.set_ylabel("share of units × points")
    axes.legend(fontsize=9, loc="upper center")
