"""Recorded comparisons of cost: a file for each scale, with a line for each case."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from lbp import cost, experiments
from lbp.cost import ARMS, Case, Comparison
from lbp.errors import LbpError, check_choice
from lbp.paths import COST
from lbp.provenance import fingerprint
from lbp.record import Provenance


def path(scale: str, folder: Path = COST) -> Path:
    """Return the file that holds, or would hold, the comparisons at a scale."""
    return folder / f"{scale}.jsonl"


def recorded(scale: str, folder: Path = COST) -> list[Comparison]:
    """Return what is recorded at a scale, in the order of the cases; nothing is measured.

    Raises:
        LbpError: If the scale is unknown or a line of its file is damaged.
    """
    check_choice("scale", scale, cost.SETTINGS)
    file = path(scale, folder)
    found = {}
    for number, line in enumerate(_lines(file), 1):
        try:
            comparison = _from_json(line)
        except (ValueError, KeyError, TypeError) as error:  # LbpError is a ValueError
            raise LbpError(
                f"line {number} of {file} is damaged ({error}): restore it (git checkout), or "
                "delete it to measure the case again"
            ) from error
        found[comparison.case] = comparison
    return [found[case] for case in cost.SETTINGS[scale].cases if case in found]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise LbpError(f"{file} cannot be read ({error}): restore it (git checkout)") from error


def measure(profile: str, folder: Path = COST) -> dict[str, list[Comparison]]:
    """Return comparisons by scale, measuring those that the profile asks for and that are missing.

    Args:
        profile: "recorded" measures nothing and returns the paper's scale, a GPU, and "cpu", a
            processor; "smoke", "cpu" and "paper" measure what is missing at that scale. Each
            comparison is recorded at once, so that an interrupted call goes on where it stopped;
            only those of smoke are thrown away.
        folder: Where the files are.

    Raises:
        LbpError: If the profile is unknown, a file is damaged or cannot be written, or there is no
            GPU for the profile "paper".
    """
    scales = experiments.scales(profile)
    if profile == "recorded":
        return {scale: recorded(scale, folder) for scale in scales}
    setting = cost.SETTINGS[profile]
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise LbpError(
            "profile 'paper' needs a CUDA GPU and PyTorch sees none: choose cpu or smoke"
        )
    found = [] if profile == "smoke" else recorded(profile, folder)
    done = {comparison.case for comparison in found}
    for case in setting.cases:
        if case not in done:
            found.append(cost.compare(case, setting))
            print(describe(found[-1]), flush=True)
            if profile != "smoke":
                _append(found[-1], path(profile, folder))
    return {profile: found}


def _append(comparison: Comparison, file: Path) -> None:
    line = json.dumps(asdict(comparison) | {"seconds": _rounded(comparison)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LbpError(f"{file} cannot be written ({reason})") from error


def _rounded(comparison: Comparison) -> dict[str, list[float]]:
    return {
        arm: [float(f"{value:.5g}") for value in seconds]
        for arm, seconds in comparison.seconds.items()
    }


def _from_json(line: str) -> Comparison:
    data = json.loads(line)
    comparison = Comparison(
        case=Case(**data["case"]),
        seconds={arm: [float(value) for value in data["seconds"][arm]] for arm in ARMS},
        steps=int(data["steps"]),
        kept={rule: int(data["kept"][rule]) for rule in ("bp", "linear")},
        provenance=Provenance(**data["provenance"]),
    )
    if len({len(seconds) for seconds in comparison.seconds.values()}) > 1:
        raise LbpError("its arms have different numbers of rounds")
    return comparison


def describe(comparison: Comparison) -> str:
    """Return what was found for a case in one line, medians over the rounds."""
    bp, linear, again = (np.array(comparison.seconds[arm]) for arm in ARMS)
    kept = [comparison.kept[rule] / 1e6 for rule in ("bp", "linear")]
    stale = comparison.provenance.fingerprint != fingerprint(cost.MODULES)
    return (
        f"{comparison.case}: bp {1e3 * np.median(bp):.4g} ms, "
        f"linear / bp {np.median(linear / bp):.3f}, bp again / bp {np.median(again / bp):.3f}; "
        f"kept {kept[0]:.1f} MB, linear {kept[1]:.1f} MB"
        f"{'; stale, by other code' if stale else ''}"
    )
