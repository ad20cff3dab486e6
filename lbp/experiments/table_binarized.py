"""The binarized ResNet of section 1.2: which rule trains it better, and how slowly it trains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lbp.experiments.grid import (
    EPOCHS,
    LEARNING_RATES,
    PAIRS,
    RULES,
    WEIGHT_DECAYS,
    grid_goals,
)
from lbp.experiments.numbers import (
    Measure,
    Measures,
    accuracies,
    common_epochs,
    counted,
    final_accuracy,
    first_epochs,
    guessing,
    last_tenth,
    mean_accuracy,
    number,
    several,
)
from lbp.experiments.panels import Line, Panel, draw_panels
from lbp.experiments.results import Results
from lbp.experiments.scales import NARROW, Scale
from lbp.experiments.selection import Choice, choose, pair
from lbp.experiments.style import COLOURS, LABELS, shade
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.record import Record
from lbp.lab.run import Goal

TITLE = "A binarized ResNet"
PLACE = "section 1.2: the binarized ResNet"
QUESTION = "Does a binarized ResNet reach a lower error with Linear Backprop?"

MODEL = "binarized_resnet"
# The paper's "best Precision@5 validation error" in percent, by rule.
PAPER_ERRORS = {"bp": 28.11, "linear": 18.43}
WEIGHT_DECAY = 1e-4  # the one that is trained first, and in a narrow network the only one
NARROW_WIDTH = 1 / 4
NEAR_GUESSING = 88.0  # percent of error from which on guessing is named beside it
EARLY = 10  # "the start of training", in epochs; all that a narrow network is trained for
LEARNT = 5.0  # points above guessing from which on a network has learnt something
NOTES = {
    NARROW.name: (
        "Narrow network: every layer of the binarized ResNet has a quarter of the paper's "
        f"channels and {written(WEIGHT_DECAY)} as its only weight decay, every layer of VGG19 an "
        f"eighth, and a run has {EARLY} epochs. The rest is as at full scale: all of CIFAR-10, in "
        "batches of 128."
    )
}


def goals(scale: Scale) -> list[Goal]:
    """Return the grid of the binarized network, and the runs of VGG19 beside which it is slow.

    Those are the runs of Figure 2 with seed 0, up to the same epoch.
    """
    narrow, smoke = (scale.name == name for name in ("narrow", "smoke"))
    epochs = EARLY if narrow else EPOCHS
    rates = LEARNING_RATES[: 1 if smoke else None]
    others = [] if narrow else [l2 for l2 in WEIGHT_DECAYS if l2 != WEIGHT_DECAY]
    fields = {"model": MODEL} | ({"width": NARROW_WIDTH} if narrow else {})
    found: list[Goal] = []
    for decays in ([WEIGHT_DECAY], others[: 1 if smoke else None]):
        found += grid_goals(scale, "hardtanh", rates, decays, epochs, **fields)
    for rule in RULES:
        lr, l2 = PAIRS["tanh", rule]
        found.append(scale.goal(epochs, rule=rule, lr=lr, l2=l2))
    return found


def runs(results: Results) -> dict[str, list[Record]]:
    """Return the runs of the binarized network by rule, over the epochs that all of them have.

    Once both rules have a run of 10 epochs, shorter ones are left out.
    """
    records = results.of(model=MODEL)
    enough = [record for record in records if record.reaches(EARLY)]
    if {record.config.rule for record in enough} == set(RULES):
        records = enough
    epochs = common_epochs(records)
    return {
        rule: [record.until(epochs) for record in records if record.config.rule == rule]
        for rule in RULES
    }


def choices(results: Results) -> dict[str, Choice]:
    """Return the best pair of learning rate and weight decay of each rule that has a run."""
    return {rule: choose(records) for rule, records in runs(results).items() if records}


@dataclass(frozen=True)
class Race:
    """How long the binarized network and VGG19 take to the highest accuracy that both reach.

    Attributes:
        level: That test accuracy, in percent.
        binarized: The epoch after which the binarized network first has it.
        vgg19: The same of VGG19.
        last: How many epochs both have.
    """

    level: float
    binarized: int
    vgg19: int
    last: int


def races(results: Results) -> dict[str, Race]:
    """Return, by rule, the best run of the binarized network beside VGG19's, where both are."""
    found = {}
    for rule, choice in choices(results).items():
        for vgg19 in results.of(model="vgg19", rule=rule):
            last = common_epochs([choice.on_test, vgg19])
            ours, theirs = accuracies(choice.on_test, last), accuracies(vgg19, last)
            level = min(ours.max(), theirs.max())
            first = [1 + int(np.argmax(curve >= level)) for curve in (ours, theirs)]
            found[rule] = Race(float(level), first[0], first[1], last)
    return found


