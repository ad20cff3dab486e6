"""Figure 1 of the paper: small networks fit five points under each backward rule.

The networks are computed afresh each time, in some seconds; nothing is recorded.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lbp.experiments.numbers import number, ratio
from lbp.experiments.style import COLOURS, LABELS, MARKERS
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.probe import saturated
from lbp.lab.small_networks import (
    HIDDEN,
    INITIALISATIONS,
    Batch,
    Optimisation,
    Problem,
    Trained,
    cubic_problem,
    generalisation_mse,
    initial_parameters,
    pre_activations,
    predict,
    train,
)
from lbp.lab.units import UNITS

TITLE = "Five points, two backward rules"
PLACE = "section 1.1, Figure 1"
QUESTION = (
    "Do networks trained with Linear Backprop fit five points, and generalise like Backprop's?"
)
NOTE = "All networks of this page are trained while the book is built."

INITS = 50  # the paper's number of initialisations
COMPARED = ("bp", "linear")
RULES = (*COMPARED, "as-printed")
# Learning rates of the combinations: with each of them bp converges from every initialisation.
SILENT_LR = {"adam": 1e-3, "momentum": 1e-3, "gradient descent": 5e-3}


# --- what is computed


@dataclass(frozen=True)
class Figure1:
    """What Figure 1 shows: networks by rule, from the same initialisations under each.

    Attributes:
        problem: The five points and the target.
        relu: ReLU networks under every rule in `RULES`.
        relu_mse: Their generalisation MSE, [networks].
        sigmoid: Sigmoid networks under the rules in `COMPARED`.
    """

    problem: Problem
    relu: Mapping[str, Trained]
    relu_mse: Mapping[str, np.ndarray]
    sigmoid: Mapping[str, Trained]


def compute(inits: int = INITS, seed: int = 0, max_steps: int = 4000) -> Figure1:
    """Train everything that Figure 1 shows.

    Adam is the one optimiser of three (see `combinations`) with which Linear Backprop converges
    from every default initialisation. With sigmoid units the learning rate is 1e-2 instead of 1e-3,
    for the same reason: at 3e-3 and 5e-3 fewer networks converge under Linear Backprop.

    Args:
        inits: Number of initialisations, 1 or more.
        seed: Seed of the noise and of the initialisations, 0 or more.
        max_steps: Steps after which a network is given up, 1 or more.

    Returns:
        The trained networks.

    Raises:
        LbpError: If an argument is out of its range.

    Source: Yazdani (2018), section 1.1, Figure 1.
    """
    problem, start = cubic_problem(seed), initial_parameters(inits, "default", seed)
    jobs = [("relu", rule, 1e-3) for rule in RULES]
    jobs += [("sigmoid", rule, 1e-2) for rule in reversed(COMPARED)]  # the longest one first
    batches = [
        Batch(start, activation, rule, Optimisation("adam", lr, max_steps=max_steps))
        for activation, rule, lr in jobs
    ]
    pairs = list(zip(batches, train(problem, batches), strict=True))
    relu = {batch.rule: trained for batch, trained in pairs if batch.activation == "relu"}
    sigmoid = {batch.rule: trained for batch, trained in pairs if batch.activation == "sigmoid"}
    mse = {rule: generalisation_mse(problem, trained) for rule, trained in relu.items()}
    return Figure1(problem, relu, mse, sigmoid)


@dataclass(frozen=True)
class Combination:
    """How training ended with one optimiser, initialisation and rule.

    Attributes:
        optimiser: A name in `lbp.lab.small_networks.OPTIMISERS`.
        lr: Learning rate.
        scheme: A name in `lbp.lab.small_networks.INITIALISATIONS`.
        rule: A rule in `COMPARED`.
        networks: Number of networks.
        converged: How many of them reached the tolerance.
        diverged: How many had an MSE that was infinite or not a number.
        steps: Median steps of the converged ones, NaN if there are none.
        mse: Median generalisation MSE of the converged ones, NaN if there are none.
    """

    optimiser: str
    lr: float
    scheme: str
    rule: str
    networks: int
    converged: int
    diverged: int
    steps: float
    mse: float


def combinations(inits: int = 6, seed: int = 0, max_steps: int = 2000) -> list[Combination]:
    """Train ReLU networks with each optimiser and initialisation, where the paper is silent.

    Args:
        inits: Number of initialisations of each scheme, 1 or more.
        seed: Seed of the noise and of the initialisations, 0 or more.
        max_steps: Steps after which a network is given up, 1 or more.

    Returns:
        A row for each optimiser, scheme and rule.

    Raises:
        LbpError: If an argument is out of its range.
    """
    problem = cubic_problem(seed)
    start = torch.cat([initial_parameters(inits, scheme, seed) for scheme in INITIALISATIONS])
    cells = list(itertools.product(SILENT_LR, COMPARED))  # optimisers and rules
    batches = [
        Batch(
            start, "relu", rule, Optimisation(optimiser, SILENT_LR[optimiser], max_steps=max_steps)
        )
        for optimiser, rule in cells
    ]
    trained = dict(zip(cells, train(problem, batches), strict=True))
    mse = {cell: generalisation_mse(problem, networks) for cell, networks in trained.items()}
    rows = []
    for optimiser, index, rule in itertools.product(
        SILENT_LR, range(len(INITIALISATIONS)), COMPARED
    ):
        networks, mine = trained[optimiser, rule], slice(index * inits, (index + 1) * inits)
        good = networks.converged[mine]
        rows.append(
            Combination(
                optimiser=optimiser,
                lr=SILENT_LR[optimiser],
                scheme=INITIALISATIONS[index],
                rule=rule,
                networks=inits,
                converged=int(good.sum()),
                diverged=int(networks.diverged[mine].sum()),
                steps=_median(networks.steps[mine][good]),
                mse=_median(mse[optimiser, rule][mine][good]),
            )
        )
    return rows


# --- its measures


def train_everything(profile: str, inits: int, seed: int) -> tuple[Figure1, list[Combination]]:
    """Train what the notebook shows: the figure, and the combinations where the paper is silent.

    Args:
        profile: "smoke" trains a few networks for a written time; all others train everything.
        inits: Number of initialisations under each rule.
        seed: Seed of the noise and of the initialisations.

    Raises:
        LbpError: If an argument is out of its range.
    """
    if profile == "smoke":
        return compute(min(inits, 4), seed, 800), combinations(2, seed, 400)
    return compute(inits, seed), combinations(seed=seed)


def judged(result: Figure1, profile: str) -> dict[str, dict[str, float]]:
    """Return the numbers that claims are judged by, at the only scale: none if it is not whole."""
    whole = profile != "smoke" and len(result.relu["bp"].converged) == INITS
    return {"paper": measures(result) if whole else {}}


def measures(result: Figure1) -> dict[str, float]:
    """Return the numbers of Figure 1 by name; NaN where no network converged.

    `{f}` is relu or sigmoid. `{rule}` is bp or linear, and with relu as_printed, too.
    Pre-activations are those of all four hidden layers at the five training points, in absolute
    value.

    - `inits`: initialisations under each rule.
    - `{f}_{rule}_converged`, `_diverged`: networks.
    - `{f}_{rule}_steps`: median steps of the converged networks.
    - `relu_{rule}_mse`: median generalisation MSE of the converged networks.
    - `converged_min`: the smaller of `relu_bp_converged` and `relu_linear_converged`.
    - `mse_ratio`, `as_printed_mse_ratio`: `relu_linear_mse` and `relu_as_printed_mse` by
      `relu_bp_mse`.
    - `relu_linear_better`: share of initialisations from which linear generalises better than bp,
      among those that converge under both.
    - `{f}_{rule}_median`, `_mean`, `_q99`: median, mean and 99th percentile of the pre-activations
      of the converged networks; `_saturated`: the share of saturated units.
    - `{f}_{rule}_all_median`, ...: the same of all networks whose MSE stayed finite.
    - `{f}_{rule}_layer1_median` to `_layer4_median`: of the converged networks, by layer.
    - `{f}_preactivation_ratio`: `{f}_linear_median` by `{f}_bp_median`.
    - `{f}_preactivation_ratio_mean`, ...: linear by bp for the other names of pre-activations.
    - `{f}_preactivation_ratio_min_layer`: the smallest of the four layers' ratios of medians.

    Args:
        result: What `compute` returned.
    """
    found = {"inits": float(len(result.relu["bp"].steps))}
    for f, networks in (("relu", result.relu), ("sigmoid", result.sigmoid)):
        sizes = {rule: _sizes(result.problem, trained) for rule, trained in networks.items()}
        for rule, trained in networks.items():
            numbers = sizes[rule] | {
                "converged": float(trained.converged.sum()),
                "diverged": float(trained.diverged.sum()),
                "steps": _median(trained.steps[trained.converged]),
            }
            found |= {f"{f}_{_key(rule)}_{name}": value for name, value in numbers.items()}
        ratios = {n: ratio(sizes["linear"][n], size) for n, size in sizes["bp"].items()}
        found[f"{f}_preactivation_ratio_min_layer"] = min(
            ratios[f"layer{layer + 1}_median"] for layer in range(HIDDEN)
        )
        found[f"{f}_preactivation_ratio"] = ratios.pop("median")
        found |= {f"{f}_preactivation_ratio_{name}": value for name, value in ratios.items()}
    for rule, mse in result.relu_mse.items():
        found[f"relu_{_key(rule)}_mse"] = _median(mse[result.relu[rule].converged])
    found["converged_min"] = min(found["relu_bp_converged"], found["relu_linear_converged"])
    found["mse_ratio"] = ratio(found["relu_linear_mse"], found["relu_bp_mse"])
    found["as_printed_mse_ratio"] = ratio(found["relu_as_printed_mse"], found["relu_bp_mse"])
    both = result.relu["bp"].converged & result.relu["linear"].converged
    found["relu_linear_better"] = _mean((result.relu_mse["linear"] < result.relu_mse["bp"])[both])
    return found


def _key(rule: str) -> str:
    return rule.replace("-", "_")


def _sizes(problem: Problem, trained: Trained) -> dict[str, float]:
    """Return statistics of absolute pre-activations, for the networks of one rule."""
    z = pre_activations(trained.parameters, problem.x, trained.activation)  # [n, 4, points, 50]
    size = z.abs().numpy()
    is_saturated = saturated(UNITS[trained.activation](), z, trained.activation).numpy()
    found = {}
    for prefix, chosen in (("", trained.converged), ("all_", ~trained.diverged)):
        values = size[chosen]
        found[f"{prefix}median"] = _median(values)
        found[f"{prefix}mean"] = _mean(values)
        found[f"{prefix}q99"] = float(np.quantile(values, 0.99)) if values.size else math.nan
        found[f"{prefix}saturated"] = _mean(is_saturated[chosen])
    for layer in range(HIDDEN):
        found[f"layer{layer + 1}_median"] = _median(size[trained.converged, layer])
    return found


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else math.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def answer(found: Mapping[str, float]) -> str:
    """Say what Figure 1's networks show, given its measures."""
    inits = f"{found['inits']:.0f}"
    relu, sigmoid = (
        " and ".join(f"{found[f'{f}_{rule}_converged']:.0f}" for rule in COMPARED)
        for f in ("relu", "sigmoid")
    )
    return (
        f"From {inits} initialisations, {relu} ReLU networks reach the training MSE with Backprop "
        f"and Linear Backprop, and the median generalisation MSE of Linear Backprop is "
        f"{number(found['mse_ratio'])} times Backprop's. With sigmoid units {sigmoid} networks get "
        f"there; among them the median size of a pre-activation is "
        f"{number(found['sigmoid_preactivation_ratio'])} times as large under Linear Backprop, "
        f"while the mean over all networks is "
        f"{number(found['sigmoid_preactivation_ratio_all_mean'])} times as large."
    )


