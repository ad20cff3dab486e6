"""From a figure and a profile to the records of its runs."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lbp import cifar10, experiments, pool, runner
from lbp.config import RunConfig
from lbp.errors import LbpError, check_choice
from lbp.models import training_flop
from lbp.paths import CHECKPOINTS
from lbp.pool import Failure
from lbp.provenance import fingerprint
from lbp.record import Record
from lbp.selection import chosen_pairs
from lbp.store import Store

ALL = "all"  # in place of a figure's name


@dataclass(frozen=True)
class Results:
    """The runs of a figure at one scale, and the records that there are."""

    figure: str
    scale: str
    runs: dict[str, RunConfig]  # by label
    records: dict[str, Record]  # by label; a label without a record is missing
    failures: Sequence[Failure] = ()  # of this call, at training

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

    @property
    def usable(self) -> list[Record]:
        """The records that are not stale, in the order of the runs."""
        stale = self.stale
        return [r for label in self.runs if (r := self.records.get(label)) and label not in stale]

    def of(self, **fields: object) -> list[Record]:
        """Return the usable records whose configs have these values."""
        return [
            record
            for record in self.usable
            if all(getattr(record.config, name) == value for name, value in fields.items())
        ]

    def state(self, label: str) -> str:
        """Say whether a run is recorded, missing or stale, and how long it takes."""
        record = self.records.get(label)
        if record is None:
            return f"missing, {training_flop(self.runs[label]) / 1e15:.3g} PFLOP of arithmetic"
        state = "stale, by other numerical code" if label in self.stale else "recorded"
        if record.outcome == "diverged":
            state += f", diverged in epoch {len(record.epochs)}"
        return f"{state}, {record.provenance.seconds / 60:.1f} min on {record.provenance.device}"


def recorded(figure: str, scale: str, store: Store | None = None) -> Results:
    """Return what the store holds of a figure at a scale; nothing is computed.

    Raises:
        LbpError: If the figure or scale is unknown or a record is damaged.
    """
    store = store or Store()
    runs = experiments.runs(figure, scale, chosen_pairs(store))
    found = {label: store.get(config) for label, config in runs.items()}
    records = {label: record for label, record in found.items() if record}
    return Results(figure, scale, runs, records)


def reproduce(
    figure: str,
    profile: str,
    *,
    device: str = "auto",
    jobs: int | None = None,
    minutes: float | None = None,
    data: str | Path | None = None,
    store: Store | None = None,
    checkpoints: Path = CHECKPOINTS,
) -> list[Results]:
    """Return a figure's results, training the runs that its profile asks for and the store lacks.

    Args:
        figure: A name in `experiments.FIGURES`; "all" for all of them, trained in the order of
            their importance.
        profile: "recorded" trains nothing and returns the paper's scale and the reduced one;
            "smoke", "cpu" and "paper" train what is missing at that scale. Smoke runs are thrown
            away, the others are added to the store.
        device: See `runner.choose_devices`. The profile "paper" wants a GPU, unless a device is
            named.
        jobs: How many runs to train at once; see `pool.train_all`.
        minutes: Stop between epochs when they are used up; the next call goes on.
        data: The folder of CIFAR-10; see `cifar10.data_root`.
        store: The store; by default the project's.
        checkpoints: Where unfinished runs are kept.

    Returns:
        The results of each figure at each scale of the profile.

    Raises:
        LbpError: If an argument is unknown or out of range, the data is missing or damaged, or a
            record is damaged.
    """
    store = store or Store()
    if figure != ALL:
        check_choice("figure", figure, (*experiments.FIGURES, ALL))
    figures = experiments.FIGURES if figure == ALL else (figure,)
    scales = experiments.scales(profile)
    if profile == "recorded":
        return [recorded(name, scale, store) for name in figures for scale in scales]
    (scale,) = scales
    if scale == "smoke":
        with tempfile.TemporaryDirectory() as folder:
            thrown_away = Store(Path(folder) / "results")
            place = Path(folder) / "checkpoints"
            jobs = 1 if jobs is None else jobs
            return _trained(figures, scale, device, jobs, minutes, data, thrown_away, place)
    return _trained(figures, scale, device, jobs, minutes, data, store, checkpoints)


def _trained(
    figures: Sequence[str],
    scale: str,
    device: str,
    jobs: int | None,
    minutes: float | None,
    data: str | Path | None,
    store: Store,
    checkpoints: Path,
) -> list[Results]:
    devices = runner.choose_devices(device)
    if scale == "paper" and device == "auto" and devices[0].type == "cpu":
        raise LbpError(
            "profile 'paper' needs a CUDA GPU and PyTorch sees none: choose cpu or smoke, or name "
            "the device cpu and wait for days"
        )
    pairs = chosen_pairs(store)
    wanted = {run for name in figures for run in experiments.runs(name, scale, pairs).values()}
    ordered = [run for run in experiments.by_importance(scale, pairs) if run in wanted]
    failures = train_missing(ordered, devices, jobs, minutes, data, store, checkpoints)
    results = [recorded(name, scale, store) for name in figures]
    return [Results(r.figure, r.scale, r.runs, r.records, failures) for r in results]


def train_missing(
    configs: Sequence[RunConfig],
    devices: Sequence[runner.Device],
    jobs: int | None = None,
    minutes: float | None = None,
    data: str | Path | None = None,
    store: Store | None = None,
    checkpoints: Path = CHECKPOINTS,
) -> list[Failure]:
    """Train those of `configs` that the store lacks; see `reproduce` and `pool.train_all`.

    Raises:
        LbpError: As `reproduce`.
    """
    runner.Budget(minutes)  # a wrong number is an error even when there is nothing to train
    pool.check_jobs(jobs)
    store = store or Store()
    missing = [config for config in configs if store.get(config) is None]
    root = cifar10.data_root(data)
    if any(config.dataset == "cifar10" for config in missing):
        cifar10.verify(root)
    if not missing:
        return []
    return pool.train_all(
        missing,
        devices=devices,
        jobs=jobs,
        minutes=minutes,
        data_root=root,
        store=store,
        checkpoints=checkpoints,
    )
