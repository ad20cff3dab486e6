"""The benchmark "faults": records, checkpoints and archives are altered, and writers killed.

Every fault is drawn from a seed. It must either be named in one line that says which file is meant,
or change nothing: no exception of another kind, no number that differs, nothing lost.
"""

import copy
import io
import json
import os
import random
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lbp.errors import LbpError
from lbp.lab import archive, checkpoint
from lbp.lab.budget import Budget
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from lbp.lab.run import Goal, Trainers, run
from lbp.lab.store import Store
from lbp.lab.train import Trainer

# How many faults of each kind: 1,000 in all.
NUMBERS = {"records": 500, "checkpoints": 150, "archives": 200, "kills": 150}
SEED = 0
EPOCHS = 3
_RUN = RunConfig(
    width=1 / 64, dataset="stand-in", train_images=20, test_images=20, batch=10, momentum=0.9
)
_OTHER = replace(_RUN, rule="bp")


@dataclass
class Tally:
    """What became of the faults of one kind.

    Attributes:
        kind: The kind.
        named: How many were named in one line.
        harmless: How many changed nothing.
        wrong: Descriptions of the others, of which there should be none.
    """

    kind: str
    named: int = 0
    harmless: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def row(self) -> tuple[int, int, int, int]:
        """How many faults there were, were named, changed nothing, and went wrong."""
        total = self.named + self.harmless + len(self.wrong)
        return total, self.named, self.harmless, len(self.wrong)

    def judge(self, what: str, path: Path, read: Callable[[], bool]) -> None:
        """Count a fault.

        Args:
            what: What was done.
            path: The file that the message has to name.
            read: Uses the file; returns whether what it found is what was there before.
        """
        try:
            same = read()
        except LbpError as error:
            text = str(error)
            if str(path) in text and "\n" not in text:
                self.named += 1
            else:
                self.wrong.append(f"{what}: {text!r} does not name {path.name} in one line")
        except BaseException as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")
        else:
            if same:
                self.harmless += 1
            else:
                self.wrong.append(f"{what}: taken, and different")


def inject(numbers: dict[str, int] = NUMBERS, seed: int = SEED) -> list[Tally]:
    """Inject faults of every kind and return what became of them.

    Args:
        numbers: How many faults of each kind.
        seed: Of the faults.
    """
    kinds = {
        "records": _records, "checkpoints": _checkpoints, "archives": _archives, "kills": _kills
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = _Made.of(root)
        tallies = []
        for kind, number in numbers.items():
            tally = Tally(kind)
            kinds[kind](made, number, random.Random(f"{seed} {kind}"), tally)
            tallies.append(tally)
    return tallies


@dataclass(frozen=True)
class _Made:
    """A run that was really trained, and what it left behind."""

    store: Store
    checkpoints: Path
    record: Record
    other: Record
    trainer: Trainer
    weights: dict[str, Any]  # the checkpoint's

    @classmethod
    def of(cls, root: Path) -> "_Made":
        store, checkpoints = Store(root / "results"), root / "checkpoints"
        trainers = Trainers(Path(), torch.device("cpu"))
        options: dict[str, Any] = {"trainers": trainers, "store": store, "checkpoints": checkpoints}
        records = [run(Goal(c, EPOCHS), budget=Budget(), **options) for c in (_RUN, _OTHER)]
        record, other = (r for r in records if r is not None)
        trainer = trainers.get(_RUN)
        checkpoint.load(trainer, checkpoints)
        return cls(store, checkpoints, record, other, trainer, copy.deepcopy(trainer.state()))


# --- alterations of bytes


def _altered(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return what was done to some bytes, and the result, which may be the same by chance."""
    at = draw.randrange(len(content))
    way = draw.choice(("flip", "byte", "delete", "double", "cut", "block", "swap"))
    data = bytearray(content)
    if way == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif way == "byte":
        data[at] = draw.randrange(256)
    elif way == "delete":
        del data[at]
    elif way == "double":
        data.insert(at, data[at])
    elif way == "cut":
        del data[at:]
    elif way == "block":  # a sector that was never written
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    else:
        other = draw.randrange(len(content))
        data[at], data[other] = data[other], data[at]
    return f"{way} at {at}", bytes(data)


# --- records


def _records(made: _Made, number: int, draw: random.Random, tally: Tally) -> None:
    path = made.store.path(_RUN)
    whole = path.read_bytes()
    for _ in range(number):
        if draw.random() < 0.5:
            what, content = _altered(whole, draw)
        else:
            what, data = _rewritten(json.loads(whole), draw)
            content = json.dumps(data).encode()
        path.write_bytes(content)

        def read() -> bool:
            found = made.store.get(_RUN)
            return found is not None and found.to_json().encode() == whole

        tally.judge(what, path, read)
    path.write_bytes(whole)


def _rewritten(data: Any, draw: random.Random) -> tuple[str, Any]:
    """Return what was done to a record's data by someone who knows its form, and the result."""
    part = draw.choice(("epochs", "layers"))
    name = draw.choice([n for n in data[part] if n != "epoch"])
    column = data[part][name]
    at = draw.randrange(len(column))
    way = draw.choice(("value", "swap", "drop", "add", "key", "cut", "config", "stretch", "digest"))
    if way == "value":
        value: Any = draw.choice((-5, 250, 1e300, None, True, "7", [], {}, 10**400, 0.5))
        if isinstance(column[at], list) and draw.random() < 0.7:
            column[at][draw.randrange(len(column[at]))] = value
        else:
            column[at] = value
    elif way == "swap":
        for columns in draw.choice((list(data[part].values()), [column])):
            columns[at], columns[0] = columns[0], columns[at]
    elif way == "drop":
        del data[part][name][at]
    elif way == "add":
        data[part][name].append(column[at])
    elif way == "key":
        owner, gone = draw.choice(((data, "layers"), (data, "digest"), (data[part], name)))
        del owner[gone]
    elif way == "cut":
        for columns in data[part].values():
            del columns[-1]
    elif way == "config":
        data["config"]["lr"] = draw.choice((1e-3, 1e-2, -1, "1e-2", None))
    elif way == "stretch":
        data["stretches"][0]["last"] += draw.choice((-1, 1))
    else:
        data["digest"] = data["digest"][::-1]
    return f"{way} of {name}", data


# --- checkpoints


def _checkpoints(made: _Made, number: int, draw: random.Random, tally: Tally) -> None:
    path = checkpoint.path(_RUN, made.checkpoints)
    whole = path.read_bytes()
    other = checkpoint.path(_OTHER, made.checkpoints).read_bytes()
    for _ in range(number):
        what, content = _altered(whole, draw)
        if draw.random() < 0.1:
            what, content = "another run's", other
        path.write_bytes(content)
        made.trainer.begin(_RUN)

        def read() -> bool:
            found = checkpoint.load(made.trainer, made.checkpoints)
            same = _same_tensors(made.trainer.state(), made.weights)
            return found is not None and found.to_json() == made.record.to_json() and same

        tally.judge(what, path, read)
    path.write_bytes(whole)


def _same_tensors(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            _same_tensors(first[k], second[k]) for k in first
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same_tensors, first, second))
    return bool(torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second)


# --- archives


def _archives(made: _Made, number: int, draw: random.Random, tally: Tally) -> None:
    path = made.checkpoints.parent / "runs.zip"
    records = [made.record, made.other]
    archive.pack(records, path)
    whole = path.read_bytes()
    expected = [record.to_json() for record in records]
    for _ in range(number):
        what, content = _altered(whole, draw) if draw.random() < 0.7 else _hostile(draw)
        path.write_bytes(content)

        def read() -> bool:
            return [record.to_json() for record in archive.unpack(path)] == expected

        tally.judge(what, path, read)


def _hostile(draw: random.Random) -> tuple[str, bytes]:
    """Return an archive that someone made to do harm."""
    names = ("../x.json", "/etc/x.json", "\x1b[31mred.json", "a/b.json", "x" * 300, "con", ".")
    contents = (b"{}", b"", b"\xff\xfe", b"[" * 100_000, b"null", b"1" * 10_000, b'{"config": {}}')
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_LZMA))) as file:
        name = draw.choice(names)
        file.writestr(name, draw.choice(contents))
    return f"hostile {name!r}", packed.getvalue()


