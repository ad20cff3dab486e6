"""What a finished run leaves behind, as plain data."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin

from lbp.config import RunConfig
from lbp.errors import LbpError, check_choice

Outcome = Literal["finished", "diverged"]


@dataclass(frozen=True)
class Epoch:
    """What is logged after an epoch. Errors and accuracies are in percent, losses in nats."""

    epoch: int  # from 1
    train_loss: float  # mean over the epoch's steps, with the weights of each step
    train_accuracy: float
    test_loss: float
    test_error: float  # top-1
    test_error_top5: float
    test_error_half_0: float  # top-1 on each of two fixed stratified halves of the test set
    test_error_half_1: float
    held_out_error: float | None  # top-1; None where nothing is held out
    max_preactivation: float  # largest |input of an activation function| on the test set
    seconds: float  # training and evaluation


@dataclass(frozen=True)
class Layers:
    """What the layers do at one moment of a run, layer by layer from the input on.

    Measured on the run's first training images, in float32, in training mode. The first four lists
    have an entry for each convolution and linear layer (its weight), the others for each activation
    function.
    """

    epoch: int  # epochs trained before; 0 is the initialisation
    update: list[float]  # L2 norm of a step of SGD without momentum: lr * (gradient + l2 * weight)
    weight: list[float]  # L2 norm
    gradient: list[float]  # L2 norm of the true gradient of the loss
    cosine: list[float]  # between the rule's gradient and the true one
    preactivation: list[float]  # root mean square
    saturated: list[float]  # share of units with f'(a) below a tenth of its largest value


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from."""

    commit: str | None  # None outside a git checkout
    dirty: bool | None  # whether the checkout differed from the commit
    fingerprint: str  # of the numerical code, see `lbp.provenance`
    python: str
    torch: str
    torchvision: str
    device: str  # the processor's or GPU's name
    threads: int  # of PyTorch on the CPU
    precision: str
    finished: str  # UTC, ISO 8601
    seconds: float  # all epochs together


@dataclass(frozen=True)
class Record:
    """A run's config, outcome, epochs, glances at its layers, and provenance.

    Raises:
        LbpError: If the epochs do not fit the outcome.
    """

    config: RunConfig
    outcome: Outcome
    epochs: Sequence[Epoch]
    layers: Sequence[Layers]
    provenance: Provenance

    def __post_init__(self) -> None:
        check_choice("outcome", self.outcome, get_args(Outcome))
        if [row.epoch for row in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise LbpError("the epochs are not 1, 2, 3, ... in order")
        if self.outcome == "finished" and len(self.epochs) != self.config.epochs:
            raise LbpError(f"{len(self.epochs)} epochs are recorded of {self.config.epochs}")
        if (self.outcome == "diverged") != any(
            not math.isfinite(row.train_loss) for row in self.epochs
        ):
            raise LbpError(f"the training losses do not fit the outcome {self.outcome!r}")

    def curve(self, name: str) -> list[float]:
        """Return a column of the epochs, by its field name in `Epoch`."""
        return [getattr(row, name) for row in self.epochs]

    @property
    def test_accuracy(self) -> list[float]:
        """The top-1 test accuracy after each epoch, in percent."""
        return [100 - error for error in self.curve("test_error")]

    def to_json(self) -> str:
        """Return the record as JSON, a column of the epochs to a line."""
        parts = {
            "config": json.dumps(self.config.to_dict(), indent=1),
            "outcome": json.dumps(self.outcome),
            "provenance": json.dumps(asdict(self.provenance), indent=1),
            "epochs": _columns_to_json(Epoch, self.epochs, digits=7),
            "layers": _columns_to_json(Layers, self.layers, digits=4),
        }
        return "{\n" + ",\n".join(f"{json.dumps(k)}: {v}" for k, v in parts.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read `to_json`'s text.

        Raises:
            LbpError: If the text is not such a record, whole and consistent.
        """
        try:
            data = json.loads(text)
            return cls(
                RunConfig.from_dict(data["config"]),
                data["outcome"],
                _rows_from_columns(Epoch, data["epochs"]),
                _rows_from_columns(Layers, data["layers"]),
                Provenance(**data["provenance"]),
            )
        except LbpError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LbpError(f"{type(error).__name__}: {error}") from error


def _columns_to_json(kind: type[Epoch] | type[Layers], rows: Sequence[Any], *, digits: int) -> str:
    columns = {f.name: [_plain(getattr(row, f.name), digits) for row in rows] for f in fields(kind)}
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in columns.items())
    return f"{{\n{lines}\n}}"


def _rows_from_columns(kind: Any, columns: Mapping[str, list[Any]]) -> list[Any]:
    names = [field.name for field in fields(kind)]
    if sorted(columns) != sorted(names):
        raise LbpError(f"its {kind.__name__} hold {sorted(columns)}, not {sorted(names)}")
    rows = zip(*(columns[name] for name in names), strict=True)
    listed = [get_origin(field.type) is list for field in fields(kind)]
    return [kind(*map(_value, names, listed, row)) for row in rows]


def _plain(value: Any, digits: int) -> Any:
    """Round floats to significant digits; JSON has no word for NaN and infinity but null."""
    if isinstance(value, list):
        return [_plain(entry, digits) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def _value(name: str, listed: bool, value: Any) -> Any:
    """Read a field of an epoch's log, or of a glance, where most are lists of numbers."""
    if isinstance(value, list) != listed:
        raise LbpError(f"{name} holds {value!r}, which is {'no' if listed else 'a'} list")
    return [_number(name, entry) for entry in value] if listed else _number(name, value)


def _number(name: str, value: Any) -> Any:
    if value is None and name != "held_out_error":
        return math.nan
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise LbpError(f"{name} holds {value!r}, which is no number")
    return value
