"""What is compared differs in the rule alone; bytes are counted right; nothing measured is lost."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lbp
from lbp.errors import LbpError
from lbp.experiments import cost
from lbp.experiments.numbers import Estimate
from lbp.lab import step_cost
from lbp.lab.config import RunConfig
from lbp.lab.models import arithmetic
from lbp.lab.provenance import origin
from lbp.lab.step_cost import ARMS, Case, Comparison, Step, bytes_kept
from lbp.lab.units import UNITS

CPU = torch.device("cpu")
NUMBER_OF_UNITS = {
    "vgg19": 2 * 64 * 32**2 + 2 * 128 * 16**2 + 4 * 256 * 8**2 + 4 * 512 * 4**2 + 4 * 512 * 2**2,
    "resnet18": 5 * 64 * 32**2 + 4 * 128 * 16**2 + 4 * 256 * 8**2 + 4 * 512 * 4**2,
}
LAST = {"vgg19": 0, "resnet18": 512 * 4**2}  # units whose output the next layer does not keep


def case(model="vgg19", activation="gelu", mode="eager"):
    return Case(model=model, activation=activation, mode=mode, batch=2, precision="float32")


def comparison(linear, again=(1.0,) * 15, of=None):
    """A comparison in which Backprop takes a second a step."""
    return Comparison(
        case=of or case(),
        seconds={"bp": [1.0] * len(linear), "linear": list(linear), "bp again": list(again)},
        steps=1,
        kept={"bp": 10, "linear": 7},
        origin=origin(CPU, 1.0),
    )


every_model = pytest.mark.parametrize("model", cost.NETWORKS)
every_activation = pytest.mark.parametrize("activation", cost.UNITS)
every_device = pytest.mark.parametrize("name", cost.DEVICES)


# --- what is compared


@every_model
@every_activation
def test_both_rules_train_one_network_on_one_batch(model, activation):
    bp, linear = (Step(case(model, activation), rule, CPU) for rule in ("bp", "linear"))
    assert all(map(torch.equal, bp.model.state_dict().values(), linear.model.state_dict().values()))
    kinds = {type(module) for module in bp.model.modules()}
    assert kinds & set(UNITS.values()) == {UNITS[activation]}
    for step in (bp, linear):
        step.images = torch.arange(2.0 * 3 * 32 * 32).sin().view(2, 3, 32, 32)
        step.loss().backward()
    assert torch.equal(bp.loss(), linear.loss())
    grads = zip(bp.model.parameters(), linear.model.parameters(), strict=True)
    assert any(not torch.allclose(p.grad, q.grad) for p, q in grads)


def test_a_step_changes_the_weights():
    step = Step(case("resnet18"), "linear", CPU)
    before = [p.detach().clone() for p in step.model.parameters()]
    step.take()
    assert any(not torch.equal(p, q) for p, q in zip(step.model.parameters(), before, strict=True))


def products(model):
    """Multiplications of a forward pass, layer by layer: inputs, outputs, weights, places."""
    if model == "vgg19":
        widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
        sides = [32] * 2 + [16] * 2 + [8] * 4 + [4] * 4 + [2] * 4
        layers = [*zip(widths[:-1], widths[1:], [9] * 16, sides, strict=True), (512, 10, 1, 1)]
    else:
        layers = [(3, 64, 9, 32), *[(64, 64, 9, 32)] * 4, (512, 10, 1, 1)]
        for width, side in ((128, 16), (256, 8), (512, 4)):
            layers += [(width // 2, width, 9, side), *[(width, width, 9, side)] * 3]
            layers += [(width // 2, width, 1, side)]  # the shortcut
    return [inputs * outputs * weights * side**2 for inputs, outputs, weights, side in layers]


@every_model
def test_the_arithmetic_is_that_of_the_layers(model):
    """Forward, for the error and for the weights; the first layer passes no error on."""
    found = arithmetic(RunConfig(model=model))
    flop = 6 * sum(products(model)) - 2 * products(model)[0]
    assert found.units == NUMBER_OF_UNITS[model]
    assert found.training == flop
    (row,) = (r for r in cost.count_table().rows if r[0] == cost.NETWORKS[model])
    assert float(row[1]) == pytest.approx(flop / 1e9, abs=0.0005)
    assert int(row[2].replace(",", "")) == NUMBER_OF_UNITS[model]
    assert float(row[3]) == pytest.approx(100 * NUMBER_OF_UNITS[model] / flop, abs=0.0005)


# --- the bytes


class Born(TorchDispatchMode):
    """Sees every storage that an operation returns."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = storage._weak_ref(), storage.nbytes()
        return out

    def alive(self) -> int:
        storage = torch.UntypedStorage
        return sum(n for ref, n in self.storages.values() if not storage._expired(ref))


