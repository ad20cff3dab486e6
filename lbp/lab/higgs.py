"""The task Higgs to tau tau of Agostinelli et al. (2014): events, network, significance.

Not yet run: needs the events, 80 million of them in the paper, and a GPU. What is here is tested on
generated events.
"""

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lbp.errors import LbpError
from lbp.lab.files import told
from lbp.lab.units.apl import APL
from lbp.linearization import linearize

FEATURES = 25
HIDDEN = 7  # layers of hidden units, so that there are eight layers of weights
UNITS = 274
SIGNAL, BACKGROUND = 100.0, 5_000.0  # expected events
UNCERTAINTY = 0.05  # of the number of background events, relative


@dataclass(frozen=True)
class Events:
    """Features, float32 [N, 25], and labels, float32 [N]: 1 for signal, 0 for background."""

    features: Tensor
    labels: Tensor


def load(path: Path) -> Events:
    """Read events from a file as the group of the paper publishes its data sets.

    That is text, usually packed by gzip, with an event on each line: the label, then the features,
    separated by commas. A first line of names may stand above. The format is that of the readme of
    its data set HEPMASS (mlphysics.ics.uci.edu); that it is this one's too is inferred.

    Raises:
        LbpError: If the file cannot be read, or a line is not an event.
    """
    with told(path, "cannot be read"):
        raw = path.read_bytes()
    try:
        text = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        lines = text.decode("utf-8").splitlines()
        if not any(map(str.strip, lines)):
            raise ValueError("it is empty")
        skipped = int(bool(lines) and not _is_number(lines[0].partition(",")[0]))
        rows = np.loadtxt(lines[skipped:], delimiter=",", dtype=np.float32, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise LbpError(f"{path} holds no events ({' '.join(str(error).split())})") from error
    if rows.shape[1] != 1 + FEATURES:
        raise LbpError(
            f"{path} has {rows.shape[1]} columns: {1 + FEATURES} are needed, label and features"
        )
    table = torch.from_numpy(rows)
    if not ((table[:, 0] == 0) | (table[:, 0] == 1)).all() or not table.isfinite().all():
        raise LbpError(f"{path} holds labels other than 0 and 1, or values that are not numbers")
    return Events(table[:, 1:].contiguous(), table[:, 0].contiguous())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def network(hinges: int = 2, rule: str = "bp") -> nn.Sequential:
    """Return the network: eight layers of weights, APL units, and one logit for each event.

    From experiments/higgsboson of the authors' code, github.com/ForestAgostinelli/Learned-
    Activation-Functions-Source: 274 units in each hidden layer, dropout after the last two,
    weights from N(0, 0.01), those of the last layer from N(0, 1e-6), S = 2. There learning rate is
    0.006, momentum 0.5, batches have 100 events, and only the hinges have weight decay, 0.001.

    Args:
        hinges: S of its units; 0 makes them ReLU.
        rule: As for `lbp.linearize`.
    """
    layers: list[nn.Module] = []
    inputs = FEATURES
    for number in range(1, HIDDEN + 1):
        layers += [nn.Linear(inputs, UNITS), APL((UNITS,), hinges)]
        if number >= HIDDEN - 1:
            layers.append(nn.Dropout(0.5 if number == HIDDEN else 0.25))
        inputs = UNITS
    layers += [nn.Linear(inputs, 1), nn.Flatten(0)]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.normal_(layer.weight, 0, 0.1 if layer is not linear[-1] else 0.001)
        nn.init.zeros_(layer.bias)
    model, _ = linearize(nn.Sequential(*layers), rule)
    return model


def significance(scores: Tensor, labels: Tensor, bins: int = 20) -> float:
    """Return the expected significance of a discovery, in standard deviations.

    For 100 signal and 5,000 background events, the latter known to 5 %: the profile likelihood
    ratio on the expected counts in bins of the score, with one nuisance parameter that scales the
    background (Cowan, Cranmer, Gross and Vitells 2011, arXiv 1007.1727). The paper says no more of
    its computation than these numbers; the bins, which hold the same background each, are inferred.

    Args:
        scores: Of the classifier, [N]; larger for signal.
        labels: 1 for signal, 0 for background, [N].
        bins: How many bins.

    Raises:
        LbpError: If there are no events of one kind, or fewer background events than bins.
    """
    signal, background = (scores[labels == kind].double().numpy() for kind in (1, 0))
    if not len(signal) or len(background) < bins:
        raise LbpError(
            f"{len(signal)} signal and {len(background)} background events: one and {bins} needed"
        )
    edges = np.quantile(background, np.linspace(0, 1, bins + 1)[1:-1])
    s, b = (
        number * np.bincount(np.searchsorted(edges, found, side="right"), minlength=bins)
        / len(found)
        for number, found in ((SIGNAL, signal), (BACKGROUND, background))
    )  # fmt: skip
    filled = b > 0  # scores that are all alike leave bins empty
    if s[~filled].any():
        raise LbpError("a bin has signal and no background: give more background events")
    return discovery(s[filled], b[filled])


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
