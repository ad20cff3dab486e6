"""Figures: each function takes plain data and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lbp import experiments, measures, paper
from lbp.config import RunConfig
from lbp.cost import Comparison
from lbp.errors import LbpError
from lbp.paper import PaperCurve
from lbp.record import Layers, Record
from lbp.reproduce import Results
from lbp.selection import final_accuracy
from lbp.synthetic import Figure1, pre_activations, predict

# Okabe and Ito's palette: colours that colour-blind readers can tell apart. Every figure gives a
# rule the same colour.
COLOURS = {"bp": "#D55E00", "linear": "#0072B2", "as-printed": "#009E73"}
LABELS = {"bp": "Backprop", "linear": "Linear Backprop", "as-printed": "as printed"}
LINES = {"bp": "-", "linear": "--", "as-printed": "-."}  # for those who do not see the colours
MARKERS = {"bp": "o", "linear": "^", "as-printed": "s"}


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


# --- CIFAR-10: curves of test accuracy, this book's over the paper's


@dataclass(frozen=True)
class _Panel:
    """What one panel shows: runs by label, one record for each seed, and the paper's curves."""

    title: str
    scale: str
    runs: Mapping[str, Sequence[Record]]  # a label without records stands for runs not yet made
    colours: Mapping[str, Any]
    paper: Mapping[str, PaperCurve]
    epochs: float  # of the axis at full scale
    steps: float  # of SGD, of the axis below full scale


def figure2(results: Sequence[Results]) -> Figure:
    """Draw Figure 2, VGG19 with tanh: a panel for each scale.

    Args:
        results: What there is at each scale.
    """
    return _draw(
        [[_long_panel("VGG19 with tanh", r, ["tanh, bp", "tanh, linear"]) for r in results]]
    )


def figure3(results: Sequence[Results]) -> Figure:
    """Draw Figure 3: Linear Backprop with tanh (left) and with ReLU (right) against ReLU Backprop.

    Args:
        results: What there is at each scale; each has a row.
    """
    return _draw(
        [
            [
                _long_panel("tanh against ReLU", result, ["relu, bp", "tanh, linear"]),
                _long_panel("ReLU against ReLU", result, ["relu, bp", "relu, linear"]),
            ]
            for result in results
        ]
    )


def figure4(results: Sequence[Results]) -> Figure:
    """Draw Figure 4 with the learning rate that the paper leaves out.

    Args:
        results: What there is at each scale; each has a row.
    """
    rows = []
    for result in results:
        runs = {(c.lr, c.l2, c.rule): label for label, c in result.runs.items()}
        decays = sorted({l2 for _, l2, _ in runs})
        row = []
        for lr in sorted({lr for lr, _, _ in runs}, reverse=True):
            chosen = {label: pair for pair, label in runs.items() if pair[0] == lr}
            names = {label: f"{rule}, l2 {l2:g}" for label, (_, l2, rule) in chosen.items()}
            shades = {
                names[label]: shade(COLOURS[rule], (decays.index(l2) + 1) / len(decays))
                for label, (_, l2, rule) in chosen.items()
            }
            curves = {}
            if lr in paper.SHOWN_RATES:
                for label, (_, l2, rule) in chosen.items():
                    if l2 in (0.1, min(decays)):  # the paper tells no more of them apart
                        curves[names[label]] = paper.sweep_curve(lr, l2, rule)
            title = f"learning rate {lr:g}"
            row.append(_panel(title, result, names, shades, curves))
        rows.append(row)
    return _draw(rows, legend_below=True)


def recipe_curves(result: Results, recipe: str) -> Figure:
    """Draw a recipe's runs over the paper's curves of Figure 4, a panel for each pair.

    Args:
        result: The recipes' runs at one scale.
        recipe: A name in `experiments.RECIPES`.
    """
    row = []
    for lr, l2 in dict.fromkeys((c.lr, c.l2) for c in result.runs.values()):
        names = {f"{recipe}: {rule}, lr {lr:g}, l2 {l2:g}": rule for rule in experiments.RULES}
        curves = {rule: paper.sweep_curve(lr, l2, rule) for rule in experiments.RULES}
        row.append(_panel(f"learning rate {lr:g}, l2 {l2:g}", result, names, COLOURS, curves))
    return _draw([row], legend_below=True)


