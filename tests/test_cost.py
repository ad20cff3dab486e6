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

from lbp import cli, cost, cost_records, measures
from lbp.cost import ARMS, Case, Comparison, Step, bytes_kept
from lbp.errors import LbpError
from lbp.provenance import provenance

CPU = torch.device("cpu")
UNITS = {
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
        provenance=provenance("float32", CPU, 1.0),
    )


every_model = pytest.mark.parametrize("model", cost.MODELS)
every_activation = pytest.mark.parametrize("activation", cost.ACTIVATIONS)


# --- what is compared


@every_model
@every_activation
def test_both_rules_train_one_network_on_one_batch(model, activation):
    bp, linear = (Step(case(model, activation), rule, CPU) for rule in ("bp", "linear"))
    assert all(map(torch.equal, bp.model.state_dict().values(), linear.model.state_dict().values()))
    kinds = [type(m) for m in bp.model.modules()]
    assert cost.ACTIVATIONS[activation] in kinds
    assert not {torch.nn.Tanh, torch.nn.ReLU, *cost.ACTIVATIONS.values()}.difference(
        [cost.ACTIVATIONS[activation]]
    ) & set(kinds)
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
    found = cost.arithmetic(model)
    assert found.units == UNITS[model]
    assert found.flop == 6 * sum(products(model)) - 2 * products(model)[0]


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
@pytest.mark.parametrize("rule", ["bp", "linear", "as-printed", "leaky"])
def test_what_is_kept_is_what_stays_alive(model, activation, rule):
    step = Step(case(model, activation), rule, CPU)
    counted = bytes_kept(step)
    with Born() as born:
        loss = step.loss()
    inputs = step.images.nbytes + step.labels.nbytes  # alive before, and kept as well
    own = {t.untyped_storage()._cdata for t in [*step.model.parameters(), *step.model.buffers()]}
    born.storages = {key: value for key, value in born.storages.items() if key not in own}
    assert counted == pytest.approx(born.alive() - loss.nbytes + inputs, abs=300)


@every_model
@every_activation
def test_linear_backprop_lets_the_inputs_of_gelu_and_silu_go(model, activation):
    kept = {rule: bytes_kept(Step(case(model, activation), rule, CPU)) for rule in ("bp", "linear")}
    freed = UNITS[model] if activation in ("gelu", "silu") else LAST[model]
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
    assert kept["bp"] - kept["linear"] == 2 * 4 * UNITS["vgg19"]


# --- time


def test_the_interval_of_a_median_is_that_of_the_order_statistics():
    """With fifteen rounds, the fourth and the twelfth: P(4 <= Binomial(15, 1/2) <= 11) = 0.965."""
    covered = sum(math.comb(15, k) for k in range(4, 12)) / 2**15
    assert 0.95 < covered < 0.97
    values = np.random.default_rng(0).permutation(np.arange(1, 16)) / 10
    found = measures.time_ratio(comparison(values))
    assert (found.low, found.median, found.high) == pytest.approx((0.4, 0.8, 1.2))
    assert str(found) == "0.800 [0.400, 1.200]"