@every_model
@every_activation
def test_what_is_kept_is_what_stays_alive(model, activation):
    step = Step(case(model, activation), "bp", CPU)
    own = {t.untyped_storage()._cdata for t in [*step.model.parameters(), *step.model.buffers()]}
    inputs = step.images.nbytes + step.labels.nbytes  # alive before, and kept as well
    for rule in ("bp", "linear", "as-printed", "leaky"):
        lbp.linearize(step.model, rule)
        counted = bytes_kept(step)
        with Born() as born:
            loss = step.loss()
        born.storages = {key: value for key, value in born.storages.items() if key not in own}
        alive = born.alive() - loss.nbytes + inputs
        assert counted == pytest.approx(alive, abs=300), rule
        del loss


@every_model
@every_activation
def test_linear_backprop_lets_the_inputs_of_gelu_and_silu_go(model, activation):
    kept = {rule: bytes_kept(Step(case(model, activation), rule, CPU)) for rule in ("bp", "linear")}
    freed = NUMBER_OF_UNITS[model] if activation in ("gelu", "silu") else LAST[model]
    assert kept["bp"] - kept["linear"] == 2 * 4 * freed  # a batch of two, four bytes each


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_bytes_are_counted_in_compiled_networks_too(monkeypatch):
    """The tracer alone decides here what to keep, and it keeps what eager mode does, or less."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    kept = {}
    for rule in ("bp", "linear"):
        step = Step(case("vgg19", "gelu", "compiled"), rule, CPU)
        step.take()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        kept[rule] = bytes_kept(step)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert kept["bp"] - kept["linear"] == 2 * 4 * NUMBER_OF_UNITS["vgg19"]


# --- time


def test_a_comparison_times_every_arm_in_every_round():
    found = step_cost.compare(case("vgg19", "relu"), CPU, rounds=2, steps=2)
    assert [(arm, len(times)) for arm, times in found.seconds.items()] == [(a, 2) for a in ARMS]
    # The rounds are a part of the whole time, and are times of a single step.
    assert 0 < 2 * sum(map(sum, found.seconds.values())) < found.origin.seconds


def test_the_interval_of_a_median_is_that_of_the_order_statistics():
    """With fifteen rounds, the fourth and the twelfth: P(4 <= Binomial(15, 1/2) <= 11) = 0.965."""
    covered = sum(math.comb(15, k) for k in range(4, 12)) / 2**15
    assert 0.95 < covered < 0.97
    values = np.random.default_rng(0).permutation(np.arange(1, 16)) / 10
    found = cost.time_ratio(comparison(values))
    assert (found.low, found.value, found.high) == pytest.approx((0.4, 0.8, 1.2))
    assert str(found) == "0.800 [0.400, 1.200]"


def test_few_rounds_have_no_interval():
    found = cost.time_ratio(comparison([0.9, 1.1], [1.0, 1.0]))
    assert found.value == pytest.approx(1.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert str(found) == "1.000"


@pytest.mark.parametrize(
    ("linear", "again", "slow", "fast"),
    [
        (1.2, 1.0, True, False),
        (0.8, 1.0, False, True),
        (1.2, 1.3, False, False),  # no further off than Backprop itself
        (0.8, 0.7, False, False),
        (1.2, 1.2, False, False),
        (0.8, 0.8, False, False),
        (1.0, 0.9, False, False),
        (1.0, 1.1, False, False),
    ],
)
def test_slower_and_faster_mean_beyond_the_noise(linear, again, slow, fast):
    found = comparison([linear] * 15, [again] * 15)
    assert cost.slower([found]) == [case()] * slow
    assert cost.faster([found]) == [case()] * fast


def test_few_rounds_name_no_case():
    assert cost.slower([comparison([5.0, 5.0], [1.0, 1.0])]) == []
    assert cost.faster([comparison([0.2, 0.2], [1.0, 1.0])]) == []


def test_the_claim_gets_its_better_mode():
    eager = comparison([0.97] * 15, of=case(activation="tanh"))
    compiled = comparison([0.93] * 15, of=case(activation="tanh", mode="compiled"))
    gelu = comparison([1.1] * 15)
    numbers = cost.measures([eager, gelu, compiled])
    assert numbers.pop("step_time_ratio") == Estimate(0.93, 0.93, 0.93)
    assert numbers == pytest.approx(
        {
            "derivatives_per_unit": 1.0,
            "smallest_ratio": 0.93,
            "largest_ratio": 1.1,
            "kept_ratio_gelu": 0.7,
        }
    )
    assert "step_time_ratio" not in cost.measures([eager, gelu])
    assert cost.measures([]) == {}


# --- what a page says


def test_the_prose_has_its_numbers_from_the_gpu_if_there_is_one():
    tanh = comparison([0.5] * 15, of=case("vgg19", "tanh"))
    gelu = comparison([2.0] * 15, [1.25] * 15, of=case("vgg19", "gelu"))
    other = comparison([3.0] * 15, of=case("resnet18", "silu", "compiled"))
    text = cost.texts({"gpu": [tanh, gelu], "processor": [other]})
    assert text["cost_where"] == "on a GPU"
    assert text["cost_tanh_eager"] == "0.500 [0.500, 0.500]"
    assert text["cost_tanh_compiled"] == "-"
    assert text["cost_plain"] == "0.500 to 0.500"
    assert text["cost_plain_below"] == "1 of 1"
    assert text["cost_smooth_below"] == "0 of 1"
    assert text["cost_again"] == "1.000 to 1.250"
    assert text["cost_slower"] == "VGG19, GELU, eager"
    assert text["cost_faster"] == "VGG19, tanh, eager"
    assert text["cost_freed_smooth_vgg19_eager"] == "30.0"
    assert text["cost_freed_smooth_resnet18_compiled"] == "-"
    text = cost.texts({"gpu": [], "processor": [other]})
    assert text["cost_where"] == "on a processor"
    assert text["cost_freed_smooth_resnet18_compiled"] == "30.0"


def test_the_prose_says_where_there_is_no_number():
    assert {text for key, text in cost.texts({}).items() if "share" not in key} == {"-"}
    few = cost.texts({"smoke": [comparison([0.9, 1.1], [1.0, 1.0])]})
    assert few["cost_smooth"] == "1.000 to 1.000"
    assert few["cost_again_ends"] == few["cost_smooth_below"] == few["cost_slower"] == "-"


def test_the_tables_have_a_row_for_each_comparison():
    found = {"gpu": [], "processor": [comparison([0.9] * 15)]}
    (row,) = cost.time_table(found).rows
    assert row[:3] == ["VGG19, GELU, eager", "processor", "1000.00"]
    assert row[3:] == ["0.900 [0.900, 0.900]", "1.000 [1.000, 1.000]"]
    assert cost.memory_table(found).rows[0][-1] == "0.7000"
    gpu, processor = cost.measured_table(found).rows
    assert gpu == ["GPU", "0 of 16", "-", "-", "-"]
    assert processor[:3] == ["processor", "1 of 16", "0"]


def test_the_figures_show_every_ratio():
    found = {"gpu": [comparison([0.9] * 15), comparison([1.1] * 15, of=case("resnet18"))]}
    (axes,) = cost.draw_times(found).axes
    marks = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert marks["Linear Backprop"] == pytest.approx([0.9, 1.1])
    assert marks["Backprop, timed again"] == [1.0, 1.0]
    (axes,) = cost.draw_memory(found).axes
    assert [t.get_text() for t in axes.texts] == ["70 %"] * 2
    assert [t.get_text() for t in axes.get_yticklabels()] == ["VGG19, GELU", "ResNet-18, GELU"]
    with pytest.raises(LbpError, match="no step is measured: restore data/cost, or call lbp cost"):
        cost.draw_times({"gpu": [], "processor": []})


# --- the records


@pytest.fixture
def quick(monkeypatch):
    """Measuring without work; returns the cases that are measured."""
    measured = []

    def compare(case, device, *, rounds, steps):
        measured.append(case)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return comparison([0.97] * 15, of=case)

    monkeypatch.setattr(step_cost, "compare", compare)
    return measured


def test_an_interrupted_measurement_goes_on(tmp_path, quick, capsys):
    cases = cost.DEVICES["processor"].cases
    with pytest.raises(KeyboardInterrupt):
        cost.measure("paper", "cpu", tmp_path)
    assert [c.case for c in cost.recorded("processor", tmp_path)] == cases[:2]
    found = cost.measure("paper", "cpu", tmp_path)["processor"]
    assert quick == [*cases[:3], *cases[2:]]
    assert [c.case for c in found] == cases
    assert cost.recorded("processor", tmp_path) == found
    for profile in ("recorded", "narrow"):
        assert cost.measure(profile, folder=tmp_path) == {"gpu": [], "processor": found}
    assert len(quick) == len(cases) + 1
    assert len(capsys.readouterr().out.splitlines()) == len(cases)


def test_a_gpu_has_a_file_of_its_own(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        cost.measure("paper", folder=tmp_path)
    assert [c.case for c in cost.recorded("gpu", tmp_path)] == cost.DEVICES["gpu"].cases[:2]
    assert cost.recorded("processor", tmp_path) == []


def test_smoke_is_not_recorded(tmp_path, quick):
    assert len(cost.measure("smoke", "cpu", tmp_path)["smoke"]) == 2
    assert list(tmp_path.iterdir()) == []


def changed(entry, *path, to):
    """A copy of a JSON object with another value at a path."""
    key, *rest = path
    return {**entry, key: changed(entry[key], *rest, to=to) if rest else to}


DAMAGE = {
    "no JSON": lambda e: json.dumps(e)[:-20],
    "no object": lambda e: "3",
    "an empty line": lambda e: "",
    "nested too deep": lambda e: "[" * 100_000,
    "nothing in it": lambda e: {},
    "an unknown key": lambda e: {**e, "fingerprint": "0"},
    "a missing key": lambda e: {k: v for k, v in e.items() if k != "steps"},
    "a key twice": lambda e: json.dumps(e).replace('"steps": 1', '"steps": 1, "steps": 1'),
    "an unknown key of the case": lambda e: changed(e, "case", "width", to=1.0),
    "an unknown network": lambda e: changed(e, "case", "model", to="vgg20"),
    "a name that is a list": lambda e: changed(e, "case", "model", to=["vgg19"]),
    "another case": lambda e: changed(e, "case", "batch", to=64),
    "a batch that is no integer": lambda e: changed(e, "case", "batch", to=32.0),
    "an unknown arm": lambda e: changed(e, "seconds", "linear again", to=[1.0] * 15),
    "no arm": lambda e: changed(e, "seconds", to={}),
    "arms of different lengths": lambda e: changed(e, "seconds", "linear", to=[1.0]),
    "no rounds": lambda e: changed(e, "seconds", to={arm: [] for arm in ARMS}),
    "a time instead of a list": lambda e: changed(e, "seconds", "bp", to=1.0),
    "a time of zero": lambda e: changed(e, "seconds", "bp", to=[0.0] * 15),
    "a negative time": lambda e: changed(e, "seconds", "bp", to=[-1.0] * 15),
    "a time that is no number": lambda e: changed(e, "seconds", "bp", to=[math.nan] * 15),
    "an infinite time": lambda e: changed(e, "seconds", "bp", to=[math.inf] * 15),
    "a time that is a text": lambda e: changed(e, "seconds", "bp", to=["1.0"] * 15),
    "a time that is a truth": lambda e: changed(e, "seconds", "bp", to=[True] * 15),
    "half a step": lambda e: changed(e, "steps", to=0.5),
    "no step": lambda e: changed(e, "steps", to=0),
    "negative bytes": lambda e: changed(e, "kept", "linear", to=-7),
    "bytes that are no integer": lambda e: changed(e, "kept", "linear", to=7.0),
    "more bytes than a float can hold": lambda e: changed(e, "kept", "bp", to=10**400),
    "an origin without a commit": lambda e: changed(e, "origin", to={"dirty": False}),
    "a commit that is a number": lambda e: changed(e, "origin", "commit", to=1),
    "no thread": lambda e: changed(e, "origin", "threads", to=0),
    "an infinite duration": lambda e: changed(e, "origin", "seconds", to=math.inf),
}


@pytest.fixture
def two_lines(tmp_path, quick):
    """A file with two comparisons."""
    with pytest.raises(KeyboardInterrupt):
        cost.measure("paper", "cpu", tmp_path)
    return cost.path("processor", tmp_path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_named(two_lines, damage):
    first, second = two_lines.read_text().splitlines()
    text = DAMAGE[damage](json.loads(second))
    text = text if isinstance(text, str) else json.dumps(text)
    two_lines.write_text(f"{first}\n{text}\n")
    with pytest.raises(LbpError, match=r"^line 2 of .*processor\.jsonl is damaged \(.*") as found:
        cost.recorded("processor", two_lines.parent)
    assert len(str(found.value).splitlines()) == 1


def test_a_line_must_be_whole_of_its_own_and_in_utf_8(two_lines):
    whole = two_lines.read_bytes()
    first, second = whole.splitlines(keepends=True)
    for content, why in (
        (whole[:-1], "it is cut off"),
        (first + first, "the case vgg19 tanh eager is there twice"),
        (first + second.replace(b"vgg19", b"vgg\xff"), "can't decode byte 0xff"),
        (first + b"\xef\xbb\xbf" + second, "BOM"),
    ):
        two_lines.write_bytes(content)
        with pytest.raises(LbpError, match=rf"^line 2 of .* is damaged \(.*{why}.*delete the line"):
            cost.recorded("processor", two_lines.parent)


def test_two_processes_that_measure_a_case_leave_one_line(tmp_path, quick, monkeypatch):
    compare, others = cost.step_cost.compare, []

    def overtaken(case, *arguments, **options):
        found = compare(case, *arguments, **options)
        if not others:
            others.append(case)
            cost._append(found, "processor", tmp_path)  # the other process
        return found

    monkeypatch.setattr(cost.step_cost, "compare", overtaken)
    with pytest.raises(KeyboardInterrupt):
        cost.measure("paper", "cpu", tmp_path)
    assert others[0] in {found.case for found in cost.recorded("processor", tmp_path)}


def test_a_file_that_cannot_be_read_or_written_is_one_line(tmp_path, quick, monkeypatch):
    (tmp_path / "processor.jsonl").mkdir()
    with pytest.raises(LbpError, match=r"processor\.jsonl cannot be read \(Is a directory\)"):
        cost.measure("paper", "cpu", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(LbpError, match=r"processor\.jsonl cannot be read \(Not a directory\)"):
        cost.measure("paper", "cpu", tmp_path / "file")
    monkeypatch.setattr(
        os, "fsync", lambda handle: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    )
    with pytest.raises(LbpError, match=r"cannot be written \(No space left on device\)"):
        cost.measure("paper", "cpu", tmp_path / "new")


def test_a_comparison_is_on_the_disk_before_the_next_is_measured(tmp_path, quick, monkeypatch):
    safe = []  # bytes of the file that the disk has
    monkeypatch.setattr(os, "fsync", lambda handle: safe.append(os.fstat(handle).st_size))
    with pytest.raises(KeyboardInterrupt):
        cost.measure("paper", "cpu", tmp_path)
    first, second = cost.path("processor", tmp_path).read_bytes().splitlines(keepends=True)
    assert safe == [len(first), len(first + second)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_in_one_line(tmp_path):
    with pytest.raises(LbpError, match="no device 'cuda' here"):
        cost.measure("paper", "cuda", tmp_path)


def test_by_the_command_line(capsys):
    from lbp import cli

    assert cli.main(["cost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("  vgg19 gelu eager: bp ")]) >= 1
    assert cli.main(["cost", "--profile", "fast"]) == 2
    assert "unknown profile 'fast': choose from recorded, smoke" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so(tmp_path):
    code = (
        "import torch\n"
        "from lbp.lab import step_cost\n"
        "flatten = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))\n"
        "step_cost.build = lambda run: flatten  # a network that is traced quickly\n"
        "case = step_cost.Case(model='vgg19', activation='relu', mode='compiled', batch=2,"
        " precision='float32')\n"
        "step_cost.compare(case, torch.device('cpu'), rounds=1, steps=1)\n"
    )
    env = os.environ | {
        "CXX": "/nonexistent",
        "PATH": "",
        "TMPDIR": str(tmp_path),  # where the compiler leaves what it has failed on
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lbp.errors.LbpError: torch.compile fails here (")
    assert "install a C++ compiler" in last


# --- the committed records


@every_device
def test_recorded_bytes_freed_are_those_of_the_units(name):
    """What is freed does not depend on the machine, but for the size of a number in bf16."""
    found = cost.recorded(name)
    assert [c.case for c in found] == (cost.DEVICES[name].cases if found else [])
    for c in found:
        size = {"float32": 4, "bf16": 2}[c.case.precision]
        if c.case.mode == "eager" and c.case.activation in ("gelu", "silu"):
            freed = c.kept["bp"] - c.kept["linear"]
            assert freed == c.case.batch * size * NUMBER_OF_UNITS[c.case.model]


@every_device
def test_what_is_recorded_has_an_interval_and_a_clean_commit(name):
    for c in cost.recorded(name):
        assert math.isfinite(cost.time_ratio(c).low)
        assert c.origin.dirty is False
        assert len(c.origin.commit) == 40


def test_a_processor_is_recorded():
    assert len(cost.recorded("processor")) == 16


@every_device
@pytest.mark.parametrize("arm", ARMS)
def test_the_recorded_timing_was_warm(name, arm):
    """The first round is like the others, over all cases; one alone may meet a busy moment."""
    seconds = [c.seconds[arm] for c in cost.recorded(name)]
    if seconds:
        assert np.median([times[0] / np.median(times[1:]) for times in seconds]) < 1.1


def test_cases_are_found_by_what_they_are(tmp_path):
    committed = cost.path("processor").read_text().splitlines(keepends=True)
    cost.path("processor", tmp_path).write_text("".join(reversed(committed)))
    found = [c.case for c in cost.recorded("processor", tmp_path)]
    assert found == cost.DEVICES["processor"].cases


def test_an_unknown_name_is_told_in_one_line():
    with pytest.raises(LbpError, match=r"unknown mode 'fast': choose from eager, compiled"):
        replace(case(), mode="fast")
    with pytest.raises(LbpError, match=r"unknown kind of device 'tpu': choose from gpu, processor"):
        cost.recorded("tpu")
    with pytest.raises(LbpError, match=r"unknown profile 'fast': choose from recorded, smoke"):
        cost.measure("fast")
    with pytest.raises(LbpError, match=r"unknown device 'tpu': choose from auto, cpu, cuda"):
        cost.measure("recorded", "tpu")
