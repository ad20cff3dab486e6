"""One training run, epoch by epoch: everything here decides numbers, and nothing else does.

Budgets, checkpoints and records are in `lbp.lab.run`. Images, order, learning rate, weights and
sums live on the device, and the loop never waits for it within an epoch. On a GPU the step is
compiled, captured once as a CUDA graph, and replayed for every step of every run of the same
`RunConfig.program`. Where that fails, the plain step is taken.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.lab import images
from lbp.lab.config import RunConfig
from lbp.lab.models import build, clamped_parameters
from lbp.lab.probe import probe
from lbp.lab.record import Epoch, Layers
from lbp.linearization import activation_modules

EVALUATION_BATCH = 500
PROBE_IMAGES = 256


class Trainer:
    """A network and its images; `epoch` trains one epoch and evaluates.

    Args:
        config: The first run; `begin` starts another one of the same program.
        split: The runs' images, on the device to train on.
        eager: Whether to take the plain step on a GPU, too.

    Attributes:
        step: The kind of step that it takes.
    """

    step: Literal["plain", "captured"]

    def __init__(self, config: RunConfig, split: images.Split, *, eager: bool = False) -> None:
        self.config = config
        self.split = split
        self.device = split.train.images.device
        self.model: nn.Module = build(config).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._normalise = images.Normalise(config.normalisation).to(self.device)
        self._parameters: list[Tensor] = list(self.model.parameters())
        # Tensors, not constants: a captured step reads each run's own from the same place.
        self._velocity = [torch.zeros_like(p) for p in self._parameters if config.momentum]
        self._lr = torch.zeros((), device=self.device)
        self._momentum = torch.zeros((), device=self.device)
        self._l2 = torch.zeros((), device=self.device)
        self._unit_l2 = torch.zeros((), device=self.device)
        units = activation_modules(self.model).values()
        of_units = {id(p) for unit in units for p in unit.parameters(recurse=False)}
        self._decays = [self._unit_l2 if id(p) in of_units else self._l2 for p in self._parameters]
        self._clamped = clamped_parameters(self.model)
        self._flips = torch.zeros((), dtype=torch.int64, device=self.device)
        total = len(split.train)
        self._order = torch.zeros(total, dtype=torch.int64, device=self.device)
        self._augmentation = torch.zeros(total, 3, dtype=torch.int64, device=self.device)
        self._offsets = torch.arange(min(config.batch, total), device=self.device)
        self._position = torch.zeros((), dtype=torch.int64, device=self.device)
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)

        last = total % config.batch  # images in the last batch, if it is a smaller one
        self._sizes = [config.batch] * (total // config.batch) + [last] * (last > 0)
        self._steps = self._prepare(eager or self.device.type != "cuda")
        self.begin(config)

    def begin(self, config: RunConfig) -> None:
        """Start a run from its initialisation; it must have the same program as the first one."""
        if config.program != self.config.program:
            raise ValueError(f"{config} needs another trainer than {self.config}")
        self.config = config
        self.epochs_done = 0
        torch.manual_seed(config.seed)
        self.model.load_state_dict(build(config).state_dict())
        for velocity in self._velocity:
            velocity.zero_()
        self._lr.fill_(config.lr_in(1))
        self._momentum.fill_(config.momentum_in(1))
        self._l2.fill_(config.l2)
        self._unit_l2.fill_(config.unit_l2)

    def epoch(self, on_batch: Callable[[int], object] = lambda images: None) -> Epoch:
        """Train for one epoch and evaluate.

        Args:
            on_batch: Called after each step with the number of images that it trained on.

        Returns:
            The epoch's log; a non-finite `train_loss` means that the run diverged.
        """
        start = time.perf_counter()
        loss, accuracy = self.train_epoch(on_batch)
        with self._largest_preactivation() as largest:
            test_loss, correct, correct_top5 = self.evaluate(self.split.test)
        half = self.split.test_half
        return Epoch(
            epoch=self.epochs_done,
            train_loss=loss,
            train_accuracy=accuracy,
            test_loss=test_loss,
            test_error=_error(correct),
            test_error_top5=_error(correct_top5),
            test_error_half_0=_error(correct[half == 0]),
            test_error_half_1=_error(correct[half == 1]),
            max_preactivation=largest.item(),
            sign_flips=self._flips_of_a_weight(),
            seconds=time.perf_counter() - start,
        )

    def layers(self) -> Layers:
        """Look at the layers as they are now, on the first training images."""
        x = self._normalise(self.split.train.images[:PROBE_IMAGES])
        labels = self.split.train.labels[:PROBE_IMAGES]
        return probe(self.model, self.config, x, labels, self.epochs_done)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs to go on with bit for bit: plain data and tensors."""
        return {
            "epochs_done": self.epochs_done,
            "model": self.model.state_dict(),
            "velocity": self._velocity,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.model.load_state_dict(state["model"])
        for velocity, stored in zip(self._velocity, state["velocity"], strict=True):
            velocity.copy_(stored)
        self.epochs_done = state["epochs_done"]

    def train_epoch(
        self, on_batch: Callable[[int], object] = lambda images: None
    ) -> tuple[float, float]:
        """Take one pass over the training images; return the mean loss and the accuracy in %."""
        self.epochs_done += 1
        self._lr.fill_(self.config.lr_in(self.epochs_done))
        self._momentum.fill_(self.config.momentum_in(self.epochs_done))
        # Seeded afresh for each epoch, so a checkpoint needs no random state.
        torch.manual_seed((self.config.seed << 20) + self.epochs_done)
        total = len(self.split.train)
        self._order.copy_(torch.randperm(total))
        if self.config.augment:
            self._augmentation.copy_(images.draw_augmentation(total))
        for sum_ in (self._position, self._loss, self._correct, self._flips):
            sum_.zero_()
        self.model.train()
        for size in self._sizes:
            self._steps[size]()
            on_batch(size)
        return self._loss.item() / total, 100 * self._correct.item() / total

    @torch.no_grad()
    def evaluate(self, judged: images.Images) -> tuple[float, Tensor, Tensor]:
        """Return the mean loss and, as bool [N], which images are right at top-1 and at top-5."""
        self.model.eval()
        losses, first, fifth = [], [], []
        for indices in torch.arange(len(judged), device=self.device).split(EVALUATION_BATCH):
            batch = judged.take(indices)
            with self._autocast():
                logits = self.model(self._normalise(batch.images))
            logits = logits.float()
            losses.append(F.cross_entropy(logits, batch.labels, reduction="sum"))
            hits = logits.topk(5).indices == batch.labels[:, None]  # [B, 5]
            first.append(hits[:, 0])
            fifth.append(hits.any(1))
        loss = torch.stack(losses).sum().item() / len(judged)
        return loss, torch.cat(first), torch.cat(fifth)

    def _prepare(self, plain: bool) -> dict[int, Callable[[], None]]:
        """Return, by the number of images, functions that take one SGD step with the next ones."""
        sizes = sorted(set(self._sizes))
        if not plain:
            try:
                steps = {size: self._captured(size) for size in sizes}
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever the compilers and CUDA graphs raise
                _say_plain(str(error).partition("\n")[0][:120] or type(error).__name__)
            else:
                self.step = "captured"
                return steps
        self.step = "plain"

        def plain_step(size: int) -> Callable[[], None]:
            return lambda: self._step(size, self._forward, self._update)

        return {size: plain_step(size) for size in sizes}

    def _captured(self, size: int) -> Callable[[], None]:
        """Return a compiled and captured step."""
        forward = self._forward
        if size == self.config.batch:  # the one smaller batch of an epoch is not worth compiling
            forward = torch.compile(forward, fullgraph=True, dynamic=False)
        update = torch.compile(self._update, fullgraph=True, dynamic=False)
        return self._capture(lambda: self._step(size, forward, update))

    def _capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step as a CUDA graph; `begin` undoes what the steps tried here have changed."""
        self.model.train()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, chooses algorithms and allocates, outside the graph
                self._position.zero_()
                step()
            self._position.zero_()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay: Callable[[], None] = graph.replay
        return replay

    def _step(self, size: int, forward: Callable[..., Any], update: Callable[..., Any]) -> None:
        chosen = self._order[self._position + self._offsets[:size]]
        batch = self.split.train.take(chosen)
        inputs = batch.images
        if self.config.augment:
            inputs = images.augment(inputs, self._augmentation[chosen])
        loss, correct = forward(inputs, batch.labels)
        gradients = torch.autograd.grad(loss, self._parameters)
        update(self._parameters, list(gradients), self._velocity)
        self._position += size
        self._loss += loss.detach() * size
        self._correct += correct

    def _forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch and how many of its images are classified right."""
        with self._autocast():
            logits = self.model(self._normalise(inputs))
        loss = F.cross_entropy(logits.float(), labels)
        return loss, (logits.detach().argmax(1) == labels).sum()

    @torch.no_grad()
    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], velocity: list[Tensor]
    ) -> None:
        """Take a step of SGD as PyTorch has it, weight decay being a term of the gradient.

        `torch.optim.SGD` is not used because its weight decay is a constant to the compiler.
        """
        step = torch._foreach_mul(parameters, self._decays)
        torch._foreach_add_(step, gradients)
        if self.config.momentum:
            torch._foreach_mul_(velocity, self._momentum)
            torch._foreach_add_(velocity, step)
            step = torch._foreach_mul(velocity, self._lr)
        else:
            torch._foreach_mul_(step, self._lr)
        before = [p.sign() for p in self._clamped]
        torch._foreach_sub_(parameters, step)
        for parameter, sign in zip(self._clamped, before, strict=True):
            parameter.clamp_(-1, 1)
            self._flips += (parameter.sign() != sign).sum()

    def _flips_of_a_weight(self) -> float | None:
        """Return the epoch's mean number of sign flips of a clamped weight, None without them."""
        weights = sum(p.numel() for p in self._clamped)
        return self._flips.item() / weights if weights else None

    def _autocast(self) -> torch.autocast:
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16)

    @contextmanager
    def _largest_preactivation(self) -> Iterator[Tensor]:
        """Follow the largest |input of an activation function| within the block."""
        largest = torch.zeros((), device=self.device)

        def track(module: nn.Module, inputs: tuple[Tensor]) -> None:
            torch.maximum(largest, inputs[0].abs().amax().float(), out=largest)

        units = activation_modules(self.model).values()
        hooks = [unit.register_forward_pre_hook(track) for unit in units]
        try:
            yield largest
        finally:
            for hook in hooks:
                hook.remove()


@functools.cache  # once for each reason
def _say_plain(reason: str) -> None:
    print(
        f"the training step cannot be compiled and captured here ({reason}): training goes on with "
        "the plain step, which is slower",
        file=sys.stderr,
    )


def _error(correct: Tensor) -> float:
    """Return the error in percent, given bool [N]."""
    return 100 * (~correct).sum().item() / len(correct)