def test_few_rounds_have_no_interval():
    found = measures.time_ratio(comparison([0.9, 1.1], [1.0, 1.0]))
    assert found.median == pytest.approx(1.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert str(found) == "1.000"


@pytest.mark.parametrize(
    ("linear", "again", "slow"),
    [
        (1.2, 1.0, True),
        (0.8, 1.0, False),
        (0.8, 0.7, False),
        (1.2, 1.3, False),  # no further off than Backprop itself
    ],
)
def test_slower_means_beyond_the_noise(linear, again, slow):
    found = comparison([linear] * 15, [again] * 15)
    assert measures.slower([found]) == [case()] * slow


def test_the_claim_gets_its_better_mode():
    eager = comparison([0.97] * 15, of=case(activation="tanh"))
    compiled = comparison([0.93] * 15, of=case(activation="tanh", mode="compiled"))
    gelu = comparison([1.1] * 15)
    assert measures.cost([eager, gelu, compiled]) == pytest.approx(
        {
            "step_time_ratio": 0.93,
            "smallest_ratio": 0.93,
            "largest_ratio": 1.1,
            "kept_ratio_gelu": 0.7,
        }
    )
    assert "step_time_ratio" not in measures.cost([eager, gelu])
    assert measures.cost([]) == {}


def test_few_rounds_name_no_case():
    assert measures.slower([comparison([5.0, 5.0], [1.0, 1.0])]) == []


# --- the records


@pytest.fixture
def quick(monkeypatch):
    """Measuring without work; returns the cases that are measured."""
    measured = []

    def compare(case, setting):
        measured.append(case)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return comparison([0.97] * 15, of=case)

    monkeypatch.setattr(cost, "compare", compare)
    return measured


def test_an_interrupted_measurement_goes_on(tmp_path, quick, capsys):
    cases = cost.SETTINGS["cpu"].cases
    with pytest.raises(KeyboardInterrupt):
        cost_records.measure("cpu", tmp_path)
    assert [c.case for c in cost_records.recorded("cpu", tmp_path)] == cases[:2]
    (found,) = cost_records.measure("cpu", tmp_path).values()
    assert quick == [*cases[:3], *cases[2:]]
    assert [c.case for c in found] == cases
    assert cost_records.recorded("cpu", tmp_path) == found
    assert cost_records.measure("recorded", tmp_path) == {"paper": [], "cpu": found}
    assert len(capsys.readouterr().out.splitlines()) == len(cases)


def test_smoke_is_not_recorded(tmp_path, quick):
    assert len(cost_records.measure("smoke", tmp_path)["smoke"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_line_is_named(tmp_path, quick):
    with pytest.raises(KeyboardInterrupt):
        cost_records.measure("cpu", tmp_path)
    file = cost_records.path("cpu", tmp_path)
    whole = file.read_text()
    entry = json.loads(whole.splitlines()[1])
    missing = {**entry, "seconds": entry["seconds"] | {"linear": [1.0]}}
    unknown = {**entry, "case": entry["case"] | {"model": "vgg20"}}
    for text in (whole[:-20], *(json.dumps(e) for e in (missing, unknown, {}, 3))):
        file.write_text(whole.splitlines()[0] + "\n" + text.splitlines()[-1])
        with pytest.raises(LbpError, match=r"line 2 of .*cpu\.jsonl is damaged .*delete it"):
            cost_records.recorded("cpu", tmp_path)


def test_a_full_disk_is_one_line(tmp_path, quick):
    (tmp_path / "cpu.jsonl").mkdir()
    with pytest.raises(LbpError, match=r"cpu\.jsonl cannot be (read|written)"):
        cost_records.measure("cpu", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_full_scale_needs_a_gpu(capsys):
    assert cli.main(["cost", "--profile", "paper"]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err


def test_by_the_command_line(capsys):
    assert cli.main(["cost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("  vgg19 gelu eager: bp ")]) >= 1
    assert cli.main(["cost", "--profile", "fast"]) == 2
    assert "unknown profile 'fast': choose from recorded, smoke" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so():
    code = (
        "from lbp.cost import *\n"
        "one = Case(model='resnet18', activation='relu', mode='compiled', batch=2,"
        " precision='float32')\n"
        "compare(one, SETTINGS['smoke'])\n"
    )
    env = os.environ | {
        "CXX": "/nonexistent",
        "PATH": "",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lbp.errors.LbpError: torch.compile fails here (")
    assert "install a C++ compiler" in last


# --- the committed records


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_recorded_bytes_freed_are_those_of_the_units(scale):
    """What is freed does not depend on the machine, but for the size of a number in bf16."""
    found = cost_records.recorded(scale)
    assert [c.case for c in found] == (cost.SETTINGS[scale].cases if found else [])
    for c in found:
        size = {"float32": 4, "bf16": 2}[c.case.precision]
        if c.case.mode == "eager" and c.case.activation in ("gelu", "silu"):
            freed = c.kept["bp"] - c.kept["linear"]
            assert freed == c.case.batch * size * UNITS[c.case.model]


def test_the_reduced_scale_is_recorded_and_no_case_is_slower_beyond_the_noise():
    found = cost_records.recorded("cpu")
    assert len(found) == 16
    assert {c.provenance.dirty for c in found} == {False}
    assert measures.slower(found) == []
    numbers = measures.cost(found)
    assert max(numbers["kept_ratio_gelu"], numbers["kept_ratio_silu"]) <= 0.7


@pytest.mark.parametrize("arm", ARMS)
def test_the_recorded_timing_was_warm(arm):
    """The first round is like the others, over all cases; one alone may meet a busy moment."""
    seconds = [c.seconds[arm] for c in cost_records.recorded("cpu")]
    assert np.median([times[0] / np.median(times[1:]) for times in seconds]) < 1.1


def test_cases_are_found_by_what_they_are(tmp_path):
    committed = cost_records.path("cpu").read_text().splitlines(keepends=True)
    cost_records.path("cpu", tmp_path).write_text("".join(reversed(committed)))
    found = [c.case for c in cost_records.recorded("cpu", tmp_path)]
    assert found == list(cost.SETTINGS["cpu"].cases)


def test_an_unknown_name_is_told_in_one_line():
    with pytest.raises(LbpError, match=r"unknown mode 'fast': choose from eager, compiled"):
        replace(case(), mode="fast")
    with pytest.raises(LbpError, match=r"unknown scale 'full': choose from smoke, cpu, paper"):
        cost_records.recorded("full")
