"""The scales at which the book trains: what each changes of the paper's run, and its words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lbp.errors import check_choice
from lbp.lab.config import RunConfig
from lbp.lab.run import Goal

# What the runs of all figures change of the defaults of `RunConfig`: the training recipe that
# comes nearest to the paper's curves (see the experiment "recipe"). It is PyTorch's default of the
# time.
RECIPE: dict[str, Any] = {"batch_norm_scale": "uniform"}


@dataclass(frozen=True)
class Scale:
    """A scale.

    Attributes:
        name: How the command line and the notebooks call it.
        where: How a sentence or a verdict calls it.
        title: How a figure's title calls it.
        note: What it changes, for the pages that show it.
        changes: The fields that it changes of the paper's run.
        most_epochs: To which length it cuts runs.
    """

    name: str
    where: str
    title: str
    note: str
    changes: Mapping[str, Any]
    most_epochs: int

    def goal(self, epochs: int, recipe: Mapping[str, Any] = RECIPE, **fields: Any) -> Goal:
        """Return a run at this scale and its length.

        Args:
            epochs: The length of the paper's run.
            recipe: What the training recipe changes of the defaults.
            fields: Further fields of the run, which override both.
        """
        config = RunConfig(**{**recipe, **self.changes, **fields})
        return Goal(config, min(epochs, self.most_epochs))


PAPER = Scale(
    "paper",
    where="at full scale",
    title="full scale",
    note="Full scale: the paper's network on all of CIFAR-10.",
    changes={},
    most_epochs=1000,
)
NARROW = Scale(
    "narrow",
    where="in a narrow network",
    title="narrow network",
    note=(
        "Narrow network: every layer has an eighth of the paper's channels, and a run at most 100 "
        "epochs. The rest is as at full scale: all of CIFAR-10, in batches of 128."
    ),
    changes={"width": 1 / 8},
    most_epochs=100,
)
SMOKE = Scale(
    "smoke",
    where="in a test on generated images",
    title="test on generated images, NOT CIFAR-10",
    note="A test on generated images, not CIFAR-10: it says nothing about the paper.",
    changes={
        "width": 1 / 32,
        "dataset": "stand-in",
        "train_images": 100,
        "test_images": 60,
        "batch": 50,
    },
    most_epochs=2,
)
SCALES = {scale.name: scale for scale in (PAPER, NARROW, SMOKE)}

# A profile says which scales a notebook or a command works with, and whether it trains.
PROFILES = ("recorded", "smoke", "narrow", "paper")


def of_profile(profile: str) -> tuple[Scale, ...]:
    """Return the scales of a profile: the profile's own; for "recorded" paper, then narrow.

    Raises:
        LbpError: If the profile is unknown.
    """
    check_choice("profile", profile, PROFILES)
    return (PAPER, NARROW) if profile == "recorded" else (SCALES[profile],)
