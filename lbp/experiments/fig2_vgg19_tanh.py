"""Figure 2: VGG19 with tanh on CIFAR-10, Backprop against Linear Backprop."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lbp.experiments import paper, reading
from lbp.experiments.grid import PAIRS, long_goals
from lbp.experiments.numbers import (
    Measure,
    Measures,
    by_name,
    common_epochs,
    epoch_to_epoch_sd,
    final_accuracy,
    first_epochs,
    last_tenth,
    long_distance,
    mean_accuracy,
    mean_of,
    number,
    ratio,
)
from lbp.experiments.panels import Panel, draw_panels, rule_line, to_draw
from lbp.experiments.results import Results
from lbp.experiments.scales import Scale
from lbp.experiments.table import Table
from lbp.lab.config import written
from lbp.lab.run import Goal

TITLE = "VGG19 with tanh on CIFAR-10"
PLACE = "section 1.2, Figure 2"
QUESTION = (
    "Does VGG19 with tanh units end at a higher accuracy with Linear Backprop than "
    "with Backprop, and a steadier one?"
)

NAMES = BP, LINEAR = ("tanh", "bp"), ("tanh", "linear")
# Up to about this epoch the paper's own curves have Backprop ahead.
EARLY = 30


def goals(scale: Scale) -> list[Goal]:
    """Return both long runs, with three seeds."""
    return long_goals(scale, NAMES)


def measures(results: Results) -> Measures:
    """Return Figure 2's numbers over the epochs that all runs have, means over the furthest seeds.

    - early_lead: Backprop minus Linear Backprop over the first 30 epochs, in points;
    - bp_final, linear_final: test accuracy in percent over the last tenth;
    - final_gap: Linear Backprop minus Backprop, in points;
    - bp_sd, linear_sd: standard deviation from epoch to epoch over the last half, in points;
    - sd_ratio: Backprop's over Linear Backprop's;
    - bp_distance, linear_distance: to the paper's curves, in points.
    """
    runs = by_name(results.of(), NAMES)
    if not runs:
        return {}
    epochs = common_epochs(record for records in runs.values() for record in records)
    first, last = last_tenth(epochs)
    early = min(EARLY, epochs)
    half = (epochs // 2 + 1, epochs)
    start = {name: mean_of(runs[name], lambda r: mean_accuracy(r, 1, early)) for name in NAMES}
    final = {name: mean_of(runs[name], lambda r: final_accuracy(r, epochs)) for name in NAMES}
    sd = {name: mean_of(runs[name], lambda r: epoch_to_epoch_sd(r, epochs)) for name in NAMES}
    away = {name: mean_of(runs[name], lambda r: long_distance(r, epochs)) for name in NAMES}
    seeds = len(runs[BP])
    return {
        "early_lead": Measure(start[BP] - start[LINEAR], 1, early, seeds),
        "bp_final": Measure(final[BP], first, last, seeds),
        "linear_final": Measure(final[LINEAR], first, last, seeds),
        "final_gap": Measure(final[LINEAR] - final[BP], first, last, seeds),
        "bp_sd": Measure(sd[BP], *half),
        "linear_sd": Measure(sd[LINEAR], *half),
        "sd_ratio": Measure(ratio(sd[BP], sd[LINEAR]), *half, seeds),
        "bp_distance": Measure(away[BP], 1, epochs),
        "linear_distance": Measure(away[LINEAR], 1, epochs),
    }


def texts() -> dict[str, str]:
    """Return what the page says of how the paper's figure is read, by name."""
    return {"fig2_after_100": reading.after_100(), "fig2_beside_fig4": reading.two_figures()}


def draw(found: Sequence[Results]) -> Figure:
    """Draw Figure 2, a panel for each scale."""
    return draw_panels(
        [
            [
                Panel(
                    f"VGG19 with tanh\n({results.scale.title})",
                    [rule_line(results, name, paper.curves(2)) for name in NAMES],
                    results.goals[0].epochs,
                )
                for results in to_draw(found)
            ]
        ]
    )


def table(found: Sequence[Results]) -> Table:
    """Return the numbers of each rule at each scale."""
    rows = []
    for results in found:
        numbers = measures(results)
        for rule, label in (("bp", "Backprop"), ("linear", "Linear Backprop")):
            final, sd, away = (
                numbers[name].value if name in numbers else None
                for name in (f"{rule}_final", f"{rule}_sd", f"{rule}_distance")
            )
            lr, l2 = PAIRS["tanh", rule]
            epochs = numbers["bp_final"].last if numbers else 0
            rows.append(
                [
                    f"{label}, {results.scale.title}",
                    f"{written(lr)}",
                    f"{written(l2)}",
                    str(epochs),
                    number(final),
                    number(sd, ".2f"),
                    number(away),
                ]
            )
    return Table(
        "Final accuracy is the mean over the last tenth of the epochs; its standard deviation from "
        "epoch to epoch is taken over the last half, from the differences of neighbouring epochs; "
        "the distance is the mean over the places where the paper's curve was digitised.",
        [
            *("run", "learning rate", "weight decay", "epochs"),
            *("final accuracy (%)", "epoch to epoch (points)", "distance to the paper (points)"),
        ],
        rows,
    )


def answer(results: Results) -> str:
    """Say in a sentence or two what the runs of a scale show."""
    numbers = measures(results)
    where = results.scale.where
    if not numbers:
        return results.undecided
    lead, final = numbers["early_lead"], numbers["final_gap"]
    first, second = _ahead(lead.value), _ahead(-final.value)
    end = (
        f"After epoch {final.last}"
        if final.first == final.last
        else f"Over epochs {final.first} to {final.last}"
    )
    return (
        f"Over {first_epochs(lead.last)} {where}, {first} on average. {end}, the last that both "
        f"rules have, {second}."
    )


def _ahead(points: float) -> str:
    """Say which rule is ahead, given Backprop's lead in points."""
    leader = "Backprop" if points > 0 else "Linear Backprop"
    return f"{leader} is {abs(points):.1f} points ahead"
