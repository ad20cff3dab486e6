"""From a figure and a profile to the records of its runs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lbp import experiments, runner
from lbp.cifar10 import data_root
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.paths import CHECKPOINTS
from lbp.provenance import fingerprint
from lbp.record import Record
from lbp.store import Store


@dataclass(frozen=True)
class Results:
    """The runs of a figure at one scale, and the records that there are."""

    figure: str
    scale: str
    runs: dict[str, RunConfig]  # by label
    records: dict[str, Record]  # by label; a label without a record is missing

    @property
    def missing(self) -> list[str]:
        """The labels of the runs without a record."""
        return [label for label in self.runs if label not in self.records]

    @property
    def stale(self) -> list[str]:
        """The labels of the records that other numerical code computed."""
        return [
            label
            for label, record in self.records.items()
            if record.provenance.fingerprint != fingerprint()
        ]

    @property
    def complete(self) -> bool:
        """Whether no record is missing."""
        return not self.missing

    def state(self, label: str) -> str:
        """Say whether a run is recorded, missing or stale, and how long it takes."""
        record = self.records.get(label)
        if record is None:
            return f"missing, {training_flop(self.runs[label]) / 1e15:.3g} PFLOP of arithmetic"
        state = "stale, by other numerical code" if label in self.stale else "recorded"
        if record.outcome == "diverged":
            state += f", diverged in epoch {len(record.epochs)}"
        return f"{state}, {record.provenance.seconds / 60:.1f} min on {record.provenance.device}"


def training_flop(config: RunConfig) -> float:
    """Return the arithmetic of a VGG19 run, in floating-point operations: a floor of its time.

    0.796 GFLOP forward per image at width 1, twice that backward; the widths' small first and last
    layers are taken to scale like the others.
    """
    images = 3 * (config.train_images - config.held_out) + config.held_out + config.test_images
    return 0.796e9 * config.width**2 * images * config.epochs


def recorded(figure: str, scale: str, store: Store | None = None) -> Results:
    """Return what the store holds of a figure at a scale; nothing is computed.

    Raises:
        LbpError: If the figure or scale is unknown or a record is damaged.
    """
    store = store or Store()
    runs = experiments.runs(figure, scale)
    found = {label: store.get(config) for label, config in runs.items()}
    records = {label: record for label, record in found.items() if record}
    return Results(figure, scale, runs, records)


def reproduce(
    figure: str,
    profile: str,
    *,
    device: str = "auto",
    minutes: float | None = None,
    data: str | Path | None = None,
    store: Store | None = None,
    checkpoints: Path = CHECKPOINTS,
) -> list[Results]:
    """Return a figure's results, training the runs that its profile asks for and the store lacks.

    Args:
        figure: A name in `experiments.FIGURES`.
        profile: "recorded" trains nothing and returns the paper's scale and the reduced one;
            "smoke", "cpu" and "paper" train what is missing at that scale. Smoke runs are thrown
            away, the others are added to the store.
        device: See `runner.choose_device`. The profile "paper" wants a GPU, unless a device is
            named.
        minutes: Stop between epochs when they are used up; the next call goes on.
        data: The folder of CIFAR-10; see `cifar10.data_root`.
        store: The store; by default the project's.
        checkpoints: Where unfinished runs are kept.

    Raises:
        LbpError: If an argument is unknown or out of range, the data is missing or damaged, or a
            record is damaged.
    """
    store = store or Store()
    if profile == "recorded":
        return [recorded(figure, scale, store) for scale in experiments.scales(profile)]
    (scale,) = experiments.scales(profile)
    runs = experiments.runs(figure, scale)
    chosen = runner.choose_device(device)
    if scale == "paper" and device == "auto" and chosen.type == "cpu":
        raise LbpError(
            "profile 'paper' needs a CUDA GPU and PyTorch sees none: choose cpu or smoke, or name "
            "the device cpu and wait for days"
        )
    keep = scale != "smoke"
    records: dict[str, Record] = {}
    with runner.Budget(minutes) as budget:
        for label, config in runs.items():
            record = store.get(config) if keep else None
            if record is None:
                record = train(config, chosen, budget, data, store if keep else None, checkpoints)
            if record is not None:
                records[label] = record
    return [Results(figure, scale, runs, records)]


def train(
    config: RunConfig,
    device: torch.device,
    budget: runner.Budget,
    data: str | Path | None = None,
    store: Store | None = None,
    checkpoints: Path = CHECKPOINTS,
) -> Record | None:
    """Train a run and add its record to the store; without a store, keep nothing.

    Returns:
        The record, or None if the budget ended the run before it finished.

    Raises:
        LbpError: If the data or the run's checkpoint cannot be used.
    """
    record = runner.run(
        config,
        data_root=data_root(data),
        device=device,
        budget=budget,
        checkpoints=checkpoints if store else None,
    )
    if record is not None and store is not None:
        store.add(record)
        runner.discard_checkpoint(config, checkpoints)
    return record
