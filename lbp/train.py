"""One training run, epoch by epoch: everything here decides numbers, and nothing else does.

Checkpoints, budgets and progress are in `lbp.runner`. The loop never waits for the device within an
epoch: losses and counts are summed there and read once.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp import data
from lbp.config import RunConfig
from lbp.models import build
from lbp.record import Epoch
from lbp.rules import Activation

EVALUATION_BATCH = 500


class Trainer:
    """A network, its optimiser and its images; `epoch` trains one epoch and evaluates.

    Args:
        config: The run.
        split: Its images, on the device to train on.
    """

    def __init__(self, config: RunConfig, split: data.Split) -> None:
        self.config = config
        self.split = split
        self.device = split.train.images.device
        self.epochs_done = 0
        torch.manual_seed(config.seed)
        model = build(config)
        self.model: nn.Module = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.l2,
            fused=True,
        )
        self._max = torch.zeros((), device=self.device)
        for module in self.model.modules():
            if isinstance(module, Activation):
                module.register_forward_pre_hook(self._track_preactivation)

    def epoch(self, on_batch: Callable[[int], object] = lambda images: None) -> Epoch:
        """Train for one epoch and evaluate.

        Args:
            on_batch: Called after each step with the number of images that it trained on.

        Returns:
            The epoch's log; a non-finite `train_loss` means that the run diverged.
        """
        start = time.perf_counter()
        loss, accuracy = self._train(on_batch)
        self._max.zero_()
        test_loss, correct, correct_top5 = self._evaluate(self.split.test)
        half = self.split.test_half
        held_out = None
        largest = self._max.item()
        if len(self.split.held_out):
            held_out = _error(self._evaluate(self.split.held_out)[1])
        self.epochs_done += 1
        return Epoch(
            epoch=self.epochs_done,
            train_loss=loss,
            train_accuracy=accuracy,
            test_loss=test_loss,
            test_error=_error(correct),
            test_error_top5=_error(correct_top5),
            test_error_half_0=_error(correct[half == 0]),
            test_error_half_1=_error(correct[half == 1]),
            held_out_error=held_out,
            max_preactivation=largest,
            seconds=time.perf_counter() - start,
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs to go on with bit for bit: plain data and tensors."""
        return {
            "epochs_done": self.epochs_done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.epochs_done = state["epochs_done"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _train(self, on_batch: Callable[[int], object]) -> tuple[float, float]:
        """Take one pass over the training images; return the mean loss and the accuracy in %."""
        # Seeded afresh for each epoch, so a checkpoint needs no random state.
        torch.manual_seed((self.config.seed << 20) + self.epochs_done + 1)
        train = self.split.train
        order = torch.randperm(len(train)).to(self.device)
        total = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        self.model.train()
        for indices in order.split(self.config.batch):
            batch = train.take(indices)
            images = data.augment(batch.images) if self.config.augment else batch.images
            with self._autocast():
                logits = self.model(data.normalise(images, self.config.normalisation))
                loss = F.cross_entropy(logits.float(), batch.labels)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            total += loss.detach() * len(batch)
            correct += (logits.detach().argmax(1) == batch.labels).sum()
            on_batch(len(batch))
        return total.item() / len(train), 100 * correct.item() / len(train)

    @torch.no_grad()
    def _evaluate(self, images: data.Images) -> tuple[float, Tensor, Tensor]:
        """Return the mean loss and, as bool [N], which images are right at top-1 and at top-5."""
        self.model.eval()
        losses, first, fifth = [], [], []
        for indices in torch.arange(len(images), device=self.device).split(EVALUATION_BATCH):
            batch = images.take(indices)
            with self._autocast():
                logits = self.model(data.normalise(batch.images, self.config.normalisation))
            logits = logits.float()
            losses.append(F.cross_entropy(logits, batch.labels, reduction="sum"))
            hits = logits.topk(5).indices == batch.labels[:, None]  # [B, 5]
            first.append(hits[:, 0])
            fifth.append(hits.any(1))
        loss = torch.stack(losses).sum().item() / len(images)
        return loss, torch.cat(first), torch.cat(fifth)

    def _autocast(self) -> torch.autocast:
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16)

    def _track_preactivation(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        if not module.training:
            torch.maximum(self._max, inputs[0].abs().amax(), out=self._max)


def _error(correct: Tensor) -> float:
    """Return the error in percent, given bool [N]."""
    return 100 * (~correct).sum().item() / len(correct)
