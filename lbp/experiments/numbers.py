"""Numbers of records by which runs are compared with each other and with the paper.

Epochs that a run lacks because it diverged count as guessing. Epochs that have not been trained yet
do not count: runs are compared over the epochs that all of them have.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lbp.experiments import paper
from lbp.experiments.grid import RULES, WEIGHT_DECAYS
from lbp.experiments.paper import PaperCurve
from lbp.lab.config import RunConfig
from lbp.lab.record import Record


def guessing(config: RunConfig) -> float:
    """Return the test accuracy of guessing, in percent."""
    return 100 / config.classes


@dataclass(frozen=True)
class Measure:
    """A number, the epochs that it rests on, and of how many seeds it is the mean."""

    value: float
    first: int
    last: int
    seeds: int = 1


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval, whose ends are NaN where there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


Measures = dict[str, Measure]


def accuracies(record: Record, epochs: int) -> np.ndarray:
    """Return the test accuracy in percent after each of the first epochs, [epochs].

    A run that diverged counts as guessing from the epoch on in which it did.

    Raises:
        ValueError: If the run has not got that far.
    """
    found = np.full(epochs, guessing(record.config))
    there = record.test_accuracy[:-1] if record.diverged else record.test_accuracy
    if len(there) < epochs and not record.diverged:
        raise ValueError(f"{record.config} has {len(there)} epochs, not {epochs}")
    found[: len(there)] = there[:epochs]
    return found


def common_epochs(records: Iterable[Record]) -> int:
    """Return how many epochs all records have; those that diverged have as many as the others."""
    records = list(records)
    going = [len(record) for record in records if not record.diverged]
    return min(going) if going else max(map(len, records), default=0)


# From so many epochs on, a run of the grid can be compared with others at its end.
ENOUGH = 60


def long_enough(
    records: Iterable[Record], comparable: Callable[[list[Record]], bool] = bool
) -> list[Record]:
    """Return the runs to compare at their end: those of 60 epochs or more, or all runs.

    Without this, a run that has just begun would cut the comparison of all others.

    Args:
        records: The runs.
        comparable: Whether the long runs alone make the comparison; if not, it is made with all
            runs, over the epochs that they have. By default one long run is enough.
    """
    records = list(records)
    enough = [record for record in records if record.reaches(ENOUGH)]
    long = any(len(record) >= ENOUGH for record in enough)
    return enough if long and comparable(enough) else records


# With fewer epochs than this, an answer says nothing of how runs end.
FEWEST_EPOCHS = 10


def at_end(found: Measures, name: str) -> Measure | None:
    """Return a measure of how runs end, or None where there is none of `FEWEST_EPOCHS` or more."""
    measure = found.get(name)
    return measure if measure and measure.last >= FEWEST_EPOCHS else None


def mean_accuracy(record: Record, first: int, last: int) -> float:
    """Return the test accuracy in percent, averaged over epochs `first` to `last`."""
    return float(accuracies(record, last)[first - 1 :].mean())


def last_tenth(epochs: int) -> tuple[int, int]:
    """Return the first and the last epoch of the last tenth of a run, which has one at least."""
    return epochs - max(1, epochs // 10) + 1, epochs


def final_accuracy(record: Record, epochs: int | None = None, errors: str = "test_error") -> float:
    """Return an accuracy in percent, averaged over the last tenth of a run.

    Args:
        record: The run.
        epochs: Where the run ends; by default with its last epoch. A diverged run ends as guessing.
        errors: The column of `lbp.lab.record.Epoch` with the errors; by default the whole test set.
    """
    first, last = last_tenth(epochs or len(record))
    if record.diverged and len(record) <= last:
        return guessing(record.config)
    return float(np.mean([100 - getattr(row, errors) for row in record.epochs[first - 1 : last]]))


def epoch_to_epoch_sd(record: Record, epochs: int) -> float:
    """Return the standard deviation of test accuracy from epoch to epoch, in points.

    Over the last half of the epochs; half the mean squared difference of neighbours, so that a slow
    rise does not count as variance. NaN for a run that diverged in these epochs, and for fewer than
    four.
    """
    if epochs < 4 or (record.diverged and len(record) <= epochs):
        return math.nan
    steps = np.diff(accuracies(record, epochs)[epochs // 2 :])
    return float(np.sqrt(np.mean(steps**2) / 2))


def distance(record: Record, curve: PaperCurve, shift: int = 0, epochs: int | None = None) -> float:
    """Return the mean absolute distance to a curve of the paper, in points of test accuracy.

    Taken at the epochs at which the curve was digitised, as far as the run goes; NaN if it ends
    before the first of them.

    Args:
        record: The run.
        curve: The curve.
        shift: The paper's epoch e is this book's e + shift: 1 if the paper counts from 0.
        epochs: Where the run ends; by default with its last epoch, or with the curve if it
            diverged.
    """
    end = max(map(int, curve.epochs)) + shift if record.diverged else len(record)
    reach = end if epochs is None else min(end, epochs)
    accuracy = accuracies(record, reach)
    points = [
        abs(accuracy[int(epoch) + shift - 1] - mid)
        for epoch, mid in zip(curve.epochs, curve.mid, strict=True)
        if 1 <= epoch + shift <= reach
    ]
    return float(np.mean(points)) if points else math.nan


def long_distance(record: Record, epochs: int) -> float:
    """Return a long run's distance to its curve in Figure 2 or 3 over some epochs, in points."""
    config = record.config
    curve = paper.long_curves()[f"{config.activation}, {config.rule}"]
    return distance(record, curve, epochs=epochs)