# --- its drawing


def draw(result: Figure1) -> Figure:
    """Draw the paper's Figure 1: fits, generalisation MSE, pre-activations of sigmoid units."""
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4.3))
    _fitted_curves(panels[0], result, COMPARED)
    _mse_distributions(panels[1], result, COMPARED)
    _pre_activation_histogram(panels[2], result)
    return figure


def draw_as_printed(result: Figure1) -> Figure:
    """Draw what becomes of Figure 1 with Algorithm 2 as it is printed."""
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.4))
    _fitted_curves(panels[0], result, ("bp", "as-printed"))
    _mse_distributions(panels[1], result, RULES)
    return figure


def _fitted_curves(axes: Axes, result: Figure1, rules: Sequence[str]) -> None:
    """Draw the points, the target and the fits from the first initialisation that has them all."""
    problem = result.problem
    converged = np.logical_and.reduce([result.relu[rule].converged for rule in rules])  # [inits]
    init = int(converged.argmax())
    axes.plot(problem.grid, problem.target, color="black", linestyle=":", label="without noise")
    for rule in rules:
        row = result.relu[rule].parameters[init : init + 1]
        output = predict(row, problem.grid, "relu")[0]
        label = LABELS[rule] + ("" if converged[init] else ", not converged")
        style: dict[str, Any] = {"color": COLOURS[rule], "marker": MARKERS[rule], "markevery": 40}
        axes.plot(problem.grid, output, "-", markersize=6, label=label, **style)
    axes.plot(problem.x, problem.y, "o", color="black", label="training points", zorder=3)
    axes.set_title("ReLU: fits from one initialisation")
    axes.set_xlabel("input x (dimensionless)")
    axes.set_ylabel("output y (dimensionless)")
    axes.legend(fontsize=9)


