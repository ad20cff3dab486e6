"""How the book's figures look: one colour, line and mark for each rule, readable on a phone."""

from fractions import Fraction

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from lbp.lab.config import RunConfig, written

# Okabe and Ito's palette, whose colours colour-blind readers can tell apart.
COLOURS = {"bp": "#D55E00", "linear": "#0072B2", "as-printed": "#009E73"}
LABELS = {"bp": "Backprop", "linear": "Linear Backprop", "as-printed": "as printed"}
# For those who do not see the colours. Dashed is the paper, in every figure, and solid this book.
MARKERS = {"bp": "o", "linear": "^", "as-printed": "s"}


NETWORKS = {
    "vgg19": "VGG19",
    "resnet18": "ResNet-18",
    "binarized_resnet": "binarized ResNet",
    "cnn": "convolutional network",
    "nin": "network in network",
}
ACTIVATIONS = {"tanh": "tanh", "relu": "ReLU", "apl": "APL", "sigmoid": "sigmoid"}


def run_label(config: RunConfig) -> str:
    """Return how a page calls a run: what is usual for this book is left out."""
    other = config.differing().items() - {("width", config.width)}
    named = {"model", "activation", "rule", "lr", "l2", "seed"}
    parts = [
        NETWORKS[config.model],
        ACTIVATIONS.get(config.activation, config.activation),
        LABELS[config.rule],
        f"learning rate {written(config.lr)}",
        f"weight decay {written(config.l2)}",
        f"seed {config.seed}",
        *([f"width {Fraction(config.width)}"] if config.width != 1 else []),
        *sorted(f"{name.replace('_', ' ')} {value}" for name, value in other if name not in named),
    ]
    return ", ".join(parts)


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


def label_epochs(axes: Axes) -> None:
    """Let the horizontal axis count epochs, which are whole numbers."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def shade(colour: str, strength: float) -> tuple[float, float, float]:
    """Return a colour mixed with white: 1 leaves it, values near 0 make it light."""
    strength = 0.25 + 0.75 * strength
    r, g, b = (1 - strength * (1 - channel) for channel in to_rgb(colour))
    return r, g, b
