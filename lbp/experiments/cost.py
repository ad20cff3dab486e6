"""What the saving is worth: time and memory of a training step, measured under both rules.

Yazdani (2018), section 1, promises savings of O(ml). Recorded comparisons lie in data/cost/, a file
for each kind of device, with a line of JSON for each case. A time is a fact about a machine at a
commit, which its origin names; later code does not make it stale.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils._python_dispatch import TorchDispatchMode

from lbp.errors import LbpError, check_choice
from lbp.experiments.numbers import Estimate, number
from lbp.experiments.scales import PROFILES
from lbp.experiments.style import COLOURS, LABELS, MARKERS
from lbp.experiments.table import Table
from lbp.lab import paths, sealed, step_cost
from lbp.lab.config import RunConfig
from lbp.lab.devices import choose_devices
from lbp.lab.files import locked, told
from lbp.lab.models import Arithmetic, arithmetic, build
from lbp.lab.provenance import Origin
from lbp.lab.step_cost import ARMS, MODES, RULES, Case, Comparison
from lbp.linearization import linearize

TITLE = "What the saving is worth"
PLACE = "section 1"
QUESTION = "What does a training step save without the derivatives?"

NETWORKS = {"vgg19": "VGG19", "resnet18": "ResNet-18"}
UNITS = {"tanh": "tanh", "relu": "ReLU", "gelu": "GELU", "silu": "SiLU"}

T = TypeVar("T")
Found = Mapping[str, Sequence[Comparison]]  # by a name in `PLANS`


# --- what is measured


@dataclass(frozen=True)
class Plan:
    """What is measured on a kind of device, and how often."""

    device: str  # as a page calls it
    cases: Sequence[Case]
    rounds: int
    steps: int  # in a row; a round records their mean


def _grid(batch: int, precision: str) -> list[Case]:
    return [
        Case(model=model, activation=activation, mode=mode, batch=batch, precision=precision)
        for mode, model, activation in product(MODES, NETWORKS, UNITS)
    ]


DEVICES = {
    "gpu": Plan("GPU", _grid(128, "bf16"), rounds=18, steps=10),
    "processor": Plan("processor", _grid(32, "float32"), rounds=18, steps=1),
}
SMOKE = Plan(
    "test machine",
    [
        Case(model="vgg19", activation="gelu", mode="eager", batch=2, precision="float32"),
        Case(model="resnet18", activation="tanh", mode="compiled", batch=2, precision="float32"),
    ],
    rounds=2,
    steps=1,
)
PLANS = DEVICES | {"smoke": SMOKE}


def measure(
    profile: str, device: str = "auto", folder: Path | None = None
) -> dict[str, list[Comparison]]:
    """Return comparisons, measuring those that the profile asks for and that are missing.

    Args:
        profile: "recorded" measures nothing and returns what is recorded of a GPU and of a
            processor; so does "narrow", because the networks here are the paper's at any scale.
            "paper" measures what is missing on the device and records each comparison at once, so
            that an interrupted call goes on where it stopped. "smoke" measures two small cases and
            records nothing.
        device: Where to measure: "auto" (the GPU if there is one), "cpu" or "cuda".
        folder: Where the records are; by default data/cost/ of the project.

    Returns:
        Comparisons in the order of the cases, by "gpu", "processor" or "smoke".

    Raises:
        LbpError: If a name is unknown, there is no such device, a record is damaged or cannot be
            written, or torch.compile fails.
    """
    check_choice("profile", profile, PROFILES)
    check_choice("device", device, ("auto", "cpu", "cuda"))
    if profile in ("recorded", "narrow"):
        return {name: recorded(name, folder) for name in DEVICES}
    (chosen,) = choose_devices(device)
    name = "smoke" if profile == "smoke" else "gpu" if chosen.type == "cuda" else "processor"
    plan = PLANS[name]
    found = {} if name == "smoke" else {c.case: c for c in recorded(name, folder)}
    for case in plan.cases:
        if case in found:
            continue
        found[case] = step_cost.compare(case, chosen, rounds=plan.rounds, steps=plan.steps)
        print(describe(found[case]), flush=True)
        if name != "smoke":
            _append(found[case], name, folder)
    return {name: [found[case] for case in plan.cases]}


def describe(comparison: Comparison) -> str:
    """Return what was found for a case in one line, medians over the rounds."""
    linear, again = (time_ratio(comparison, arm).value for arm in ARMS[1:])
    bp_mb, linear_mb = (comparison.kept[rule] / 1e6 for rule in RULES)
    return (
        f"{comparison.case}: bp {_milliseconds(comparison)} ms, linear / bp {linear:.3f}, "
        f"bp again / bp {again:.3f}; kept {bp_mb:.1f} MB, linear {linear_mb:.1f} MB"
    )


# --- the records


def path(name: str, folder: Path | None = None) -> Path:
    """Return the file that holds, or would hold, the comparisons of a kind of device."""
    return (paths.cost() if folder is None else folder) / f"{name}.jsonl"


def recorded(name: str, folder: Path | None = None) -> list[Comparison]:
    """Return what is recorded of a kind of device, in the order of the cases.

    Args:
        name: A name in `DEVICES`.
        folder: Where the records are; by default data/cost/ of the project.

    Raises:
        LbpError: If the name is unknown, or the file cannot be read or is damaged.
    """
    check_choice("kind of device", name, DEVICES)
    file = path(name, folder)
    found: dict[Case, Comparison] = {}
    for line_number, line in enumerate(_lines(file), 1):
        try:
            comparison = _from_json(line)
            if comparison.case not in DEVICES[name].cases:
                raise LbpError(f"the case {comparison.case} is not one of this experiment")
            if comparison.case in found:
                raise LbpError(f"the case {comparison.case} is there twice")
        except (ValueError, OverflowError, RecursionError) as error:  # LbpError is a ValueError
            raise LbpError(
                f"line {line_number} of {file} is damaged ({error}): restore it (git checkout), or "
                "delete the line to measure the case again"
            ) from error
        found[comparison.case] = comparison
    return [found[case] for case in DEVICES[name].cases if case in found]


def _lines(file: Path) -> list[bytes]:
    with told(file, "cannot be read"):
        try:
            return file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []


def _append(comparison: Comparison, name: str, folder: Path | None) -> None:
    file = path(name, folder)
    with locked(file.with_name(".lock"), wait=True), told(file, "cannot be written"):
        if any(comparison.case == other.case for other in recorded(name, folder)):
            return  # another process has measured it meanwhile
        with file.open("a", encoding="utf-8") as stream:
            stream.write(_to_json(comparison) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _to_json(comparison: Comparison) -> str:
    data = asdict(comparison)
    return json.dumps(data | {"digest": sealed.digest(json.dumps(data))})


def _from_json(line: bytes) -> Comparison:
    if not line.endswith(b"\n"):
        raise LbpError("it is cut off")
    data = sealed.loads(line.decode("utf-8"))
    names = [field.name for field in fields(Comparison)]
    sealed.check_keys("a comparison", data, [*names, "digest"])
    sealed.check_keys("seconds", data["seconds"], ARMS)
    sealed.check_keys("kept", data["kept"], RULES)
    stored = data.pop("digest")
    case = sealed.build(Case, "a case", data["case"])
    origin = sealed.build(Origin, "an origin", data["origin"])
    comparison = Comparison(**data | {"case": case, "origin": origin})
    for arm, values in comparison.seconds.items():
        if not isinstance(values, list) or not values:
            raise LbpError(f"seconds of {arm} = {values!r}: a list of times is needed")
        for value in values:
            _check_positive(f"a time of {arm}", value, float)
    if len({len(values) for values in comparison.seconds.values()}) > 1:
        raise LbpError("its arms have different numbers of rounds")
    for rule, kept in comparison.kept.items():
        _check_positive(f"kept of {rule}", kept, int)
    _check_positive("steps", comparison.steps, int)
    _check_positive("threads", origin.threads, int)
    sealed.check_digest(sealed.digest(json.dumps(asdict(comparison))), stored)
    return comparison


def _check_positive(what: str, value: Any, kind: type[int] | type[float]) -> None:
    if type(value) is not kind or not math.isfinite(value) or value <= 0:
        raise LbpError(f"{what} = {value!r}: a positive {kind.__name__} is needed")


# --- measures


def time_ratio(comparison: Comparison, arm: str = "linear") -> Estimate:
    """Return the time of one of the `ARMS` over that of Backprop: the median over the rounds.

    The interval is that of the order statistics, which assumes no distribution. With fewer than six
    rounds there is none: its ends are NaN.
    """
    from scipy.stats import quantile_test  # imported here: it takes seconds

    ratios = np.divide(comparison.seconds[arm], comparison.seconds["bp"])
    median = float(np.median(ratios))
    interval = quantile_test(ratios, q=median, p=0.5).confidence_interval(0.95)
    return Estimate(median, float(interval.low), float(interval.high))


def kept_ratio(comparison: Comparison) -> float:
    """Return the bytes kept under Linear Backprop over those kept under Backprop."""
    return comparison.kept["linear"] / comparison.kept["bp"]


def slower(comparisons: Iterable[Comparison]) -> list[Case]:
    """Return the cases in which Linear Backprop is slower than Backprop beyond the noise.

    There its interval lies above one, and above the interval of Backprop against itself. With fewer
    than six rounds there is no interval, and no case is named.
    """
    return [c.case for c in comparisons if time_ratio(c).low > max(1, _noise(c).high)]


def faster(comparisons: Iterable[Comparison]) -> list[Case]:
    """Return the cases in which Linear Backprop is faster than Backprop beyond the noise.

    There its interval lies below one, and below the interval of Backprop against itself.
    """
    return [c.case for c in comparisons if time_ratio(c).high < min(1, _noise(c).low)]


def _noise(comparison: Comparison) -> Estimate:
    return time_ratio(comparison, "bp again")


def derivatives_per_unit() -> float:
    """Count the derivatives that Linear Backprop spares in a backward pass of VGG19 with tanh.

    Returns:
        The numbers that PyTorch's backward pass of tanh computes under Backprop, less those under
        Linear Backprop, over the units and images.
    """
    images = 2
    counts: dict[str, int] = {}
    for rule in RULES:
        with torch.random.fork_rng(devices=[]):
            model, _ = linearize(build(RunConfig()), rule)
        loss = model(torch.zeros(images, 3, 32, 32)).sum()
        with _Derivatives() as counting:
            loss.backward()
        counts[rule] = counting.count
    return (counts["bp"] - counts["linear"]) / (images * _count("vgg19").units)


class _Derivatives(TorchDispatchMode):
    """Counts the numbers that derivatives of tanh give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.tanh_backward.default:
            self.count += int(result.numel())
        return result