def _mse_distributions(axes: Axes, result: Figure1, rules: Sequence[str]) -> None:
    """Draw a mark for each converged network's MSE, and each rule's median as a bar."""
    labels = []
    for place, rule in enumerate(rules):
        converged = result.relu[rule].converged
        mse = result.relu_mse[rule][converged]
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
        labels.append(f"{LABELS[rule]}\n{len(mse)}/{len(converged)} converged")
    axes.set_xticks(range(len(rules)), labels, fontsize=10)
    axes.set_xlim(-0.6, len(rules) - 0.4)
    if not any(result.relu[rule].converged.any() for rule in rules):
        axes.set_ylim(0.1, 10)  # nothing to take the limits from
    axes.set_yscale("log")
    axes.grid(axis="x", visible=False)
    axes.set_title("ReLU: one mark a network, bar: median")
    axes.set_ylabel("generalisation MSE (dimensionless)")


def _pre_activation_histogram(axes: Axes, result: Figure1, limit: float = 40) -> None:
    """Draw pre-activations with shared bins; those beyond ±limit count in the outermost bins."""
    bins = np.linspace(-limit, limit, 41).tolist()
    styles: list[tuple[str, dict[str, Any], bool]] = [
        ("bp", {"histtype": "stepfilled", "alpha": 0.4, "hatch": "///"}, False),
        ("linear", {"histtype": "step", "linewidth": 1.8}, False),
        ("linear", {"histtype": "step", "linewidth": 1.8, "linestyle": ":"}, True),
    ]
    for rule, style, everything in styles:
        trained = result.sigmoid[rule]
        z = pre_activations(trained.parameters, result.problem.x, "sigmoid").numpy()
        chosen = ~trained.diverged if everything else trained.converged
        label = f"{LABELS[rule]}, {chosen.sum()}/{len(chosen)} converged"
        if everything:
            label = f"{LABELS[rule]}, all {chosen.sum()}"
        values = np.clip(z[chosen].ravel(), -limit, limit)
        weights = np.full(values.shape, 1 / max(values.size, 1))
        axes.hist(values, bins, weights=weights, color=COLOURS[rule], label=label, **style)
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 40)  # room for the legend
    axes.set_title("Sigmoid: pre-activations after training")
    axes.set_xlabel("pre-activation (dimensionless)")
    axes.set_ylabel("share of (unit, point) pairs")
    axes.legend(fontsize=9, loc="upper center")


