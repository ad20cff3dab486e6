"""What is timed together is timed in every order, and each time stands under its own action."""

import time

import numpy as np
import torch

from lbp.lab import timing

CPU = torch.device("cpu")


def test_a_time_is_at_least_what_the_action_takes():
    assert timing.seconds(lambda: time.sleep(0.02), CPU) >= 0.02


def test_actions_are_timed_in_every_order():
    calls = []
    actions = [lambda name=name: calls.append(name) for name in "abc"]
    times = timing.in_turn(CPU, actions, 8)
    rounds = ["".join(calls[k : k + 3]) for k in range(0, 24, 3)]
    assert sorted(rounds[:6]) == ["abc", "acb", "bac", "bca", "cab", "cba"]
    assert rounds[6:] == rounds[:2]
    assert times.shape == (8, 3)


def test_a_time_stands_under_its_own_action(monkeypatch):
    monkeypatch.setattr(timing, "seconds", lambda action, device: action())
    times = timing.in_turn(CPU, [lambda: 1.0, lambda: 2.0], 4)
    np.testing.assert_array_equal(times, [[1, 2]] * 4)
