"""From an experiment and a profile to the records of its runs."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lbp.errors import LbpError, check_choice
from lbp.experiments import EXPERIMENTS, scale_of, scales, work_list
from lbp.experiments.results import Results
from lbp.experiments.scales import Scale
from lbp.lab import budget, cifar10, fingerprint, paths, pool
from lbp.lab.devices import choose_devices
from lbp.lab.pool import Failure, Place
from lbp.lab.run import Goal, check_epochs
from lbp.lab.store import Store

ALL = "all"  # in place of an experiment's name


def recorded(stem: str, scale: Scale, store: Store | None = None) -> Results:
    """Return what the store holds of an experiment at a scale; nothing is computed.

    Raises:
        LbpError: If the experiment is unknown or a record is damaged.
    """
    check_choice("experiment", stem, EXPERIMENTS)
    store = store or Store(paths.results())
    goals = EXPERIMENTS[stem].goals(scale)
    found = {g.config: record for g in goals if (record := store.get(g.config))}
    stale = {config: r for config, r in found.items() if fingerprint.is_stale(r)}
    fresh = {config: r for config, r in found.items() if config not in stale}
    return Results(stem, scale_of(stem, scale), goals, fresh, stale)


def reproduce(
    stem: str,
    profile: str,
    *,
    epochs: int | None = None,
    device: str = "auto",
    jobs: int | None = None,
    minutes: float | None = None,
    data: str | Path | None = None,
    eager: bool = False,
    store: Store | None = None,
    checkpoints: Path | None = None,
) -> list[Results]:
    """Return an experiment's results, training the epochs that its profile asks for.

    Args:
        stem: A name in `EXPERIMENTS`; "all" for all of them, trained in the order of `work_list`.
        profile: "recorded" trains nothing and returns the paper's scale and the narrow one;
            "smoke", "narrow" and "paper" train what is missing at that scale. Smoke runs are thrown
            away, the others grow in the store.
        epochs: Train no run further than this epoch.
        device: See `lbp.lab.devices.choose_devices`.
        jobs: How many runs to train at once; see `lbp.lab.pool.train_all`.
        minutes: Stop between epochs when they are used up; the next call goes on.
        data: The folder of CIFAR-10; see `lbp.lab.cifar10.data_root`.
        eager: Whether to take the plain step on a GPU, too.
        store: The store; by default the project's.
        checkpoints: The folder of the checkpoints; by default the project's.

    Returns:
        The results of each experiment at each scale of the profile.

    Raises:
        LbpError: If an argument is unknown or out of range, the data is missing or damaged, or a
            record is damaged.
    """
    if stem != ALL:
        check_choice("experiment", stem, (*EXPERIMENTS, ALL))
    stems = list(EXPERIMENTS) if stem == ALL else [stem]
    chosen = scales.of_profile(profile)
    # A wrong value is an error even when there is nothing to train.
    devices = choose_devices(device)
    if epochs is not None:
        check_epochs(epochs)
    pool.check_jobs(jobs)
    budget.check_minutes(minutes)
    root = cifar10.data_root(data)
    if data is not None and not root.is_dir():
        raise LbpError(f"the folder {root} of CIFAR-10 does not exist: name another by --data")
    store = store or Store(paths.results())
    if profile == "recorded":
        return [recorded(name, scale, store) for name in stems for scale in chosen]
    (scale,) = chosen
    wanted = {goal.config for name in stems for goal in EXPERIMENTS[name].goals(scale)}
    ordered = work_list(scale) if stem == ALL else EXPERIMENTS[stem].goals(scale)
    goals = [
        Goal(goal.config, min(goal.epochs, epochs or goal.epochs))
        for goal in ordered
        if goal.config in wanted
    ]
    if scale.name == "smoke":
        with tempfile.TemporaryDirectory() as folder:
            place = Place(
                root, Store(Path(folder) / "results"), Path(folder) / "checkpoints", eager
            )
            failures = pool.train_missing(goals, place, devices, jobs or 1, minutes)
            return [_with(recorded(name, scale, place.store), failures) for name in stems]
    place = Place(root, store, checkpoints or paths.checkpoints(), eager)
    failures = pool.train_missing(goals, place, devices, jobs, minutes)
    return [_with(recorded(name, scale, store), failures) for name in stems]


def _with(results: Results, failures: Sequence[Failure]) -> Results:
    wanted = {goal.config for goal in results.goals}
    return replace(results, failures=[f for f in failures if f.goal.config in wanted])