# --- its tables, and the numbers in the notebook's prose


def relu_table(result: Figure1) -> Table:
    """Return how ReLU networks converge and generalise under each rule."""
    found = measures(result)
    rows = [
        [
            LABELS[rule],
            _of(found[f"relu_{rule}_converged"], found["inits"]),
            number(found[f"relu_{rule}_steps"], ".0f"),
            number(found[f"relu_{rule}_mse"], ".3f"),
        ]
        for rule in COMPARED
    ]
    return Table(
        "ReLU networks: how many converge, and how the converged ones generalise.",
        ["rule", "converged", "median steps", "median generalisation MSE"],
        rows,
    )


def sigmoid_table(result: Figure1) -> Table:
    """Return the sizes of pre-activations in sigmoid networks."""
    found = measures(result)
    rows = []
    for rule in COMPARED:
        name = f"sigmoid_{rule}"
        converged = _of(found[f"{name}_converged"], found["inits"])
        for which, networks in (("", f"{converged} converged"), ("all_", "all")):
            forms = {"median": ".2f", "mean": ".1f", "q99": ".0f", "saturated": ".0%"}
            numbers = [number(found[f"{name}_{which}{key}"], form) for key, form in forms.items()]
            rows.append([LABELS[rule], networks, *numbers])
    return Table(
        "Sigmoid networks: absolute pre-activations of all hidden units at the training points.",
        ["rule", "networks", "median", "mean", "99th percentile", "saturated units"],
        rows,
    )


