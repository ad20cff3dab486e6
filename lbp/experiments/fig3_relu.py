"""Figure 3: Linear Backprop with tanh and with ReLU against Backprop with ReLU."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lbp.experiments import paper
from lbp.experiments.grid import long_goals
from lbp.experiments.numbers import (
    Measure,
    Measures,
    Names,
    accuracies,
    at_end,
    by_name,
    common_epochs,
    counted,
    epoch_to_epoch_sd,
    final_accuracy,
    interval,
    last_tenth,
    long_distance,
    mean_of,
    number,
    ratio,
)
from lbp.experiments.panels import Panel, draw_panels, rule_line, to_draw
from lbp.experiments.results import Results
from lbp.experiments.scales import Scale
from lbp.experiments.style import ACTIVATIONS, LABELS
from lbp.experiments.table import Table
from lbp.lab.record import Record
from lbp.lab.run import Goal

TITLE = "Against ReLU"
PLACE = "appendix A, Figure 3"
QUESTION = "Does Linear Backprop with tanh match Backprop with ReLU, and vary less?"

NAMES = TANH_BP, TANH_LINEAR, RELU_BP, RELU_LINEAR = (
    ("tanh", "bp"),  # not in the figure: what Backprop with ReLU is compared with
    ("tanh", "linear"),
    ("relu", "bp"),
    ("relu", "linear"),
)


def goals(scale: Scale) -> list[Goal]:
    """Return the long runs of both activations under both rules, with three seeds."""
    return long_goals(scale, NAMES)


def measures(results: Results) -> Measures:
    """Return Figure 3's numbers over the epochs that all runs have, means over the furthest seeds.

    - ..._best: the best epoch's test accuracy in percent, of each activation and rule;
    - best_gap: Backprop with ReLU minus Linear Backprop with tanh, in points;
    - relu_best_gap: with ReLU, Linear Backprop minus Backprop, in points;
    - relu_gain_bp: under Backprop, final accuracy with ReLU minus that with tanh, in points;
    - ..._sd: standard deviation from epoch to epoch over the last half, in points;
    - sd_ratio: that of Backprop with ReLU over that of Linear Backprop with tanh;
    - relu_sd_ratio: over that of Linear Backprop with ReLU;
    - ..._distance: to the paper's curve, in points; Figure 2 shows that of tanh.
    """
    runs = by_name(results.of(), NAMES)
    if not runs:
        return {}
    epochs = _common(runs)
    half = (epochs // 2 + 1, epochs)
    best, final, sd, away = {}, {}, {}, {}
    for name, records in runs.items():
        best[name] = mean_of(records, lambda r: float(accuracies(r, epochs).max()))
        final[name] = mean_of(records, lambda r: final_accuracy(r, epochs))
        sd[name] = mean_of(records, lambda r: epoch_to_epoch_sd(r, epochs))
        away[name] = mean_of(records, lambda r: long_distance(r, epochs))
    seeds = len(runs[TANH_BP])
    found = {
        "best_gap": Measure(best[RELU_BP] - best[TANH_LINEAR], 1, epochs, seeds),
        "relu_best_gap": Measure(best[RELU_LINEAR] - best[RELU_BP], 1, epochs, seeds),
        "relu_gain_bp": Measure(final[RELU_BP] - final[TANH_BP], *last_tenth(epochs), seeds),
        "sd_ratio": Measure(ratio(sd[RELU_BP], sd[TANH_LINEAR]), *half, seeds),
        "relu_sd_ratio": Measure(ratio(sd[RELU_BP], sd[RELU_LINEAR]), *half, seeds),
    }
    for name in NAMES:
        key = "_".join(name)
        found[f"{key}_best"] = Measure(best[name], 1, epochs)
        found[f"{key}_final"] = Measure(final[name], *last_tenth(epochs))
        found[f"{key}_sd"] = Measure(sd[name], *half)
        found[f"{key}_distance"] = Measure(away[name], 1, epochs)
    return found


def draw(found: Sequence[Results]) -> Figure:
    """Draw Figure 3, a row for each scale: tanh on the left, ReLU on the right."""
    curves = paper.long_curves()
    titles = {
        "Linear Backprop with tanh, Backprop with ReLU": TANH_LINEAR,
        "both rules with ReLU": RELU_LINEAR,
    }
    return draw_panels(
        [
            [
                Panel(
                    f"{title}\n({results.scale.title})",
                    [rule_line(results, shown, curves) for shown in (RELU_BP, name)],
                    results.goals[0].epochs,
                )
                for title, name in titles.items()
            ]
            for results in to_draw(found)
        ]
    )


def table(found: Sequence[Results]) -> Table:
    """Return variance and accuracy of each combination at each scale, with 95 % intervals."""
    rows = []
    for results in found:
        runs = _begun(results)
        epochs = _common(runs)
        for activation, rule in NAMES:
            records = runs.get((activation, rule), [])
            cells = ["0", "-", "-"]
            if records:
                deviations = [epoch_to_epoch_sd(record, epochs) for record in records]
                finals = [final_accuracy(record, epochs) for record in records]
                cells = [str(epochs), str(interval(finals)), str(interval(deviations))]
            label = f"{ACTIVATIONS[activation]}, {LABELS[rule]}"
            rows.append([f"{label}, {results.scale.title}", *cells])
    return Table(
        "Means over the seeds with their 95 % confidence intervals (Student's t). Final accuracy "
        "is the mean over the last tenth of the epochs; the standard deviation from epoch to epoch "
        "is taken over the last half.",
        ["run", "epochs", "final accuracy (%)", "epoch to epoch (points)"],
        rows,
    )


def answer(results: Results) -> str:
    """Say in a sentence or two what the runs of a scale show."""
    numbers = measures(results)
    where = results.scale.where
    if at_end(numbers, "best_gap") is None:
        return _so_far(results)
    gap, sd, own = (numbers[name] for name in ("best_gap", "sd_ratio", "relu_sd_ratio"))
    gain = numbers["relu_gain_bp"]
    ends, bests = (
        [numbers[f"relu_{rule}_{at}"].value for rule in ("bp", "linear")]
        for at in ("final", "best")
    )
    side, end = ("above" if value > 0 else "below" for value in (gap.value, gain.value))
    return (
        f"After {counted(gap.last)} {where}, the best epoch of Backprop with ReLU is "
        f"{abs(gap.value):.1f} points {side} that of Linear Backprop with tanh. From epoch to "
        f"epoch it varies {number(sd.value)} times as much as Linear Backprop with tanh and "
        f"{number(own.value)} times as much as Linear Backprop with ReLU. Under Backprop, the "
        f"network with ReLU ends {abs(gain.value):.1f} points {end} the one with tanh. With ReLU, "
        f"Backprop ends at {ends[0]:.1f} % and Linear Backprop at {ends[1]:.1f} %; at their best "
        f"epochs they have {bests[0]:.1f} % and {bests[1]:.1f} %. At equal mean accuracy, the "
        "curve that varies more has the higher best epoch."
    )


def _so_far(results: Results) -> str:
    """Say where runs are that are too short, or too few, for how they end."""
    runs = _begun(results)
    if len(runs) < 2:
        return results.undecided
    epochs = _common(runs)
    means = {name: mean_of(runs[name], lambda r: accuracies(r, epochs)[-1]) for name in runs}
    *most, last = (f"{mean:.1f} % with {_called(name)}" for name, mean in means.items())
    missing = [_called(name) for name in NAMES if name not in runs]
    without = f" Not yet run there: {', '.join(missing)}." if missing else ""
    return (
        f"After {counted(epochs)} {results.scale.where}, the test accuracy is {', '.join(most)} "
        f"and {last}. That is too early to say how they end.{without}"
    )


def _called(name: Names) -> str:
    """Return what a combination of activation and rule is called in a sentence."""
    activation, rule = name
    return f"{ACTIVATIONS[activation]} under {LABELS[rule]}"


def _begun(results: Results) -> dict[Names, list[Record]]:
    """Return the records of the combinations that have any, of the seeds that these share."""
    there = results.of()
    begun = {(record.config.activation, record.config.rule) for record in there}
    return by_name(there, [name for name in NAMES if name in begun]) if begun else {}


def _common(runs: Mapping[Names, list[Record]]) -> int:
    """Return how many epochs all of these runs have."""
    return common_epochs(record for records in runs.values() for record in records)
