"""Training on the task Higgs to tau tau, epoch by epoch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.lab.higgs.events import Events
from lbp.lab.higgs.significance import significance
from lbp.lab.units.apl import APL

# From the authors' code, see `network`. Inferred: that the learning rate stays as it is.
LR, MOMENTUM, BATCH, HINGE_L2 = 0.006, 0.5, 100, 1e-3
EVALUATION_BATCH = 10_000


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training events has given.

    Attributes:
        number: Of the epoch, from 1.
        train_loss: Mean cross-entropy over the epoch, with dropout, in nats. It is not finite where
            the run has diverged.
        test_loss: Mean cross-entropy of the test events after it.
        significance: The expected significance of a discovery with the test events, in standard
            deviations; NaN where the run has diverged.
    """

    number: int
    train_loss: float
    test_loss: float
    significance: float

    def __str__(self) -> str:
        """Return the epoch in one line."""
        if not math.isfinite(self.train_loss):
            return f"epoch {self.number}: diverged"
        return (
            f"epoch {self.number}: training loss {self.train_loss:.4f}, test loss "
            f"{self.test_loss:.4f}, expected significance {self.significance:.2f} standard "
            "deviations"
        )


def train(
    model: nn.Module, events: Events, test: Events, epochs: int, lr: float = LR
) -> Iterator[Epoch]:
    """Train by SGD with momentum, in batches of 100 events; give each epoch as it ends.

    The last one is that in which the training loss is no longer finite, if there is such a one. The
    order of the events and dropout come from PyTorch's random state.

    Args:
        model: From events to logits, such as `network`; it is on the device of the events.
        events: To train on.
        test: To judge by.
        epochs: How many passes over the training events.
        lr: The learning rate.

    Raises:
        LbpError: If the test events are too few for `significance`.
    """
    hinges = [p for m in model.modules() if isinstance(m, APL) for p in m.parameters()]
    ids = {id(p) for p in hinges}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": hinges, "weight_decay": HINGE_L2}]
    optimiser = torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    significance(torch.zeros(len(test)), test.labels.cpu())  # too few events are told before
    for number in range(1, epochs + 1):
        model.train()
        total = torch.zeros((), dtype=torch.float64, device=events.labels.device)
        order = torch.randperm(len(events)).to(events.labels.device)
        for batch in order.split(BATCH):
            loss = _loss(model(events.features[batch]), events.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(batch)
        train_loss = total.item() / len(events)
        scores = _scores(model, test)
        is_finite = math.isfinite(train_loss) and bool(scores.isfinite().all())
        yield Epoch(
            number,
            train_loss if is_finite else math.nan,
            _loss(scores, test.labels).item(),
            significance(scores.cpu(), test.labels.cpu()) if is_finite else math.nan,
        )
        if not is_finite:
            return


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels)


@torch.no_grad()
def _scores(model: nn.Module, events: Events) -> Tensor:
    """Return the logits [N] of events."""
    model.eval()
    return torch.cat([model(batch) for batch in events.features.split(EVALUATION_BATCH)])
