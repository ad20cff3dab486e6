"""What a run has left behind so far, as plain data: a sealed JSON file."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lbp.errors import LbpError
from lbp.lab import sealed
from lbp.lab.config import RunConfig
from lbp.lab.provenance import Origin

LONGEST = 100_000  # epochs
_PARTS = ("config", "stretches", "epochs", "layers")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What is logged after an epoch. Errors and accuracies are in percent, losses in nats.

    Numbers are rounded to seven digits.
    """

    epoch: int  # from 1
    train_loss: float  # mean over the epoch's steps, with the weights of each step
    train_accuracy: float
    test_loss: float
    test_error: float  # top-1
    test_error_top5: float
    test_error_half_0: float  # top-1 on each of two fixed stratified halves of the test set
    test_error_half_1: float
    max_preactivation: float  # largest |input of an activation function| on the test set
    seconds: float  # training and evaluation
    # How often a binarized weight changed its sign in the epoch, on average; only of networks that
    # have such weights.
    sign_flips: float | None = None

    def __post_init__(self) -> None:
        _round_fields(self, digits=7)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What the layers do at one moment of a run, layer by layer from the input on.

    Measured on the run's first training images, in training mode. The first four lists have an
    entry for each convolution and linear layer (its weight), the others for each activation
    function. Numbers are rounded to four digits.
    """

    epoch: int  # epochs trained before; 0 is the initialisation
    update: list[float]  # L2 norm of a step of SGD without momentum: lr * (gradient + l2 * weight)
    weight: list[float]  # L2 norm
    gradient: list[float]  # L2 norm of the true gradient of the loss
    cosine: list[float]  # between the rule's gradient and the true one
    preactivation: list[float]  # root mean square
    saturated: list[float]  # share of units with |f'(z)| below a tenth of its largest value
    # The activation functions' own parameters, if they have any: of each layer's first
    # `CHANNELS_SHOWN` channels one after the other, see `lbp.lab.units.make`.
    unit_parameters: list[float] | None = None

    def __post_init__(self) -> None:
        _round_fields(self, digits=4)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Epochs in a row that one process trained, and where."""

    first: int
    last: int
    fingerprint: str  # of the numerical code, see `lbp.lab.fingerprint`
    step: Literal["plain", "captured"]  # captured: compiled and replayed as a CUDA graph
    origin: Origin


