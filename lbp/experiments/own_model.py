"""What to expect of Linear Backprop on a model of one's own, drawn from the other experiments."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lbp.experiments.grid import RULES, SEEDS, long_goal
from lbp.experiments.larger_step import SHOWN_LAYERS, WEIGHT_DECAYS, first_step_ratio
from lbp.experiments.numbers import common_epochs, final_accuracy, long_enough, number, several
from lbp.experiments.results import Results
from lbp.experiments.style import LABELS
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.record import Record
from lbp.reach import Audit

TITLE = "On your own model"
PLACE = "beyond the paper"
QUESTION = "What should you expect of Linear Backprop on your own model?"

LONG = ("fig2_vgg19_tanh", "fig3_relu")  # the experiments with the long runs


def pairs(results: Results, activation: str) -> list[dict[str, Record]]:
    """Return the long runs with an activation, by rule, of each seed that both rules have.

    Over the epochs that both have.
    """
    found = []
    for seed in SEEDS:
        configs = {
            rule: long_goal(results.scale, (activation, rule), seed).config for rule in RULES
        }
        runs = {rule: r for rule, c in configs.items() if (r := results.records.get(c))}
        if len(runs) == len(RULES):
            epochs = common_epochs(runs.values())
            found.append({rule: record.until(epochs) for rule, record in runs.items()})
    return found


def span(values: Sequence[float], form: str = ".1f") -> str:
    """Return the lowest to the highest value, or "-" if there is none."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "-"
    low, high = format(min(known), form), format(max(known), form)
    return low if low == high else f"{low} to {high}"


def layers_table(long: Sequence[Results]) -> Table:
    """Return the first step, the cosine and the saturation by layer, over the seeds.

    Args:
        long: The runs of Figures 2 and 3, each at one scale.
    """
    where = " and ".join(dict.fromkeys(results.scale.where for results in long))
    tanh = [p for results in long for p in pairs(results, "tanh")]
    relu = [p for results in long for p in pairs(results, "relu")]
    rows = [
        ["tanh: first step, over Backprop's", *(_steps(tanh, k) for k in SHOWN_LAYERS)],
        ["ReLU: first step, over Backprop's", *(_steps(relu, k) for k in SHOWN_LAYERS)],
    ]
    for moment, name in ((0, "at the start"), (-1, "at the end")):
        cells = [
            span([p["linear"].layers[moment].cosine[k - 1] for p in tanh], ".2f")
            for k in SHOWN_LAYERS
        ]
        rows.append([f"tanh: cosine with the true gradient {name}", *cells])
    for rule in RULES:
        cells = [
            span([100 * p[rule].layers[-1].saturated[k - 1] for p in tanh], ".0f")
            for k in SHOWN_LAYERS
        ]
        rows.append([f"tanh, {LABELS[rule]}: % of units saturated at the end", *cells])
    return Table(
        f"Runs of Figures 2 and 3 {where}; a range is that of the seeds. A unit is "
        "saturated where its slope is below a tenth of the largest.",
        ["number", *(f"layer {layer}" for layer in SHOWN_LAYERS)],
        rows,
    )


def _steps(runs: Sequence[dict[str, Record]], layer: int) -> str:
    return span([first_step_ratio(pair, layer) for pair in runs], ".0f")


def tuning_table(grid: Results) -> Table:
    """Return each rule's best learning rate at each weight decay that was run.

    Args:
        grid: The runs of the experiment `larger_step` at one scale.
    """
    rows = []
    for l2 in WEIGHT_DECAYS:
        for rule in RULES:
            records = grid.of(rule=rule, l2=l2, seed=0)
            compared = long_enough(records, several)
            epochs = common_epochs(compared)
            best = max(compared, key=partial(final_accuracy, epochs=epochs), default=None)
            rows.append(
                [
                    f"{LABELS[rule]}, weight decay {written(l2)}",
                    f"{written(best.config.lr)}" if best else "-",
                    number(final_accuracy(best, epochs) if best else None),
                    str(epochs) if best else "-",
                    ", ".join(written(r.config.lr) for r in compared) or "-",
                    ", ".join(written(r.config.lr) for r in records if r.diverged) or "-",
                ]
            )
    return Table(
        f"VGG19 with tanh {grid.scale.where}, learning rates from 1e-5 to 0.1 as far as they were "
        "run.",
        [
            *("run", "best learning rate", "its final accuracy (%)", "epochs"),
            *("learning rates compared", "those that diverged"),
        ],
        rows,
    )


def best_scale(found: Sequence[Results]) -> Results:
    """Return the results at the scale with the longest run, else those at the first one."""
    return max(found, key=lambda results: max(map(len, results.records.values()), default=0))


def audit_table(found: Audit) -> Table:
    """Return what an audit has found, a row for each module."""
    remaining: dict[str, list[str]] = {r.module: [] for r in found.remaining}
    for r in found.remaining:
        remaining[r.module].append(f"{r.likely}, {r.times}")
    rows = [
        [
            name or "(the model)",
            str(found.reached.get(name, 0)),
            str(found.gates.get(name, 0)),
            "; ".join(remaining.get(name, [])) or "-",
        ]
        for name in sorted({*found.reached, *remaining})
    ]
    looks = [f"{kind} looks like an activation function." for kind in found.suggested]
    unused = [f"Not called: {', '.join(found.never_called)}."] if found.never_called else []
    return Table(
        " ".join(["Calls of activation functions in one pass.", *looks, *unused]),
        ["module", "reached", "of these as a gate", "with its true derivative"],
        rows,
    )


def gradient_table(
    models: Mapping[str, nn.Module],
    layers: Mapping[str, str],
    images: Tensor,
    labels: Tensor,
) -> Table:
    """Return the norms of gradients over Backprop's.

    Args:
        models: The same network under several rules, Backprop first.
        layers: Which parameters a column is of, by its title: a pattern of their names.
        images: The batch.
        labels: Its classes.
    """
    norms = {rule: _norms(model, layers.values(), images, labels) for rule, model in models.items()}
    first = next(iter(norms.values()))
    rows = [
        [rule, *(f"{norm / true:.1f}" for norm, true in zip(found, first, strict=True))]
        for rule, found in norms.items()
    ]
    return Table("Norms of gradients, over Backprop's.", ["rule", *layers], rows)


def _norms(
    model: nn.Module, patterns: Iterable[str], images: Tensor, labels: Tensor
) -> list[float]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = cross_entropy(model(images), labels)
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    norms = []
    for pattern in patterns:
        chosen = [g.flatten() for name, g in gradients.items() if fnmatchcase(name, pattern)]
        norms.append(torch.cat(chosen).norm().item())
    return norms
