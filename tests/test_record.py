"""Records: what they refuse, the way through JSON and back, and damage that is never silent."""

import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbp.errors import LbpError
from lbp.lab.config import RunConfig
from lbp.lab.provenance import Origin
from lbp.lab.record import LONGEST, Epoch, Layers, Record, Stretch
from tests import toys

CONFIG = RunConfig(lr=0.01, seed=3)
RECORD = toys.record(CONFIG, [60.0, 50.0, 40.0])
EPOCH, GLANCE, (STRETCH,) = RECORD.epochs[0], RECORD.layers[0], RECORD.stretches


def content(record: Record) -> str:
    """Return everything that a record holds; JSON has one word for what is not finite."""
    parts = (record.epochs, record.layers, record.stretches)
    plain = [asdict(row) for part in parts for row in part]
    return f"{record.config!r} {plain}".replace("inf", "nan")


def varied(epochs: int) -> Record:
    """Return a record in which no two numbers of a column, or of two columns, are the same."""
    draw = random.Random(0)
    errors = [draw.uniform(40, 60) for _ in range(epochs)]
    rows = [
        replace(
            row,
            train_loss=draw.uniform(1, 3),
            train_accuracy=draw.uniform(30, 60),
            test_loss=draw.uniform(1, 3),
            max_preactivation=draw.uniform(3, 9),
            seconds=draw.uniform(9, 10),
        )
        for row in toys.record(CONFIG, errors).epochs
    ]

    def numbers(length: int) -> list[float]:
        return [draw.random() for _ in range(length)]

    layers = [
        Layers(
            epoch=number,
            update=numbers(3),
            weight=numbers(3),
            gradient=numbers(3),
            cosine=numbers(3),
            preactivation=numbers(2),
            saturated=numbers(2),
        )
        for number in (0, 1, 2, 5, 10, 20)
        if number <= epochs
    ]
    parts = [replace(STRETCH, last=2), replace(STRETCH, first=3, last=epochs)]
    return Record(CONFIG, rows, layers, parts)


# --- to JSON and back

errors = st.floats(0, 100)
sizes = st.floats(0, 1e30) | st.sampled_from([math.nan, math.inf])
texts = st.text(st.characters(categories=("L", "N", "P")), max_size=8)


@st.composite
def rows(draw: st.DrawFn, number: int, last: bool) -> Epoch:
    error = draw(errors)
    apart = draw(st.floats(0, min(error, 100 - error)))
    return Epoch(
        epoch=number,
        train_loss=draw(sizes if last else st.floats(0, 1e30)),
        train_accuracy=draw(errors),
        test_loss=draw(sizes),
        test_error=error,
        test_error_top5=draw(st.floats(0, error)),
        test_error_half_0=error + apart,  # the test set's halves are of equal size
        test_error_half_1=error - apart,
        max_preactivation=draw(sizes),
        seconds=draw(st.floats(0, 1e6)),
    )


@st.composite
def records(draw: st.DrawFn) -> Record:
    config = RunConfig(
        lr=draw(st.floats(1e-8, 100)),
        seed=draw(st.integers(0, 2**31 - 1)),
        rule=draw(st.sampled_from(["bp", "linear", "as-printed"])),
    )
    epochs = draw(st.integers(1, 5))
    several = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))

    def per_layer(values: st.SearchStrategy[float], length: int) -> list[float]:
        return draw(st.lists(values, min_size=length, max_size=length))

    layers = [
        Layers(
            epoch=number,
            update=per_layer(sizes, several[0]),
            weight=per_layer(sizes, several[0]),
            gradient=per_layer(sizes, several[0]),
            cosine=per_layer(st.floats(-1, 1) | st.just(math.nan), several[0]),
            preactivation=per_layer(sizes, several[1]),
            saturated=per_layer(st.floats(0, 1), several[1]),
        )
        for number in sorted(draw(st.sets(st.integers(0, epochs))))
    ]
    origins = st.builds(
        Origin,
        commit=st.none() | texts,
        dirty=st.none() | st.booleans(),
        python=texts,
        torch=texts,
        torchvision=texts,
        device=texts,
        threads=st.integers(1, 99),
        tf32=st.booleans(),
        finished=texts,
        seconds=st.floats(0, 1e9),
    )
    ends = sorted(draw(st.sets(st.integers(1, epochs))) | {epochs})
    stretches = [
        Stretch(
            first=before + 1,
            last=end,
            fingerprint=draw(texts),
            step=draw(st.sampled_from(["plain", "captured"])),
            origin=draw(origins),
        )
        for before, end in zip([0, *ends], ends, strict=False)
    ]
    logged = [draw(rows(n, n == epochs)) for n in range(1, epochs + 1)]
    return Record(config, logged, layers, stretches)