@dataclass(frozen=True)
class Record:
    """The epochs of a run so far, glances at its layers, and where the epochs were trained.

    Attributes:
        config: The run.
        epochs: Its epochs from the first on. If the run diverged, the last of them has a
            `train_loss` that is infinite or not a number.
        layers: Glances at the layers, in the order of their epochs.
        stretches: Who trained which epochs, without a gap.

    Raises:
        LbpError: If a number is out of its range, or numbers do not fit each other.
    """

    config: RunConfig
    epochs: Sequence[Epoch]
    layers: Sequence[Layers]
    stretches: Sequence[Stretch]

    def __post_init__(self) -> None:
        _check_epochs(self.config, self.epochs)
        _check_layers(self.layers, len(self.epochs))
        _check_stretches(self.stretches, len(self.epochs))

    def __len__(self) -> int:
        return len(self.epochs)

    @property
    def diverged(self) -> bool:
        """Whether the loss became infinite or not a number in the last epoch."""
        return not math.isfinite(self.epochs[-1].train_loss)

    def reaches(self, epochs: int) -> bool:
        """Whether the run needs no more training to have that many epochs."""
        return self.diverged or len(self) >= epochs

    def until(self, epochs: int) -> "Record":
        """Return the record as it was after so many epochs, or as it is if it is shorter."""
        if len(self) <= epochs:
            return self
        kept = [stretch for stretch in self.stretches if stretch.first <= epochs]
        kept[-1] = replace(kept[-1], last=min(epochs, kept[-1].last))
        layers = [glance for glance in self.layers if glance.epoch <= epochs]
        return Record(self.config, self.epochs[:epochs], layers, kept)

    @property
    def test_accuracy(self) -> list[float]:
        """The top-1 test accuracy after each epoch, in percent."""
        return [100 - row.test_error for row in self.epochs]

    def begins_like(self, other: "Record") -> bool:
        """Whether both records have the same numbers in the epochs that they share, but for time.

        Raises:
            LbpError: If they are of different runs.
        """
        if self.config != other.config:
            raise LbpError(f"{self.config} and {other.config} are different runs")
        shared = min(len(self), len(other))
        mine, theirs = (_timeless(record.epochs[:shared]) for record in (self, other))
        return mine == theirs

    def to_json(self) -> str:
        """Return the record as JSON, a column of the epochs to a line, with a digest of it all."""
        lines = [f"{json.dumps(name)}: {text}" for name, text in self._parts().items()]
        seal = f'"digest": "{self.digest}"'
        return "{\n" + ",\n".join([*lines, seal]) + "\n}\n"

    @property
    def digest(self) -> str:
        """The SHA-256 of the record's content as `to_json` lays it out."""
        return sealed.digest("\n".join(self._parts().values()))

    def _parts(self) -> dict[str, str]:
        return {
            "config": json.dumps(self.config.differing(), indent=1, sort_keys=True),
            "stretches": json.dumps([asdict(stretch) for stretch in self.stretches], indent=1),
            "epochs": _columns_to_json(Epoch, self.epochs),
            "layers": _columns_to_json(Layers, self.layers),
        }

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read `to_json`'s text.

        Raises:
            LbpError: If the text is not such a record, whole, unaltered and consistent.
        """
        data = sealed.loads(text)
        if isinstance(data, dict) and "outcome" in data:
            raise LbpError("it is of an older form, from before runs could grow")
        sealed.check_keys("a record", data, (*_PARTS, "digest"))
        try:
            record = cls(
                RunConfig.from_differing(data["config"]),
                _rows_from_columns(Epoch, data["epochs"]),
                _rows_from_columns(Layers, data["layers"]),
                [sealed.build(Stretch, "a stretch", entry) for entry in data["stretches"]],
            )
        except LbpError:
            raise
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise LbpError(f"{type(error).__name__}: {error}") from error
        sealed.check_digest(record.digest, data["digest"])
        return record


# --- checks

_PERCENTAGES = (
    "train_accuracy",
    "test_error",
    "test_error_top5",
    "test_error_half_0",
    "test_error_half_1",
)


def _check_epochs(config: RunConfig, epochs: Sequence[Epoch]) -> None:
    if not 1 <= len(epochs) <= LONGEST:
        raise LbpError(f"it has {len(epochs)} epochs: 1 to {LONGEST} are possible")
    if [row.epoch for row in epochs] != list(range(1, len(epochs) + 1)):
        raise LbpError("its epochs are not 1, 2, 3, ... without a gap")
    for row in epochs:
        where = f"in epoch {row.epoch}"
        if not math.isfinite(row.train_loss) and row is not epochs[-1]:
            raise LbpError(f"train_loss is {row.train_loss} {where}, which is not the last one")
        # Large weights can make these infinite before the run diverges, and even if it does not.
        for name in ("train_loss", "test_loss", "max_preactivation"):
            if getattr(row, name) < 0:
                raise LbpError(f"{name} is {getattr(row, name)} {where}: 0 or more is needed")
        _check_within("seconds", row.seconds, 0, math.inf, where)
        if row.sign_flips is not None:
            _check_within("sign_flips", row.sign_flips, 0, math.inf, where)
        for name in _PERCENTAGES:
            _check_within(name, getattr(row, name), 0, 100, where)
        if row.test_error_top5 > row.test_error:
            raise LbpError(f"test_error_top5 is above test_error {where}")
        _check_halves(config, row, where)


def _check_halves(config: RunConfig, row: Epoch, where: str) -> None:
    first = config.classes * math.ceil(config.test_images / config.classes / 2)  # images in half 0
    second = config.test_images - first
    whole = (first * row.test_error_half_0 + second * row.test_error_half_1) / config.test_images
    if abs(whole - row.test_error) > 1e-4:
        raise LbpError(f"the errors of the two halves do not average to test_error {where}")


_RANGES = {
    "cosine": (-1.001, 1.001),
    "saturated": (0, 1),
    "unit_parameters": (-math.inf, math.inf),
}


def _check_layers(layers: Sequence[Layers], epochs: int) -> None:
    at = [glance.epoch for glance in layers]
    if at != sorted(set(at)) or not all(0 <= epoch <= epochs for epoch in at):
        raise LbpError(
            f"its glances at the layers are after the epochs {at}, out of order or range"
        )
    names = [field.name for field in fields(Layers) if field.name != "epoch"]
    lengths = [{name: len(getattr(glance, name) or ()) for name in names} for glance in layers]
    if any(length != lengths[0] for length in lengths):
        raise LbpError("its glances at the layers have different numbers of layers")
    for glance in layers:
        where = f"in the glance after epoch {glance.epoch}"
        for name in names:
            low, high = _RANGES.get(name, (0, math.inf))
            for value in filter(math.isfinite, getattr(glance, name) or ()):
                _check_within(name, value, low, high, where)


def _check_stretches(stretches: Sequence[Stretch], epochs: int) -> None:
    next_epoch = 1
    for stretch in stretches:
        if stretch.first != next_epoch or stretch.last < stretch.first:
            raise LbpError(
                f"its stretches have a gap or overlap: one has the epochs {stretch.first} to "
                f"{stretch.last} where epoch {next_epoch} comes next"
            )
        next_epoch = stretch.last + 1
    if next_epoch != epochs + 1:
        raise LbpError(f"its stretches end with epoch {next_epoch - 1}, its epochs with {epochs}")


def _check_within(name: str, value: float, low: float, high: float, where: str) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise LbpError(f"{name} is {value} {where}: a number from {low:g} to {high:g} is needed")


# --- plain data and back


def _round_fields(row: Epoch | Layers, *, digits: int) -> None:
    """Round every float of a frozen row, so that what is in memory is what is in the file."""
    form = f".{digits}g"
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, list):
            object.__setattr__(row, field.name, [float(format(entry, form)) for entry in value])
        elif value is not None and field.type in (float, float | None):  # also for an integer
            object.__setattr__(row, field.name, float(format(value, form)))


def _timeless(epochs: Sequence[Epoch]) -> list[Any]:
    """Return epochs as the file has them, where a NaN equals another, without their times."""
    return [_plain(asdict(row) | {"seconds": 0.0}) for row in epochs]


def _plain(value: Any) -> Any:
    """Return data for JSON, which has no word for NaN and infinity but null."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return value if _all_finite(value) else [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _all_finite(values: Sequence[Any]) -> bool:
    """Whether these are floats and none of them is infinite or NaN; quick, for the usual case."""
    return set(map(type, values)) == {float} and math.isfinite(sum(values))


