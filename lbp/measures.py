"""Numbers drawn from records, by which the paper's claims about CIFAR-10 are judged."""

import numpy as np

from lbp.record import Record
from lbp.reproduce import Results


def final_accuracy(record: Record) -> float:
    """Return the test accuracy in percent, averaged over the last tenth of the epochs."""
    accuracy = record.test_accuracy
    return float(np.mean(accuracy[-max(1, len(accuracy) // 10) :]))


def epoch_to_epoch_sd(record: Record) -> float:
    """Return the standard deviation of test accuracy from epoch to epoch, in points.

    Over the last half of the run; half the mean squared difference of neighbours, so that a slow
    rise does not count as variance.
    """
    accuracy = np.array(record.test_accuracy)
    steps = np.diff(accuracy[len(accuracy) // 2 :])
    return float(np.sqrt(np.mean(steps**2) / 2))


# The steps before which the paper's own curves of Figure 2 have Backprop ahead, about 30 epochs.
EARLY_STEPS = 12_500


def early_accuracy(record: Record) -> float:
    """Return the test accuracy in percent, averaged over the epochs of the first 12,500 steps."""
    epochs = max(1, EARLY_STEPS // record.config.steps_per_epoch)
    return float(np.mean(record.test_accuracy[:epochs]))


def fig2(results: Results) -> dict[str, float]:
    """Return Figure 2's numbers, or none of them while a run is missing, stale or diverged.

    - early_lead: bp minus linear over the first 12,500 steps, in points;
    - bp_final, linear_final: test accuracy in percent at the end;
    - final_gap: linear minus bp, in points;
    - bp_sd, linear_sd: standard deviation from epoch to epoch, in points;
    - sd_ratio: bp's over linear's.
    """
    if not results.complete or results.stale:
        return {}
    bp, linear = results.records["tanh, bp"], results.records["tanh, linear"]
    if "diverged" in (bp.outcome, linear.outcome):
        return {}
    return {
        "early_lead": early_accuracy(bp) - early_accuracy(linear),
        "bp_final": final_accuracy(bp),
        "linear_final": final_accuracy(linear),
        "final_gap": final_accuracy(linear) - final_accuracy(bp),
        "bp_sd": epoch_to_epoch_sd(bp),
        "linear_sd": epoch_to_epoch_sd(linear),
        "sd_ratio": epoch_to_epoch_sd(bp) / epoch_to_epoch_sd(linear),
    }
