"""Figure 4: the sweep of learning rate and weight decay, VGG19 with tanh."""

import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lbp.experiments import paper, reading
from lbp.experiments.grid import (
    EPOCHS,
    LEARNING_RATES,
    PAIRS,
    RULES,
    WEIGHT_DECAYS,
    grid_goals,
)
from lbp.experiments.numbers import (
    ENOUGH,
    Measure,
    Measures,
    at_end,
    by_key,
    common_epochs,
    compares_decays,
    counted,
    epoch_to_epoch_sd,
    final_accuracy,
    first_epochs,
    last_tenth,
    long_enough,
    mean_accuracy,
    number,
    ratio,
    shared_pairs,
    sweep_distance,
)
from lbp.experiments.panels import Line, Panel, draw_panels, to_draw
from lbp.experiments.results import Results, with_records
from lbp.experiments.scales import Scale
from lbp.experiments.style import LABELS
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.record import Record
from lbp.lab.run import Goal

TITLE = "Learning rate and weight decay"
PLACE = "appendix B, Figure 4"
QUESTION = (
    "Is Linear Backprop ahead early in learning, and does it need more weight decay "
    "at the larger learning rate?"
)

EARLY = 20  # "early in learning", in epochs
EVERY = "every weight decay"  # where the curves of the paper lie on each other
LARGEST_DECAY = max(WEIGHT_DECAYS)
# From light to dark, in steps that colour-blind readers can tell apart and order.
_SHADES = plt.get_cmap("viridis_r")(np.linspace(0.12, 1, len(WEIGHT_DECAYS)))
DECAY_COLOURS = dict(zip(sorted(WEIGHT_DECAYS), map(tuple, _SHADES), strict=True))


def goals(scale: Scale) -> list[Goal]:
    """Return the paper's grid with tanh under both rules; its panels lack the rate 1e-3."""
    decays = WEIGHT_DECAYS[::5] if scale.name == "smoke" else WEIGHT_DECAYS
    return list(grid_goals(scale, "tanh", (1e-4, 1e-5, 1e-3), decays))


def measures(results: Results) -> Measures:
    """Return Figure 4's numbers, as far as its runs go.

    - early_gap_min: Linear Backprop minus Backprop, mean over the first 20 epochs, in points: the
      least of the pairs that both rules have; needs one in each of the paper's two panels;
    - weight_decay_gain: at 1e-4, Linear Backprop's final accuracy with 0.1 minus the best of those
      with less, in points;
    - spread_ratio: the standard deviation of final accuracy over the pairs that both rules have,
      Backprop's over Linear Backprop's; needs a pair at each learning rate of the grid;
    - {rule}_by_rate, {rule}_by_decay: over these pairs, how far final accuracies are apart at one
      weight decay and at one learning rate, in points, where they are furthest;
    """
    shown = [r for r in results.of() if r.config.lr in paper.SHOWN_RATES]
    runs = by_key(shown)
    pairs = {pair: [runs[*pair, rule] for rule in RULES] for pair in shared_pairs(runs)}
    found: Measures = {}
    if {lr for lr, _ in pairs} == set(paper.SHOWN_RATES):
        # As far as both panels have a pair; pairs that are shorter do not cut the others.
        reach = {pair: common_epochs(records) for pair, records in pairs.items()}
        early = min(
            EARLY,
            *(max(reach[pair] for pair in pairs if pair[0] == lr) for lr in paper.SHOWN_RATES),
        )
        gaps = [
            mean_accuracy(linear, 1, early) - mean_accuracy(bp, 1, early)
            for pair, (bp, linear) in pairs.items()
            if reach[pair] >= early
        ]
        found["early_gap_min"] = Measure(min(gaps), 1, early)
    decays = {r.config.l2: r for r in _of_one_rate(results)}
    if compares_decays(decays.values()):
        epochs = common_epochs(decays.values())
        final = {l2: final_accuracy(record, epochs) for l2, record in decays.items()}
        gain = final.pop(LARGEST_DECAY) - max(final.values())
        found["weight_decay_gain"] = Measure(gain, *last_tenth(epochs))
    long = by_key(long_enough(results.of(), _has_each_rate))
    both = shared_pairs(long)
    if _has_each_rate(long.values()):
        epochs = common_epochs(long[*pair, rule] for pair in both for rule in RULES)
        window = last_tenth(epochs)
        sd = {}
        for rule in RULES:
            finals = {pair: final_accuracy(long[*pair, rule], epochs) for pair in both}
            sd[rule] = float(np.std(list(finals.values())))
            found[f"{rule}_by_rate"] = Measure(_furthest(finals, fixed=1), *window)
            found[f"{rule}_by_decay"] = Measure(_furthest(finals, fixed=0), *window)
        found["spread_ratio"] = Measure(ratio(sd["bp"], sd["linear"]), *window)
    return found


