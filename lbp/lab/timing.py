"""Seconds by the clock, for actions that are to be compared on a machine whose speed drifts."""

import time
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes, with all the work that it gives a GPU.

    Earlier work still in the GPU's queue would be timed as well, so that is finished first.
    """
    _finish(device)
    start = time.perf_counter()
    action()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    device: torch.device, actions: Sequence[Callable[[], object]], rounds: int
) -> np.ndarray:
    """Time each action once a round, in another order each time until all orders have been used.

    An action finds in the caches what the one before it has left there.

    Returns:
        Seconds, [rounds, len(actions)].
    """
    orders = list(permutations(range(len(actions))))
    times = np.empty((rounds, len(actions)))
    for k in range(rounds):
        for place in orders[k % len(orders)]:
            times[k, place] = seconds(actions[place], device)
    return times
