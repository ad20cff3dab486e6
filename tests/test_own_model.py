"""The chapter "On your own model": its example, its tables, and what it says of lbp."""

import copy
import os
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
from lbp.experiments import own_model

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
def test_the_example_runs_alone_with_two_threads(example, tmp_path):
    """With one thread, where convolutions round differently, nbval runs it in its notebook."""
    (tmp_path / "example.py").write_text(example.source)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        # A thread that waits sleeps: on a busy machine most of the time would be spent waiting.
        env=os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
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
    texts = [o.data["text/plain"] for o in OUTPUTS if "text/html" in o.get("data", {})]
    texts = [text for text in texts if "functions and methods" in text]
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
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.hessian])
def test_forward_mode_raises(transform, gradients):
    module, _ = lbp.linearize(nn.Tanh())
    lost = pytest.raises(lbp.LbpError, match="forward-mode differentiation would lose the backward")
    with torch.set_grad_enabled(gradients), lost:
        transform(module)(torch.tensor(0.5))
    with torch.set_grad_enabled(gradients), lbp.backward_rule("linear"), lost:
        transform(torch.tanh)(torch.tensor(0.5))
    lbp.restore(module)
    with torch.set_grad_enabled(gradients):
        assert transform(module)(torch.tensor(0.5)).isfinite()


def test_the_table_of_an_audit_names_every_module_once():
    class Half(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.tanh, self.own = nn.Linear(9, 9), nn.Tanh(), Half()
            self.unused = nn.ReLU()

        def forward(self, x):
            x = self.tanh(self.layer(x))
            return x * self.tanh(x.mean(0)).clamp(min=0.1) + self.own(x)

    model, _ = lbp.linearize(Net())
    table = own_model.audit_table(lbp.audit(model, torch.randn(3, 9)))
    assert table.rows == [
        ["(the model)", "0", "0", "a clamp, perhaps a relu, 1"],
        ["own", "0", "0", "a sigmoid, 1"],
        ["tanh", "2", "2", "-"],  # the second is limited on its way to the product
    ]
    assert "Half looks like an activation function. Not called: unused." in table.caption


def test_the_table_of_gradients_is_over_the_first_models():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.LeakyReLU(0.25), nn.Linear(2, 2))
    nn.init.constant_(model[0].weight, -1.0)
    linear, _ = lbp.linearize(copy.deepcopy(model))
    table = own_model.gradient_table(
        {"true": model, "linear": linear},
        {"first": "0.*", "last": "2.*"},
        torch.ones(2, 1),
        torch.tensor([0, 0]),
    )
    # The slope is a quarter wherever the first layer is reached.
    assert table.rows == [["true", "1.0", "1.0"], ["linear", "4.0", "1.0"]]
