"""The training recipe behind the paper's figures, which the paper leaves open."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lbp.experiments import paper
from lbp.experiments.grid import RULES
from lbp.experiments.numbers import Measure, Measures, number, sweep_distance
from lbp.experiments.results import Results
from lbp.experiments.scales import RECIPE, Scale
from lbp.experiments.style import COLOURS, LABELS, MARKERS
from lbp.experiments.table import Table
from lbp.lab.config import RunConfig, written
from lbp.lab.record import Record
from lbp.lab.run import Goal

TITLE = "The recipe behind the figures"
PLACE = "section 1.2: what the paper leaves open"
QUESTION = "Which training recipe is behind the paper's figures?"

# The recipes that the paper's silence allows, as changes of the plain one.
RECIPES: dict[str, dict[str, Any]] = {
    "plain SGD, batch norm, default initialisation": {},
    "batch norm's scale from U(0, 1)": {"batch_norm_scale": "uniform"},
    "augmentation": {"augment": True},
    "He initialisation": {"init": "he"},
    "images in [0, 1]": {"normalisation": "unit"},
    "momentum 0.9": {"momentum": 0.9},
    "Xavier initialisation": {"init": "xavier"},
    "512-512-10 head with dropout": {"head": "mlp"},
    "no batch norm, He initialisation": {"batch_norm": False, "init": "he"},
}
PLAIN = next(iter(RECIPES))
OWN = next(name for name, changes in RECIPES.items() if changes == RECIPE)  # of this book's runs
LIKELY = 5  # of them, in the order of this list
LEARNING_RATES = (1e-4, 1e-5)  # of the paper's panels
WEIGHT_DECAY = 1e-4
SEEDS = (0, 1)  # of the plain recipe: what a seed is worth
EPOCHS = 1  # a recipe can be told from another after one epoch at full scale


def goals(scale: Scale) -> list[Goal]:
    """Return each recipe's runs under both rules, the plain one's with two seeds.

    There are none in a narrow network: the width moves these curves as much as a recipe does.
    """
    if scale.name == "narrow":
        return []
    rates = LEARNING_RATES[:1] if scale.name == "smoke" else LEARNING_RATES
    return [goal for lr in rates for name in RECIPES for goal in goals_of(scale, name, lr)]


def goals_of(scale: Scale, name: str, lr: float) -> list[Goal]:
    """Return the runs of one recipe, by its name in `RECIPES`, at a learning rate."""
    repeated = name == PLAIN and lr == LEARNING_RATES[0]
    return [
        scale.goal(EPOCHS, RECIPES[name], rule=rule, lr=lr, l2=WEIGHT_DECAY, seed=seed)
        for seed in (SEEDS if repeated else SEEDS[:1])
        for rule in RULES
    ]


def first_goals(scale: Scale) -> list[Goal]:
    """Return the runs that decide most: the likely recipes at 1e-4, the likeliest two at 1e-5."""
    high, low = LEARNING_RATES
    return [
        *(goal for name in list(RECIPES)[:LIKELY] for goal in goals_of(scale, name, high)),
        *(goal for name in list(RECIPES)[:2] for goal in goals_of(scale, name, low)),
    ]


def runs_of(results: Results, name: str) -> list[Record]:
    """Return the runs of a recipe, by its name in `RECIPES`."""
    return [r for r in results.of() if _is_of(r, results.scale, RECIPES[name])]


def _is_of(record: Record, scale: Scale, changes: Mapping[str, Any]) -> bool:
    config = record.config
    fields = {"rule": config.rule, "lr": config.lr, "l2": config.l2, "seed": config.seed}
    return scale.goal(EPOCHS, changes, **fields).config == config


def distances(results: Results) -> dict[str, dict[RunConfig, float]]:
    """Return each recipe's distances to Figure 4's curves, in points, the nearest recipe first.

    Only recipes that were run under both rules at 1e-4 are ranked. They are compared by their seed
    0.
    """
    found: dict[str, dict[RunConfig, float]] = {}
    for name in RECIPES:
        records = runs_of(results, name)
        first = [r for r in records if (r.config.lr, r.config.seed) == (LEARNING_RATES[0], 0)]
        if {r.config.rule for r in first} == set(RULES):
            found[name] = {record.config: sweep_distance(record, EPOCHS) for record in records}
    return dict(sorted(found.items(), key=lambda item: mean_distance(item[1])))


def mean_distance(of_recipe: Mapping[RunConfig, float], lr: float = LEARNING_RATES[0]) -> float:
    """Return the mean over a recipe's runs of seed 0 at a learning rate, in points."""
    values = [points for config, points in of_recipe.items() if (config.seed, config.lr) == (0, lr)]
    return float(np.mean(values)) if values else float("nan")