def precisions(results: Sequence[Results]) -> Figure:
    """Draw the runs of two precisions, a panel for each scale.

    Args:
        results: What there is at each scale.
    """
    figure, panels = plt.subplots(
        1, len(results), figsize=(5.4 * len(results) + 0.6, 4.4), sharey=True, squeeze=False
    )
    for axes, result in zip(panels[0], results, strict=True):
        for rule in experiments.RULES:
            for name in sorted({config.precision for config in result.runs.values()}):
                records = result.of(rule=rule, precision=name)
                label = f"{LABELS[rule]}, {name}{'' if records else ': not yet run'}"
                axes.plot([], [], ":" if name == "bf16" else "-", color=COLOURS[rule], label=label)
                for record in records:
                    line = ":" if name == "bf16" else "-"
                    epochs = record.curve("epoch")
                    axes.plot(epochs, record.test_accuracy, line, color=COLOURS[rule])
        axes.set_title(f"VGG19 with tanh ({_SCALE_TITLES[result.scale]})")
        axes.set_xlabel("epoch")
        axes.set_xlim(0, max(config.epochs for config in result.runs.values()) * 1.02)
        axes.set_ylim(0, 100)
        axes.legend(loc="upper left", fontsize=9)
    panels[0][0].set_ylabel("test accuracy (%)")
    return figure


def _long_panel(title: str, result: Results, shown: Sequence[str]) -> _Panel:
    names = {
        label: name
        for label, config in result.runs.items()
        if (name := experiments.label(config)) in shown
    }
    colours = {name: COLOURS[name.split(", ")[-1]] for name in shown}
    curves = paper.long_curves()
    return _panel(title, result, names, colours, {name: curves[name] for name in shown})


def _panel(
    title: str,
    result: Results,
    names: Mapping[str, str],
    colours: Mapping[str, Any],
    curves: Mapping[str, PaperCurve],
) -> _Panel:
    """Collect the runs with these labels under their names; several seeds have one name."""
    stale = result.stale
    runs: dict[str, list[Record]] = {}
    for label, name in names.items():
        found = runs.setdefault(name, [])
        if label in result.records and label not in stale:
            found.append(result.records[label])
    configs = [result.runs[label] for label in names]
    epochs = max(config.epochs for config in configs)
    steps = max(config.epochs * config.steps_per_epoch for config in configs)
    return _Panel(title, result.scale, runs, colours, curves, epochs, steps)


_SCALE_TITLES = {
    "paper": "full scale",
    "cpu": "reduced scale",
    "smoke": "test on stand-in images, NOT CIFAR-10",
}


def _draw(rows: Sequence[Sequence[_Panel]], *, legend_below: bool = False) -> Figure:
    columns = len(rows[0])
    width, height = (5.4, 4.4) if columns < 3 else (3.6, 3.8)  # a page is no wider
    figure, panels = plt.subplots(
        len(rows),
        columns,
        figsize=(width * columns + 0.6, height * len(rows) + 0.9 * legend_below),
        sharey=True,
        squeeze=False,
    )
    for row, axes_row in zip(rows, panels, strict=True):
        for panel, axes in zip(row, axes_row, strict=True):
            _draw_panel(axes, panel)
            if not legend_below:
                axes.legend(loc="lower right", bbox_to_anchor=(1, 0.1), fontsize=9)
        axes_row[0].set_ylabel("test accuracy (%)")
    if legend_below:
        entries: dict[str, Any] = {}
        for axes in panels.flat:
            handles, labels = axes.get_legend_handles_labels()
            entries = dict(zip(labels, handles, strict=True)) | entries
        ordered = sorted(entries, key=lambda label: ("paper" in label, label.split(",")[0]))
        figure.legend(
            [entries[label] for label in ordered],
            ordered,
            loc="outside lower center",
            ncols=4,
            fontsize=9,
        )
    return figure


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    full = panel.scale == "paper"
    paper_epoch = 1.0 if full else RunConfig().steps_per_epoch / 1000
    # Epochs of different lengths do not compare: below full scale the axis counts steps.
    last = panel.epochs if full else panel.steps / 1000
    for name, curve in panel.paper.items():
        _paper_band(axes, curve, panel.colours[name], f"{name}: the paper", paper_epoch, until=last)
    for name, records in panel.runs.items():
        for index, record in enumerate(records):
            per_epoch = 1.0 if full else record.config.steps_per_epoch / 1000
            seeds = f" ({len(records)} seeds)" if len(records) > 1 else ""
            label = f"{name}: this book{seeds}" if index == 0 else None
            _run_curve(axes, record, panel.colours[name], label, per_epoch)
            if record.outcome == "diverged":
                _mark_divergence(axes, record, panel.colours[name], name, per_epoch)
    if not any(panel.runs.values()):
        place = axes.transAxes
        axes.text(0.5, 0.04, "this book: not yet run", ha="center", va="bottom", transform=place)
    else:
        for name in (name for name, records in panel.runs.items() if not records):
            axes.plot([], [], color="none", label=f"{name}: not yet run")
    axes.set_title(f"{panel.title}\n({_SCALE_TITLES[panel.scale]})")
    axes.set_xlabel("epoch" if full else "steps of SGD (thousands)")
    axes.set_xlim(0, last * 1.02)
    axes.set_ylim(0, 100)


