"""How far the narrow network can be trusted: the runs of Figure 2 at several widths."""

from collections.abc import Sequence
from fractions import Fraction

from matplotlib.figure import Figure

from lbp.experiments import paper
from lbp.experiments.grid import PAIRS, RULES
from lbp.experiments.numbers import (
    FEWEST_EPOCHS,
    Measure,
    Measures,
    common_epochs,
    counted,
    final_accuracy,
    first_epochs,
    last_tenth,
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
      runs of the width;
    - end_{width}: the same of final accuracy.
    """
    pairs = _pairs([results])
    return {
        f"{name}_{Fraction(width)}": lead
        for name, window in (("lead", _whole(pairs)), ("end", _end(pairs)))
        for width, lead in _leads(pairs, *window).items()
    }


def texts(found: Sequence[Results]) -> dict[str, str]:
    """Return what the page and that of Figure 2 say of the widths, by name."""
    return {"width_across": across(found), "width_end": at_end_of_each(found)}


def across(found: Sequence[Results]) -> str:
    """Say how far Backprop leads at the widths of every scale, over the epochs that all have."""
    pairs = _pairs(found)
    if len(pairs) < 3:  # the two of one scale are in its answer
        return "No further width has been run under both rules yet."
    _, epochs = _whole(pairs)
    return f"Over {first_epochs(epochs)}, which all these widths have, {_lead(pairs, 1, epochs)}."


def at_end_of_each(found: Sequence[Results]) -> str:
    """Say what the width changes at the end, at the first scale that has two widths."""
    for results in found:
        pairs = _pairs([results])
        first, last = _end(pairs)
        if len(pairs) < 2 or last < FEWEST_EPOCHS:
            continue
        small, large = pairs.values()
        rises = " and ".join(
            f"{final_accuracy(large[rule], last) - final_accuracy(small[rule], last):+z.1f} points "
            f"under {LABELS[rule]}"
            for rule in RULES
        )
        return (
            f"Over epochs {first} to {last}, {_lead(pairs, first, last)}. Twice the width changes "
            f"accuracy there by {rises}."
        )
    return "No two widths have been run for long enough yet."


Pairs = dict[float, dict[str, Record]]  # the runs by width, narrow first, and rule


def _pairs(found: Sequence[Results]) -> Pairs:
    """Return the runs of every width that has been run under both rules."""
    by_width: Pairs = {}
    for results in found:
        for record in results.of():
            by_width.setdefault(record.config.width, {})[record.config.rule] = record
    return {width: by_width[width] for width in sorted(by_width) if len(by_width[width]) == 2}


def _whole(pairs: Pairs) -> tuple[int, int]:
    return 1, common_epochs(record for pair in pairs.values() for record in pair.values())


def _end(pairs: Pairs) -> tuple[int, int]:
    return last_tenth(_whole(pairs)[1])


def _leads(pairs: Pairs, first: int, last: int) -> dict[float, Measure]:
    """Return Backprop's mean accuracy minus that of Linear Backprop by width, in points."""
    found = {}
    for width, pair in pairs.items():
        bp, linear = (mean_accuracy(pair[rule], first, last) for rule in RULES)
        found[width] = Measure(bp - linear, first, last)
    return found


def _lead(pairs: Pairs, first: int, last: int) -> str:
    *others, end = [
        f"{abs(lead.value):.1f} points {'ahead' if lead.value > 0 else 'behind'} "
        f"at width {Fraction(width)}"
        for width, lead in _leads(pairs, first, last).items()
    ]
    each = f"{', '.join(others)} and {end}" if others else end
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
    """Return the mean and the final accuracy at every width."""
    rows = []
    for results in found:
        epochs = common_epochs(results.of())
        for width in WIDTHS[results.scale.name]:
            for rule in RULES:
                record = next(iter(results.of(width=width, rule=rule)), None)
                mean = mean_accuracy(record, 1, epochs) if record else None
                final = final_accuracy(record, epochs) if record else None
                label = f"{LABELS[rule]}, width {Fraction(width)}"
                rows.append([label, str(epochs), number(mean), number(final)])
    return Table(
        "Test accuracy over the epochs that all runs of a scale have: the mean over all of them, "
        "and over the last tenth of them.",
        ["run", "epochs", "mean accuracy (%)", "final accuracy (%)"],
        rows,
    )


def answer(results: Results) -> str:
    """Say in a sentence or two what the runs of a scale show."""
    pairs = _pairs([results])
    if not pairs:
        return results.undecided
    _, epochs = _whole(pairs)
    lacks = [f"{counted(epochs)} of {EPOCHS}"] if epochs < EPOCHS else []
    lacks += [
        f"no pair of runs at width {Fraction(width)}"
        for width in WIDTHS[results.scale.name]
        if width not in pairs
    ]
    open_ = f"Not yet decided {results.scale.where}: {' and '.join(lacks)}. " if lacks else ""
    end = f" {at_end_of_each([results])}" if len(pairs) > 1 and epochs >= FEWEST_EPOCHS else ""
    return f"{open_}Over {first_epochs(epochs)}, {_lead(pairs, 1, epochs)}.{end}"
