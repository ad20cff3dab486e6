"""What the user sees while runs are trained."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from lbp.lab.models import training_flop
from lbp.lab.record import Epoch
from lbp.lab.run import Goal


@dataclass(frozen=True)
class Progress:
    """How far a run is: the share of its goal that is done, and its last epoch, if new."""

    goal: Goal
    share: float
    row: Epoch | None = None


class Board:
    """A bar over all runs on a terminal; elsewhere a line now and then. Both tell the time left.

    Runs count by their arithmetic.
    """

    SECONDS = 15.0  # between two lines

    def __init__(self, goals: Sequence[Goal]) -> None:
        self._flop = {goal: training_flop(goal.config, goal.epochs) for goal in goals}
        self._share = dict.fromkeys(self._flop, 0.0)
        self._total = sum(self._flop.values())
        self._start = self._last_line = time.monotonic()
        self._before: dict[Goal, float] = {}  # what was done before this call, by checkpoints
        self._bar = tqdm(
            total=self._total / 1e12,
            unit=" TFLOP",
            disable=sys.stderr is None or not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {elapsed} gone, {remaining} left{postfix}",
        )

    def show(self, progress: Progress) -> None:
        """Take in how far a run is."""
        goal = progress.goal
        self._share[goal] = progress.share
        self._before.setdefault(goal, progress.share)
        done = sum(self._flop[g] * share for g, share in self._share.items())
        text = ""
        if row := progress.row:
            of = f"epoch {row.epoch}/{goal.epochs}"
            text = f"{of}, loss {row.train_loss:.3f}, test {100 - row.test_error:.1f} %"
            self._bar.set_postfix_str(f"{goal.config}: {text}", refresh=False)
        before = sum(self._flop[g] * share for g, share in self._before.items())
        self._bar.n, self._bar.initial = done / 1e12, before / 1e12  # the rate is of the difference
        self._bar.refresh()
        row = progress.row
        last = row is not None and (progress.share == 1 or not math.isfinite(row.train_loss))
        now = time.monotonic()
        if self._bar.disable and text and (last or now - self._last_line > self.SECONDS):
            self._last_line = now
            rate = (done - before) / max(1e-9, now - self._start)
            left = tqdm.format_interval((self._total - done) / rate if rate > 0 else 0.0)
            finished = sum(share == 1 for share in self._share.values())
            runs = f"{finished} of {len(self._share)} runs, about {left} left"
            print(f"{goal.config}: {text} ({runs})", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._bar.close()
