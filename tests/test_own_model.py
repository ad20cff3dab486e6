"""The chapter "On your own model": its example, its table, its numbers and what it says of lbp."""

import ast
import json
import math
import os
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lbp
from lbp.coverage import COVERED, LEFT_ALONE

ROOT = Path(__file__).resolve().parents[1]
CELLS = nbformat.read(ROOT / "notebooks" / "own_model.ipynb", as_version=4).cells
OUTPUTS = [output for cell in CELLS for output in cell.get("outputs", [])]


# --- the example


@pytest.fixture(scope="module")
def example():
    (cell,) = [cell for cell in CELLS if "example" in cell.metadata.get("tags", [])]
    return cell


def test_the_example_is_short(example):
    assert len([line for line in example.source.splitlines() if line.strip()]) <= 15


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])  # convolutions round differently
def test_the_example_runs_alone(example, tmp_path, threads):
    (tmp_path / "example.py").write_text(example.source)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (output,) = example.outputs
    assert done.stdout == output.text


# --- the table

# A decision for each name in torch.nn.modules.activation: a new one is in neither list.
ELEMENT_WISE = {
    "CELU",
    "ELU",
    "GELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
}
ACROSS_ELEMENTS = {
    "GLU",
    "LogSoftmax",
    "MultiheadAttention",
    "Softmax",
    "Softmax2d",
    "Softmin",
}


@pytest.fixture(scope="module")
def tables():
    """The rows of the table of what is covered, and of the table of what is left alone."""
    texts = [o.data["text/markdown"] for o in OUTPUTS if "text/markdown" in o.get("data", {})]
    assert len(texts) == 2
    return [[row for row in text.splitlines() if row.startswith("| `")] for text in texts]


def test_every_activation_of_torch_is_decided_on():
    assert not ELEMENT_WISE & ACROSS_ELEMENTS
    assert set(nn.modules.activation.__all__) == ELEMENT_WISE | ACROSS_ELEMENTS


def test_the_tables_show_the_decisions(tables):
    for names, mine, other in ((ELEMENT_WISE, *tables), (ACROSS_ELEMENTS, *reversed(tables))):
        for name in names:
            assert sum(f"`nn.{name}`" in row for row in mine) == 1
            assert not any(f"`nn.{name}`" in row for row in other)


def test_the_tables_show_every_name_of_the_code(tables):
    assert [len(table) for table in tables] == [len(COVERED), len(LEFT_ALONE)]
    text = "\n".join(row for table in tables for row in table)
    for covered in COVERED:
        names = (*covered.functions, *covered.in_place)
        assert all(f"`{name}`" in text for name in names)
        assert covered.note in text
    for left in LEFT_ALONE:
        names = (*(f"nn.{name}" for name in left.modules), *left.functions)
        assert all(f"`{name}`" in text for name in names)
        assert left.why in text


# --- the numbers, from the files alone

RUNS = [json.loads(path.read_text()) for path in (ROOT / "data" / "results").glob("*.json")]
LONG = {
    "train_images": 20_000, "epochs": 10, "precision": "float32",
    "batch_norm": True, "init": "default", "head": "linear", "normalisation": "channel",
    "augment": False, "momentum": 0.0,
}  # fmt: skip
SHORT = {"train_images": 10_000, "epochs": 4, "seed": 0}
GLUED = {
    o.metadata["scrapbook"]["name"]: ast.literal_eval(next(iter(o.data.values())))
    for o in OUTPUTS
    if "scrapbook" in o.get("metadata", {})
}


def reduced(**fields):
    """The runs at reduced scale with these fields, in the order of their seeds."""
    wanted = {"width": 0.125} | fields
    found = [run for run in RUNS if wanted.items() <= run["config"].items()]
    assert found
    return sorted(found, key=lambda run: run["config"]["seed"])


def runs(**fields):
    """The long ones with these fields and the usual recipe."""
    return reduced(**LONG | fields)


def short(**fields):
    """The short ones with these fields and the usual recipe."""
    return reduced(**LONG | SHORT | fields)


def accuracy(run):
    """After the last epoch: no reduced run is long enough for a tenth to be more than one."""
    return 100 - run["epochs"]["test_error"][-1]


def limits(name):
    """The one number, or the two, of a glued text."""
    numbers = [float(part) for part in GLUED[name].split(" to ")]
    return numbers[0], numbers[-1]


def assert_range(name, values, digits=1):
    """Half a unit of the last digit, and a little for what lies on the border between two."""
    assert limits(name) == pytest.approx((min(values), max(values)), abs=0.5001 * 10**-digits)


def layer(run, quantity, moment, number):
    return run["layers"][quantity][moment][number - 1]


