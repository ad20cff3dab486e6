"""Faults are named in one line or change nothing, and it would be noticed if they did not.

The notebook `promises` injects the thousand faults that the book speaks of, and nbval compares what
became of them; here are others.
"""

import contextlib
import zipfile
from pathlib import Path

import nbformat

from lbp.bench import faults
from lbp.lab import files, sealed

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "promises.ipynb"


def test_faults_lose_nothing_and_change_no_number():
    numbers = {kind: number // 5 for kind, number in faults.NUMBERS.items()}
    tallies = faults.inject(numbers, seed=2)
    assert {t.kind: t.named + t.harmless + len(t.wrong) for t in tallies} == numbers
    assert [t.wrong for t in tallies] == [[]] * len(tallies)
    named = {t.kind: t.named for t in tallies}
    assert all(named[kind] > 0.8 * numbers[kind] for kind in ("records", "checkpoints"))


def test_the_notebook_injects_a_thousand_faults_and_none_is_wrong():
    """It draws them as above; nbval shows that its lines are what the code gives."""
    assert sum(faults.NUMBERS.values()) >= 1000
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    shown = "".join(o.data["text/plain"] for o in cells[-1].outputs)
    for kind, number in faults.NUMBERS.items():
        assert f"| {kind} | {number} | 0 |" in shown


def wrong(kind: str, number: int) -> list[str]:
    (tally,) = faults.inject({kind: number}, seed=1)
    return tally.wrong


def test_records_without_a_seal_would_be_noticed(monkeypatch):
    monkeypatch.setattr(sealed, "check_digest", lambda found, stored: None)
    assert any("taken, and different" in text for text in wrong("records", 100))


def test_checkpoints_that_are_not_verified_would_be_noticed(monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: None)
    assert wrong("checkpoints", 100)


def test_files_that_are_written_in_place_would_be_noticed(monkeypatch):
    @contextlib.contextmanager
    def in_place(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        yield path

    monkeypatch.setattr(files, "written_whole", in_place)
    assert wrong("kills", 60)
