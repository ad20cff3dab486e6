"""The benchmark "figure1": Figure 1's networks as one batch, and one by one."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lbp.lab.small_networks import (
    Batch,
    Optimisation,
    Problem,
    cubic_problem,
    initial_parameters,
    network,
    train,
)

NETWORKS = 50
RULES = ("bp", "linear")
ACTIVATION = "relu"


@dataclass(frozen=True)
class Run:
    """One timed training: seconds, and each network's steps and whether it converged."""

    seconds: float
    steps: np.ndarray
    converged: np.ndarray


@contextmanager
def one_thread() -> Iterator[None]:
    """Give PyTorch one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def figure1() -> None:
    """Time Figure 1's ReLU networks: a loop of single networks against batches, to MSE 1e-6.

    In float32, which is PyTorch's default, and in float64, which the book uses. PyTorch has one
    thread: with more, the loop is no faster on an idle machine, and far slower where another
    program wants the cores, which would pass for a gain of the batch.
    """
    problem, optimisation = cubic_problem(), Optimisation()
    print(
        f"Figure 1: {NETWORKS} initialisations a rule, ReLU, Adam, each to MSE 1e-6, "
        "1 PyTorch thread"
    )
    print("dtype    rules            loop   batched  ratio  same convergence, same steps")
    for dtype in (torch.float32, torch.float64):
        start = initial_parameters(NETWORKS).to(dtype)
        for rule in RULES:  # first calls import and allocate
            _batched(problem, start, [rule], Optimisation(max_steps=5))
            _loop(problem, start[:1], rule, Optimisation(max_steps=5))
        loops = [_loop(problem, start, rule, optimisation) for rule in RULES]
        both = Run(
            sum(loop.seconds for loop in loops),
            np.concatenate([loop.steps for loop in loops]),
            np.concatenate([loop.converged for loop in loops]),
        )
        for rule, loop in zip(RULES, loops, strict=True):
            _compare(dtype, [rule], loop, _batched(problem, start, [rule], optimisation))
        _compare(dtype, RULES, both, _batched(problem, start, RULES, optimisation))


def train_alone(model: nn.Module, problem: Problem, optimisation: Optimisation) -> tuple[int, bool]:
    """Train one network with Adam as a reader would write it; return steps and convergence."""
    dtype = next(model.parameters()).dtype
    x, y = problem.x.to(dtype).view(-1, 1), problem.y.to(dtype).view(-1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=optimisation.lr)
    for step in range(optimisation.max_steps + 1):
        loss = nn.functional.mse_loss(model(x), y)
        if loss.item() <= optimisation.tolerance:
            return step, True
        if step < optimisation.max_steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return optimisation.max_steps, False


def _loop(problem: Problem, start: Tensor, rule: str, optimisation: Optimisation) -> Run:
    begin = time.perf_counter()
    ends = [
        train_alone(network(row, ACTIVATION, rule), problem, optimisation)
        for row in tqdm(start, desc=f"loop, {rule}", leave=False, disable=None)
    ]
    seconds = time.perf_counter() - begin
    steps, converged = zip(*ends, strict=True)
    return Run(seconds, np.array(steps), np.array(converged))


def _batched(
    problem: Problem, start: Tensor, rules: Sequence[str], optimisation: Optimisation
) -> Run:
    batches = [Batch(start, ACTIVATION, rule, optimisation) for rule in rules]
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        trained = train(problem, batches)
        seconds.append(time.perf_counter() - begin)
    return Run(
        float(np.median(seconds)),
        np.concatenate([networks.steps for networks in trained]),
        np.concatenate([networks.converged for networks in trained]),
    )


def _compare(dtype: torch.dtype, rules: Sequence[str], loop: Run, batched: Run) -> None:
    print(
        f"{str(dtype).removeprefix('torch.'):<9}{' and '.join(rules):<14}"
        f"{loop.seconds:>6.1f} s{batched.seconds:>8.2f} s{loop.seconds / batched.seconds:>6.1f}x"
        f"  {(loop.converged == batched.converged).sum()}/{len(loop.steps)},"
        f" {(loop.steps == batched.steps).sum()}/{len(loop.steps)}"
    )
