"""Events of particle collisions, as the group of the paper publishes them."""

import gzip
import itertools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from lbp.errors import LbpError
from lbp.lab.files import told

FEATURES = 25


@dataclass(frozen=True)
class Events:
    """Features, float32 [N, 25], and labels, float32 [N]: 1 for signal, 0 for background."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of events N."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Events":
        """Return the events on a device."""
        return Events(self.features.to(device), self.labels.to(device))


def load(path: Path) -> Events:
    """Read events from a file as the group of the paper publishes its data sets.

    That is text, usually packed by gzip, with an event on each line: the label, then the features,
    separated by commas. A first line of names may stand above. The format is that of the readme of
    its data set HEPMASS (mlphysics.ics.uci.edu); that it is this one's too is inferred. The file is
    read line by line, and never held as text.

    Raises:
        LbpError: If the file cannot be read, or a line is not an event.
    """
    opened = _open(path)
    try:
        with opened as lines:
            filled = (line for line in lines if line.strip())
            first = next(filled, "")
            if not _is_number(first.partition(",")[0]):  # names
                first = next(filled, "")
            if not first:
                raise ValueError("it is empty")
            kept = itertools.chain([first], filled)
            rows = np.loadtxt(kept, delimiter=",", dtype=np.float32, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise LbpError(f"{path} holds no events ({' '.join(str(error).split())})") from error
    if rows.shape[1] != 1 + FEATURES:
        raise LbpError(
            f"{path} has {rows.shape[1]} columns: {1 + FEATURES} are needed, label and features"
        )
    table = torch.from_numpy(rows)
    if not ((table[:, 0] == 0) | (table[:, 0] == 1)).all() or not table.isfinite().all():
        raise LbpError(f"{path} holds labels other than 0 and 1, or values that are not numbers")
    return Events(table[:, 1:].contiguous(), table[:, 0].contiguous())


def _open(path: Path) -> TextIO:
    """Return a file of text, packed by gzip or not, to be read line by line."""
    with told(path, "cannot be read"):
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        return gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
