"""Which runs each figure needs, at which scale."""

from dataclasses import replace

from lbp.config import RunConfig
from lbp.errors import check_choice

# A scale is a set of runs; a profile says which scales a notebook or command works with.
SCALES = ("smoke", "cpu", "paper")
PROFILES = ("recorded", *SCALES)

SCALE_NOTES = {
    "smoke": "a test on generated stand-in images, not CIFAR-10: it shows nothing about the paper",
    "cpu": "reduced scale: a narrower network, fewer images and fewer epochs than in the paper",
    "paper": "full scale, as in the paper",
}

# Figure 2 names neither the learning rate nor the weight decay; each rule has its best. Backprop's
# curve is far above its Figure 4 curves, which leaves 1e-3 of the paper's grid; Linear Backprop's
# fits the best curve of Figure 4, 1e-4 with 0.1.
_FIG2_PAPER = {
    "tanh, bp": RunConfig(activation="tanh", rule="bp", lr=1e-3, l2=0.1, epochs=1000),
    "tanh, linear": RunConfig(activation="tanh", rule="linear", lr=1e-4, l2=0.1, epochs=1000),
}


def runs(figure: str, scale: str) -> dict[str, RunConfig]:
    """Return a figure's runs at a scale, by their labels.

    Raises:
        LbpError: If the figure or the scale is unknown.
    """
    check_choice("figure", figure, FIGURES)
    check_choice("scale", scale, SCALES)
    return FIGURES[figure][scale]


def scales(profile: str) -> tuple[str, ...]:
    """Return the scales of a profile: the profile's own; for "recorded" paper, then cpu.

    Raises:
        LbpError: If the profile is unknown.
    """
    check_choice("profile", profile, PROFILES)
    return ("paper", "cpu") if profile == "recorded" else (profile,)


FIGURES: dict[str, dict[str, dict[str, RunConfig]]] = {
    "fig2": {
        "paper": _FIG2_PAPER,
        "cpu": {
            label: replace(
                run, width=1 / 8, train_images=20_000, test_images=4_000, epochs=20, batch=32
            )
            for label, run in _FIG2_PAPER.items()
        },
        "smoke": {
            label: replace(
                run, width=1 / 16, dataset="stand-in", train_images=600, test_images=200, epochs=3
            )
            for label, run in _FIG2_PAPER.items()
        },
    },
}
