"""How far the narrow network can be trusted: the runs of Figure 2 at several widths."""

from collections.abc import Mapping, Sequence
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
from lbp.lab.record import Record
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
    """Return how far Backprop leads at each width, over the epochs that all its runs have.

    - lead_{width}: mean accuracy of Backprop minus that of Linear Backprop, in points; needs both
      runs of the width.
    """
    return {f"lead_{Fraction(width)}": lead for width, lead in leads([results]).items()}


def leads(found: Sequence[Results]) -> dict[float, Measure]:
    """Return Backprop's lead by width, narrow first, over the epochs that all these runs have."""
    by_width: dict[float, dict[str, Record]] = {}
    for results in found:
        for record in results.of():
            by_width.setdefault(record.config.width, {})[record.config.rule] = record
    pairs = {width: by_width[width] for width in sorted(by_width) if len(by_width[width]) == 2}
    epochs = common_epochs(record for pair in pairs.values() for record in pair.values())
    means = {
        width: {rule: mean_accuracy(record, 1, epochs) for rule, record in pair.items()}
        for width, pair in pairs.items()
    }
    return {w: Measure(mean["bp"] - mean["linear"], 1, epochs) for w, mean in means.items()}


def texts(found: Sequence[Results]) -> dict[str, str]:
    """Return what the page says of all widths, by name."""
    return {"width_across": across(found)}


def across(found: Sequence[Results]) -> str:
    """Say how far Backprop leads at the widths of every scale, over the epochs that all have."""
    at = leads(found)
    if len(at) < 3:  # the two of one scale are in its answer
        return "No further width has been run under both rules yet."
    return f"Over {first_epochs(_epochs(at))}, which all these widths have, {_said(at)}."


def _epochs(at: Mapping[float, Measure]) -> int:
    return min(lead.last for lead in at.values())


def _said(at: Mapping[float, Measure]) -> str:
    *others, last = [
        f"{abs(lead.value):.1f} points {'ahead' if lead.value > 0 else 'behind'} "
        f"at width {Fraction(width)}"
        for width, lead in at.items()
    ]
    each = f"{', '.join(others)} and {last}" if others else last
    return f"Backprop's mean accuracy is {each}"


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
    at = leads([results])
    if not at:
        return results.undecided
    epochs = _epochs(at)
    lacks = [f"{counted(epochs)} of {EPOCHS}"] if epochs < EPOCHS else []
    lacks += [
        f"no pair of runs at width {Fraction(width)}"
        for width in WIDTHS[results.scale.name]
        if width not in at
    ]
    open_ = f"Not yet decided {results.scale.where}: {' and '.join(lacks)}. " if lacks else ""
    return f"{open_}Over {first_epochs(epochs)}, {_said(at)}."