@pytest.mark.parametrize(
    ("number", "activation", "name"),
    [(1, "tanh", "1"), (8, "tanh", "8"), (16, "tanh", "16"), (1, "relu", "relu")],
)
def test_first_steps(number, activation, name):
    def step(run):
        weight = layer(run, "weight", 0, number)
        return layer(run, "update", 0, number) / (run["config"]["lr"] * weight)

    bp, linear = (runs(activation=activation, rule=rule) for rule in ("bp", "linear"))
    assert [run["config"]["seed"] for run in bp] == [run["config"]["seed"] for run in linear]
    ratios = [step(there) / step(here) for there, here in zip(linear, bp, strict=True)]
    assert_range(f"own_step_{name}", ratios, digits=0)
    assert min(ratios) > 1  # "times as large"


def test_the_first_step_is_that_of_the_chapter_on_larger_steps():
    cells = nbformat.read(ROOT / "notebooks" / "larger_step.ipynb", as_version=4).cells
    glued = {
        o.metadata["scrapbook"]["name"]: o.data["application/papermill.record/text/plain"]
        for cell in cells
        for o in cell.get("outputs", [])
        if "scrapbook" in o.get("metadata", {})
    }
    low, high = limits("own_step_1")
    assert low <= float(ast.literal_eval(glued["step_size_ratio"])) <= high


@pytest.mark.parametrize("number", [1, 8, 16])
@pytest.mark.parametrize(("moment", "index"), [("start", 0), ("end", -1)])
def test_cosines(number, moment, index):
    found = [layer(r, "cosine", index, number) for r in runs(activation="tanh", rule="linear")]
    assert_range(f"own_cosine_{moment}_{number}", found, digits=2)


def test_cosines_are_largest_in_the_last_layers_and_some_are_negative():
    for run in runs(activation="tanh", rule="linear"):
        for cosines in (run["layers"]["cosine"][index] for index in (0, -1)):
            assert min(cosines[-3:]) > max(cosines[:8])
    assert limits("own_cosine_start_1")[0] < 0


@pytest.mark.parametrize("number", [1, 8, 16])
@pytest.mark.parametrize(("name", "rule"), [("saturated", "linear"), ("saturated_bp", "bp")])
def test_saturated_layers(number, name, rule):
    found = [100 * layer(r, "saturated", -1, number) for r in runs(activation="tanh", rule=rule)]
    assert_range(f"own_{name}_{number}", found, digits=0)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("rule", ["bp", "linear"])
def test_saturated_units(activation, rule):
    for suffix, index in (("_start", 0), ("", -1)):
        shares = [r["layers"]["saturated"][index] for r in runs(activation=activation, rule=rule)]
        means = [100 * sum(share) / len(share) for share in shares]
        assert_range(f"own_all_{activation}_{rule}{suffix}", means, digits=0)


@pytest.mark.parametrize("rule", ["bp", "linear"])
@pytest.mark.parametrize(("size", "l2"), [("small", 1e-4), ("large", 1e-1)])
def test_best_learning_rates(rule, size, l2):
    by_rate = {r["config"]["lr"]: accuracy(r) for r in short(activation="tanh", rule=rule, l2=l2)}
    assert sorted(by_rate) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    best = float(GLUED[f"own_lr_{rule}_{size}"])
    assert all(by_rate[best] > value for lr, value in by_rate.items() if lr != best)


@pytest.mark.parametrize("lr", ["1e-4", "1e-3", "1e-2"])
def test_linear_backprop_with_the_small_weight_decay(lr):
    (run,) = short(activation="tanh", rule="linear", l2=1e-4, lr=float(lr))
    assert_range(f"own_small_{lr}", [accuracy(run)])


def test_the_highest_learning_rate():
    at = {"activation": "tanh", "lr": float(GLUED["own_highest"]), "l2": 1e-4}
    (linear,), (bp,) = (short(rule=rule, **at) for rule in ("linear", "bp"))
    assert (linear["outcome"], bp["outcome"]) == ("diverged", "finished")
    assert_range("own_highest_bp", [accuracy(bp)])
    assert_range("own_highest_linear", [accuracy(linear)])


def test_the_control():
    grid = {rule: short(activation="tanh", rule=rule) for rule in ("bp", "linear")}
    best = {rule: max(map(accuracy, found)) for rule, found in grid.items()}
    assert_range("own_gap", [best["linear"] - best["bp"]])
    assert best["linear"] < best["bp"]


def test_weight_decay():
    spreads, behind = [], []
    for lr in (1e-3, 1e-4, 1e-5):
        final = {
            r["config"]["l2"]: accuracy(r) for r in short(activation="tanh", rule="linear", lr=lr)
        }
        assert len(final) == 6
        spreads.append(max(final.values()) - min(final.values()))
        largest = final.pop(1e-1)
        behind.append(max(final.values()) - largest)
    assert_range("own_decay_spread", spreads)
    assert_range("own_decay_behind", behind)
    assert min(behind) > 0  # nowhere the best

    at = {"activation": "tanh", "lr": 1e-4, "l2": 1e-1}
    seeds = [accuracy(r) for seed in (0, 1, 2) for r in short(rule="linear", **at | {"seed": seed})]
    assert len(seeds) == 3
    assert_range("own_seed_spread", [max(seeds) - min(seeds)])

    for rule in ("bp", "linear"):
        (large,), (small,) = (
            short(activation="tanh", rule=rule, lr=1e-2, l2=l2) for l2 in (1e-1, 1e-4)
        )
        assert_range(f"own_decay_gain_{rule}", [accuracy(large) - accuracy(small)])


