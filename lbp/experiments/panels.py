"""Panels that several figures share: curves of test accuracy, this book's over the paper's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lbp.experiments.paper import PaperCurve
from lbp.experiments.results import Results, with_records
from lbp.experiments.style import ACTIVATIONS, COLOURS, LABELS, label_epochs
from lbp.lab.record import Record


@dataclass(frozen=True)
class Line:
    """Runs that share a line's look: one for each seed, with the paper's curve of the same.

    Attributes:
        label: The name in the legend.
        colour: Of the runs and of the paper's curve.
        records: What is recorded; none stands for runs that are not yet made.
        paper: The paper's curve, if it has one.
        paper_label: What the legend calls that curve; `label` by default.
    """

    label: str
    colour: Any
    records: Sequence[Record]
    paper: PaperCurve | None = None
    paper_label: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel of curves.

    Attributes:
        title: Its title.
        lines: Its curves.
        epochs: How many epochs its runs are to have.
        beside: The longest run of the panels that are to be compared, so that their axes are alike;
            by default that of this panel.
    """

    title: str
    lines: Sequence[Line]
    epochs: int
    beside: int = 0

    @property
    def lengths(self) -> list[int]:
        """How many epochs each run of the panel has."""
        return [len(record) for line in self.lines for record in line.records]

    @property
    def there(self) -> int:
        """How many epochs the longest run of the panel has."""
        return max(self.lengths, default=0)

    @property
    def last(self) -> float:
        """Where the axis of epochs ends: the beginning of long runs fills the panel."""
        longest = max(self.there, self.beside)
        return self.epochs if longest in (0, self.epochs) else max(5.0, 1.2 * longest)


def rule_line(results: Results, name: tuple[str, str], paper: Mapping[str, PaperCurve]) -> Line:
    """Return the line of a combination of activation and rule, with the paper's curve of it."""
    activation, rule = name
    records = results.of(activation=activation, rule=rule)
    label = f"{ACTIVATIONS[activation]}, {LABELS[rule]}"
    return Line(label, COLOURS[rule], records, paper.get(f"{activation}, {rule}"))


def to_draw(found: Sequence[Results]) -> Sequence[Results]:
    """Return the scales with records; without any the first, for the paper's curves alone."""
    return with_records(found) or found[:1]


def draw_panels(
    rows: Sequence[Sequence[Panel]], legend: Literal["inside", "below", "none"] = "inside"
) -> Figure:
    """Draw panels of test accuracy over epochs in rows.

    Args:
        rows: The panels.
        legend: Whether each panel has its legend, all share one below them, or there is none.
    """
    columns = len(rows[0])
    width, height = (5.4, 4.4) if columns < 3 else (3.6, 3.8)  # a page is no wider
    below = legend == "below"
    figure, grid = plt.subplots(
        len(rows),
        columns,
        figsize=(width * columns + 0.6, height * len(rows) + 0.9 * below),
        sharey=True,
        squeeze=False,
    )
    for row, axes_row in zip(rows, grid, strict=True):
        for panel, axes in zip(row, axes_row, strict=True):
            _draw_panel(axes, panel)
            if columns > 2:
                axes.title.set_fontsize(10)  # narrow panels, whose titles would touch each other
            if legend == "inside" and axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower right", bbox_to_anchor=(1, 0.07), fontsize=9)
        axes_row[0].set_ylabel("test accuracy (%)")
    low, high = _range(grid)
    grid.flat[0].set_ylim(low, high)  # of all, which share the axis
    if below:
        entries: dict[str, Any] = {}
        for axes in grid.flat:
            handles, labels = axes.get_legend_handles_labels()
            entries = dict(zip(labels, handles, strict=True)) | entries
        ordered = sorted(entries, key=lambda label: ("paper" in label, label.split(",")[0]))
        handles = [entries[label] for label in ordered]
        figure.legend(handles, ordered, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for line in panel.lines:
        if line.paper is not None:
            name = line.paper_label or line.label
            _draw_paper(axes, line.paper, line.colour, f"{name}: the paper", until=panel.last)
        for index, record in enumerate(line.records):
            seeds = f" ({len(line.records)} seeds)" if len(line.records) > 1 else ""
            label = f"{line.label}: this book{seeds}" if index == 0 else None
            epochs = [row.epoch for row in record.epochs]
            marker = "o" if len(epochs) < 6 else ""
            style: dict[str, Any] = {
                "color": line.colour,
                "linewidth": 1.4,
                "marker": marker,
                "markersize": 4,
            }
            axes.plot(epochs, record.test_accuracy, label=label, **style)
            if record.diverged:
                label = f"{line.label}: seed {record.config.seed} diverged"
                style = {"color": line.colour, "markersize": 10, "markeredgewidth": 2.5}
                axes.plot(epochs[-1], record.test_accuracy[-1], "x", label=label, **style)
    if panel.there == 0:
        place = axes.transAxes
        axes.text(0.5, 0.04, "this book: not yet run", ha="center", va="bottom", transform=place)
    else:
        for line in panel.lines:
            if not line.records:
                axes.plot([], [], color="none", label=f"{line.label}: not yet run")
        shortest = min(panel.lengths)
        reach = f"{shortest} to {panel.there}" if shortest < panel.there else f"{panel.there}"
        text = f"this book: {reach} of {panel.epochs} epochs"
        place = axes.transAxes
        axes.text(0.98, 0.02, text, ha="right", va="bottom", transform=place, fontsize=9)
    axes.set_title(panel.title)
    label_epochs(axes)
    axes.set_xlim(0, panel.last * 1.02)


def _range(grid: np.ndarray) -> tuple[float, float]:
    """Return the range of accuracies that are drawn, to the next ten percent on either side."""
    lines = [np.asarray(line.get_ydata(), float) for axes in grid.flat for line in axes.lines]
    drawn = np.concatenate([*lines, [np.nan]])
    if np.isnan(drawn).all():
        return 0, 100
    low, high = np.nanmin(drawn), np.nanmax(drawn)
    return max(0, 10 * np.floor((low - 2) / 10)), min(100, 10 * np.ceil((high + 2) / 10))


def _draw_paper(axes: Axes, curve: PaperCurve, colour: Any, label: str, until: float) -> None:
    """Draw a curve of the paper as a band with a dashed middle, up to an epoch."""
    shown = curve.between(0, until)
    if not shown.epochs:
        return
    marker = "D" if len(shown.epochs) < 4 else ""  # few points are hard to see as a line
    if len(shown.epochs) > 1:
        band: dict[str, Any] = {"color": colour, "alpha": 0.15, "linewidth": 0}
        axes.fill_between(shown.epochs, shown.low, shown.high, **band)
    else:  # a band over one epoch has no width
        axes.vlines(shown.epochs, shown.low, shown.high, color=colour, alpha=0.3, linewidth=6)
    style: dict[str, Any] = {"marker": marker, "markersize": 5, "color": colour, "linewidth": 1.2}
    axes.plot(shown.epochs, shown.mid, "--", label=label, **style)
