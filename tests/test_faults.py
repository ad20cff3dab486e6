"""A thousand faults: each is named in one line or changes nothing; and the test would notice."""

import contextlib
import zipfile

import pytest

from lbp.bench import faults
from lbp.lab import files, sealed


@pytest.mark.slow
def test_a_thousand_faults_lose_nothing_and_change_no_number():
    tallies = faults.inject()
    assert {t.kind: t.named + t.harmless + len(t.wrong) for t in tallies} == faults.NUMBERS
    assert sum(faults.NUMBERS.values()) >= 1000
    assert [t.wrong for t in tallies] == [[]] * len(tallies)
    named = {t.kind: t.named for t in tallies}
    assert all(named[kind] > 0.8 * faults.NUMBERS[kind] for kind in ("records", "checkpoints"))


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
