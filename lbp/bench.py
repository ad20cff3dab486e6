"""Benchmarks: `make bench`, or `python -m lbp.bench NAME ...` for some of them.

Each function in `BENCHMARKS` prints its own lines. Both sides of a ratio are timed in the same run,
by the clock.
"""

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lbp.bench_training import training
from lbp.errors import LbpError, check_choice
from lbp.provenance import device_name
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
    """Return processor, GPU if there is one, and versions in one line."""
    kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    names = ", ".join(device_name(torch.device(kind)) for kind in kinds)
    return f"{names}, Python {platform.python_version()}, PyTorch {torch.__version__}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Give PyTorch one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_alone(model: nn.Module, problem: Problem, recipe: Recipe) -> tuple[int, bool]:
    """Train one network with Adam as a reader would write it; return steps and convergence."""
    dtype = next(model.parameters()).dtype
    x, y = problem.x.to(dtype).view(-1, 1), problem.y.to(dtype).view(-1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for step in range(recipe.max_steps + 1):
        loss = nn.functional.mse_loss(model(x), y)
        if loss.item() <= recipe.tolerance:
            return step, True
        if step < recipe.max_steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return recipe.max_steps, False


def _loop(problem: Problem, start: Tensor, rule: str, recipe: Recipe) -> Run:
    begin = time.perf_counter()
    ends = [
        train_alone(network(row, recipe.activation, rule), problem, recipe)
        for row in tqdm(start, desc=f"loop, {rule}", leave=False, disable=None)
    ]
    seconds = time.perf_counter() - begin
    steps, converged = zip(*ends, strict=True)
    return Run(seconds, np.array(steps), np.array(converged))


def _batched(problem: Problem, start: Tensor, rules: Sequence[str], recipe: Recipe) -> Run:
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        trained = train(problem, start, rules, recipe)
        seconds.append(time.perf_counter() - begin)
    return Run(float(np.median(seconds)), trained.steps, trained.converged)


@one_thread()
def figure1() -> None:
    """Time Figure 1's ReLU networks: a loop of single networks against one batch, to MSE 1e-6.

    In float32, which is PyTorch's default, and in float64, which the book uses. PyTorch has one
    thread: with more, the loop is no faster on an idle machine, and far slower where another
    program wants the cores, which would pass for a gain of the batch.
    """
    problem, recipe = cubic_problem(), Recipe()
    print(
        f"Figure 1: {NETWORKS} initialisations a rule, ReLU, Adam, each to MSE 1e-6, "
        "1 PyTorch thread"
    )
    print("dtype    rules            loop   batched  ratio  same convergence, same steps")
    for dtype in (torch.float32, torch.float64):
        start = initial_parameters(NETWORKS).to(dtype)
        for rule in ("bp", "linear"):  # first calls import and allocate
            _batched(problem, start, [rule], Recipe(max_steps=5))
            _loop(problem, start[:1], rule, Recipe(max_steps=5))
        loops = [_loop(problem, start, rule, recipe) for rule in ("bp", "linear")]
        both = Run(
            sum(loop.seconds for loop in loops),
            np.concatenate([loop.steps for loop in loops]),
            np.concatenate([loop.converged for loop in loops]),
        )
        for rules, loop in ((["bp"], loops[0]), (["linear"], loops[1]), (["bp", "linear"], both)):
            _compare(dtype, rules, loop, _batched(problem, start, rules, recipe))


def _compare(dtype: torch.dtype, rules: Sequence[str], loop: Run, batched: Run) -> None:
    print(
        f"{str(dtype).removeprefix('torch.'):<9}{' and '.join(rules):<14}"
        f"{loop.seconds:>6.1f} s{batched.seconds:>8.2f} s{loop.seconds / batched.seconds:>6.1f}x"
        f"  {(loop.converged == batched.converged).sum()}/{len(loop.steps)},"
        f" {(loop.steps == batched.steps).sum()}/{len(loop.steps)}"
    )


BENCHMARKS: dict[str, Callable[[], None]] = {"figure1": figure1, "training": training}


def main(names: Sequence[str]) -> int:
    """Run the benchmarks of these names, all of them for none; return 2 after a wrong input."""
    try:
        for name in names:
            check_choice("benchmark", name, BENCHMARKS)
        print(machine(), flush=True)
        for name in names or BENCHMARKS:
            BENCHMARKS[name]()
    except LbpError as error:
        print(f"lbp.bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
