"""How the paper's figures are read: their axes, and where two of them seem to disagree."""

from collections.abc import Sequence

import numpy as np

from lbp.experiments import paper
from lbp.experiments.grid import PAIRS, RULES
from lbp.experiments.numbers import distance, interval
from lbp.experiments.paper import PaperCurve
from lbp.experiments.results import Results
from lbp.experiments.scales import PAPER
from lbp.experiments.style import LABELS
from lbp.lab.config import written
from lbp.lab.record import Record

TEXT = 100  # epochs, as section 1.2 says; the axis of Figure 2 goes on to 1000
LAST_TENTH = 900
STEEP = 10  # before this epoch a curve is too steep to be read on an axis of 1000 epochs


def at(curve: PaperCurve, epochs: Sequence[float]) -> np.ndarray:
    """Return a curve's accuracies at some epochs, by straight lines between its points."""
    return np.interp(epochs, curve.epochs, curve.mid)


def after_100() -> str:
    """Say what the curves of Figure 2 do after the 100 epochs of the text."""
    early, end = {}, {}
    for rule in RULES:
        curve = paper.curves(2)[f"tanh, {rule}"]
        early[rule] = float(at(curve, [TEXT])[0])
        last = [mid for e, mid in zip(curve.epochs, curve.mid, strict=True) if e >= LAST_TENTH]
        end[rule] = float(np.mean(last))
    changes = " and ".join(
        f"{LABELS[rule]}'s accuracy changes by {end[rule] - early[rule]:+z.1f} points"
        for rule in RULES
    )
    return (
        f"From epoch {TEXT} to the last tenth of the axis (the mean of the points read there), "
        f"{changes}. Linear Backprop is "
        f"{early['linear'] - early['bp']:.1f} points ahead at epoch {TEXT}, and "
        f"{end['linear'] - end['bp']:.1f} points at the end."
    )


def two_figures() -> str:
    """Say why Backprop is ahead at first in Figure 2, and Linear Backprop in Figure 4."""
    long = paper.curves(2)
    (bp_rate, decay), (linear_rate, _) = (PAIRS["tanh", rule] for rule in RULES)
    epochs = [e for e in long["tanh, bp"].epochs if STEEP <= e <= 30]
    lead = at(long["tanh, bp"], epochs) - at(long["tanh, linear"], epochs)
    behind = {
        lr: at(paper.sweep_curve(lr, decay, "linear"), epochs)
        - at(paper.sweep_curve(lr, decay, "bp"), epochs)
        for lr in paper.SHOWN_RATES
    }
    fourth = " and ".join(f"{_span(gap)} points at {written(lr)}" for lr, gap in behind.items())
    shared = [e for e in long["tanh, bp"].epochs if STEEP <= e <= TEXT - 2]
    sweep = {rule: at(paper.sweep_curve(linear_rate, decay, rule), shared) for rule in RULES}
    above = at(long["tanh, bp"], shared) - sweep["bp"]
    near = np.abs(at(long["tanh, linear"], shared) - sweep["linear"]).max()
    return (
        f"At epochs {epochs[0]:g} to {epochs[-1]:g}, Backprop is {_span(lead)} points ahead in "
        f"Figure 2; in Figure 4, Linear Backprop is ahead, by {fourth}. The learning rates differ: "
        f"a panel of Figure 4 has one for both rules. From epoch {shared[0]:g} to {shared[-1]:g}, "
        f"Linear Backprop of Figure 2 is at most {near:.1f} points from its curve of Figure 4 at "
        f"{written(linear_rate)} with the weight decay {written(decay)}, while Backprop is "
        f"{_span(above)} points above its own. (Before epoch {STEEP}, the curves of Figure 2 are "
        "too steep to be read.) So Backprop of Figure 2 probably has a larger learning rate, and "
        f"the only larger one of the grid is {written(bp_rate)}."
    )


def _span(points: np.ndarray) -> str:
    return f"{points.min():.1f} to {points.max():.1f}"


def shift_gains(records: Sequence[Record]) -> list[float]:
    """Return how much nearer runs are to Figure 4 if the paper counts its epochs from 0.

    In points, a value for each learning rate and rule, the mean over its runs: their distance if
    the paper counts from 1, minus that if it counts from 0. Both are taken at the same points of
    the paper's curve. Runs that diverged do not count, nor do those of one epoch.
    """
    found: dict[tuple[float, str], list[float]] = {}
    for record in records:
        config = record.config
        if config.lr in paper.SHOWN_RATES and len(record) > 1 and not record.diverged:
            curve = paper.sweep_curve(config.lr, config.l2, config.rule)
            from_1 = distance(record.until(len(record) - 1), curve)
            from_0 = distance(record, curve, shift=1)
            found.setdefault((config.lr, config.rule), []).append(from_1 - from_0)
    return [float(np.mean(gains)) for gains in found.values()]


def first_epoch(found: Sequence[Results]) -> str:
    """Say whether Figure 4 counts its epochs from 0 or from 1, by the runs at full scale.

    Args:
        found: The results of Figure 4.
    """
    question = "Whether the paper counts epochs from 0 or from 1"
    gains = shift_gains([r for results in found if results.scale == PAPER for r in results.of()])
    if not gains:
        return f"{question} cannot be told yet: no run at full scale has two epochs."
    gain = interval(gains)
    side = "nearer" if gain.mean > 0 else "further away"
    text = (
        f"With 0 as the first epoch of the paper, the runs at full scale are {abs(gain.mean):.1f} "
        f"points {side} on average over {len(gains)} curves"
    )
    if not abs(gain.mean) > gain.half:  # also where one curve leaves no interval
        return f"{question} cannot be told. {text}, which can be chance."
    return f"{text} (± {gain.half:.1f}). Counting from {int(gain.mean < 0)} fits better."