def measures(results: Results) -> Measures:
    """Return the table's numbers, over the epochs that all runs of the network have.

    - {rule}_error, {rule}_error5: top-1 and top-5 test error in percent of the run that is best on
      the test set by its top-1 error, over the last tenth;
    - error_gain, error5_gain: Backprop's error minus Linear Backprop's, in points;
    - top1_distance, top5_distance: to the paper's two numbers, mean of both rules, in points;
    - early_gap: Linear Backprop minus Backprop, the best mean accuracy over the first 10 epochs
      that a pair of each has, in points;
    - slower: how many times as many epochs the network needs as VGG19 to the highest accuracy that
      both reach, the smaller of the rules under which that is 5 points above guessing or more.
    """
    by_rule, made = runs(results), choices(results)
    epochs = common_epochs(record for records in by_rule.values() for record in records)
    if not made:
        return {}
    window = last_tenth(epochs)
    first = {rule: 100 - choice.reported for rule, choice in made.items()}
    fifth = {rule: top5_error(choice.on_test) for rule, choice in made.items()}
    found = {f"{rule}_error": Measure(first[rule], *window) for rule in made}
    found |= {f"{rule}_error5": Measure(fifth[rule], *window) for rule in made}
    if set(made) == set(RULES):
        found["error_gain"] = Measure(first["bp"] - first["linear"], *window)
        found["error5_gain"] = Measure(fifth["bp"] - fifth["linear"], *window)
        found["top1_distance"] = Measure(_distance(first), *window)
        found["top5_distance"] = Measure(_distance(fifth), *window)
        early = min(EARLY, epochs)
        best = {
            rule: max(mean_accuracy(record, 1, early) for record in records)
            for rule, records in by_rule.items()
        }
        found["early_gap"] = Measure(best["linear"] - best["bp"], 1, early)
    run = races(results).values()
    if len(run) == len(RULES):
        least = guessing(results.goals[0].config) + LEARNT
        times = [race.binarized / race.vgg19 for race in run if race.level >= least]
        slower = min(times, default=math.nan)
        found["slower"] = Measure(slower, 1, min(race.last for race in run))
    return found


def top5_error(record: Record) -> float:
    """Return a run's top-5 test error in percent over its last tenth; NaN if it diverged."""
    return math.nan if record.diverged else 100 - final_accuracy(record, errors="test_error_top5")


def _distance(errors: Mapping[str, float]) -> float:
    return float(np.mean([abs(errors[rule] - PAPER_ERRORS[rule]) for rule in RULES]))


def table(found: Sequence[Results]) -> Table:
    """Return the best run of each rule at each scale beside the paper's number."""
    rows = []
    for results in found:
        made = choices(results)
        for rule in RULES:
            wanted = sum((g.config.model, g.config.rule) == (MODEL, rule) for g in results.goals)
            there = len(results.of(model=MODEL, rule=rule))
            row = [f"{LABELS[rule]}, {results.scale.title}", f"{there} of {wanted}"]
            if choice := made.get(rule):
                halves = dict.fromkeys(map(pair, choice.on_halves))
                row += [
                    str(len(choice.on_test)),
                    f"{pair(choice.on_test)}: {100 - choice.reported:.2f}",
                    number(top5_error(choice.on_test), ".2f"),
                    f"{'; '.join(halves)}: {100 - choice.judged:.2f}",
                ]
            else:
                row += ["-"] * 4
            rows.append([*row, f"{PAPER_ERRORS[rule]:.2f}"])
    return Table(
        "The best learning rate and weight decay by the top-1 error, and the test error in percent "
        "over the last tenth of the epochs: chosen and judged on the whole test set, as in the "
        "paper; and chosen on one half, judged on the other. The last column is the paper's "
        f'"best Precision@5 validation error" after {EPOCHS} epochs.',
        [
            *("runs of", "recorded", "epochs", "top-1 error", "its top-5 error"),
            *("top-1 error half by half", "the paper"),
        ],
        rows,
    )


def flips_table(found: Sequence[Results]) -> Table:
    """Return how often a binarized weight changed its sign in every run that is recorded."""
    rows = []
    for results in found:
        for record in results.of(model=MODEL):
            flips = [row.sign_flips for row in record.epochs]
            last = record.epochs[-1]
            rows.append(
                [
                    f"{LABELS[record.config.rule]}, {results.scale.title}",
                    *pair(record).split(", "),
                    str(len(record)),
                    number(flips[0], ".2g"),
                    number(flips[-1], ".2g"),
                    number(last.train_loss, ".2f"),
                    number(last.test_error, ".1f"),
                ]
            )
    return Table(
        "How often a binarized weight changed its sign in an epoch, on average over all of them: "
        "0.01 says that every hundredth weight did so once. The training loss in nats and the "
        "top-1 test error in percent are those of the last epoch.",
        [
            *("run", "learning rate", "weight decay", "epochs", "flips in the first epoch"),
            *("flips in the last epoch", "training loss", "top-1 error"),
        ],
        rows,
    )


