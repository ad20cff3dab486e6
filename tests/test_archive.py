"""Records between machines: nothing lost, nothing overwritten, nothing damaged taken in."""

import math
import re
import zipfile
from dataclasses import replace

import pytest

from lbp import archive, cli, store
from lbp.errors import LbpError
from lbp.record import Record
from lbp.store import Store
from tests.test_store import PROVENANCE, epoch, record

ELSEWHERE = replace(PROVENANCE, device="another", seconds=9.0, finished="2026-02-02T00:00:00+00:00")


def test_records_travel(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    diverged = Record(
        replace(record().config, seed=5), "diverged", [epoch(1, math.nan)], [], PROVENANCE
    )
    for one in (record(), record(seed=1), diverged):
        here.add(one)
    assert archive.pack(here, tmp_path / "a.zip") == 3
    merged = archive.merge(archive.unpack(tmp_path / "a.zip"), there)
    assert len(merged.added) == 3
    assert merged.same == merged.different == []
    for path in here.folder.iterdir():
        assert (there.folder / path.name).read_text() == path.read_text()
    again = archive.merge(archive.unpack(tmp_path / "a.zip"), there)
    assert (len(again.added), len(again.same), len(again.different)) == (0, 3, 0)


def test_a_different_result_never_replaces_one(tmp_path):
    store = Store(tmp_path)
    store.add(record())
    before = store.path(record().config).read_text()
    slower = replace(record(), epochs=[replace(e, seconds=9.0) for e in record().epochs])
    assert archive.merge([replace(slower, provenance=ELSEWHERE)], store).same
    rows = [epoch(1), replace(epoch(2), test_error=61.0)]
    other = replace(record(), epochs=rows, provenance=ELSEWHERE)
    merged = archive.merge([other, record(seed=1)], store)
    assert merged.different == [other]
    assert merged.added == [record(seed=1)]
    assert store.path(record().config).read_text() == before


def test_nothing_is_overwritten_or_packed_empty(tmp_path):
    path = tmp_path / "a.zip"
    with pytest.raises(LbpError, match="there are no records to pack"):
        archive.pack(Store(tmp_path / "none"), path)
    path.write_text("mine")
    with pytest.raises(LbpError, match=re.escape(f"{path} exists")):
        archive.pack([record()], path)
    assert path.read_text() == "mine"
    with pytest.raises(LbpError, match="cannot be written"):
        archive.pack([record()], tmp_path / "no" / "folder.zip")


def zipped(path, **entries: str):
    with zipfile.ZipFile(path, "w") as file:
        for name, text in entries.items():
            file.writestr(name, text)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"no zip"), "is no whole archive of records .*not a zip"),
        (lambda p: zipped(p, **{f"{record().config.key}.json": "{}"}), "no whole archive"),
        (lambda p: zipped(p, **{"../evil.json": record().to_json()}), "evil.json holds the run"),
        (lambda p: None, "there is no file"),
        (lambda p: p.mkdir(), "no whole archive of records"),
    ],
)
def test_what_is_no_archive_is_named_and_adds_nothing(tmp_path, make, message):
    path = tmp_path / "a.zip"
    make(path)
    with pytest.raises(LbpError, match=message) as error:
        archive.unpack(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path):
    path = tmp_path / "a.zip"
    archive.pack([record(epochs=200)], path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(LbpError, match="is no whole archive of records"):
        archive.unpack(path)


def test_an_archive_packed_in_an_unknown_way_is_named(tmp_path):
    path = tmp_path / "a.zip"
    archive.pack([record()], path)
    content = bytearray(path.read_bytes())
    # The number of the method stands in the entry's own header and in the directory at the end.
    for header, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(header) + offset] = 97
    path.write_bytes(content)
    with pytest.raises(LbpError, match=r"is no whole archive of records .*compression"):
        archive.unpack(path)


def test_by_the_command_line(tmp_path, monkeypatch, capsys):
    here = tmp_path / "results"
    monkeypatch.setattr(store.Store.__init__, "__defaults__", (here,))
    Store(here).add(record())
    assert cli.main(["results", "pack", str(tmp_path / "a.zip")]) == 0
    assert "packed 1 record into" in capsys.readouterr().out
    (path,) = here.iterdir()
    path.unlink()
    assert cli.main(["results", "add", str(tmp_path / "a.zip")]) == 0
    assert "1 added, 0 here already" in capsys.readouterr().out
    path.write_text(path.read_text().replace("[60.0, 60.0]", "[60.0, 61.0]"))
    assert cli.main(["results", "add", str(tmp_path / "a.zip")]) == 1
    out = capsys.readouterr().out
    assert "another result is recorded here and stays" in out
    assert str(path) in out
    assert cli.main(["results"]) == 2
    assert cli.main(["results", "add", str(tmp_path / "none.zip")]) == 2
    assert "there is no file" in capsys.readouterr().err