def measures(comparisons: Sequence[Comparison]) -> dict[str, Estimate | float]:
    """Return the numbers of a kind of device; those whose cases are missing are left out.

    - derivatives_per_unit: see there;
    - step_time_ratio: a step's time, linear over bp, of VGG19 with tanh, eager or compiled,
      whichever favours the claim;
    - smallest_ratio, largest_ratio: the same of all cases;
    - kept_ratio_gelu, kept_ratio_silu: bytes kept, linear over bp, of VGG19, eager.
    """
    numbers: dict[str, Estimate | float] = {}
    vgg19 = [c for c in comparisons if c.case.model == "vgg19"]
    tanh = [time_ratio(c) for c in vgg19 if c.case.activation == "tanh"]
    if len(tanh) == len(MODES):
        numbers["step_time_ratio"] = min(tanh, key=lambda ratio: ratio.value)
    if comparisons:
        numbers["derivatives_per_unit"] = derivatives_per_unit()
        ratios = [time_ratio(c).value for c in comparisons]
        numbers |= {"smallest_ratio": min(ratios), "largest_ratio": max(ratios)}
    for c in vgg19:
        if c.case.mode == "eager" and c.case.activation in ("gelu", "silu"):
            numbers[f"kept_ratio_{c.case.activation}"] = kept_ratio(c)
    return numbers


