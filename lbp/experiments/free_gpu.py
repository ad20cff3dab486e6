"""How long the paper's runs take on the GPU that notebook services lend for nothing.

The times follow from the runs' arithmetic and from one assumption. Only full scale is estimated:
the steps of narrow networks are too short to keep a GPU busy.
"""

import math
from collections.abc import Sequence

from lbp.experiments import EXPERIMENTS
from lbp.experiments.scales import PAPER
from lbp.experiments.table import Table
from lbp.lab.config import RunConfig
from lbp.lab.models import training_flop
from lbp.lab.run import Goal

GPU = "NVIDIA T4"
PEAK = 8.1e12  # float32 operations a second, by its data sheet
SHARE = 0.3  # of the peak that training is assumed to reach
ASSUMPTION = f"an {GPU} reaches {SHARE * 100:.0f} % of its {PEAK / 1e12:.1f} TFLOP/s"
COLUMNS = [
    "experiment",
    "runs",
    "an epoch, in seconds",
    "the shortest run, in minutes",
    "the longest run, in minutes",
    "all runs, in hours",
]


def seconds(goals: Sequence[Goal]) -> float:
    """Return how long runs take from their first epoch to their last."""
    return sum(training_flop(g.config, g.epochs) for g in goals) / (PEAK * SHARE)


def table() -> Table:
    """Return the times of each experiment at full scale, rounded up."""
    rows = []
    for stem, experiment in EXPERIMENTS.items():
        goals = experiment.goals(PAPER)
        every = [seconds([goal]) for goal in goals]
        an_epoch = sum(every) / sum(goal.epochs for goal in goals)
        times = (an_epoch, min(every) / 60, max(every) / 60, sum(every) / 3600)
        rows.append([f"`{stem}`", str(len(goals)), *(str(math.ceil(time)) for time in times)])
    return Table(f"Computed from the runs' arithmetic, if {ASSUMPTION}.", COLUMNS, rows)


def advice(gpu: str) -> str:
    """Return one line on what can be trained here.

    Args:
        gpu: The name of this machine's GPU; "" if it has none.
    """
    if not gpu:
        return "No GPU: the notebooks draw from the recorded runs, and training is slow."
    epoch = math.ceil(seconds([Goal(RunConfig(), 1)]))
    return (
        f"{gpu}: an epoch of the paper's network takes {epoch} s if {ASSUMPTION}; "
        'profile = "paper" and minutes = 60 train for an hour.'
    )
