"""Choosing the best run of a grid, as the paper does and without looking at the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from lbp import experiments
from lbp.provenance import fingerprint
from lbp.record import Record
from lbp.store import Store


def final_accuracy(record: Record, errors: str = "test_error") -> float:
    """Return an accuracy in percent, averaged over the last tenth of the epochs.

    Of a diverged run, that of its last epoch, at which the network guesses.

    Args:
        record: The run.
        errors: The column of `lbp.record.Epoch` with the errors; by default the whole test set.
    """
    accuracy = 100 - np.array(record.curve(errors))
    last = 1 if record.outcome == "diverged" else max(1, len(accuracy) // 10)
    return float(accuracy[-last:].mean())


@dataclass(frozen=True)
class Choice:
    """The best of some runs, chosen twice; accuracies in percent by `final_accuracy`.

    The paper chooses the learning rate and weight decay on the test set on which it then reports,
    so that chance helps the choice. The honest choice is made on one half of the test set and
    judged on the other.
    """

    on_test: Record  # the best on the whole test set
    reported: float  # its accuracy there
    on_halves: tuple[Record, Record]  # the best on half 0 and on half 1
    judged: float  # the mean of the accuracies of each on the other half

    @property
    def leak(self) -> float:
        """What the choice on the test set is worth, in points."""
        return self.reported - self.judged


def choose(records: Sequence[Record]) -> Choice:
    """Choose the best of `records`, of which there must be one at least, twice."""
    halves = ("test_error_half_0", "test_error_half_1")
    on_test = max(records, key=final_accuracy)
    first, second = (max(records, key=partial(final_accuracy, errors=half)) for half in halves)
    judged = (final_accuracy(first, halves[1]) + final_accuracy(second, halves[0])) / 2
    return Choice(on_test, final_accuracy(on_test), (first, second), judged)


def chosen_pairs(store: Store) -> experiments.Pairs:
    """Return the learning rate and weight decay of each activation and rule for the long runs.

    They are the best of the full-scale grid on the whole test set, as in the paper, where the store
    has all of that grid's runs; elsewhere `experiments.INFERRED_PAIRS`.
    """
    pairs = dict(experiments.INFERRED_PAIRS)
    for figure in ("fig4", "relu-grid"):
        configs = experiments.runs(figure, "paper").values()
        found = [record for config in configs if (record := store.get(config))]
        if any(record.provenance.fingerprint != fingerprint() for record in found):
            continue
        for name in pairs:
            of_name = [r for r in found if (r.config.activation, r.config.rule) == name]
            wanted = [c for c in configs if (c.activation, c.rule) == name]
            if wanted and len(of_name) == len(wanted):
                best = max(of_name, key=final_accuracy).config
                pairs[name] = (best.lr, best.l2)
    return pairs