@settings(max_examples=60)
@given(records())
def test_a_record_comes_back_from_json_as_it_was(record: Record) -> None:
    text = record.to_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    found = Record.from_json(text)
    assert content(found) == content(record)
    assert found.digest == record.digest
    assert found.to_json() == text
    assert found.diverged == record.diverged
    assert found.begins_like(record)
    assert record.begins_like(found)


def test_the_fields_of_a_run_stand_in_the_order_of_their_names() -> None:
    """A field that is added or moved in `RunConfig` then changes no digest."""
    config = RunConfig(width=0.125, seed=1, rule="bp", lr=0.01, batch=64)
    names = list(json.loads(toys.record(config, [60.0]).to_json())["config"])
    assert names == ["batch", "lr", "rule", "seed", "width"]


def test_the_digest_is_that_of_the_four_parts_as_they_stand_in_the_file() -> None:
    form = ",\n".join(f'"{name}": (.*)' for name in ("config", "stretches", "epochs", "layers"))
    found = re.fullmatch(f'{{\n{form},\n"digest": "(.*)"\n}}\n', RECORD.to_json(), re.DOTALL)
    assert found is not None
    *parts, digest = found.groups()
    assert hashlib.sha256("\n".join(parts).encode()).hexdigest() == digest


def test_whole_numbers_may_be_given_as_integers() -> None:
    whole = toys.record(CONFIG, [60, 50])
    assert content(Record.from_json(whole.to_json())) == content(whole)
    assert content(whole) == content(toys.record(CONFIG, [60.0, 50.0]))


def test_numbers_are_rounded_as_the_docstrings_say() -> None:
    third = replace(EPOCH, train_loss=100 / 3, seconds=2e7 / 3)
    assert (third.train_loss, third.seconds) == (33.33333, 6666667.0)
    assert toys.glance(0, 2 / 3).update[0] == 0.6667


def test_what_follows_from_the_epochs() -> None:
    assert len(RECORD) == 3
    assert RECORD.test_accuracy == [40.0, 50.0, 60.0]
    assert not RECORD.diverged


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_record_reaches_every_goal(loss: float) -> None:
    rows = [*RECORD.epochs[:2], replace(RECORD.epochs[2], train_loss=loss)]
    diverged = replace(RECORD, epochs=rows)
    assert diverged.diverged
    assert diverged.reaches(LONGEST)
    assert RECORD.reaches(2)
    assert RECORD.reaches(3)
    assert not RECORD.reaches(4)


def test_until_is_the_record_as_it_was_then() -> None:
    long = varied(20)
    for epochs in range(1, 20):
        short = long.until(epochs)
        assert [row.epoch for row in short.epochs] == list(range(1, epochs + 1))
        assert [g.epoch for g in short.layers] == [n for n in (0, 1, 2, 5, 10) if n <= epochs]
        spans = [(1, epochs)] if epochs <= 2 else [(1, 2), (3, epochs)]
        assert [(s.first, s.last) for s in short.stretches] == spans
        assert short.begins_like(long)
    assert long.until(20) is long
    assert long.until(99) is long