def measures(results: Results) -> Measures:
    """Return the ranking's ends and what a seed is worth, in points.

    - best_distance: the mean distance of the nearest recipe, if every recipe has been run;
    - plain_distance: that of the plain one;
    - seed_difference: between the plain recipe's two seeds, the larger of both rules.
    """
    found: Measures = {}
    ranked = distances(results)
    if len(ranked) == len(RECIPES):
        found["best_distance"] = Measure(mean_distance(next(iter(ranked.values()))), 1, EPOCHS)
    if PLAIN in ranked:
        found["plain_distance"] = Measure(mean_distance(ranked[PLAIN]), 1, EPOCHS)
    differences = [
        abs(first.test_accuracy[0] - second.test_accuracy[0])
        for first in runs_of(results, PLAIN)
        for second in runs_of(results, PLAIN)
        if first.config.seed == 0
        and second.config.seed == 1
        and (first.config.rule, first.config.lr) == (second.config.rule, second.config.lr)
    ]
    if differences:
        found["seed_difference"] = Measure(max(differences), 1, 1)
    return found


def excluded(results: Results) -> list[str]:
    """Return the recipes that are further away than the nearest by more than two seeds explain.

    That is by more than twice what two seeds of the plain recipe differ; none where that is not
    known.
    """
    ranked = {name: mean_distance(found) for name, found in distances(results).items()}
    seed = measures(results).get("seed_difference")
    if seed is None or not ranked:
        return []
    nearest = min(ranked.values())
    return [name for name, away in ranked.items() if away - nearest > 2 * seed.value]


def table(results: Results) -> Table:
    """Return every recipe's accuracy after the first epoch, the nearest one first."""
    ranked = distances(results)
    keys = [(lr, rule) for lr in LEARNING_RATES for rule in RULES]
    rows = [["the paper's curves", "-", *(_papers(*key) for key in keys)]]
    for name in [*ranked, *(n for n in RECIPES if n not in ranked)]:
        records = {_key(record): record for record in runs_of(results, name)}
        for seed in SEEDS if name == PLAIN else SEEDS[:1]:
            cells = []
            for lr, rule in keys:
                record = records.get((lr, rule, seed))
                cells.append(number(record.test_accuracy[0] if record else None))
            away = number(mean_distance(ranked[name])) if name in ranked and seed == 0 else "-"
            rows.append([f"{name}{', seed 1' if seed else ''}", away, *cells])
    return Table(
        f"Test accuracy in percent after one epoch {results.scale.where}, weight decay "
        f"{written(WEIGHT_DECAY)}, and the mean distance to the paper's curves at the learning "
        f"rate {written(LEARNING_RATES[0])}, in points.",
        [
            "recipe",
            "distance (points)",
            *(f"{LABELS[rule]}, learning rate {written(lr)}" for lr, rule in keys),
        ],
        rows,
    )


def _key(record: Record) -> tuple[float, str, int]:
    return record.config.lr, record.config.rule, record.config.seed


def _papers(lr: float, rule: str) -> str:
    curve = paper.sweep_curve(lr, WEIGHT_DECAY, rule)
    return f"{curve.mid[0]:.1f} ({curve.low[0]:.1f} to {curve.high[0]:.1f})"


