"""The expected significance of a discovery, by which the task Higgs to tau tau is judged."""

import math

import numpy as np
from torch import Tensor

from lbp.errors import LbpError

SIGNAL, BACKGROUND = 100.0, 5_000.0  # expected events
UNCERTAINTY = 0.05  # of the number of background events, relative


def significance(scores: Tensor, labels: Tensor, bins: int = 20) -> float:
    """Return the expected significance of a discovery, in standard deviations.

    For 100 signal and 5,000 background events, the latter known to 5 %: the profile likelihood
    ratio on the expected counts in bins of the score, with one nuisance parameter that scales the
    background (Cowan, Cranmer, Gross and Vitells 2011, arXiv 1007.1727). The paper says no more of
    its computation than these numbers; the bins, which hold the same background each, are inferred.

    Args:
        scores: Of the classifier, [N]; larger for signal.
        labels: 1 for signal, 0 for background, [N].
        bins: How many bins, at most.

    Raises:
        LbpError: If there are no events of one kind, or fewer background events than bins.
    """
    signal, background = (scores[labels == kind].double().numpy() for kind in (1, 0))
    if not len(signal) or len(background) < bins:
        raise LbpError(
            f"{len(signal)} signal and {len(background)} background events: one and {bins} needed"
        )
    # Edges that are scores of background events leave no bin without one.
    edges = np.unique(np.quantile(background, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    edges = edges[edges > background.min()]
    s, b = (
        number * np.bincount(np.searchsorted(edges, found, side="right"), minlength=len(edges) + 1)
        / len(found)
        for number, found in ((SIGNAL, signal), (BACKGROUND, background))
    )  # fmt: skip
    return discovery(s, b)


def discovery(signal: np.ndarray, background: np.ndarray, relative: float = UNCERTAINTY) -> float:
    """Return the expected significance of a discovery from the expected counts in bins.

    Args:
        signal: Expected signal in each bin.
        background: Expected background, above zero in each bin.
        relative: The uncertainty of the background's scale, which all bins share.
    """
    n = signal + background
    # Without signal the likelihood is largest at the scale that solves
    # sum(n) / scale - sum(b) - (scale - 1) / relative² = 0.
    linear = background.sum() * relative**2 - 1
    scale = (-linear + math.sqrt(linear**2 + 4 * n.sum() * relative**2)) / 2
    expected = scale * background
    deviance = 2 * (n * np.log(n / expected) - n + expected).sum()
    return math.sqrt(max(0.0, deviance + ((scale - 1) / relative) ** 2))
