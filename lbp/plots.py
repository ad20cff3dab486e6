"""Figures: each function takes plain data and returns a matplotlib figure."""

import seaborn as sns

# Okabe and Ito's palette: colours that colour-blind readers can tell apart. Every figure gives a
# rule the same colour.
COLOURS = {"bp": "#D55E00", "linear": "#0072B2", "as-printed": "#009E73"}
LABELS = {"bp": "Backprop", "linear": "Linear Backprop", "as-printed": "as printed"}
PAPER_GREY = "#6e6e6e"


def use_style() -> None:
    """Set the book's style: white, light grid, readable on a phone."""
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