def _from_the_paper(results: Results) -> dict[str, float]:
    """Return the mean distance to the paper's curves by rule, in points, where both have runs."""
    away: dict[str, list[float]] = {rule: [] for rule in RULES}
    for record in results.of():
        if record.config.lr in paper.SHOWN_RATES:
            away[record.config.rule].append(sweep_distance(record, len(record)))
    if not all(away.values()):
        return {}
    return {rule: float(np.nanmean(of_rule)) for rule, of_rule in away.items()}


def _of_one_rate(results: Results) -> list[Record]:
    """Return Linear Backprop's runs at 1e-4, by which its weight decays are compared."""
    return long_enough(results.of(lr=1e-4, rule="linear"), compares_decays)


def _furthest(finals: Mapping[tuple[float, float], float], fixed: int) -> float:
    """Return how far accuracies are apart at most, where one place of their pairs is the same."""
    groups: dict[float, list[float]] = {}
    for pair, accuracy in finals.items():
        groups.setdefault(pair[fixed], []).append(accuracy)
    return max(max(group) - min(group) for group in groups.values())


def _has_each_rate(records: Iterable[Record]) -> bool:
    return {lr for lr, _ in shared_pairs(by_key(records))} == set(LEARNING_RATES)


def texts(found: Sequence[Results]) -> dict[str, str]:
    """Return what the page says of how the paper's figure is read, and of variance, by name."""
    return {
        "fig4_beside_fig2": reading.two_figures(),
        "fig4_axis": reading.first_epoch(found),
        "fig4_variance": variance(found),
        "fig4_equal_rates": at_backprops_pair(found),
        "fig4_scales": at_every_scale(found),
    }


def _long_runs(results: Results) -> dict[tuple[float, float, str], Record]:
    """Return the runs that are long enough to be compared at their end, `by_key`."""
    return by_key(record for record in results.of() if record.reaches(ENOUGH))


def at_backprops_pair(found: Sequence[Results]) -> str:
    """Say how far Linear Backprop gets with the pair that Backprop has in Figure 2.

    At the first scale that has runs long enough for that.
    """
    pairs = {rule: PAIRS["tanh", rule] for rule in RULES}
    for results in found:
        runs = _long_runs(results)
        keys = [(*pairs["bp"], "bp"), (*pairs["bp"], "linear"), (*pairs["linear"], "linear")]
        if not set(keys) <= set(runs):
            continue
        epochs = common_epochs(runs[key] for key in keys)
        bp, linear, own = (final_accuracy(runs[key], epochs) for key in keys)
        lr, l2 = map(written, pairs["bp"])
        sides = [
            f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
            for gap in (linear - own, linear - bp)
        ]
        return (
            f"With Backprop's pair, {lr} with {l2}, Linear Backprop ends at {linear:.1f} % "
            f"{results.scale.where} after {counted(epochs)}: {sides[0]} its own pair of Figure 2, "
            f"and {sides[1]} Backprop (one seed)."
        )
    return f"Linear Backprop with Backprop's pair has not been run for {ENOUGH} epochs yet."