def answer(found: Found) -> str:
    """Say what a step saves, on a GPU if one was measured, else on a processor."""
    text = texts(found)
    if text["cost_where"] == "-":
        return "Not yet measured."
    return (
        f"One derivative for each unit, which is {text['cost_share_vgg19']} % of VGG19's "
        f"arithmetic. A step of VGG19 with tanh takes {text['cost_tanh_eager']} times as long as "
        f"with Backprop, {text['cost_where']} (95 % confidence interval in brackets; Backprop "
        f"timed again: {text['cost_tanh_again']}). Memory is saved where the activation "
        f"function is GELU or SiLU: up to {text['cost_freed_smooth_vgg19_eager']} % of what VGG19 "
        f"keeps for the backward pass in eager mode; compiled, "
        f"{text['cost_freed_smooth_vgg19_compiled']} %."
    )


# --- figures


def draw_times(found: Found) -> Figure:
    """Draw the time of a training step over that of Backprop: medians and 95 % intervals.

    Args:
        found: A row of panels is drawn for each kind of device that has comparisons.

    Raises:
        LbpError: If none has.
    """
    figure, panels = _panels(found, "time of a step / Backprop's")
    for axes, cases in panels:
        axes.axvline(1, color=COLOURS["bp"], linewidth=2, label="Backprop")
        for arm, side, marker, colour, label in (
            ("bp again", 0.17, "s", "0.45", "Backprop, timed again"),
            ("linear", -0.17, MARKERS["linear"], COLOURS["linear"], LABELS["linear"]),
        ):
            ratios = [time_ratio(c, arm) for c in cases]
            places = _places(cases) + side
            ends = [r.low for r in ratios], [r.high for r in ratios]
            axes.hlines(places, *ends, color=colour, linewidth=2)
            axes.plot([r.value for r in ratios], places, marker, color=colour, label=label)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10)
    return figure