def test_until_drops_what_diverged() -> None:
    diverged = toys.record(CONFIG, [60.0, 50.0, 90.0], diverged=True)
    assert not diverged.until(2).diverged
    assert diverged.until(3).diverged


def test_records_begin_alike_if_the_epochs_that_they_share_do() -> None:
    longer = toys.record(CONFIG, [60.0, 50.0, 40.0, 30.0])
    slower = replace(RECORD, epochs=[replace(row, seconds=9.0) for row in RECORD.epochs])
    other = toys.record(CONFIG, [60.0, 50.0, 40.1])
    assert RECORD.begins_like(longer)
    assert longer.begins_like(RECORD)
    assert RECORD.begins_like(slower)
    assert not RECORD.begins_like(other)
    assert RECORD.begins_like(other.until(2))
    nan = toys.record(CONFIG, [60.0, 50.0, 40.0], diverged=True)
    assert nan.begins_like(toys.record(CONFIG, [60.0, 50.0, 40.0], diverged=True))
    assert not nan.begins_like(RECORD)
    with pytest.raises(LbpError, match=r"seed 3 and .* seed 4 are different runs"):
        RECORD.begins_like(toys.record(replace(CONFIG, seed=4), [60.0]))


# --- what a record refuses


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(LbpError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


def in_epoch(number: int, **changes: Any) -> list[Epoch]:
    return [replace(e, **changes) if e.epoch == number else e for e in RECORD.epochs]


PERCENTAGES = [field.name for field in fields(Epoch) if "error" in field.name] + ["train_accuracy"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], f"it has 0 epochs: 1 to {LONGEST} are possible"),
        ([EPOCH] * (LONGEST + 1), f"it has {LONGEST + 1} epochs"),
        (RECORD.epochs[1:], "its epochs are not 1, 2, 3, ... without a gap"),
        (RECORD.epochs[::-1], "its epochs are not 1, 2, 3"),
        ([EPOCH, EPOCH, EPOCH], "its epochs are not 1, 2, 3"),
        (in_epoch(2, train_loss=math.nan), "train_loss is nan in epoch 2, which is not the last"),
        (in_epoch(1, train_loss=math.inf), "train_loss is inf in epoch 1, which is not the last"),
        (in_epoch(3, train_loss=-0.5), "train_loss is -0.5 in epoch 3: 0 or more is needed"),
        (in_epoch(3, train_loss=-math.inf), "train_loss is -inf in epoch 3: 0 or more is needed"),
        (in_epoch(1, test_loss=-1.0), "test_loss is -1.0 in epoch 1: 0 or more is needed"),
        (in_epoch(2, max_preactivation=-1.0), "max_preactivation is -1.0 in epoch 2"),
        (in_epoch(2, seconds=-1.0), "seconds is -1.0 in epoch 2: a number from 0 to inf is needed"),
        (in_epoch(2, seconds=math.inf), "seconds is inf in epoch 2"),
        (in_epoch(2, seconds=math.nan), "seconds is nan in epoch 2"),
        (in_epoch(2, test_error_top5=50.1), "test_error_top5 is above test_error in epoch 2"),
        (in_epoch(2, test_error_half_0=50.001), "the errors of the two halves do not average to"),
        *(
            (in_epoch(2, **{name: value}), f"{name} is {value} in epoch 2: a number from 0 to 100")
            for name in PERCENTAGES
            for value in (-1.0, 100.1, math.nan, math.inf)
        ),
    ],
)
def test_impossible_epochs_are_refused(rows: list[Epoch], message: str) -> None:
    assert refusal(lambda: replace(RECORD, epochs=rows)).startswith(message)


