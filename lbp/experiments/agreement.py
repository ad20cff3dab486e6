"""Whether a rerun agrees with this book's record of the same run, within a stated tolerance.

Two devices round differently. At first only last digits differ, but training amplifies that: after
some hundred steps these are two different runs. They still share the initialisation and the order
of the images, so they differ no more than two seeds do, which share neither. The distance between
two seeds is therefore the scale, and the tolerance is `FACTOR` times that. Rounding hardly explains
a larger distance: someone should look for other code, other data or an edited record.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lbp.experiments.numbers import FEWEST_SEEDS, accuracies, common_epochs, last_tenth
from lbp.lab.config import TEST_IMAGES
from lbp.lab.record import Record

# A distance is a random number, too. If a rerun differs as much as another seed would, its chance
# to be further away than three times the mean distance of three seeds is 9 % where all differences
# are constant offsets, and below 1 % where they change their sign a few times during training.
FACTOR = 3
# In points of test accuracy, where there are fewer seeds than `FEWEST_SEEDS`.
SEED_DISTANCE = 2.0
SEED_DISTANCES = (
    "In short trial runs of the narrow network (4 or 10 epochs on 10,000 images, 24 pairs), two "
    "seeds were 0.8 to 5.4 points apart, half of the pairs less than 2.2."
)


def standard_error(test_images: int) -> float:
    """Return the standard error of an accuracy of 50 % on so many images, in points."""
    return 50 / math.sqrt(test_images)


STATEMENT = (
    "A rerun agrees if its distance to this book's record is at most "
    f"{FACTOR} times the distance between two seeds of the run, averaged over the pairs of the "
    f"recorded seeds. With fewer than {FEWEST_SEEDS} recorded seeds, {SEED_DISTANCE:g} points "
    "stand for the distance between two seeds. It never counts as less than the standard error of "
    f"an accuracy: {standard_error(TEST_IMAGES):g} points with {TEST_IMAGES:,} test images. "
    f"{SEED_DISTANCES}"
)


@dataclass(frozen=True)
class Agreement:
    """How far two records of one run are apart.

    Attributes:
        epochs: How many of the first epochs were compared: those that both have.
        distance: In points of test accuracy, see `distance`.
        tolerance: Up to which distance they agree.
        seeds: How many seeds the tolerance comes from; 0 if it is the default.
    """

    epochs: int
    distance: float
    tolerance: float
    seeds: int

    @property
    def holds(self) -> bool:
        """Whether the records agree."""
        return self.distance <= self.tolerance


def distance(first: Record, second: Record, epochs: int) -> float:
    """Return how far the test accuracies of two records are apart over the first epochs, in points.

    That is the mean absolute difference over all these epochs or over the last tenth of them, from
    which the book takes final accuracies, whichever is larger.
    """
    apart = np.abs(accuracies(first, epochs) - accuracies(second, epochs))
    start, last = last_tenth(epochs)
    return float(max(apart.mean(), apart[start - 1 : last].mean()))


def compare(rerun: Record, record: Record, seeds: Iterable[Record]) -> Agreement:
    """Compare a rerun with this book's record.

    Args:
        rerun: The rerun.
        record: The book's record of the same run.
        seeds: All of the book's records of the run, with any seed.
    """
    epochs = common_epochs((rerun, record))
    long_enough = [one for one in seeds if one.reaches(epochs)]
    scale, used = _scale(long_enough, epochs)
    tolerance = FACTOR * max(scale, standard_error(rerun.config.test_images))
    return Agreement(epochs, distance(rerun, record, epochs), tolerance, used)


def _scale(seeds: Sequence[Record], epochs: int) -> tuple[float, int]:
    """Return the mean distance between two seeds, and from how many it is; see `SEED_DISTANCE`."""
    if len(seeds) < FEWEST_SEEDS:
        return SEED_DISTANCE, 0
    pairs = itertools.combinations(seeds, 2)
    return float(np.mean([distance(a, b, epochs) for a, b in pairs])), len(seeds)
