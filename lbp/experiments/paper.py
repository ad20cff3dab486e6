"""The paper's own curves, digitised from its figures."""

import csv
import functools
import math
from dataclasses import dataclass, field

from lbp.errors import LbpError, check_choice
from lbp.lab import files, paths

COLUMNS = ["figure", "panel", "curve", "epoch", "low", "mid", "high"]


@dataclass(frozen=True)
class PaperCurve:
    """A curve of the paper: test accuracy in percent; `low` to `high` is the band around `mid`."""

    epochs: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    mid: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def between(self, first: float, last: float) -> "PaperCurve":
        """Return its points from epoch `first` to epoch `last`, both included."""
        inside = [index for index, epoch in enumerate(self.epochs) if first <= epoch <= last]
        columns = (self.epochs, self.low, self.mid, self.high)
        return PaperCurve(*([column[index] for index in inside] for column in columns))


@functools.cache
def _panels() -> dict[tuple[int, str], dict[str, PaperCurve]]:
    """Return every curve by figure, panel and label."""
    path = paths.paper_curves()
    found: dict[tuple[int, str], dict[str, PaperCurve]] = {}
    try:
        rows = list(csv.reader((files.read_text(path) or "").splitlines()))
        if not rows or rows[0] != COLUMNS:
            raise ValueError(f"columns {rows[:1]}")
        for figure, panel, label, *numbers in rows[1:]:
            curve = found.setdefault((int(figure), panel), {}).setdefault(label, PaperCurve())
            columns = (curve.epochs, curve.low, curve.mid, curve.high)
            for column, number in zip(columns, numbers, strict=True):
                column.append(float(number))
    except ValueError as error:
        raise LbpError(f"{path} is damaged ({error}): restore it") from error
    return found


def curves(figure: int, panel: str = "") -> dict[str, PaperCurve]:
    """Return the curves of a figure's panel by their labels, such as "tanh, linear".

    Raises:
        LbpError: If the file is missing or damaged, or has no such panel.
    """
    panels = _panels()
    if (figure, panel) not in panels:
        names = ", ".join(f"{f} {p!r}" for f, p in sorted(panels))
        raise LbpError(f"no panel {panel!r} of figure {figure}: choose from {names}")
    return panels[figure, panel]


def long_curves() -> dict[str, PaperCurve]:
    """Return the curves of Figures 2 and 3, of which no two are of one activation and rule."""
    return curves(2) | curves(3, "left") | curves(3, "right")


SHOWN_RATES = (1e-4, 1e-5)  # the learning rates of Figure 4's two panels


def sweep_curve(lr: float, l2: float, rule: str) -> PaperCurve:
    """Return the curve of Figure 4 that stands for a learning rate, a weight decay and a rule.

    The figure's curves part with time: where several weight decays lie on each other, the digitised
    curve is called "all l2".

    Raises:
        LbpError: If the paper's figure has no such curve.
    """
    panel = _sweep_panel(lr)
    ours = "l2 0.1" if l2 == 0.1 else "l2 <= 0.01"
    parts = [panel[name] for part in ("all l2", ours) if (name := f"tanh, {rule}, {part}") in panel]
    if not parts:
        raise LbpError(f"Figure 4 has no curve of the rule {rule!r}: choose from bp, linear")
    # Where the parts overlap, the one that tells the weight decays apart counts.
    points = {
        epoch: bounds
        for part in parts
        for epoch, *bounds in zip(part.epochs, part.low, part.mid, part.high, strict=True)
    }
    epochs = sorted(points)
    low, mid, high = (list(values) for values in zip(*(points[e] for e in epochs), strict=True))
    return PaperCurve(epochs, low, mid, high)


def sweep_parts(lr: float, l2: float, rule: str) -> tuple[PaperCurve, PaperCurve | None]:
    """Return `sweep_curve` in two: as far as it is that of every weight decay, and from there on.

    The second is None where the figure tells no weight decays apart.
    """
    panel = _sweep_panel(lr)
    whole = sweep_curve(lr, l2, rule)
    apart = [
        curve.epochs[0] for name, curve in panel.items() if name.startswith(f"tanh, {rule}, l2")
    ]
    if not apart:
        return whole, None
    shared = max(epoch for epoch in whole.epochs if epoch < min(apart))
    return whole.between(0, shared), whole.between(shared, math.inf)


def _sweep_panel(lr: float) -> dict[str, PaperCurve]:
    check_choice("learning rate of Figure 4", lr, SHOWN_RATES)
    return curves(4, f"lr {'1e-4' if lr == 1e-4 else '1e-5'}")