@pytest.mark.parametrize("test_images", [20, 30, 9_990])
def test_halves_of_unequal_size_count_by_their_images(test_images: int) -> None:
    """With an odd number of images of a class the first half has ten more."""
    config = replace(CONFIG, test_images=test_images)
    per_class = test_images // 10
    first = (per_class + 1) // 2 * 10
    row = replace(
        EPOCH,
        test_error=100 * first / test_images,  # all of the first half are wrong
        test_error_top5=0.0,
        test_error_half_0=100.0,
        test_error_half_1=0.0,
    )
    right = replace(toys.record(config, [50.0]), epochs=[row])
    assert right.epochs == [row]
    wrong = replace(row, test_error=row.test_error + 0.01)
    assert "halves" in refusal(lambda: replace(right, epochs=[wrong]))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([toys.glance(2), toys.glance(1)], "its glances at the layers are after the epochs [2, 1]"),
        ([toys.glance(1), toys.glance(1)], "its glances at the layers are after the epochs [1, 1]"),
        ([toys.glance(4)], "its glances at the layers are after the epochs [4], out of order or"),
        ([toys.glance(-1)], "its glances at the layers are after the epochs [-1]"),
        (
            [GLANCE, replace(toys.glance(1), weight=[0.5] * 16)],
            "its glances at the layers have different numbers of layers",
        ),
        (
            [GLANCE, replace(toys.glance(1), saturated=[0.5] * 17)],
            "its glances at the layers have different numbers of layers",
        ),
        (
            [replace(GLANCE, cosine=[1.5] * 17)],
            "cosine is 1.5 in the glance after epoch 0: a number from -1.001 to 1.001 is needed",
        ),
        ([replace(GLANCE, saturated=[-0.1] * 16)], "saturated is -0.1 in the glance after epoch 0"),
        ([replace(GLANCE, saturated=[1.1] * 16)], "saturated is 1.1 in the glance after epoch 0"),
        *(
            ([negative], f"{name} is -0.5 in the glance after epoch 0: a number from 0 to inf is")
            for name, negative in {
                "update": replace(GLANCE, update=[-0.5] * 17),
                "weight": replace(GLANCE, weight=[-0.5] * 17),
                "gradient": replace(GLANCE, gradient=[-0.5] * 17),
                "preactivation": replace(GLANCE, preactivation=[-0.5] * 16),
            }.items()
        ),
    ],
)
def test_impossible_glances_are_refused(layers: list[Layers], message: str) -> None:
    assert refusal(lambda: replace(RECORD, layers=layers)).startswith(message)


def test_glances_may_hold_what_is_not_finite_and_may_be_missing() -> None:
    broken = [toys.glance(0, math.nan), toys.glance(3, math.inf)]
    assert replace(RECORD, layers=broken).layers == broken
    assert replace(RECORD, layers=[]).layers == []


def spans(*ends: tuple[int, int]) -> list[Stretch]:
    return [replace(STRETCH, first=first, last=last) for first, last in ends]


@pytest.mark.parametrize(
    ("stretches", "message"),
    [
        (spans((1, 1), (3, 3)), "its stretches have a gap or overlap: one has the epochs 3 to 3"),
        (spans((1, 2), (2, 3)), "its stretches have a gap or overlap: one has the epochs 2 to 3"),
        (spans((2, 3)), "its stretches have a gap or overlap: one has the epochs 2 to 3 where ep"),
        (spans((1, 0), (1, 3)), "its stretches have a gap or overlap: one has the epochs 1 to 0"),
        (spans((1, 2)), "its stretches end with epoch 2, its epochs with 3"),
        (spans((1, 4)), "its stretches end with epoch 4, its epochs with 3"),
        ([], "its stretches end with epoch 0, its epochs with 3"),
    ],
)
def test_stretches_with_gaps_are_refused(stretches: list[Stretch], message: str) -> None:
    assert refusal(lambda: replace(RECORD, stretches=stretches)).startswith(message)


# --- JSON that is not such a record

Change = Callable[[dict[str, Any]], object]


def put(*names: str | int, value: Any) -> Change:
    """Return a change of the entry that these names lead to."""

    def change(data: Any) -> None:
        for name in names[:-1]:
            data = data[name]
        data[names[-1]] = value

    return change