def races_table(found: Sequence[Results]) -> Table:
    """Return how many epochs the binarized network and VGG19 need to the same accuracy."""
    rows = []
    for results in found:
        run = races(results)
        for rule in RULES:
            row = [f"{LABELS[rule]}, {results.scale.title}"]
            if race := run.get(rule):
                row += [f"{race.last}", f"{race.level:.1f}", f"{race.binarized}", f"{race.vgg19}"]
            else:
                row += ["-"] * 4
            rows.append(row)
    return Table(
        "After how many epochs the binarized network (its best run) and VGG19 with tanh (the run "
        "of Figure 2) first have the highest test accuracy that both of them reach. Where that is "
        "near 10 %, which is guessing, the binarized network has hardly begun to learn.",
        ["rule", "epochs of both", "accuracy (%)", "binarized ResNet", "VGG19"],
        rows,
    )


def draw(found: Sequence[Results]) -> Figure | None:
    """Draw the learning curves, a row for each scale and a panel for each learning rate.

    Scales and learning rates without a record are left out; None if there is no record.
    """
    shown = [results for results in found if results.of(model=MODEL)]
    rates = sorted({r.config.lr for results in shown for r in results.of(model=MODEL)})[::-1]
    if not rates:
        return None
    figure = draw_panels([[_panel(results, lr) for lr in rates] for results in shown], "below")
    level = guessing(shown[0].goals[0].config)
    for axes in figure.axes:
        axes.axhline(level, color="0.3", linestyle=":", linewidth=1.2)
    first = figure.axes[0]
    style: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 9, "clip_on": True}
    first.text(0.98, level - 0.3, "guessing", transform=first.get_yaxis_transform(), **style)
    return figure


def _panel(results: Results, lr: float) -> Panel:
    mine = [goal for goal in results.goals if goal.config.model == MODEL]
    lines = [
        Line(
            f"{LABELS[rule]}, weight decay {written(l2)}",
            shade(COLOURS[rule], place / len(WEIGHT_DECAYS)),
            records,
        )
        for place, l2 in enumerate(sorted(WEIGHT_DECAYS), start=1)
        for rule in RULES
        # Of twelve lines only those that are there, and the pair that is trained first.
        if (records := results.of(model=MODEL, lr=lr, l2=l2, rule=rule)) or l2 == WEIGHT_DECAY
    ]
    title = f"binarized ResNet, learning rate {written(lr)}\n({results.scale.title})"
    return Panel(title, lines, mine[0].epochs)


def answer(results: Results) -> str:
    """Say in some sentences what the runs of a scale show."""
    numbers = measures(results)
    if "early_gap" not in numbers:
        own = {run: record for run, record in results.records.items() if run.model == MODEL}
        return replace(results, records=own).undecided
    early, gain = numbers["early_gap"], numbers["error_gain"]
    first, second = ("Linear Backprop", "Backprop")[:: 1 if early.value > 0 else -1]
    order = "lower" if gain.value > 0 else "higher"
    bp, linear = (numbers[f"{rule}_error"].value for rule in RULES)
    near = ""
    if max(bp, linear) > NEAR_GUESSING:
        near = f" Guessing has an error of {100 - guessing(results.goals[0].config):.0f} %."
    pairs = "learning rate and weight decay"
    chosen = f"both at the only {pairs} that was run"
    if any(map(several, runs(results).values())):
        chosen = f"each at its best {pairs}"
    return (
        f"Over {first_epochs(early.last)} {results.scale.where}, {first} is "
        f"{abs(early.value):.1f} points of mean accuracy ahead of {second}, {chosen}. "
        f"After {counted(gain.last)}, the best top-1 test error of "
        f"Linear Backprop is {abs(gain.value):.1f} points {order} than that of Backprop: "
        f"{linear:.1f} % against {bp:.1f} %.{near} {reading(numbers)}"
    )


def reading(numbers: Measures) -> str:
    """Say whether the paper's numbers are rather top-1 or top-5 errors, and how sure that is.

    Args:
        numbers: The measures of a scale, with both rules.
    """
    last = numbers["error_gain"].last
    first, fifth = (numbers[name].value for name in ("top1_distance", "top5_distance"))
    if math.isnan(fifth):
        return "Which error the paper's numbers are cannot be told: a best run diverged."
    pairs = [(numbers[f"{rule}_error5"].value, PAPER_ERRORS[rule]) for rule in RULES]
    against = " and ".join(f"{ours:.1f} % against {theirs:.2f} %" for ours, theirs in pairs)
    if last < EPOCHS and all(ours < theirs for ours, theirs in pairs):
        return (
            f"The top-5 errors are already below the paper's numbers ({against}). If those were "
            f"top-5 errors, the paper's networks would be worse after {EPOCHS} epochs than these "
            f"after {last}, so they are probably top-1 errors. Only {EPOCHS} epochs at full scale "
            "can make that certain."
        )
    if last < EPOCHS:
        return (
            "Whether the paper's numbers are top-1 or top-5 errors cannot be told after "
            f"{counted(last)}: a top-5 error is still above the paper's number ({against})."
        )
    nearer, farther = sorted([(first, "top-1"), (fifth, "top-5")])
    return (
        f"Read as {nearer[1]} errors, the paper's numbers are {nearer[0]:.1f} points from these on "
        f"average, read as {farther[1]} errors {farther[0]:.1f} points: they are rather "
        f"{nearer[1]} errors, the more surely the further these two distances are apart."
    )
