"""How far the narrow network can be trusted: the runs of Figure 2 at several widths."""

from collections.abc import Sequence
from fractions import Fraction

from matplotlib.figure import Figure

from lbp.experiments import paper
from lbp.experiments.grid import PAIRS, RULES
from lbp.experiments.numbers import (
    Measure,
    Measures,
    common_epochs,
    counted,
    first_epochs,
    mean_accuracy,
    number,
)
from lbp.experiments.panels import Line, Panel, draw_panels, to_draw
from lbp.experiments.results import Results
from lbp.experiments.scales import NARROW, PAPER, Scale
from lbp.experiments.style import COLOURS, LABELS, shade
from lbp.experiments.table import Table
from lbp.lab.run import Goal

TITLE = "How far the narrow network can be trusted"
PLACE = "a control of this book's own"
QUESTION = "How far can the narrow network stand in for the paper's?"

EPOCHS = 20
WIDTHS = {"paper": (1 / 2, 1.0), "narrow": (1 / 8, 1 / 4), "smoke": (1 / 64, 1 / 32)}
NOTES = {
    PAPER.name: (
        f"Full scale: half and all of the paper's channels, {EPOCHS} epochs on all of CIFAR-10."
    ),
    NARROW.name: (
        "Narrow network: every layer has an eighth or a quarter of the paper's channels, and a run "
        f"{EPOCHS} epochs. The rest is as at full scale: all of CIFAR-10, in batches of 128."
    ),
}


def goals(scale: Scale) -> list[Goal]:
    """Return the runs of Figure 2 at the scale's own width and at another one, seed 0."""
    found = []
    for width in reversed(WIDTHS[scale.name]):
        for rule in RULES:
            lr, l2 = PAIRS["tanh", rule]
            found.append(scale.goal(EPOCHS, rule=rule, lr=lr, l2=l2, width=width))
    return found


def measures(results: Results) -> Measures:
    """Return how far Backprop leads at each width, over the epochs that all runs have.

    - small_lead, large_lead: mean accuracy of Backprop minus that of Linear Backprop, at the
      smaller and at the larger width, in points.
    """
    by_key = {(r.config.width, r.config.rule): r for r in results.of()}
    if len(by_key) < 4:
        return {}
    epochs = common_epochs(by_key.values())
    found = {}
    for name, width in zip(("small", "large"), WIDTHS[results.scale.name], strict=True):
        bp, linear = by_key[width, "bp"], by_key[width, "linear"]
        lead = mean_accuracy(bp, 1, epochs) - mean_accuracy(linear, 1, epochs)
        found[f"{name}_lead"] = Measure(lead, 1, epochs)
    return found


def draw(found: Sequence[Results]) -> Figure:
    """Draw the runs at each scale, a panel for each, darker for the larger width."""
    curves = paper.curves(2)
    panels = []
    for results in to_draw(found):
        lines = [
            Line(
                f"{LABELS[rule]}, width {Fraction(width)}",
                shade(COLOURS[rule], place / 2),
                results.of(width=width, rule=rule),
                curves[f"tanh, {rule}"] if place == 2 else None,
                paper_label=f"{LABELS[rule]}, width 1",
            )
            for place, width in enumerate(WIDTHS[results.scale.name], start=1)
            for rule in RULES
        ]
        panels.append(Panel(f"VGG19 with tanh\n({results.scale.title})", lines, EPOCHS))
    return draw_panels([panels], "below")


def table(found: Sequence[Results]) -> Table:
    """Return the mean accuracy at every width."""
    rows = []
    for results in found:
        epochs = common_epochs(results.of())
        for width in WIDTHS[results.scale.name]:
            for rule in RULES:
                record = next(iter(results.of(width=width, rule=rule)), None)
                mean = mean_accuracy(record, 1, epochs) if record else None
                label = f"{LABELS[rule]}, width {Fraction(width)}"
                rows.append([label, str(epochs), number(mean)])
    return Table(
        "Mean test accuracy over the epochs that all runs of a scale have.",
        ["run", "epochs", "mean accuracy (%)"],
        rows,
    )


def answer(results: Results) -> str:
    """Say in a sentence what the runs of a scale show."""
    leads = measures(results).values()
    if not leads:
        return results.undecided
    at = " and ".join(
        f"{abs(lead.value):.1f} points {'ahead' if lead.value > 0 else 'behind'} "
        f"at width {Fraction(width)}"
        for lead, width in zip(leads, WIDTHS[results.scale.name], strict=True)
    )
    last = min(lead.last for lead in leads)
    open_ = (
        "" if last == EPOCHS else f"Not yet decided: {counted(last)} of {EPOCHS} at both widths. "
    )
    return f"{open_}Over {first_epochs(last)}, Backprop's mean accuracy is {at}."
