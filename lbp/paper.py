"""The paper's own curves, digitised from its figures."""

from dataclasses import dataclass

import pandas as pd

from lbp.errors import LbpError
from lbp.paths import PAPER_CURVES

COLUMNS = ["figure", "panel", "curve", "epoch", "low", "mid", "high"]


@dataclass(frozen=True)
class PaperCurve:
    """A curve of the paper: test accuracy in percent; `low` to `high` is the band around `mid`."""

    epochs: list[float]
    low: list[float]
    mid: list[float]
    high: list[float]


def curves(figure: int, panel: str = "") -> dict[str, PaperCurve]:
    """Return the curves of a figure's panel by their labels, such as "tanh, linear".

    Raises:
        LbpError: If the file is damaged or has no such panel.
    """
    try:
        table = pd.read_csv(PAPER_CURVES, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise LbpError(f"{PAPER_CURVES} cannot be read ({error}): restore it") from error
    if list(table.columns) != COLUMNS:
        raise LbpError(f"{PAPER_CURVES} is damaged (columns {list(table.columns)}): restore it")
    chosen = table[(table["figure"] == figure) & (table["panel"] == panel)]
    if chosen.empty:
        panels = sorted(
            {f"{f} {p!r}" for f, p in zip(table["figure"], table["panel"], strict=True)}
        )
        raise LbpError(f"no panel {panel!r} of figure {figure}: choose from {', '.join(panels)}")
    return {
        str(label): PaperCurve(
            *(rows[name].astype(float).tolist() for name in ("epoch", "low", "mid", "high"))
        )
        for label, rows in chosen.groupby("curve", sort=False)
    }
