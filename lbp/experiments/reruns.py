"""Reruns on other devices: whether their records stand, and how far they are from this book's."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lbp.errors import LbpError, short
from lbp.experiments import EXPERIMENTS
from lbp.experiments.agreement import Agreement, compare
from lbp.experiments.numbers import final_accuracy, first_epochs, number
from lbp.experiments.scales import NARROW, PAPER
from lbp.experiments.style import run_label
from lbp.experiments.table import Table
from lbp.lab import archive, fingerprint, paths, reruns
from lbp.lab.archive import Merged
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from lbp.lab.reruns import Found
from lbp.lab.store import Store

NONE = "There is no rerun on another device yet."
_DEVICE = re.compile(r"[\w .,()@/+:-]{1,100}")
State = Literal["agrees", "differs", "new", "copy", "stale", "refused"]


@dataclass(frozen=True)
class Finding:
    """What a check says of a rerun.

    Attributes:
        place: Where it is.
        state: "new" is the record of a run that the book has not recorded, "copy" the book's own
            record, "stale" one that other numerical code made, and "refused" what is not the
            record of a run of this book.
        reason: The state in words.
        record: The record, if it is one.
        book: The book's record of the same run, if there is one.
        agreement: How both compare.
    """

    place: str
    state: State
    reason: str
    record: Record | None = None
    book: Record | None = None
    agreement: Agreement | None = None

    @property
    def stands(self) -> bool:
        """Whether nothing speaks against the record."""
        return self.state in ("agrees", "new")

    def __str__(self) -> str:
        text = f"{self.place}: {self.state}: {self.reason}"
        # A name from outside may hold escape codes, which must not reach the terminal.
        return text if text.isprintable() else ascii(text)[1:-1]


def check(path: Path, store: Store | None = None) -> list[Finding]:
    """Check every record of an archive, a file or a folder and those below it.

    Args:
        path: What to check.
        store: The book's records; by default the project's.

    Raises:
        LbpError: If there is nothing at the path, the archive is damaged, or a record of the book.
    """
    records = list(store or Store(paths.results()))
    known = _asked_for() | {record.config for record in records}
    book = {record.config: record for record in records if not fingerprint.is_stale(record)}
    return [_finding(found, book, known) for found in reruns.found_at(path)]


def of_readers() -> list[Finding]:
    """Return the findings of all reruns in the project, reader by reader."""
    folder = paths.reruns()
    return list(map(_placed, check(folder))) if folder.is_dir() else []


def _placed(finding: Finding) -> Finding:
    """Refuse what does not lie in a reader's folder, whose name the book shows."""
    folder = Path(finding.place).parent
    if folder.parent == paths.reruns() and reruns.is_name(folder.name):
        return finding
    reason = "it does not lie in data/reruns/NAME: choose lower-case letters, digits and hyphens"
    return Finding(finding.place, "refused", reason)


def _asked_for() -> set[RunConfig]:
    """Return every run that the book asks for."""
    return {
        goal.config
        for experiment in EXPERIMENTS.values()
        for scale in (PAPER, NARROW)
        for goal in experiment.goals(scale)
    }


def _finding(found: Found, book: Mapping[RunConfig, Record], known: Set[RunConfig]) -> Finding:
    record = found.record
    if record is None:
        return Finding(found.place, "refused", found.fault)
    here = book.get(record.config)

    def finding(state: State, reason: str, agreement: Agreement | None = None) -> Finding:
        return Finding(found.place, state, reason, record, here, agreement)

    if record.config not in known:
        return finding("refused", f"no experiment of this book has the run {record.config}")
    if wrong := _odd_device(record) or _not_whole(record):
        return finding("refused", wrong)
    # A training of its own takes a time of its own for its first epoch.
    seconds = record.epochs[0].seconds
    if here is not None and record.begins_like(here) and seconds == here.epochs[0].seconds:
        return finding("copy", "it is this book's own record: train the run by `reproduce --rerun`")
    if fingerprint.is_stale(record):
        theirs = ", ".join(sorted({stretch.fingerprint for stretch in record.stretches}))
        ours = fingerprint.fingerprint(record.config)
        reason = f"the fingerprint of its code is {theirs}, that of this project is {ours}"
        return finding("stale", f"{reason}: train the run with this code")
    if here is None:
        return finding("new", f"this book has no record of the run {record.config}")
    agreement = compare(record, here, _seeds(record.config, book.values()))
    reason = (
        f"over {first_epochs(agreement.epochs)} it is {agreement.distance:.1f} points from this "
        f"book's record of {record.config}, and {agreement.tolerance:.1f} are allowed"
    )
    return finding("agrees" if agreement.holds else "differs", reason, agreement)


