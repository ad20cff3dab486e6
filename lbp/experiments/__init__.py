"""The book's experiments: one file for each, under the name of its notebook.

An experiment that trains runs on CIFAR-10 is a module with a title, the place in the paper, the
runs that it asks for at a scale (`goals`), and the numbers that it draws from them (`measures`).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from lbp.errors import require

require("lbp.experiments", "book", "matplotlib")

from lbp.experiments import (  # noqa: E402
    apl_units,
    fig2_vgg19_tanh,
    fig3_relu,
    fig4_sweep,
    larger_step,
    precision,
    premise,
    recipe,
    selection,
    table_binarized,
    width,
)
from lbp.experiments.grid import SEEDS, WEIGHT_DECAYS, grid_goals, long_goal  # noqa: E402
from lbp.experiments.numbers import Measures  # noqa: E402
from lbp.experiments.results import Results  # noqa: E402
from lbp.experiments.scales import Scale  # noqa: E402
from lbp.lab.run import Goal  # noqa: E402


class Experiment(Protocol):
    """What the module of an experiment with runs has.

    It may also have SCALES: by the name of a scale, its own in place of the book's.
    """

    TITLE: str
    PLACE: str  # in the paper
    QUESTION: str  # what its page asks

    def goals(self, scale: Scale) -> list[Goal]:
        """Return the runs that it asks for at a scale, in the order of their importance."""

    def measures(self, results: Results) -> Measures:
        """Return the numbers that claims are judged by; those without their runs are left out."""

    def answer(self, results: Results) -> str:
        """Say in some sentences what the runs of a scale show; "" where there is nothing to say."""


# Those with runs, the most important first.
EXPERIMENTS: Mapping[str, Experiment] = {
    "recipe": recipe,
    "fig4_sweep": fig4_sweep,
    "fig2_vgg19_tanh": fig2_vgg19_tanh,
    "fig3_relu": fig3_relu,
    "table_binarized": table_binarized,
    "larger_step": larger_step,
    "width": width,
    "selection": selection,
    "precision": precision,
    "apl_units": apl_units,
    "premise": premise,  # has no runs of its own
}


def scale_of(stem: str, scale: Scale) -> Scale:
    """Return the scale that an experiment has in place of one of the book's."""
    own: Mapping[str, Scale] = getattr(EXPERIMENTS[stem], "SCALES", {})
    return own.get(scale.name, scale)


def work_list(scale: Scale) -> list[Goal]:
    """Return the runs of all experiments in the order of their importance, step by step.

    A run can stand there more than once, each time with a longer goal: what decides most is trained
    first for as many epochs as it needs.
    """
    ordered = {"paper": _paper_first, "narrow": _narrow_first, "smoke": _none_first}
    first = ordered[scale.name](scale)
    return [*first, *(g for experiment in EXPERIMENTS.values() for g in experiment.goals(scale))]


def _paper_first(scale: Scale) -> Sequence[Goal]:
    """Return the beginning of the curves, which a processor can train too."""
    pairs = [*grid_goals(scale, "tanh", [1e-4], [1e-1]), *grid_goals(scale, "tanh", [1e-5], [1e-4])]
    high = [g for name in ("tanh", "relu") for g in grid_goals(scale, name, [1e-3], [1e-1])]
    return [
        *recipe.first_goals(scale),
        *(Goal(goal.config, 5) for goal in pairs),
        *(Goal(goal.config, 2) for goal in high),
    ]


def _narrow_first(scale: Scale) -> Sequence[Goal]:
    """Return the headline runs whole, then the pairs that decide the claims up to epoch 60."""
    names = [("tanh", "bp"), ("tanh", "linear"), ("relu", "bp"), ("relu", "linear")]
    pairs = [
        goal
        for lr, decays in ((1e-4, (1e-1, 1e-2)), (1e-5, (1e-1, 1e-4)), (1e-3, (1e-1, 1e-4)))
        for goal in grid_goals(scale, "tanh", [lr], decays)
    ]
    control = grid_goals(scale, "tanh", [1e-2], [1e-4])
    rest = [
        *(long_goal(scale, name, seed) for seed in SEEDS[1:] for name in names),
        *grid_goals(scale, "relu", [1e-4], WEIGHT_DECAYS),
    ]
    return [
        *(long_goal(scale, name, SEEDS[0]) for name in names),
        *(Goal(g.config, 60) for g in (*pairs, *control)),
        *width.goals(scale),
        *rest,
    ]


def _none_first(scale: Scale) -> Sequence[Goal]:
    return []
