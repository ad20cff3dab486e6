"""How the book's figures look: one colour, line and mark for each rule, readable on a phone."""

from matplotlib.colors import to_rgb

# Okabe and Ito's palette, whose colours colour-blind readers can tell apart.
COLOURS = {"bp": "#D55E00", "linear": "#0072B2", "as-printed": "#009E73"}
LABELS = {"bp": "Backprop", "linear": "Linear Backprop", "as-printed": "as printed"}
# For those who do not see the colours. Dashed is the paper, in every figure, and solid this book.
MARKERS = {"bp": "o", "linear": "^", "as-printed": "s"}


def use_style() -> None:
    """Set the book's style: white, with a light grid."""
    import seaborn as sns  # imported here: a machine that only trains can do without it

    sns.set_theme(
        context="notebook",
        style="whitegrid",
        rc={
            "figure.dpi": 100,
            "savefig.dpi": 144,
            "axes.titlesize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        },
    )


def shade(colour: str, strength: float) -> tuple[float, float, float]:
    """Return a colour mixed with white: 1 leaves it, values near 0 make it light."""
    strength = 0.25 + 0.75 * strength
    r, g, b = (1 - strength * (1 - channel) for channel in to_rgb(colour))
    return r, g, b