def at_every_scale(found: Sequence[Results]) -> str:
    """Say how far Linear Backprop leads at each scale, where all scales have the same runs."""
    found = with_records(found)
    runs = [by_key(results.of()) for results in found]
    pairs = set.intersection(*map(set, map(shared_pairs, runs))) if len(runs) > 1 else set()
    if not pairs:
        return "No pair has been run under both rules at two scales yet."
    parts = []
    for lr, l2 in sorted(pairs):
        epochs = common_epochs(r[lr, l2, rule] for r in runs for rule in RULES)
        means = {rule: [mean_accuracy(r[lr, l2, rule], 1, epochs) for r in runs] for rule in RULES}
        each = " and ".join(
            f"{linear - bp:+z.1f} points {results.scale.where}"
            for bp, linear, results in zip(means["bp"], means["linear"], found, strict=True)
        )
        parts.append(f"{each} at {written(lr)} with {written(l2)}, over {first_epochs(epochs)}")
    return (
        "With the learning rate and the weight decay of both rules equal, Linear Backprop's mean "
        f"accuracy minus Backprop's is {'; '.join(parts)}."
    )


def variance(found: Sequence[Results]) -> str:
    """Say which rule varies more from epoch to epoch where both have one learning rate and decay.

    At the first scale that has runs long enough for that.
    """
    for results in found:
        runs = _long_runs(results)
        both = shared_pairs(runs)
        epochs = common_epochs(runs[*pair, rule] for pair in both for rule in RULES)
        sds = {
            pair: tuple(epoch_to_epoch_sd(runs[*pair, rule], epochs) for rule in RULES)
            for pair in both
        }
        sds = {pair: sd for pair, sd in sds.items() if not math.isnan(sum(sd))}
        if not sds:
            continue
        more = sum(linear > bp for bp, linear in sds.values())
        each = "; ".join(
            f"{linear:.2f} against {bp:.2f} points at {written(lr)} with {written(l2)}"
            for (lr, l2), (bp, linear) in sorted(sds.items(), reverse=True)
        )
        return (
            f"Where both rules have the same learning rate and weight decay, Linear Backprop "
            f"varies more than Backprop in {more} of the {len(sds)} pairs that were run "
            f"{results.scale.where}, over epochs {epochs // 2 + 1} to {epochs}, one seed: {each}."
        )
    return f"No pair has been run for {ENOUGH} epochs under both rules yet."


