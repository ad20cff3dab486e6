"""The best pair of learning rate and weight decay, chosen as the paper does and honestly."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lbp.experiments.grid import LEARNING_RATES, PAIRS, RULES, WEIGHT_DECAYS, grid_goals
from lbp.experiments.numbers import (
    Measure,
    Measures,
    at_end,
    by_key,
    common_epochs,
    counted,
    final_accuracy,
    first_epochs,
    last_tenth,
    long_enough,
    mean_accuracy,
    several,
    shared_pairs,
)
from lbp.experiments.results import Results
from lbp.experiments.scales import Scale
from lbp.experiments.style import ACTIVATIONS, LABELS
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.record import Record
from lbp.lab.run import Goal

TITLE = "The best pair, chosen twice"
PLACE = "section 1.2: the best learning rate and weight decay"
QUESTION = "What does it add to choose the learning rate and the weight decay on the test set?"

NAMES = [(activation, rule) for activation in ("tanh", "relu") for rule in RULES]


def goals(scale: Scale) -> list[Goal]:
    """Return the paper's whole grid, with tanh and with ReLU under both rules."""
    smoke = scale.name == "smoke"
    rates = LEARNING_RATES[: 1 if smoke else None]
    decays = WEIGHT_DECAYS[: 2 if smoke else None]
    return [g for name in ("tanh", "relu") for g in grid_goals(scale, name, rates, decays)]


@dataclass(frozen=True)
class Choice:
    """The best of some runs, chosen twice; accuracies in percent by `final_accuracy`.

    The paper chooses the learning rate and weight decay on the test set on which it then reports,
    so that chance helps the choice. The honest choice is made on one half of the test set and
    judged on the other.
    """

    on_test: Record  # the best on the whole test set
    reported: float  # its accuracy there
    on_halves: tuple[Record, Record]  # the best on half 0 and on half 1
    judged: float  # the mean of the accuracies of each on the other half
    epochs: int  # over which the runs were compared
    compared: int  # how many runs that were

    @property
    def leak(self) -> float:
        """What the choice on the test set is worth, in points."""
        return self.reported - self.judged


def choose(records: Sequence[Record]) -> Choice:
    """Choose the best of `records` twice, over the epochs that all of them have.

    Args:
        records: One or more.
    """
    epochs = common_epochs(records)
    halves = ("test_error_half_0", "test_error_half_1")
    on = {
        errors: partial(final_accuracy, epochs=epochs, errors=errors)
        for errors in ("test_error", *halves)
    }
    on_test = max(records, key=on["test_error"])
    first, second = (max(records, key=on[half]) for half in halves)
    judged = (on[halves[1]](first) + on[halves[0]](second)) / 2
    reported = on["test_error"](on_test)
    return Choice(on_test, reported, (first, second), judged, epochs, len(records))


def choices(results: Results) -> dict[tuple[str, str], Choice]:
    """Return the choice for each combination of activation and rule that has two runs or more."""
    found = {}
    for activation, rule in NAMES:
        records = long_enough(results.of(activation=activation, rule=rule), several)
        if several(records):
            found[activation, rule] = choose(records)
    return found


def _has_each_rate(records: Sequence[Record]) -> bool:
    return {record.config.lr for record in records} == set(LEARNING_RATES)


def measures(results: Results) -> Measures:
    """Return what the choice on the test set is worth, in points, and what is best.

    - leak_mean, leak_max: over the combinations of activation and rule that have runs;
    - {activation}_{rule}_best: the accuracy of the best run on the test set, in percent;
    - {rule}_lead: with tanh, the accuracy with the pair that Figure 2 is inferred to have minus the
      best of the others, in points; needs a run at each learning rate of the grid;
    - best_gap: the best run of Linear Backprop minus the best of Backprop, over what both have, see
      `matched`, in points.
    """
    found: Measures = {}
    if made := choices(results):
        leaks = [choice.leak for choice in made.values()]
        window = last_tenth(min(choice.epochs for choice in made.values()))
        found["leak_mean"] = Measure(sum(leaks) / len(leaks), *window)
        found["leak_max"] = Measure(max(leaks), *window)
        for (activation, rule), choice in made.items():
            best_of = Measure(choice.reported, *last_tenth(choice.epochs))
            found[f"{activation}_{rule}_best"] = best_of
    for rule in RULES:
        records = long_enough(results.of(activation="tanh", rule=rule), _has_each_rate)
        epochs = common_epochs(records)
        final = {(r.config.lr, r.config.l2): final_accuracy(r, epochs) for r in records}
        own = final.pop(PAIRS["tanh", rule], None)
        if own is not None and _has_each_rate(records):
            found[f"{rule}_lead"] = Measure(own - max(final.values()), *last_tenth(epochs))
    best, epochs = best_runs(results)
    if best:
        linear, bp = (final_accuracy(best[rule], epochs) for rule in ("linear", "bp"))
        found["best_gap"] = Measure(linear - bp, *last_tenth(epochs))
    return found


def best_runs(results: Results) -> tuple[dict[str, Record], int]:
    """Return the best run of each rule over what both have, and over how many epochs.

    See `matched`; no run and 0 where the rules share nothing.
    """
    records = matched(long_enough(results.of()))
    epochs = common_epochs(records)
    by_rule = {rule: [r for r in records if r.config.rule == rule] for rule in RULES}
    accuracy = partial(final_accuracy, epochs=epochs)
    return {rule: max(mine, key=accuracy) for rule, mine in by_rule.items() if mine}, epochs


