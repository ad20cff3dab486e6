"""Draw the pictures that no notebook shows: the method page's, the icon, and that of links."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lbp.experiments import rule_atlas
from lbp.experiments.style import COLOURS, use_style

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book" / "_static"
FIGURE = ROOT / "book" / "images" / "fig1.png"
# The same bytes each time.
SVG = {"svg.hashsalt": "lbp", "svg.fonttype": "none"}
NO_DATE = {"Date": None}


def icon() -> Figure:
    """Draw the forward pass, tanh, and the line that the backward pass makes of it."""
    z = np.linspace(-2.6, 2.6, 41)
    figure = Figure(figsize=(1.8, 1.8), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.plot([-1.4, 1.4], [-1.4, 1.4], color=COLOURS["linear"], lw=14, solid_capstyle="round")
    axes.plot(z, np.tanh(z), color=COLOURS["bp"], lw=14, solid_capstyle="round")
    axes.set(xlim=(-3, 3), ylim=(-1.7, 1.7))
    axes.axis("off")
    return figure


def share() -> Figure:
    """Put the book's title over its Figure 1."""
    picture = mpl.image.imread(FIGURE)
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    figure.text(0.04, 0.88, "Linear Backprop", fontsize=42, weight="bold", va="center")
    figure.text(0.04, 0.77, "A paper, reproduced by the code beside it", fontsize=24, va="center")
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.66))
    axes.imshow(picture, interpolation="lanczos")
    axes.axis("off")
    return figure


def draw(folder: Path) -> None:
    """Write the pictures into a folder."""
    with mpl.rc_context(SVG):
        icon().savefig(folder / "favicon.svg", transparent=True, metadata=NO_DATE)
    icon().savefig(folder / "favicon.png", transparent=True)
    share().savefig(folder / "share.png")
    use_style()
    rule_atlas.draw_passed().savefig(folder / "passed.png")


def main() -> None:
    """Draw the pictures anew: `python book/pictures.py`."""
    draw(STATIC)


if __name__ == "__main__":
    main()