def _columns_to_json(kind: type[Epoch] | type[Layers], rows: Sequence[Any]) -> str:
    columns = {f.name: [_plain(getattr(row, f.name)) for row in rows] for f in fields(kind)}
    for name in _optional(kind):
        if all(getattr(row, name) is None for row in rows):
            del columns[name]  # a record has no column that its network has no numbers for
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in columns.items())
    return f"{{\n{lines}\n}}"


def _optional(kind: type[Epoch] | type[Layers]) -> set[str]:
    return {field.name for field in fields(kind) if field.default is None}


def _rows_from_columns(kind: Any, columns: Mapping[str, list[Any]]) -> list[Any]:
    hints = get_type_hints(kind)
    sealed.check_keys(f"the part {kind.__name__}", columns, tuple(hints), _optional(kind))
    hints = {name: hint for name, hint in hints.items() if name in columns}
    for name, column in columns.items():
        if not isinstance(column, list):
            raise LbpError(f"{name} is {str(column)[:40]!r}: a list is needed")
    if len({len(column) for column in columns.values()}) > 1:
        raise LbpError(f"the columns of {kind.__name__} have different lengths")
    checked = (_column(name, hint, columns[name]) for name, hint in hints.items())
    return [kind(**dict(zip(hints, row, strict=True))) for row in zip(*checked, strict=True)]


def _column(name: str, hint: Any, column: list[Any]) -> list[Any]:
    """Check the types of a column; what JSON writes as null is not a number."""
    hint = next((kind for kind in get_args(hint) if get_origin(kind) is list), hint)
    if get_origin(hint) is not list:
        return _numbers(name, int if hint is int else float, column)
    for entry in column:
        if not isinstance(entry, list):
            raise LbpError(f"{name} holds {str(entry)[:40]!r}: a list is needed")
    return [_numbers(name, float, entry) for entry in column]


def _numbers(name: str, hint: type[int] | type[float], values: list[Any]) -> list[Any]:
    if hint is float and _all_finite(values):
        return values
    found = []
    for value in values:
        if value is None and hint is float:
            value = math.nan
        elif isinstance(value, bool) or not isinstance(value, (int, hint)):
            raise LbpError(f"{name} holds {str(value)[:40]!r}: a number is needed")
        elif hint is float and math.isinf(value):
            raise LbpError(f"{name} holds a number that is too large")
        found.append(hint(value))
    return found