def origin(**changes: Any) -> Change:
    return lambda data: data["stretches"][0]["origin"].update(changes)


DEEP = json.loads("[" * 300 + "]" * 300)


def test_a_record_has_no_column_that_its_network_has_no_numbers_for() -> None:
    assert not {"sign_flips", "unit_parameters"} & set(re.findall(r"\w+", RECORD.to_json()))
    rows = [replace(row, sign_flips=row.epoch / 7) for row in RECORD.epochs]
    layers = [replace(glance, unit_parameters=[-1.5, 2 / 3]) for glance in RECORD.layers]
    record = replace(RECORD, epochs=rows, layers=layers)
    again = Record.from_json(record.to_json())
    assert again.to_json() == record.to_json()
    assert [row.sign_flips for row in again.epochs] == [0.1428571, 0.2857143, 0.4285714]
    assert again.layers[0].unit_parameters == [-1.5, 0.6667]
    assert not RECORD.begins_like(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # names
        (put("colour", value=1), "unknown entry of a record 'colour': choose from config, stret"),
        (lambda d: d.pop("layers"), "a record lacks layers"),
        (lambda d: d.pop("digest"), "a record lacks digest"),
        (put("epochs", "colour", value=[1, 2, 3]), "unknown entry of the part Epoch 'colour'"),
        (lambda d: d["epochs"].pop("test_loss"), "the part Epoch lacks test_loss"),
        (lambda d: d["layers"].pop("cosine"), "the part Layers lacks cosine"),
        (put("config", "colour", value=1), "unknown field of a run 'colour'"),
        (put("config", "lr", value=0.001), "lr = 0.001 is the default: leave it out"),
        (put("stretches", 0, "colour", value=1), "unknown entry of a stretch 'colour'"),
        (lambda d: d["stretches"][0].pop("step"), "a stretch lacks step"),
        (origin(colour=1), "unknown entry of the entry origin 'colour'"),
        (lambda d: d["stretches"][0]["origin"].pop("tf32"), "the entry origin lacks tf32"),
        # types of the parts
        (put("epochs", value=[]), "the part Epoch is '[]': an object with names is needed"),
        (put("layers", value=None), "the part Layers is 'None': an object with names is needed"),
        (put("config", value=[1]), "unknown field of a run 1"),
        (put("config", value=5), "TypeError: "),
        (put("stretches", value=5), "TypeError: "),
        (put("stretches", value={"a": 1}), "a stretch is 'a': an object with names is needed"),
        (
            put("stretches", 0, "origin", value="here"),
            "the entry origin is 'here': an object with names",
        ),
        (put("epochs", "test_loss", value=1.5), "test_loss is '1.5': a list is needed"),
        (put("epochs", "test_loss", value=[1.5]), "the columns of Epoch have different lengths"),
        (put("layers", "weight", value=[[0.5]]), "the columns of Layers have different lengths"),
        # types of the numbers
        (put("epochs", "test_loss", 0, value="1.5"), "test_loss holds '1.5': a number is needed"),
        (put("epochs", "test_loss", 0, value=True), "test_loss holds 'True': a number is needed"),
        (put("epochs", "test_loss", 0, value=[1]), "test_loss holds '[1]': a number is needed"),
        (put("epochs", "test_loss", 0, value=DEEP), "test_loss holds '[[[[[[[[[["),
        (put("epochs", "epoch", 0, value=1.0), "epoch holds '1.0': a number is needed"),
        (put("epochs", "epoch", 0, value=None), "epoch holds 'None': a number is needed"),
        (put("epochs", "epoch", 0, value=True), "epoch holds 'True': a number is needed"),
        (put("epochs", "test_loss", 0, value=10**400), "OverflowError: "),
        (put("epochs", "epoch", 0, value=10**400), "its epochs are not 1, 2, 3"),
        (put("layers", "weight", 0, value=0.5), "weight holds '0.5': a list is needed"),
        (put("layers", "weight", 0, 0, value="x"), "weight holds 'x': a number is needed"),
        (put("layers", "weight", 0, 0, value=[]), "weight holds '[]': a number is needed"),
        (put("epochs", "sign_flips", value=[0.1, None, 0.1]), "sign_flips is nan in epoch 2"),
        (put("epochs", "sign_flips", value=[0.1, 0.1, -1]), "sign_flips is -1.0 in epoch 3"),
        (put("epochs", "sign_flips", value=[0.1]), "the columns of Epoch have different lengths"),
        (put("layers", "unit_parameters", value=[1.5]), "the columns of Layers have different"),
        # stretches
        (put("stretches", 0, "first", value=1.0), "first holds '1.0': a value of type int is"),
        (put("stretches", 0, "last", value=True), "last holds 'True': a value of type int is"),
        (put("stretches", 0, "fingerprint", value=5), "fingerprint holds '5': a value of type st"),
        (put("stretches", 0, "step", value="eager"), "unknown step 'eager': choose"),
        (put("stretches", 0, "step", value=["plain"]), "unknown step ['plain']"),
        (origin(commit=5), "commit holds '5': a value of type str | None is needed"),
        (origin(dirty="no"), "dirty holds 'no': a value of type bool | None is needed"),
        (origin(device=None), "device holds 'None': a value of type str is needed"),
        (origin(threads=1.5), "threads holds '1.5': a value of type int is needed"),
        (origin(threads=True), "threads holds 'True': a value of type int is needed"),
        (origin(tf32=0), "tf32 holds '0': a value of type bool is needed"),
        (origin(seconds="1"), "seconds holds '1': a value of type float is needed"),
        (origin(seconds=True), "seconds holds 'True': a value of type float is needed"),
        (origin(seconds=-1.0), "seconds is -1.0: a number of 0 or more is needed"),
        (origin(seconds=10**400), "seconds holds '1000"),
        # what is possible, but was not there
        (put("config", "lr", value=0.02), "its content does not fit its digest"),
        (put("config", value={}), "its content does not fit its digest"),
        (put("layers", value={f.name: [] for f in fields(Layers)}), "its content does not fit its"),
        (origin(commit="1" * 40), "its content does not fit its digest"),
        (put("digest", value=None), "its content does not fit its digest"),
        (put("digest", value="0" * 64), "its content does not fit its digest"),
    ],
)
def test_what_is_not_such_a_record_is_refused(change: Change, message: str) -> None:
    data = json.loads(RECORD.to_json())
    change(data)
    assert refusal(lambda: Record.from_json(json.dumps(data))).startswith(message)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("epochs",), "the part Epoch is '{}': an object with names is needed"),
        (("epochs", "test_loss"), "test_loss is '{}': a list is needed"),
        (("epochs", "test_loss", 0), "test_loss holds '{}': a number is needed"),
        (("layers", "weight", 0), "weight holds '{}': a list is needed"),
        (("stretches", 0, "last"), "last holds '{}': a value of type int is needed"),
    ],
)
def test_a_wrong_value_is_quoted_up_to_forty_letters(
    names: tuple[str | int, ...], message: str
) -> None:
    for length in (1, 40, 41, 1000):
        data = json.loads(RECORD.to_json())
        put(*names, value="x" * length)(data)
        said = refusal(partial(Record.from_json, json.dumps(data)))
        assert said == message.format("x" * min(length, 40))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"test_loss": [1.25', '"test_loss": [NaN', "it holds NaN, which is not a number of JSON"),
        ('"test_loss": [1.25', '"test_loss": [Infinity', "it holds Infinity, which is not a"),
        ('"test_loss": [1.25', '"test_loss": [-Infinity', "it holds -Infinity, which is not"),
        ('"test_loss": [1.25', '"test_loss": [1e999', "test_loss holds a number that is too large"),
        ('"seconds": 1.5', '"seconds": 1e999', "seconds is inf: a number of 0 or more is needed"),
        ('"epoch": [1', f'"epoch": [1{"0" * 5000}', "ValueError: "),
        ('"lr": 0.01', '"lr": 0.01, "lr": 0.01', "the entry 'lr' stands twice"),
        ('"step": "plain"', '"step": "plain", "step": "plain"', "the entry 'step' stands twice"),
        ('"layers":', '"layers": {}, "layers":', "the entry 'layers' stands twice"),
        ("{", "[" * 100_000, "RecursionError: "),
        ("{", "", "JSONDecodeError: "),
        ("}", "", "JSONDecodeError: "),
        ("{", "\ufeff{", "JSONDecodeError: "),
    ],
)
def test_what_is_not_json_is_refused(old: str, new: str, message: str) -> None:
    text = RECORD.to_json()
    assert old in text
    changed = text.replace(old, new, 1)
    assert refusal(lambda: Record.from_json(changed)).startswith(message)