@pytest.mark.parametrize("rule", ["bp", "linear"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("default", {}),
        ("xavier", {"init": "xavier"}),
        ("he", {"init": "he"}),
        ("plain", {"init": "he", "batch_norm": False}),
    ],
)
def test_recipes(rule, name, changes):
    found = [
        accuracy(run)
        for l2 in (1e-1, 1e-4)
        for run in short(activation="tanh", rule=rule, lr=1e-4, l2=l2, **changes)
    ]
    assert len(found) == 2
    assert_range(f"own_recipe_{name}_{rule}", found)


def test_no_run_without_batch_norm_learns_and_none_has_a_larger_learning_rate():
    found = reduced(batch_norm=False)
    assert {run["config"]["init"] for run in found} == {"he"}
    assert max(run["config"]["lr"] for run in found) == 1e-4
    assert max(map(accuracy, found)) < 12


def test_relu_and_tanh():
    student_t = 4.3027  # its 97.5 % quantile for two degrees of freedom, that is, three seeds
    means = {}
    for activation in ("tanh", "relu"):
        for rule in ("bp", "linear"):
            final = [accuracy(run) for run in runs(activation=activation, rule=rule)]
            assert len(final) == 3
            mean, half = map(float, GLUED[f"own_final_{activation}_{rule}"].split(" ± "))
            deviation = statistics.stdev(final)
            assert mean == pytest.approx(statistics.mean(final), abs=0.051)
            assert half == pytest.approx(student_t * deviation / math.sqrt(3), abs=0.051)
            means[activation, rule] = mean, half
    order = sorted(means, key=lambda name: -means[name][0])
    assert order == [("relu", "linear"), ("relu", "bp"), ("tanh", "bp"), ("tanh", "linear")]
    (first, half), (second, _) = (means[name] for name in order[:2])
    assert first - second < half  # "within the intervals"
    tried = {run["config"]["lr"] for run in reduced(activation="relu")}
    (chosen,) = {run["config"]["lr"] for run in runs(activation="relu", rule="bp")}
    assert max(tried) == chosen == float(GLUED["own_relu_highest"])


def test_every_glued_number_of_the_text_is_there():
    text = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
    names = {part.split("`")[0] for part in text.split("{glue:text}`")[1:]}
    assert names <= set(GLUED)
    assert "-" not in {GLUED[name] for name in names}


# --- what it says of the library, where no other test does


def passed(f, z=-2.0):
    """What reaches the pre-activation z under Linear Backprop."""
    z = torch.tensor(z, requires_grad=True)
    with lbp.backward_rule("linear"):
        out = f(z)
    (grad,) = torch.autograd.grad(out, z)
    return grad.item()


def test_composed_activation_functions_are_not_recognised():
    assert passed(F.silu) == 1
    assert passed(lambda z: z * torch.sigmoid(z)) == pytest.approx(
        torch.sigmoid(torch.tensor(-2.0)).item() - 2
    )
    assert passed(lambda z: z.clamp(min=0)) == 0


def test_a_loss_in_the_block_is_changed_if_it_calls_an_activation_function():
    one = torch.tensor(1.0)
    called = passed(lambda z: F.binary_cross_entropy(torch.sigmoid(z), one))
    fused = passed(lambda z: F.binary_cross_entropy_with_logits(z, one))
    share = torch.sigmoid(torch.tensor(-2.0)).item()
    assert called == pytest.approx(-1 / share)
    assert fused == pytest.approx(share - 1)


def test_another_thread_is_outside_the_block_but_not_outside_a_linearized_module():
    found = {}

    def work(name, f):
        z = torch.tensor(-2.0, requires_grad=True)
        (grad,) = torch.autograd.grad(f(z), z)
        found[name] = grad.item()

    module, _ = lbp.linearize(nn.ReLU())
    with lbp.backward_rule("linear"):
        for name, f in {"function": torch.relu, "module": module}.items():
            thread = threading.Thread(target=work, args=(name, f))
            thread.start()
            thread.join()
    assert found == {"function": 0, "module": 1}


# PyTorch's forward mode compiles its own formulas when it is first used.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.hessian])
def test_forward_mode_raises(transform):
    module, _ = lbp.linearize(nn.Tanh())
    with pytest.raises(NotImplementedError, match="jvp"):
        transform(module)(torch.tensor(0.5))
