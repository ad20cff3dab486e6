"""Proof that a change of code leaves the numbers alone: short runs, old code beside new.

`python -m lbp.lab.equals` trains the runs that it reads from its standard input and prints their
numbers; `prove` calls it in a copy of an earlier commit and in this one. This form of calling it
must stay: today's code calls it in yesterday's.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lbp.errors import LbpError
from lbp.lab import files, fingerprint, paths
from lbp.lab.config import RunConfig
from lbp.lab.provenance import Origin, git_environment, origin
from lbp.lab.run import Trainers

EPOCHS = 2
_PLAIN = RunConfig(
    width=1 / 16, dataset="stand-in", train_images=200, test_images=100, batch=64, lr=1e-2, l2=1e-2
)
_CNN = replace(
    _PLAIN,
    model="cnn",
    activation="apl",
    normalisation="raw",
    momentum=0.9,
    schedule="apl-cifar10",
)
# Together they use every choice that a run has; a new network or unit adds its own.
RUNS = (
    _PLAIN,
    replace(_PLAIN, rule="bp", seed=1),
    replace(_PLAIN, rule="as-printed", lr=1e-5, batch_norm_scale="uniform"),
    replace(_PLAIN, rule="bp", activation="relu", momentum=0.9, augment=True),
    replace(_PLAIN, activation="sigmoid", init="xavier", normalisation="unit", lr=1e-5),
    replace(_PLAIN, rule="bp", activation="hardtanh", head="mlp", init="he"),
    replace(_PLAIN, activation="gelu", batch_norm=False, init="he", lr=1e-4),
    replace(_PLAIN, activation="silu", precision="bf16"),
    replace(_PLAIN, model="binarized_resnet", activation="hardtanh", batch_norm_scale="uniform"),
    replace(_CNN, rule="bp", unit_l2=1e-2, hinges=2, hinges_per="channel"),
    replace(_CNN, rule="bp", activation="relu"),
    replace(
        _CNN, dataset="stand-in-100", test_images=200, hinges_learned=False, schedule="apl-cifar100"
    ),
    replace(_PLAIN, model="nin", activation="apl", hinges=1, schedule="apl-nin", momentum=0.9),
    RunConfig(
        model="resnet18", dataset="stand-in", train_images=20, test_images=20, batch=10, lr=1e-4
    ),
)


@dataclass(frozen=True)
class Proof:
    """That two fingerprints stand for code that gives equal numbers, bit for bit."""

    old: str
    new: str
    old_commit: str
    new_commit: str
    runs: list[dict[str, Any]]  # which showed it, by the fields that differ from the defaults
    epochs: int
    origin: Origin


def numbers(config: RunConfig, epochs: int) -> dict[str, Any]:
    """Train a run and return its fingerprint and everything that it computes, exactly."""
    trainer = Trainers(Path(), torch.device("cpu")).get(config)
    before = trainer.layers()
    rows = [asdict(trainer.epoch()) | {"seconds": 0.0} for _ in range(epochs)]
    layers = [asdict(before), asdict(trainer.layers())]
    digest = hashlib.sha256()
    for name, tensor in trainer.model.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return {
        "fingerprint": fingerprint.fingerprint(config),
        # What a run has no number for is left out, so that a new column changes no old run.
        "rows": repr(([_filled(row) for row in rows], [_filled(glance) for glance in layers])),
        "weights": digest.hexdigest(),
    }


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def prove(commit: str, runs: Iterable[RunConfig] = RUNS) -> list[Proof]:
    """Compare the numbers of an earlier commit with those of this one, and record what is equal.

    Runs that the earlier commit did not have yet need no proof and are left out.

    Args:
        commit: Any name that git has for the earlier commit.
        runs: The runs to train with both.

    Returns:
        A proof for each pair of fingerprints that were not known to be equal; they are now in the
        committed table.

    Raises:
        LbpError: If the code here is not committed, there is no such commit, its code cannot train
            the runs or has none of them, or a number differs; the message names the run.
    """
    root = paths.project()
    if _git(root, "status", "--porcelain", "--", "lbp"):
        raise LbpError("the code in lbp/ is not committed: a proof names the commits, commit first")
    now = _git(root, "rev-parse", "HEAD")
    try:
        then = _git(root, "rev-parse", "--verify", f"{commit}^{{commit}}")
    except LbpError as error:
        raise LbpError(
            f"{commit!r} is no commit of this clone: choose one that `git log` lists"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        _copy_of(root, then, Path(folder))
        runs = _known_in(Path(folder), list(runs))
        if not runs:
            raise LbpError(f"{commit} has none of these runs: there is nothing to prove")
        old = _numbers_in(Path(folder), runs)
    new = _numbers_in(root, runs)
    different = [run for run, a, b in zip(runs, old, new, strict=True) if _values(a) != _values(b)]
    if different:
        raise LbpError(
            f"{len(different)} of {len(runs)} runs differ from those of {commit}, "
            f"the first is {different[0]}: nothing is recorded"
        )
    made = origin(torch.device("cpu"), 0.0)
    pairs = [(a["fingerprint"], b["fingerprint"]) for a, b in zip(old, new, strict=True)]
    proofs = [
        Proof(
            *(*pair, then, now),
            [run.differing() for run, mine in zip(runs, pairs, strict=True) if mine == pair],
            EPOCHS,
            made,
        )
        for pair in dict.fromkeys(pairs)
        if not fingerprint.are_equal(*pair)
    ]
    if proofs:
        table = [*fingerprint.proofs(), *map(asdict, proofs)]
        files.write_text(paths.equals(), json.dumps(table, indent=1) + "\n")
    return proofs


def _values(found: dict[str, Any]) -> tuple[Any, Any]:
    return found["rows"], found["weights"]


def _git(root: Path, *arguments: str) -> str:
    with files.told(root, "has no working git"):
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=git_environment(),
        )
    if done.returncode:
        raise LbpError(f"git {' '.join(arguments)}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def _copy_of(root: Path, commit: str, folder: Path) -> None:
    """Unpack the package as it is in a commit."""
    packed = folder / "lbp.tar"
    _git(root, "archive", "--output", str(packed), commit, "--", "lbp")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")


# It must stay within what the code of earlier commits has, as the call of this module must.
_KNOWS = """
import json, sys
from lbp.errors import LbpError
from lbp.lab.config import RunConfig
def knows(data):
    try:
        return bool(RunConfig.from_differing(data))
    except LbpError:
        return False
json.dump([knows(data) for data in json.load(sys.stdin)], sys.stdout)
"""


def _known_in(root: Path, runs: list[RunConfig]) -> list[RunConfig]:
    """Return the runs that the code in another folder has."""
    known = _asked(root, runs, "-c", _KNOWS)
    return [run for run, is_known in zip(runs, known, strict=True) if is_known]


def _numbers_in(root: Path, runs: list[RunConfig]) -> list[dict[str, Any]]:
    """Return what the code in another folder computes, run by run."""
    return _asked(root, runs, "-m", "lbp.lab.equals")


def _asked(root: Path, runs: list[RunConfig], *arguments: str) -> list[Any]:
    """Return what Python prints when the code in another folder is given these runs."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=json.dumps([run.differing() for run in runs]),
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "LBP_PROJECT": str(paths.project())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LbpError(f"the code in {root} cannot train these runs: {reason}")
    found: list[Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Read runs as JSON from the standard input and print their numbers as JSON."""
    configs = [RunConfig.from_differing(data) for data in json.load(sys.stdin)]
    json.dump([numbers(config, EPOCHS) for config in configs], sys.stdout)


if __name__ == "__main__":
    main()