def shade(colour: str, strength: float) -> tuple[float, float, float]:
    """Return a colour mixed with white: 1 leaves it, values near 0 make it light."""
    strength = 0.25 + 0.75 * strength
    r, g, b = (1 - strength * (1 - channel) for channel in to_rgb(colour))
    return r, g, b


def _paper_band(
    axes: Axes, curve: PaperCurve, colour: Any, label: str, per_epoch: float, until: float
) -> None:
    """Draw a curve of the paper as a band with a dashed middle, up to `until` on the axis."""
    shown = [index for index, epoch in enumerate(curve.epochs) if epoch * per_epoch <= until]
    x = [curve.epochs[index] * per_epoch for index in shown]
    low, mid, high = (
        [values[index] for index in shown] for values in (curve.low, curve.mid, curve.high)
    )
    if not x:
        return
    marker = "D" if len(x) < 4 else ""  # few points are hard to see as a line
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, mid, "--", marker=marker, markersize=5, color=colour, linewidth=1.2, label=label)


def _run_curve(
    axes: Axes, record: Record, colour: Any, label: str | None, per_epoch: float
) -> None:
    x = [epoch * per_epoch for epoch in record.curve("epoch")]
    axes.plot(x, record.test_accuracy, color=colour, linewidth=1.4, label=label)


def _mark_divergence(axes: Axes, record: Record, colour: Any, name: str, per_epoch: float) -> None:
    label = f"{name}: seed {record.config.seed} diverged"
    place = (len(record.epochs) * per_epoch, record.test_accuracy[-1])
    axes.plot(*place, "x", color=colour, markersize=10, markeredgewidth=2.5, label=label)


# --- CIFAR-10: recipes, learning rates, layers


