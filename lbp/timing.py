"""Seconds by the clock, taken so that what is compared shares a noisy machine's luck."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes, with all that it leaves a GPU to do."""
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def in_turn(
    device: torch.device, actions: Sequence[Callable[[], object]], rounds: int
) -> np.ndarray:
    """Time each action once a round; the first one of a round is the second one of the next.

    Returns:
        Seconds, [rounds, len(actions)].
    """
    times = np.empty((rounds, len(actions)))
    for k in range(rounds):
        for j in range(len(actions)):
            place = (j - k) % len(actions)
            times[k, place] = seconds(actions[place], device)
    return times
