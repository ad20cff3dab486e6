"""Checkpoints: what a run needs to go on bit for bit, sealed."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from lbp.errors import LbpError
from lbp.lab import files, fingerprint
from lbp.lab.config import RunConfig
from lbp.lab.record import Record
from lbp.lab.train import Trainer

_PARTS = ("record", "fingerprint", "trainer")


def path(config: RunConfig, folder: Path) -> Path:
    """Return the file that holds, or would hold, a run's checkpoint."""
    return folder / f"{config.key}.pt"


def write(record: Record, trainer: Trainer, folder: Path) -> None:
    """Write the checkpoint of a run whose epochs so far are those of `record`.

    Raises:
        LbpError: If it cannot be written.
    """
    state = {
        "record": record.to_json(),
        "fingerprint": fingerprint.fingerprint(record.config),
        "trainer": trainer.state(),
    }
    place = path(record.config, folder)
    with files.written_whole(place) as part:
        try:
            torch.save(state, part)
        except RuntimeError as error:  # what torch.save raises on a full disk
            raise LbpError(f"{place} cannot be written ({str(error).splitlines()[0]})") from error


def load(trainer: Trainer, folder: Path) -> Record | None:
    """Let a trainer go on from its run's checkpoint, if there is one, and return its record.

    Raises:
        LbpError: If the checkpoint is damaged, of another run or of other numerical code.
    """
    place = path(trainer.config, folder)
    try:
        with files.told(place, "cannot be read"):
            if not place.exists() and not place.is_symlink():
                return None
            with zipfile.ZipFile(place) as archive:
                damaged = archive.testzip()
        if damaged is not None:
            raise LbpError(f"its part {damaged} is damaged")
        state = torch.load(place, map_location=trainer.device, weights_only=True)
        return _taken(state, trainer)
    except torch.OutOfMemoryError:  # no fault of the checkpoint
        raise
    except Exception as error:  # torch.load raises what the damage leads to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LbpError(
            f"the checkpoint {place} cannot be used ({reason[:160]}): delete it to start afresh"
        ) from error


def _taken(state: Any, trainer: Trainer) -> Record:
    config = trainer.config
    if not isinstance(state, dict) or set(state) != set(_PARTS):
        raise LbpError("it is of an older form, from before runs could grow")
    record = Record.from_json(state["record"])
    if record.config != config:
        raise LbpError(f"it is of another run, {record.config}")
    if not fingerprint.are_equal(state["fingerprint"], fingerprint.fingerprint(config)):
        raise LbpError("it was written by other numerical code")
    if state["trainer"]["epochs_done"] != len(record):
        raise LbpError(f"its weights are of epoch {state['trainer']['epochs_done']}")
    trainer.load_state(state["trainer"])
    return record