def draw(found: Sequence[Results]) -> Figure:
    """Draw Figure 4: a row for each rule and scale, a column for each learning rate.

    The learning rate that the paper leaves out has a column where one of its runs is recorded.
    """
    shown = to_draw(found)
    run = {record.config.lr for results in shown for record in results.of()}
    rates = [lr for lr in LEARNING_RATES if lr in run.union(paper.SHOWN_RATES)]
    rows = [[_panel(results, rule, lr) for lr in rates] for results in shown for rule in RULES]
    figure = draw_panels(rows, legend="none")
    steps = ListedColormap([DECAY_COLOURS[l2] for l2 in sorted(WEIGHT_DECAYS)])
    marks = np.arange(len(WEIGHT_DECAYS) + 1) - 0.5
    scale = ScalarMappable(BoundaryNorm(marks, steps.N), steps)
    bar = figure.colorbar(scale, ax=figure.axes, ticks=range(len(WEIGHT_DECAYS)), aspect=40)
    bar.set_ticklabels([written(l2) for l2 in sorted(WEIGHT_DECAYS)])
    bar.set_label("weight decay (dimensionless)")
    colour = DECAY_COLOURS[LARGEST_DECAY]
    looks = {
        "this book": Line2D([], [], linestyle="-", color=colour),
        "the paper": Line2D([], [], linestyle="--", color=colour),
        f"the paper, {EVERY}": Line2D([], [], linestyle="--", color="black"),
    }
    figure.legend(looks.values(), looks.keys(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _panel(results: Results, rule: str, lr: float) -> Panel:
    in_paper = lr in paper.SHOWN_RATES
    lines = []
    if in_paper:
        shared, _ = paper.sweep_parts(lr, LARGEST_DECAY, rule)
        lines.append(Line(EVERY, "k", [], shared))
    for l2 in sorted({goal.config.l2 for goal in results.goals}):
        # The paper's figure tells no more of its curves apart.
        drawn = in_paper and l2 in (LARGEST_DECAY, min(WEIGHT_DECAYS))
        curve = paper.sweep_parts(lr, l2, rule)[1] if drawn else None
        records = results.of(lr=lr, l2=l2, rule=rule)
        lines.append(Line(f"weight decay {written(l2)}", DECAY_COLOURS[l2], records, curve))
    epochs = max(goal.epochs for goal in results.goals)
    title = f"{LABELS[rule]}, learning rate {written(lr)}\n({results.scale.title})"
    return Panel(title, lines, epochs, beside=max(map(len, results.of()), default=0))


def table(results: Results) -> Table:
    """Return the final accuracy of every run at one scale."""
    decays = sorted({goal.config.l2 for goal in results.goals}, reverse=True)
    rows = []
    for lr in sorted({goal.config.lr for goal in results.goals}, reverse=True):
        for rule in RULES:
            cells = []
            for l2 in decays:
                record = next(iter(results.of(lr=lr, l2=l2, rule=rule)), None)
                text = number(final_accuracy(record)) if record else "-"
                if record and record.diverged:
                    text += f" (diverged in epoch {len(record)})"
                elif record and not record.reaches(EPOCHS):
                    text += f" ({len(record)})"
                cells.append(text)
            rows.append([f"{LABELS[rule]}, learning rate {written(lr)}", *cells])
    return Table(
        f"Final accuracy in percent {results.scale.where}: the mean over the last tenth of the "
        "epochs. In brackets: after how many epochs, where the run is not complete.",
        ["run", *(f"weight decay {written(l2)}" for l2 in decays)],
        rows,
    )


def answer(results: Results) -> str:
    """Say in a sentence or two what the runs of a scale show."""
    numbers = measures(results)
    where = results.scale.where
    parts = []
    if early := numbers.get("early_gap_min"):
        ahead = early.value > 0
        bound, side = ("at least", "ahead of") if ahead else ("up to", "behind")
        parts.append(
            f"Over {first_epochs(early.last)} {where}, Linear Backprop is {bound} "
            f"{abs(early.value):.1f} points {side} Backprop at the learning rates of the paper's "
            "two panels."
        )
    if away := _from_the_paper(results):
        rules = " and ".join(f"{away[rule]:.1f} points under {LABELS[rule]}" for rule in RULES)
        parts.append(
            "The mean distance of the runs to the paper's curves, as far as each run goes, is "
            f"{rules}."
        )
    if gain := at_end(numbers, "weight_decay_gain"):
        side = "above" if gain.value > 0 else "below"
        runs = len(_of_one_rate(results))
        less = "the only run" if runs == 2 else f"the best of the {runs - 1} runs"
        parts.append(
            f"At the learning rate 1e-4 and after {counted(gain.last)}, Linear Backprop with the "
            f"weight decay 0.1 is {abs(gain.value):.1f} points {side} {less} with less."
        )
    if spread := at_end(numbers, "spread_ratio"):
        pairs = len(shared_pairs(by_key(long_enough(results.of(), _has_each_rate))))
        rate, decay = (
            [f"{numbers[f'{rule}_by_{what}'].value:.1f}" for rule in RULES]
            for what in ("rate", "decay")
        )
        parts.append(
            f"Over the {pairs} of {len(LEARNING_RATES) * len(WEIGHT_DECAYS)} pairs that both rules "
            f"have, and after {counted(spread.last)}, the final accuracy of Backprop spreads "
            f"{number(spread.value, '.2f')} times as much as that of Linear Backprop. The learning "
            f"rate moves it by up to {rate[0]} points under Backprop and {rate[1]} under Linear "
            f"Backprop, the weight decay by up to {decay[0]} and {decay[1]}."
        )
    return " ".join(parts) or results.undecided