def recipe_distances(distances: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw each recipe's distances to the paper's curves.

    Args:
        distances: See `lbp.measures.recipe_distances`.
    """
    figure, axes = plt.subplots(figsize=(9.5, 0.55 * len(distances) + 1.8))
    markers = dict(zip(experiments.RECIPE_PAIRS, "os^", strict=True))
    for place, distance in enumerate(distances.values()):
        for run, points in distance.items():
            if run == "mean":
                axes.plot(points, place, "|", color="black", markersize=22, markeredgewidth=2.5)
                continue
            rule, lr, l2 = run.split(", ")
            pair = (float(lr.removeprefix("lr ")), float(l2.removeprefix("l2 ")))
            colour = COLOURS[rule]
            axes.plot(points, place, markers[pair], color=colour, alpha=0.85, markersize=8)
    for pair, marker in markers.items():
        for rule in experiments.RULES:
            label = f"{rule}, lr {pair[0]:g}, l2 {pair[1]:g}"
            axes.plot([], [], marker, color=COLOURS[rule], markersize=8, label=label)
    axes.plot([], [], "|", color="black", markersize=14, markeredgewidth=2.5, label="mean")
    axes.set_yticks(range(len(distances)), list(distances))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("mean distance to the paper's curve (points of test accuracy)")
    axes.set_title("How far each recipe is from Figure 4")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def learning_rates(results: Sequence[Results]) -> Figure:
    """Draw final accuracy over the learning rate, a panel for each scale.

    Args:
        results: What there is of the extended grid at each scale.
    """
    figure, panels = plt.subplots(
        1, len(results), figsize=(5.4 * len(results) + 0.6, 4.4), sharey=True, squeeze=False
    )
    for axes, result in zip(panels[0], results, strict=True):
        decays = sorted({config.l2 for config in result.runs.values()}, reverse=True)
        for rule in experiments.RULES:
            for l2, fill in zip(decays, ("full", "none"), strict=False):
                records = sorted(result.of(rule=rule, l2=l2), key=lambda r: r.config.lr)
                x = [record.config.lr for record in records]
                y = [final_accuracy(record) for record in records]
                style = {"marker": MARKERS[rule], "fillstyle": fill, "color": COLOURS[rule]}
                label = f"{LABELS[rule]}, l2 {l2:g}{'' if records else ': not yet run'}"
                axes.plot(x, y, LINES[rule], markersize=8, label=label, **style)
                for record in (r for r in records if r.outcome == "diverged"):
                    place = (record.config.lr, final_accuracy(record))
                    axes.annotate("diverged", place, (0, 8), textcoords="offset points", fontsize=8)
        rates = [config.lr for config in result.runs.values()]
        axes.axvspan(1e-5 / 1.5, 1e-3 * 1.5, color="black", alpha=0.05, linewidth=0)
        axes.text(1e-5, 97, "the paper's learning rates", fontsize=9, va="top")
        axes.set_xscale("log")
        axes.set_xlim(min(1e-5, *rates) / 1.5, max(rates) * 1.5)
        axes.set_ylim(0, 100)
        axes.set_title(f"VGG19 with tanh ({_SCALE_TITLES[result.scale]})")
        axes.set_xlabel("learning rate (dimensionless)")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.93), fontsize=9)
    panels[0][0].set_ylabel("final test accuracy (%)")
    return figure


def layers(bp: Record, linear: Record) -> Figure:
    """Draw what the layers do along two runs: update sizes, cosine, saturation.

    Args:
        bp: A run with Backprop.
        linear: The same with Linear Backprop.
    """
    figure, panels = plt.subplots(1, 3, figsize=(10.8, 4.4))
    for record in (bp, linear):
        rule = record.config.rule
        glances = _spread(record.layers)
        for index, glance in enumerate(glances):
            colour = shade(COLOURS[rule], (index + 1) / len(glances))
            style = {"color": colour, "marker": MARKERS[rule], "markersize": 4}
            label = f"{LABELS[rule]}, epoch {glance.epoch}"
            relative = np.array(glance.update) / np.array(glance.weight)
            for axes, values in zip(
                panels, (relative, glance.cosine, glance.saturated), strict=True
            ):
                place = range(1, len(values) + 1)
                axes.plot(place, values, LINES[rule], label=label, **style)
    panels[0].set_yscale("log")
    panels[0].set_title("size of an update")
    panels[0].set_ylabel("norm of update / norm of weights")
    panels[1].set_title("direction of an update")
    panels[1].set_ylabel("cosine with the true gradient")
    panels[1].set_ylim(-0.25, 1.05)
    panels[2].set_title("saturation")
    panels[2].set_ylabel("share of saturated units")
    panels[2].set_ylim(-0.02, 1.02)
    for axes in panels:
        axes.set_xlabel("layer, from the input on")
        axes.set_xticks(range(1, len(bp.layers[0].weight) + 1, 4))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _spread(glances: Sequence[Layers]) -> list[Layers]:
    """Return four of the glances at most: the first, the last and some between."""
    places = np.unique(np.linspace(0, len(glances) - 1, 4).round().astype(int))
    return [glances[place] for place in places]


# --- cost

NAMES = {
    **{"vgg19": "VGG19", "resnet18": "ResNet-18"},
    **{"tanh": "tanh", "relu": "ReLU", "gelu": "GELU", "silu": "SiLU"},
}
DEVICES = {"smoke": "a processor, as a test", "cpu": "a processor", "paper": "a GPU"}


def step_times(found: Mapping[str, Sequence[Comparison]]) -> Figure:
    """Draw the time of a training step over that of Backprop: medians and 95 % intervals.

    Args:
        found: Comparisons by scale; a row of panels for each scale that has some.

    Raises:
        LbpError: If none has.
    """
    figure, panels = _cost_panels(found, "time of a step / Backprop's")
    for axes, cases in panels:
        axes.axvline(1, color=COLOURS["bp"], linewidth=2, label="Backprop")
        _ratio_marks(axes, cases, "bp again", 0.17, "s", "0.45", "Backprop, timed again")
        _ratio_marks(axes, cases, "linear", -0.17, "^", COLOURS["linear"], "Linear Backprop")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10)
    return figure


def kept_bytes(found: Mapping[str, Sequence[Comparison]]) -> Figure:
    """Draw the bytes that a forward pass keeps for the backward pass, as bars.

    Args:
        found: Comparisons by scale; a row of panels for each scale that has some.

    Raises:
        LbpError: If none has.
    """
    figure, panels = _cost_panels(found, "kept for the backward pass (MB)")
    for axes, cases in panels:
        for rule, side, hatch in (("bp", 0.2, "///"), ("linear", -0.2, "")):
            kept = [c.kept[rule] / 1e6 for c in cases]
            places = [place + side for place in _places(cases)]
            style: dict[str, Any] = {"color": COLOURS[rule], "hatch": hatch}
            axes.barh(places, kept, 0.38, label=LABELS[rule], edgecolor="white", **style)
            for place, c, value in zip(places, cases, kept, strict=True):
                text = f" {100 * measures.kept_ratio(c):.0f} %" if rule == "linear" else ""
                axes.text(value, place, text, va="center_baseline", fontsize=9)
        axes.margins(x=0.15)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def _cost_panels(
    found: Mapping[str, Sequence[Comparison]], xlabel: str
) -> tuple[Figure, list[tuple[Axes, list[Comparison]]]]:
    """Return a figure with a panel for each scale and mode, and each panel's comparisons."""
    scales = [scale for scale, comparisons in found.items() if comparisons]
    if not scales:
        raise LbpError(
            "no comparison of cost is recorded: restore data/cost, or call lbp cost --profile cpu"
        )
    modes = list(dict.fromkeys(c.case.mode for scale in scales for c in found[scale]))
    figure, grid = plt.subplots(
        len(scales),
        len(modes),
        figsize=(5.2 * len(modes), 5.0 * len(scales)),
        sharex="row",
        squeeze=False,
    )
    panels = []
    for scale, row in zip(scales, grid, strict=True):
        for mode, axes in zip(modes, row, strict=True):
            cases = [c for c in found[scale] if c.case.mode == mode]
            names = [f"{NAMES[c.case.model]}, {NAMES[c.case.activation]}" for c in cases]
            axes.set_yticks(_places(cases), names, fontsize=10)
            axes.grid(axis="y", visible=False)
            axes.set_title(f"{mode}, on {DEVICES[scale]}")
            axes.set_xlabel(xlabel)
            panels.append((axes, cases))
    return figure, panels


def _places(cases: Sequence[Comparison]) -> list[int]:
    """Return a height for each case, the first one on top."""
    return list(range(len(cases) - 1, -1, -1))


def _ratio_marks(
    axes: Axes,
    cases: Sequence[Comparison],
    arm: str,
    side: float,
    marker: str,
    colour: str,
    label: str,
) -> None:
    ratios = [measures.time_ratio(c, arm) for c in cases]
    places = [place + side for place in _places(cases)]
    axes.hlines(
        places, [r.low for r in ratios], [r.high for r in ratios], color=colour, linewidth=2
    )
    axes.plot([r.median for r in ratios], places, marker, color=colour, label=label)


# --- Figure 1


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