@pytest.mark.parametrize("text", ["", " ", "null", "5", '"record"', "[]", "{}"])
def test_other_json_is_refused(text: str) -> None:
    refusal(lambda: Record.from_json(text))


def test_a_record_from_before_runs_could_grow_is_named() -> None:
    old = {"config": {"lr": 0.01}, "outcome": "finished", "epochs": {}, "provenance": {}}
    message = refusal(lambda: Record.from_json(json.dumps(old)))
    assert message == "it is of an older form, from before runs could grow"


# --- damage

LONG = varied(20).to_json()


def flip(draw: random.Random) -> bytes:
    damaged = bytearray(LONG.encode())
    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def change_a_digit(draw: random.Random) -> bytes:
    at = draw.choice([match.start() for match in re.finditer(r"\d", LONG)])
    return (LONG[:at] + draw.choice("0123456789") + LONG[at + 1 :]).encode()


def delete(draw: random.Random) -> bytes:
    at = draw.randrange(len(LONG))
    return (LONG[:at] + LONG[at + 1 :]).encode()


def double(draw: random.Random) -> bytes:
    at = draw.randrange(len(LONG))
    return (LONG[: at + 1] + LONG[at:]).encode()


def cut_off(draw: random.Random) -> bytes:
    return LONG[: draw.randrange(len(LONG))].encode()