def draw(results: Results) -> Figure | None:
    """Draw each recipe's accuracies below the paper's, the nearest on top; None without runs."""
    ranked = distances(results)
    if not ranked:
        return None
    figure, axes = plt.subplots(figsize=(9.5, 0.62 * len(ranked) + 2.6))
    for lr, fill in zip(LEARNING_RATES, ("full", "none"), strict=True):
        for rule in RULES:
            style: dict[str, Any] = {"color": COLOURS[rule], "fillstyle": fill, "markersize": 8}
            name = f"{LABELS[rule]}, rate {written(lr)}"
            curve = paper.sweep_curve(lr, WEIGHT_DECAY, rule)
            low, mid, high = curve.low[0], curve.mid[0], curve.high[0]
            axes.axvline(mid, color=COLOURS[rule], linestyle="--", linewidth=1)
            error = [[mid - low], [high - mid]]
            axes.errorbar(
                mid, 0, xerr=error, fmt="D", capsize=4, label=f"{name}: the paper", **style
            )
            axes.plot([], [], MARKERS[rule], label=f"{name}: this book", **style)
            for place, of_recipe in enumerate(ranked, 1):
                found = [
                    record.test_accuracy[0]
                    for record in runs_of(results, of_recipe)
                    if (record.config.lr, record.config.rule) == (lr, rule)
                ]
                axes.plot(found, [place] * len(found), MARKERS[rule], **style)
    away = [f"{name}\n{mean_distance(found):.1f} points away" for name, found in ranked.items()]
    axes.set_yticks(range(len(ranked) + 1), ["the paper's curves", *away])
    axes.set_ylim(len(ranked) + 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("test accuracy after the first epoch (%)")
    axes.set_title(f"Recipes after one epoch, below the paper's curves ({results.scale.title})")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def answer(results: Results) -> str:
    """Say which recipe is nearest, what a seed is worth, and which recipes that excludes."""
    if not results.goals:
        return ""  # the recipes are told apart at full scale alone
    ranked = distances(results)
    if len(ranked) < 2:
        return f"Not decided: fewer than two recipes have been run {results.scale.where}."
    nearest, mean = next(iter(ranked)), mean_distance(next(iter(ranked.values())))
    parts = [
        f"Of the {len(ranked)} recipes that were run {results.scale.where}, the nearest to the "
        f'paper\'s curves is "{nearest}", {mean:.1f} points away on average.'
    ]
    seed = measures(results).get("seed_difference")
    if seed is None:
        return f"{parts[0]} How far two seeds differ is not yet known, so no recipe is excluded."
    parts.append(f"One pair of seeds of the plain recipe differs by up to {seed.value:.1f} points.")
    names = "; ".join(f'"{name}"' for name in excluded(results))
    parts.append(
        f"Excluded, being further away than the nearest by more than twice that: {names}. The "
        "order of the others is open."
        if names
        else "No recipe is further from the nearest than twice that, so one epoch excludes none."
    )
    if nearest == OWN:
        parts.append("This book trains with the nearest one.")
    elif OWN in ranked:
        more = mean_distance(ranked[OWN]) - mean
        verdict = "more than" if more > seed.value else "not more than"
        parts.append(
            f'"{OWN}", with which this book trains, is {more:.1f} points further away than the '
            f"nearest, {verdict} a seed."
        )
    high, low = LEARNING_RATES
    at_low = {
        name: mean_distance(of_recipe, low)
        for name, of_recipe in ranked.items()
        if {c.rule for c in of_recipe if c.lr == low} == set(RULES)
    }
    if len(at_low) > 1:
        listed = ", ".join(f'{away:.1f} for "{name}"' for name, away in at_low.items())
        parts.append(
            f"This ranks by the learning rate {written(high)}; at {written(low)} the distances are "
            f"{listed}."
        )
    return " ".join(parts)