# --- kills


def _kills(made: _Made, number: int, draw: random.Random, tally: Tally) -> None:
    """Kill a writer at one of its calls of the system: the file is the old one or the new one."""
    path = made.store.path(_RUN)
    packed = made.checkpoints.parent / "packed.zip"
    short = made.record.until(EPOCHS - 1)
    place = checkpoint.path(_RUN, made.checkpoints)
    old = place.read_bytes()
    writers: dict[str, Callable[[], object]] = {
        "record": lambda: made.store.put(made.record),
        "checkpoint": lambda: checkpoint.write(made.record, made.trainer, made.checkpoints),
        "archive": lambda: archive.pack([made.record], packed),
    }
    for _ in range(number):
        kind = draw.choice(list(writers))
        at = draw.randrange(1, 16)
        path.write_text(short.to_json())
        packed.unlink(missing_ok=True)
        _killed_at(at, writers[kind])

        def read() -> bool:
            found = made.store.get(_RUN)
            whole = found is not None and found.to_json() in (
                short.to_json(),
                made.record.to_json(),
            )
            if packed.exists():
                whole = whole and len(archive.unpack(packed)) == 1
            made.trainer.begin(_RUN)
            kept = checkpoint.load(made.trainer, made.checkpoints)
            # What was killed does not stand in the way of the next one.
            made.store.put(made.record)
            return whole and kept is not None and made.store.get(_RUN) is not None

        tally.judge(f"killed at call {at} of writing a {kind}", path, read)
    place.write_bytes(old)
    path.write_text(made.record.to_json())


def _killed_at(call: int, action: Callable[[], object]) -> None:
    """Do something in a process of its own that is killed at its n-th call of the file system."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    left = call

    def count(event: str, arguments: Any) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "fcntl.flock", "os.fsync"):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync

    def counted_fsync(fd: Any) -> None:  # Python raises no event for it
        count("os.fsync", fd)
        fsync(fd)

    try:
        os.fsync = counted_fsync
        sys.addaudithook(count)
        action()
    finally:
        os._exit(0)


def faults() -> None:
    """Inject 1,000 faults and print what became of them."""
    tallies = inject()
    print("Faults injected, named in one line, without effect, lost or wrong:")
    for tally in tallies:
        print(f"  {tally.kind:<14}", *(f"{number:>6}" for number in tally.row))
        for description in tally.wrong:
            print(f"    {description}")