def _seeds(config: RunConfig, records: Iterable[Record]) -> list[Record]:
    """Return the records of a run with any seed."""
    return [r for r in records if _seedless(r.config) == _seedless(config)]


def _seedless(config: RunConfig) -> dict[str, object]:
    return {name: value for name, value in config.differing().items() if name != "seed"}


def _odd_device(record: Record) -> str:
    """Say which device has a name that could be more than text on a page; empty if none has."""
    for stretch in record.stretches:
        if not _DEVICE.fullmatch(stretch.origin.device):
            return (
                f"its device {short(stretch.origin.device)} is not the name of one: up to 100 "
                "letters, digits, spaces and . , ( ) @ / + : - are allowed"
            )
    return ""


def _not_whole(record: Record) -> str:
    """Say which accuracy is not a whole number of images; empty if all are."""
    config = record.config
    totals = {
        "train_accuracy": config.train_images,
        "test_error": config.test_images,
        "test_error_top5": config.test_images,
    }
    for row in record.epochs:
        for name, total in totals.items():
            percent = getattr(row, name)
            images = percent * total / 100
            if abs(images - round(images)) > 0.01:  # a record has seven digits
                return f"{name} is {percent} in epoch {row.epoch}: not so many of {total} images"
    return ""


@dataclass(frozen=True)
class Taken:
    """What became of the records of an archive."""

    merged: Merged
    copies: list[Finding]  # they are in the book's store, and were left out


def take(path: Path, name: str, store: Store | None = None) -> Taken:
    """Put the records of an archive into a reader's folder, all or none of them.

    Args:
        path: The archive.
        name: The reader's name, or that of the reader's device.
        store: The book's records; by default the project's.

    Raises:
        LbpError: If the name is not allowed, the archive is damaged, a record does not belong to
            this book, or two records of a run differ, in the archive or in the folder.
    """
    folder = reruns.store_of(name)
    findings = check(path, store)
    for finding in findings:
        if finding.state in ("stale", "refused"):
            raise LbpError(str(finding))
    records = [f.record for f in findings if f.record is not None and f.state != "copy"]
    longest: dict[RunConfig, Record] = {}
    for record in sorted((*folder, *records), key=len, reverse=True):
        if not longest.setdefault(record.config, record).begins_like(record):
            raise LbpError(
                f"two records of {record.config} differ in the epochs that both have: "
                f"{folder.folder} can hold only one of them, so choose another name"
            )
    return Taken(archive.merge(records, folder), [f for f in findings if f.state == "copy"])


# --- the page of the book

QUESTION = "Do the runs come out the same on other devices?"


def table(findings: Sequence[Finding]) -> Table:
    """Return every rerun of a run of this book beside the book's record of the same run."""
    rows = []
    for finding in findings:
        record, book, agreement = finding.record, finding.book, finding.agreement
        if record is None or finding.state in ("copy", "refused"):
            continue
        epochs = agreement.epochs if agreement else None
        rows.append(
            [
                Path(finding.place).parent.name,
                "; ".join(sorted({stretch.origin.device for stretch in record.stretches})),
                run_label(record.config),
                str(len(record)),
                number(final_accuracy(record, epochs)),
                number(final_accuracy(book, epochs) if book and agreement else None),
                number(agreement.distance if agreement else None),
                number(agreement.tolerance if agreement else None),
                finding.state,
            ]
        )
    caption = (
        "Final accuracies in percent: the mean over the last tenth of the epochs that both records "
        "have. Distance and tolerance in points."
    )
    columns = ["rerun", "device", "run", "epochs", "final accuracy", "this book's", "distance"]
    return Table(caption, [*columns, "tolerance", "verdict"], rows)


def answer(findings: Sequence[Finding]) -> str:
    """Say how many reruns there are, what they show, and how far they are at most."""
    if not findings:
        return NONE
    states = Counter(finding.state for finding in findings)
    counts = ", ".join(f"{state}: {states[state]}" for state in sorted(states))
    text = f"Reruns on other devices: {len(findings)} ({counts})."
    distances = [f.agreement.distance for f in findings if f.agreement]
    if not distances:
        return text
    return f"{text} The furthest is {max(distances):.1f} points from this book's record."
