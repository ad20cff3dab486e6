"""Seconds by the clock, taken so that what is compared shares a noisy machine's luck."""

import time
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes, with all that it leaves a GPU to do, and nothing before."""
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
    """Time each action once a round, in every order in turn: what ran before leaves its traces.

    Returns:
        Seconds, [rounds, len(actions)].
    """
    orders = list(permutations(range(len(actions))))
    times = np.empty((rounds, len(actions)))
    for k in range(rounds):
        for place in orders[k % len(orders)]:
            times[k, place] = seconds(actions[place], device)
    return times