def draw_memory(found: Found) -> Figure:
    """Draw the bytes that a forward pass keeps for the backward pass, as bars.

    Args:
        found: A row of panels is drawn for each kind of device that has comparisons.

    Raises:
        LbpError: If none has.
    """
    figure, panels = _panels(found, "kept for the backward pass (MB)")
    for axes, cases in panels:
        for rule, side, hatch in (("bp", 0.2, "///"), ("linear", -0.2, "")):
            kept = [c.kept[rule] / 1e6 for c in cases]
            style: dict[str, Any] = {"color": COLOURS[rule], "hatch": hatch, "edgecolor": "white"}
            bars = axes.barh(_places(cases) + side, kept, 0.38, label=LABELS[rule], **style)
            if rule == "linear":
                shares = [f"{100 * kept_ratio(c):.0f} %" for c in cases]
                axes.bar_label(bars, shares, padding=3, fontsize=9)
        axes.margins(x=0.15)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def _panels(found: Found, xlabel: str) -> tuple[Figure, list[tuple[Axes, list[Comparison]]]]:
    """Return a figure with a panel for each device and mode, and each panel's comparisons."""
    names = [name for name, comparisons in found.items() if comparisons]
    if not names:
        raise LbpError("no step is measured: restore data/cost, or call lbp cost --profile paper")
    modes = list(dict.fromkeys(c.case.mode for name in names for c in found[name]))
    size = (5.2 * len(modes), 5.0 * len(names))
    figure, grid = plt.subplots(len(names), len(modes), figsize=size, sharex="row", squeeze=False)
    panels = []
    for (name, mode), axes in zip(product(names, modes), grid.flat, strict=True):
        cases = [c for c in found[name] if c.case.mode == mode]
        labels = [f"{NETWORKS[c.case.model]}, {UNITS[c.case.activation]}" for c in cases]
        axes.set_yticks(_places(cases), labels, fontsize=10)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{mode}, on a {PLANS[name].device}")
        axes.set_xlabel(xlabel)
        panels.append((axes, cases))
    return figure, panels


def _places(cases: Sequence[Comparison]) -> np.ndarray:
    """Return a height for each case, the first one on top."""
    return np.arange(len(cases))[::-1]


# --- tables and texts


def count_table() -> Table:
    """Return the units and the arithmetic of each network."""
    counts = {network: _count(model) for model, network in NETWORKS.items()}
    return Table(
        "What one image takes in a training step: the arithmetic of convolutions and linear "
        "layers, and a multiplication for each unit",
        ["network", "GFLOP", "units", "share of the units (%)"],
        [
            [network, f"{one.training / 1e9:.3f}", f"{one.units:,}", _share(one)]
            for network, one in counts.items()
        ],
    )


def measured_table(found: Found) -> Table:
    """Return what was measured on each kind of device, on which machine, and how long it took."""
    rows = []
    for name, comparisons in found.items():
        origins = [c.origin for c in comparisons]
        minutes = f"{sum(origin.seconds for origin in origins) / 60:.0f}" if origins else "-"
        machines = "; ".join(sorted({origin.device for origin in origins})) or "-"
        versions = "; ".join(sorted({origin.torch for origin in origins})) or "-"
        cases = f"{len(comparisons)} of {len(PLANS[name].cases)}"
        rows.append([PLANS[name].device, cases, minutes, machines, versions])
    columns = ["device", "cases", "minutes", "machine", "PyTorch"]
    return Table("What is measured, and where", columns, rows)


def origins(found: Found) -> dict[str, list[Origin]]:
    """Return where the measurements were made, by the kind of device."""
    return {PLANS[name].device: [c.origin for c in found[name]] for name in found}