def matched(records: Sequence[Record]) -> list[Record]:
    """Return the runs with a counterpart under the other rule, so that both have as many tries.

    That is the run with the same activation, learning rate and weight decay, and for a pair of
    Figures 2 and 3 the other rule's pair there.
    """
    both = set.intersection(
        *({p for r in records if r.config.rule == rule for p in _places(r)} for rule in RULES)
    )
    return [record for record in records if both & _places(record)]


def _places(record: Record) -> set[tuple[str, tuple[float, float] | None]]:
    config = record.config
    pair = (config.lr, config.l2)
    of_a_figure = pair == PAIRS[config.activation, config.rule]
    return {(config.activation, pair)} | ({(config.activation, None)} if of_a_figure else set())


def table(found: Sequence[Results]) -> Table:
    """Return both choices for each combination at each scale."""
    rows = []
    for results in found:
        made = choices(results)
        for activation, rule in NAMES:
            goals_ = [g.config for g in results.goals]
            wanted = sum((c.activation, c.rule) == (activation, rule) for c in goals_)
            there = len(results.of(activation=activation, rule=rule))
            label = f"{ACTIVATIONS[activation]}, {LABELS[rule]}"
            row = [f"{label}, {results.scale.title}", f"{there} of {wanted}"]
            if choice := made.get((activation, rule)):
                halves = dict.fromkeys(map(pair, choice.on_halves))
                leak = f"{choice.leak:+z.2f}"
                row += [str(choice.compared), str(choice.epochs)]
                row += [f"{pair(choice.on_test)}: {choice.reported:.1f}"]
                row += [f"{'; '.join(halves)}: {choice.judged:.1f}", leak]
            else:
                row += ["-"] * 5
            rows.append(row)
    return Table(
        "The best learning rate and weight decay, and the accuracy in percent: chosen and judged "
        "on the whole test set, as in the paper; and chosen on one half, judged on the other.",
        [
            *("runs of", "recorded", "compared", "over epochs"),
            *("on the test set", "half by half", "difference (points)"),
        ],
        rows,
    )


def texts(found: Sequence[Results]) -> dict[str, str]:
    """Return what the pages say of both activations at equal pairs, by name."""
    return {"selection_activations": by_activation(found)}


def by_activation(found: Sequence[Results]) -> str:
    """Say how far Linear Backprop leads with each activation, where both rules have one pair.

    At the first scale that has such a pair with both activations.
    """
    for results in found:
        runs = {name: by_key(results.of(activation=name)) for name in ("tanh", "relu")}
        pairs = set.intersection(*(set(shared_pairs(of_one)) for of_one in runs.values()))
        if not pairs:
            continue
        parts = []
        for lr, l2 in sorted(pairs):
            epochs = common_epochs(r[lr, l2, rule] for r in runs.values() for rule in RULES)
            leads = []
            for name, of_one in runs.items():
                bp, linear = (mean_accuracy(of_one[lr, l2, rule], 1, epochs) for rule in RULES)
                leads.append(f"{linear - bp:+z.1f} points with {ACTIVATIONS[name]}")
            at = f"at {written(lr)} with {written(l2)}, over {first_epochs(epochs)}"
            parts.append(f"{' and '.join(leads)} {at}")
        return (
            "With the learning rate and the weight decay of both rules equal, Linear Backprop's "
            f"mean accuracy minus Backprop's is {'; '.join(parts)}, {results.scale.where} (one "
            "seed)."
        )
    return "No pair has been run under both rules with both activations yet."


def pair(record: Record) -> str:
    """Return a run's learning rate and weight decay, as tables show them."""
    return f"{written(record.config.lr)}, {written(record.config.l2)}"


def answer(results: Results) -> str:
    """Say in some sentences what the runs of a scale show."""
    numbers = measures(results)
    where = results.scale.where
    parts = []
    if mean := at_end(numbers, "leak_mean"):
        made = choices(results).values()
        more = " or more" if len({choice.epochs for choice in made}) > 1 else ""
        adds = (
            f"{mean.value:+z.2f} points on average over {len(made)} combinations of activation "
            f"and rule, and {numbers['leak_max'].value:+z.2f} points at most"
            if any(round(choice.leak, 2) for choice in made)
            else f"nothing for any of {len(made)} combinations of activation and rule"
        )
        compared = max(choice.compared for choice in made)
        most = f"at most {compared} of {len(LEARNING_RATES) * len(WEIGHT_DECAYS)} pairs each"
        parts.append(
            f"After {counted(mean.last)}{more} {where}, choosing on the test set adds {adds}, with "
            f"{most} to choose from."
        )
    for rule in RULES:
        if lead := at_end(numbers, f"{rule}_lead"):
            side = "above" if lead.value > 0 else "below"
            parts.append(
                f"The pair of Figure 2 for {LABELS[rule]} is {abs(lead.value):.1f} points {side} "
                f"the best of the others that were run, after {counted(lead.last)} {where}."
            )
    if gap := at_end(numbers, "best_gap"):
        side = "above" if gap.value > 0 else "below"
        best, _ = best_runs(results)
        unit = {rule: ACTIVATIONS[record.config.activation] for rule, record in best.items()}
        parts.append(
            f"After {counted(gap.last)} {where}, the best run of Linear Backprop (with "
            f"{unit['linear']}) is {abs(gap.value):.1f} points {side} that of Backprop (with "
            f"{unit['bp']})."
        )
    return " ".join(parts) or results.undecided