def swap_columns(draw: random.Random) -> bytes:
    data = json.loads(LONG)
    part = data[draw.choice(["epochs", "layers"])]
    first, second = draw.sample(sorted(part), 2)
    part[first], part[second] = part[second], part[first]
    return json.dumps(data).encode()


def swap_entries(draw: random.Random) -> bytes:
    """Swap two entries of one column, or of all columns but the epochs' numbers."""
    data = json.loads(LONG)
    part = data[draw.choice(["epochs", "layers"])]
    first, second = draw.sample(range(len(part["epoch"])), 2)
    names = sorted(part.keys() - {"epoch"})
    for name in draw.choice([names, draw.sample(names, 1)]):
        column = part[name]
        column[first], column[second] = column[second], column[first]
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "damage",
    [flip, change_a_digit, delete, double, cut_off, swap_columns, swap_entries],
    ids=lambda damage: damage.__name__,
)
def test_damage_is_told_or_changes_nothing(damage: Callable[[random.Random], bytes]) -> None:
    whole, draw = content(Record.from_json(LONG)), random.Random(1)
    found = [read(damage(draw)) for _ in range(150)]
    assert {text for text in found if not text.startswith("told")} <= {whole}
    assert sum(text.startswith("told") for text in found) > 75
    assert not any("\n" in text for text in found)


def read(damaged: bytes) -> str:
    """Return the content of a damaged record, or what is told of it."""
    try:
        return content(Record.from_json(damaged.decode()))
    except (LbpError, UnicodeDecodeError) as error:  # the store tells the latter
        return f"told: {error}"
