"""What there is of an experiment's runs at one scale, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lbp.experiments.scales import Scale
from lbp.lab.config import RunConfig
from lbp.lab.models import training_flop
from lbp.lab.pool import Failure
from lbp.lab.record import Record
from lbp.lab.run import Goal


def with_records(found: Sequence["Results"]) -> list["Results"]:
    """Return the results of the scales at which something is recorded."""
    return [results for results in found if results.records]


@dataclass(frozen=True)
class Results:
    """An experiment's runs at one scale, and their records so far.

    Attributes:
        stem: The experiment.
        scale: The scale.
        goals: Its runs, and how long they are to be.
        records: What is recorded of them, by run, without the stale ones.
        stale: The records that count no longer, because other numerical code made them.
        failures: Of this call, at training.
    """

    stem: str
    scale: Scale
    goals: Sequence[Goal]
    records: Mapping[RunConfig, Record]
    stale: Mapping[RunConfig, Record]
    failures: Sequence[Failure] = ()

    @property
    def undecided(self) -> str:
        """What to answer where the records there are do not answer the experiment's question."""
        where = self.scale.where
        if not self.records:
            return f"Not yet run {where}."
        return f"Not yet decided: too few of the runs have been trained {where}."

    def reached(self, goal: Goal) -> bool:
        """Whether a run has been trained as long as it is to be, or diverged before."""
        record = self.records.get(goal.config)
        return record is not None and record.reaches(goal.epochs)

    def missing_flop(self, goal: Goal) -> float:
        """Return the floating-point operations that a run lacks to reach its goal."""
        record = self.records.get(goal.config)
        if record is not None and record.reaches(goal.epochs):
            return 0.0
        return training_flop(goal.config, goal.epochs - (len(record) if record else 0))

    def of(self, **fields: object) -> list[Record]:
        """Return the records of the runs that have these values, in the order of the goals.

        A record is cut where its goal ends: another experiment may have asked for more.
        """
        return [
            record.until(goal.epochs)
            for goal in self.goals
            if (record := self.records.get(goal.config))
            and all(getattr(goal.config, name) == value for name, value in fields.items())
        ]

    def state(self, goal: Goal) -> str:
        """Say how far a run is."""
        if goal.config in self.stale:
            return "stale, by other numerical code"
        record = self.records.get(goal.config)
        if record is None:
            return "not yet run"
        if record.diverged and len(record) <= goal.epochs:
            return f"diverged in epoch {len(record)}"
        return f"{min(len(record), goal.epochs)} of {goal.epochs} epochs"
