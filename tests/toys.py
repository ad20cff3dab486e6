"""Toy records, valid and with chosen test errors, and a folder that passes for a clone."""

import math
from collections.abc import Sequence
from pathlib import Path

from lbp.lab import fingerprint as fingerprints
from lbp.lab.config import RunConfig
from lbp.lab.provenance import Origin
from lbp.lab.record import Epoch, Layers, Record, Stretch
from lbp.lab.run import is_glance

ORIGIN = Origin(
    commit="0" * 40,
    dirty=False,
    python="3.11.9",
    torch="2.11.0",
    torchvision="0.26.0",
    device="a processor, 2 cores",
    threads=1,
    tf32=False,
    finished="2026-01-01T00:00:00+00:00",
    seconds=1.5,
)


def epoch(number: int, error: float = 60.0, *, top5: float | None = None) -> Epoch:
    """Return the log of an epoch with these test errors, in percent; top-5 is half by default."""
    return Epoch(
        epoch=number,
        train_loss=2.0 / number,
        train_accuracy=50.0,
        test_loss=1.25,
        test_error=error,
        test_error_top5=error / 2 if top5 is None else top5,
        test_error_half_0=error,
        test_error_half_1=error,
        max_preactivation=3.5,
        seconds=0.25,
    )


def diverged_epoch(number: int, error: float = 90.0, *, top5: float | None = None) -> Epoch:
    """Return the log of an epoch after which nothing of the network is a number any more."""
    given = vars(epoch(number, error, top5=top5))
    return Epoch(
        **given | dict.fromkeys(("train_loss", "test_loss", "max_preactivation"), math.nan)
    )


def glance(number: int, value: float = 0.5) -> Layers:
    """Return a glance at 17 layers with weights and 16 activation functions, all alike."""
    weights, activations = [value] * 17, [value] * 16
    return Layers(
        epoch=number,
        update=weights,
        weight=weights,
        gradient=weights,
        cosine=weights,
        preactivation=activations,
        saturated=activations,
    )


def record(
    config: RunConfig,
    errors: Sequence[float],
    *,
    top5: Sequence[float] | None = None,
    diverged: bool = False,
    layers: Sequence[Layers] | None = None,
    fingerprint: str | None = None,
) -> Record:
    """Return a record that one process trained.

    Args:
        config: The run.
        errors: Its top-1 test errors after each epoch, in percent, also on both halves.
        top5: Its top-5 errors; half of `errors` by default.
        diverged: Whether the loss is not a number in the last epoch.
        layers: The glances at its layers; by default one after each epoch that has one, all alike
            but for a last one that diverged.
        fingerprint: Of the numerical code; today's by default.
    """
    last = len(errors)
    fifths = [None] * last if top5 is None else top5
    rows = [epoch(n, e, top5=t) for n, (e, t) in enumerate(zip(errors, fifths, strict=True), 1)]
    if diverged:
        rows[-1] = diverged_epoch(last, errors[-1], top5=fifths[-1])
    if layers is None:
        broken = last if diverged else None
        layers = [
            glance(n, math.nan if n == broken else 0.5) for n in range(last + 1) if is_glance(n)
        ]
    stretch = Stretch(
        first=1,
        last=last,
        fingerprint=fingerprint or fingerprints.fingerprint(config),
        step="plain",
        origin=ORIGIN,
    )
    return Record(config, tuple(rows), tuple(layers), (stretch,))


def clone(folder: Path) -> Path:
    """Make a folder that `lbp.lab.paths.project` takes for a clone of the project."""
    (folder / "data").mkdir(parents=True)
    (folder / "_toc.yml").touch()
    (folder / "data" / "claims.yml").touch()
    return folder