def layers_table(result: Figure1) -> Table:
    """Return the ratio of the rules' pre-activations, layer by layer."""
    found = measures(result)
    layers = range(1, HIDDEN + 1)
    rows = [
        [name, *(number(found[f"{f}_preactivation_ratio_layer{k}_median"], ".2f") for k in layers)]
        for f, name in (("sigmoid", "sigmoid"), ("relu", "ReLU"))
    ]
    return Table(
        "Median absolute pre-activation of the converged networks, Linear Backprop's over "
        "Backprop's.",
        ["units", *(f"hidden layer {k}" for k in layers)],
        rows,
    )


# How the page calls optimisers and initialisations.
_SHOWN = {"adam": "Adam", "default": "PyTorch's", "he": "He's", "xavier": "Xavier's"}


def silent_table(rows: Sequence[Combination]) -> Table:
    """Return how training ended with each optimiser and initialisation."""
    return Table(
        "ReLU networks by optimiser and initialisation: how they end, and medians of the converged "
        "ones.",
        [
            *("optimiser", "learning rate", "initialisation", "rule"),
            *("converged", "diverged", "steps", "generalisation MSE"),
        ],
        [
            [
                *(_SHOWN.get(row.optimiser, row.optimiser), written(row.lr)),
                *(_SHOWN[row.scheme], LABELS[row.rule]),
                *(_of(row.converged, row.networks), str(row.diverged)),
                *(number(row.steps, ".0f"), number(row.mse, ".2f")),
            ]
            for row in rows
        ],
    )


# Keys of `texts`, each with the measure that it shows and its format.
_TEXTS = {
    "inits": ("inits", ".0f"),
    "bp_converged": ("relu_bp_converged", ".0f"),
    "linear_converged": ("relu_linear_converged", ".0f"),
    "bp_steps": ("relu_bp_steps", ".0f"),
    "linear_steps": ("relu_linear_steps", ".0f"),
    "bp_mse": ("relu_bp_mse", ".3f"),
    "linear_mse": ("relu_linear_mse", ".3f"),
    "mse_ratio": ("mse_ratio", ".1f"),
    "better": ("relu_linear_better", ".0%"),
    "relu_ratio": ("relu_preactivation_ratio", ".2f"),
    "sigmoid_bp_converged": ("sigmoid_bp_converged", ".0f"),
    "sigmoid_linear_converged": ("sigmoid_linear_converged", ".0f"),
    "sigmoid_mean_ratio": ("sigmoid_preactivation_ratio_mean", ".1f"),
    "sigmoid_ratio": ("sigmoid_preactivation_ratio", ".1f"),
    "sigmoid_all_ratio": ("sigmoid_preactivation_ratio_all_median", ".1f"),
    "sigmoid_all_mean_ratio": ("sigmoid_preactivation_ratio_all_mean", ".0f"),
    "as_printed_converged": ("relu_as_printed_converged", ".0f"),
    "as_printed_ratio": ("as_printed_mse_ratio", ".1f"),
}


def texts(result: Figure1, rows: Sequence[Combination]) -> dict[str, str]:
    """Return every number that the notebook's prose shows, "-" where there is none.

    Args:
        result: What `compute` returned.
        rows: What `combinations` returned.
    """
    found = measures(result)
    shown = {f"fig1_{key}": number(found[name], form) for key, (name, form) in _TEXTS.items()}
    for rule in COMPARED:
        mine = [row for row in rows if row.rule == rule]
        shown[f"fig1_{rule}_every"] = str(sum(row.converged == row.networks for row in mine))
        shown[f"fig1_{rule}_none"] = str(sum(row.converged == 0 for row in mine))
    shown["fig1_combinations"] = str(len(rows) // len(COMPARED))
    return shown


def _of(count: float, total: float) -> str:
    return f"{count:.0f} of {total:.0f}"
