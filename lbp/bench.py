"""Benchmarks: `make bench`.

Each function in `BENCHMARKS` prints its own lines. Both sides of a ratio are timed in the same run,
because two runs on a busy machine cannot be compared.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lbp.synthetic import (
    Problem,
    Recipe,
    cubic_problem,
    initial_parameters,
    network,
    train,
)

NETWORKS = 50


@dataclass(frozen=True)
class Run:
    """One timed training: seconds, and each network's steps and whether it converged."""

    seconds: float
    steps: np.ndarray
    converged: np.ndarray


def machine() -> str:
    """Return processor, threads and versions in one line."""
    return (
        f"{_processor()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def train_alone(model: nn.Module, problem: Problem, recipe: Recipe) -> tuple[int, bool]:
    """Train one network with Adam as a reader would write it; return steps and convergence."""
    dtype = next(model.parameters()).dtype
    x, y = problem.x.to(dtype).view(-1, 1), problem.y.to(dtype).view(-1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for step in range(recipe.max_steps):
        loss = nn.functional.mse_loss(model(x), y)
        if loss.item() <= recipe.tolerance:
            return step, True
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return recipe.max_steps, False


def _loop(problem: Problem, start: Tensor, rule: str, recipe: Recipe) -> Run:
    begin = time.perf_counter()
    ends = [
        train_alone(network(row, recipe.activation, rule), problem, recipe)
        for row in tqdm(start, desc=f"loop, {rule}", leave=False)
    ]
    seconds = time.perf_counter() - begin
    steps, converged = zip(*ends, strict=True)
    return Run(seconds, np.array(steps), np.array(converged))


def _batched(problem: Problem, start: Tensor, rules: Sequence[str], recipe: Recipe) -> Run:
    begin = time.perf_counter()
    trained = train(problem, start, rules, recipe)
    return Run(time.perf_counter() - begin, trained.steps, trained.converged)


def figure1() -> None:
    """Time Figure 1's networks: a loop of single networks against one batch, to MSE 1e-6."""
    problem, recipe = cubic_problem(), Recipe()
    start = initial_parameters(NETWORKS)
    print(f"Figure 1: {NETWORKS} initialisations a rule, Adam, {start.dtype}, each to MSE 1e-6")
    for rule in ("bp", "linear"):  # first calls import and allocate
        train(problem, start, [rule], Recipe(max_steps=5))
        train_alone(network(start[0], "relu", rule), problem, Recipe(max_steps=5))
    loops = {rule: _loop(problem, start, rule, recipe) for rule in ("bp", "linear")}
    both = Run(
        sum(run.seconds for run in loops.values()),
        *(np.concatenate([getattr(r, f) for r in loops.values()]) for f in ("steps", "converged")),
    )
    print(f"{'rules':<14}{'loop':>9}{'batched':>10}{'ratio':>8}  same steps, same convergence")
    for rules, loop in (
        (["bp"], loops["bp"]),
        (["linear"], loops["linear"]),
        (["bp", "linear"], both),
    ):
        batched = _batched(problem, start, rules, recipe)
        same = [np.mean(getattr(loop, f) == getattr(batched, f)) for f in ("steps", "converged")]
        print(
            f"{' and '.join(rules):<14}{loop.seconds:>7.2f} s{batched.seconds:>8.2f} s"
            f"{loop.seconds / batched.seconds:>7.1f}x  {same[0]:.0%}, {same[1]:.0%}"
        )


BENCHMARKS: dict[str, Callable[[], None]] = {"figure1": figure1}


def main() -> None:
    """Run every benchmark."""
    print(machine())
    for benchmark in BENCHMARKS.values():
        benchmark()


if __name__ == "__main__":
    main()