def sweep_distance(record: Record, epochs: int) -> float:
    """Return a run's distance to its curve in Figure 4 over some epochs, in points."""
    config = record.config
    return distance(record, paper.sweep_curve(config.lr, config.l2, config.rule), epochs=epochs)


def by_key(records: Iterable[Record]) -> dict[tuple[float, float, str], Record]:
    """Return the runs of a grid by learning rate, weight decay and rule."""
    return {(r.config.lr, r.config.l2, r.config.rule): r for r in records}


def shared_pairs(runs: Mapping[tuple[float, float, str], Record]) -> list[tuple[float, float]]:
    """Return the learning rates and weight decays that both rules have, of runs `by_key`."""
    pairs = dict.fromkeys((lr, l2) for lr, l2, _ in runs)
    return [pair for pair in pairs if all((*pair, rule) in runs for rule in RULES)]


def several(records: Sequence[Record]) -> bool:
    """Whether there is a run to compare another one with."""
    return len(records) > 1


def compares_decays(records: Iterable[Record]) -> bool:
    """Whether runs have the grid's largest weight decay and a smaller one to compare it with."""
    decays = {record.config.l2 for record in records}
    return max(WEIGHT_DECAYS) in decays and len(decays) > 1


# --- of several seeds

FEWEST_SEEDS = 3  # two seeds have a single distance, which can be small by chance


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % confidence interval, from Student's t distribution."""

    mean: float
    half: float  # half of the interval's width; NaN for a single seed
    seeds: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        if self.seeds == 1:
            return f"{self.mean:.2f} (one seed)"
        return f"{self.mean:.2f} ± {self.half:.2f} ({self.seeds} seeds)"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of one value or more, one for each seed, and its confidence interval."""
    from scipy.special import stdtrit  # imported here: a machine that only trains can do without

    n = len(values)
    if n == 1:
        return Interval(values[0], math.nan, 1)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(float(np.mean(values)), half, n)


Names = tuple[str, str]  # activation and rule


def by_name(records: Iterable[Record], names: Sequence[Names]) -> dict[Names, list[Record]]:
    """Return the records of each combination of activation and rule, of the seeds that all have.

    Of those the seeds that are `furthest`. Empty if there is no such seed.
    """
    found: dict[Names, dict[int, Record]] = {name: {} for name in names}
    for record in records:
        name = (record.config.activation, record.config.rule)
        if name in found:
            found[name][record.config.seed] = record
    seeds = furthest(found.values())
    if not seeds:
        return {}
    return {name: [of_name[seed] for seed in seeds] for name, of_name in found.items()}


def furthest(runs: Iterable[Mapping[int, Record]], least: int = 1) -> list[int]:
    """Return the seeds that all combinations have and that are furthest, in their order.

    Without this, a seed that has just begun would cut the comparison of the others.

    Args:
        runs: The records of each combination, by seed.
        least: How many seeds are needed; where the furthest are fewer, the next ones count as well.
    """
    runs = list(runs)
    seeds = set.intersection(*map(set, runs))
    reach = {seed: common_epochs(of_one[seed] for of_one in runs) for seed in seeds}
    far = sorted(reach.values(), reverse=True)[:least]
    return sorted(seed for seed in seeds if reach[seed] >= min(far))


def mean_of(records: Sequence[Record], measure: Callable[[Record], float]) -> float:
    """Return the mean of a measure over records."""
    return float(np.mean([measure(record) for record in records]))


def ratio(first: float, second: float) -> float:
    """Return a ratio, infinite where the second number is zero; NaN if one is NaN or both zero."""
    if second == 0 and not math.isnan(first) and first != 0:
        return math.inf
    return first / second if second else math.nan


def counted(epochs: int) -> str:
    """Return a number of epochs in words."""
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def first_epochs(epochs: int) -> str:
    """Return what a sentence calls the first so many epochs."""
    return "the first epoch" if epochs == 1 else f"the first {epochs} epochs"


def number(value: float | None, form: str = ".1f") -> str:
    """Return a number as text, "-" if there is none."""
    return "-" if value is None or math.isnan(value) else format(value, form)