def time_table(found: Found) -> Table:
    """Return the time of a step of each case."""
    return Table(
        "Time of a training step: Backprop's, and the ratios to it of Linear Backprop's and of "
        "Backprop's timed again; medians, with their 95 % confidence intervals",
        ["step", "device", "Backprop (ms)", "Linear Backprop", "Backprop again"],
        [
            [*_called(name, c), _milliseconds(c), *(str(time_ratio(c, arm)) for arm in ARMS[1:])]
            for name, comparisons in found.items()
            for c in comparisons
        ],
    )


def memory_table(found: Found) -> Table:
    """Return the bytes that a step of each case keeps."""
    return Table(
        "Memory that a forward pass keeps for the backward pass, and the ratio of Linear "
        "Backprop's to Backprop's",
        ["step", "device", "Backprop (MB)", "Linear Backprop (MB)", "ratio"],
        [
            [*_called(name, c), *(f"{c.kept[r] / 1e6:.2f}" for r in RULES), f"{kept_ratio(c):.4f}"]
            for name, comparisons in found.items()
            for c in comparisons
        ],
    )


def texts(found: Found) -> dict[str, str]:
    """Return the numbers in the notebook's prose, by the names under which it glues them.

    They are those of the GPU if it was measured, else those of the processor. A number that does
    not exist is "-".
    """
    name = next((name for name, comparisons in found.items() if comparisons), "")
    cases = found.get(name, [])
    again = [time_ratio(c, "bp again") for c in cases]
    ends = [end for ratio in again for end in (ratio.low, ratio.high)]
    beyond = {
        word: "; ".join(_called(name, c)[0] for c in cases if of([c])) or "no case"
        for word, of in (("slower", slower), ("faster", faster))
    }
    text = {f"share_{model}": _share(_count(model)) for model in NETWORKS} | {
        "where": f"on a {PLANS[name].device}" if cases else "-",
        "again": _span([ratio.value for ratio in again]),
        "again_ends": _span(ends),
    }
    text |= {
        word: names if any(map(math.isfinite, ends)) else "-" for word, names in beyond.items()
    }
    tanh = {c.case.mode: c for c in cases if (c.case.model, c.case.activation) == ("vgg19", "tanh")}
    for mode in MODES:
        text[f"tanh_{mode}"] = str(time_ratio(tanh[mode])) if mode in tanh else "-"
    text["tanh_again"] = str(time_ratio(tanh["eager"], "bp again")) if "eager" in tanh else "-"
    for group, units in (("plain", ("tanh", "relu")), ("smooth", ("gelu", "silu"))):
        mine = [c for c in cases if c.case.activation in units]
        ratios = [time_ratio(c) for c in mine]
        highs = [ratio.high for ratio in ratios if math.isfinite(ratio.high)]
        text[group] = _span([ratio.value for ratio in ratios])
        text[f"{group}_below"] = f"{sum(h < 1 for h in highs)} of {len(highs)}" if highs else "-"
        for model, mode in product(NETWORKS, MODES):
            there = [c for c in mine if (c.case.model, c.case.mode) == (model, mode)]
            freed = [100 * (1 - kept_ratio(c)) for c in there]
            megabytes = [(c.kept["bp"] - c.kept["linear"]) / 1e6 for c in there]
            text[f"freed_{group}_{model}_{mode}"] = number(max(freed, default=None))
            text[f"mb_{group}_{model}_{mode}"] = number(max(megabytes, default=None), ".0f")
    return {f"cost_{key}": value for key, value in text.items()}


def _called(name: str, comparison: Comparison) -> tuple[str, str]:
    """Return how a page calls a step, and the kind of device that took it."""
    case = comparison.case
    step = f"{NETWORKS[case.model]}, {UNITS[case.activation]}, {case.mode}"
    return step, PLANS[name].device


def _milliseconds(comparison: Comparison) -> str:
    return f"{1e3 * np.median(comparison.seconds['bp']):.2f}"


def _count(model: str) -> Arithmetic:
    return arithmetic(RunConfig(model=model))  # type: ignore[arg-type]  # a name in `NETWORKS`


def _share(one: Arithmetic) -> str:
    """Return a multiplication for each unit, in percent of the other arithmetic."""
    return f"{100 * one.units / one.training:.3f}"


def _span(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{min(finite):.3f} to {max(finite):.3f}" if finite else "-"
