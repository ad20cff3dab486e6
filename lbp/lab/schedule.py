"""Learning rate and momentum over the epochs of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp


@dataclass(frozen=True)
class Schedule:
    """How learning rate and momentum change, whatever their values.

    Attributes:
        factors: By the number of epochs after which it begins to hold, the factor of the learning
            rate.
        momentum: In the first epoch; it approaches the run's own.
        momentum_epochs: After so many epochs, all but 1/e of the way is done; 0: at once.
    """

    factors: Mapping[int, float]
    momentum: float = 0.0
    momentum_epochs: float = 0.0


# Those of Agostinelli et al. (2014), from the solver files of their code, where an epoch has 500
# steps (github.com/ForestAgostinelli/Learned-Activation-Functions-Source). There the momentum
# changes with each step, here with each epoch.
SCHEDULES = {
    "constant": Schedule({}),
    "apl-cifar10": Schedule({120: 1e-1, 160: 1e-2, 170: 1e-3}, 0.5, 20),
    "apl-cifar100": Schedule({160: 0.5, 200: 0.1, 240: 0.01}, 0.5, 20),
    "apl-nin": Schedule({400: 0.2, 600: 0.02, 620: 0.002, 640: 0.0002}, 0.1, 20),
}


def lr_in(epoch: int, lr: float, lr_drop: int, schedule: str) -> float:
    """Return the learning rate in an epoch, which counts from 1.

    Args:
        epoch: The epoch.
        lr: The run's learning rate.
        lr_drop: After every so many epochs it falls to a tenth; 0: it does not.
        schedule: A name in `SCHEDULES`.
    """
    dropped = lr * 0.1 ** ((epoch - 1) // lr_drop) if lr_drop else lr
    reached = [f for after, f in SCHEDULES[schedule].factors.items() if epoch > after]
    return dropped * reached[-1] if reached else dropped


def momentum_in(epoch: int, momentum: float, schedule: str) -> float:
    """Return the momentum in an epoch, which counts from 1.

    Args:
        epoch: The epoch.
        momentum: The run's momentum.
        schedule: A name in `SCHEDULES`.
    """
    chosen = SCHEDULES[schedule]
    if not (chosen.momentum_epochs and momentum):  # without momentum there is none to change
        return momentum
    return momentum - (momentum - chosen.momentum) * exp(-(epoch - 1) / chosen.momentum_epochs)
