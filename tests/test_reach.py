"""What `audit` says of models, against what is known of them and against finite numbers."""

import copy
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import lbp
from lbp.errors import LbpError
from lbp.reach import audit
from tests import zoo
from tests.zoo import MemoryEfficientSwish

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Calls(nn.Module):
    """A linear layer, and a function on its output."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


def relu_from_a_dict(z, functions={"relu": F.relu}):  # noqa: B006
    return functions["relu"](z)


def relu_by_name(z):
    return getattr(F, "re" + "lu")(z)


def snake(z):
    return z + torch.sin(z) ** 2


# Functions that a changed module is not, and a word of what remains of them under `linearize`.
HIDDEN = {
    "functional": (lambda z: F.relu(z), "a relu"),  # F.relu itself would be a held function
    "method": (lambda z: z.tanh(), "a tanh"),
    "from a dict": (relu_from_a_dict, "a relu"),
    "by name": (relu_by_name, "a relu"),
    "clamp": (lambda z: z.clamp(min=0), "a clamp"),
    "where": (lambda z: torch.where(z > 0, z, 0), "a where"),
    "maximum": (lambda z: torch.maximum(z, torch.zeros(())), "a maximum"),
    "squared relu": (lambda z: F.relu(z) ** 2, "a power"),
    "erf gelu": (lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))), "an erf"),
    "softplus": (lambda z: torch.log(1 + torch.exp(z)), "a logarithm"),
    "softsign": (lambda z: z / (1 + z.abs()), "an absolute value"),
    "snake": (snake, "a sine"),
    "foreign function": (MemoryEfficientSwish.apply, "a foreign autograd.Function"),
    "in place": (lambda z: F.relu(z, inplace=True), "a relu"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_linearize_does_not_reach_is_named(name):
    function, likely = HIDDEN[name]
    model, _ = lbp.linearize(nn.Sequential(nn.Tanh(), Calls(function)))
    found = audit(model, X)
    assert found.reached == {"0": 1}
    assert any(r.likely.startswith(likely) and r.module == "1" for r in found.remaining)
    assert not found.complete
    assert likely in str(found)


@pytest.mark.parametrize("name", ["functional", "method", "from a dict", "by name", "in place"])
def test_a_block_reaches_stock_functions_wherever_they_are_called(name):
    with lbp.backward_rule():
        found = audit(Calls(HIDDEN[name][0]), X)
    assert sum(found.reached.values()) == 1
    assert found.remaining == ()
    assert found.complete


@pytest.mark.parametrize(
    ("function", "gate"),
    [
        (lambda z: z * torch.sigmoid(1.702 * z), True),
        (lambda z: 0.5 * z * (1 + torch.tanh(0.8 * (z + 0.04 * z * z * z))), True),
        (lambda z: torch.tanh(z) * torch.tanh(z), True),
        (lambda z: z * torch.sigmoid(z.mean(1))[:, None].expand_as(z), True),
        (lambda z: (lambda r: r * r)(F.relu(z)), True),
        (lambda z: 2 * torch.tanh(z) + z, False),
        (lambda z: F.silu(z), False),
    ],
    ids=[
        "quick gelu",
        "tanh gelu",
        "square",
        "squeeze and excite",
        "square of a relu",
        "sum",
        "whole",
    ],
)
def test_a_factor_of_a_product_is_told(function, gate):
    with lbp.backward_rule():
        found = audit(Calls(function), X)
    assert bool(found.gates) == gate
    assert found.complete == (not gate and not found.remaining)
    assert ("factor of a product" in str(found)) == gate


def test_a_changed_module_that_is_never_called_is_told():
    class Unused(Calls):
        def __init__(self):
            super().__init__(HIDDEN["functional"][0])
            self.relu = nn.ReLU()

    model, report = lbp.linearize(Unused())
    assert "relu" in report.changed
    found = audit(model, X)
    assert found.never_called == ("relu",)
    assert not found.differs
    assert [(r.module, r.node) for r in found.remaining] == [("", "ReluBackward0")]
    assert "the gradient is that of Backprop" in str(found)


@pytest.mark.parametrize("rule", ["linear", "leaky", "approx-gelu", lbp.surrogate(torch.tanh)])
@pytest.mark.parametrize("unit", [nn.ReLU(), nn.PReLU(), nn.GELU(), nn.ReLU(inplace=True)])
def test_the_nodes_of_a_rule_do_not_remain(rule, unit):
    model, _ = lbp.linearize(nn.Sequential(nn.Linear(6, 6), copy.deepcopy(unit)), rule)
    found = audit(model, X)
    assert found.reached == {"1": 1}
    assert found.complete


def test_a_module_is_counted_as_often_as_it_is_called():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.relu = nn.Linear(6, 6), nn.ReLU()

        def forward(self, x):
            return self.relu(self.layer(self.relu(self.layer(x))))

    model, _ = lbp.linearize(Twice())
    assert audit(model, X).reached == {"relu": 2}


def test_no_activation_functions_are_not_taken_for_some():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.norm, self.relu = nn.LayerNorm(6), nn.ReLU()

        def forward(self, x):
            h = self.norm(self.attention(x, x, x)[0])
            h = h / h.pow(2).mean(-1, keepdim=True).sqrt()  # an RMS norm by hand
            return self.relu(h)

    model, _ = lbp.linearize(Mixed())
    found = audit(model, X[None])
    assert found.remaining == ()
    assert found.others["normalisation"] >= 2
    assert {"attention", "softmax"} & found.others.keys()


def test_the_model_and_the_random_state_stay_as_they_were():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.ReLU())
    model, _ = lbp.linearize(model)
    x = X.clone().requires_grad_()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    audit(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, X)
    assert x.grad is None
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_checkpoint_that_hides_its_nodes_is_told():
    class Checkpointed(Calls):
        def forward(self, x):
            return checkpoint(lambda x: torch.tanh(self.layer(x)), x, use_reentrant=True)

    model, _ = lbp.linearize(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Checkpointed(None)))
    found = audit(model, X)
    assert [r.likely for r in found.remaining] == ["a foreign autograd.Function"]


def test_outputs_and_inputs_may_be_nested():
    class Nested(Calls):
        def forward(self, batch, *, scale):
            return {"out": (self.function(self.layer(batch["x"])) * scale, 5)}

    model, _ = lbp.linearize(nn.Sequential(nn.ReLU()))
    nested = Nested(model)
    found = audit(nested, {"x": X}, scale=2.0)
    assert found.reached == {"function.0": 1}
    assert found.complete


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audit({"a": 1}, X), "{'a': 1} is not a model: give a torch.nn.Module"),
        (
            lambda: audit(lbp.linearize(nn.ReLU()), X),
            "linearize returns the model and a report: unpack them",
        ),
        (
            lambda: audit(nn.Linear(2, 2), X),
            "the model rejects this input (RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
        (
            lambda: audit(nn.Linear(6, 6, device="meta"), X.to("meta")),
            "the model is on the meta device: give it numbers, as model.to_empty does",
        ),
        (
            lambda: audit(nn.ReLU(), X),
            "no output of the model has a gradient: there is nothing to look at",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(call, message):
    with pytest.raises(LbpError) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


# Each with whether it is linear, by mathematics.
FUNCTIONS = {
    "asinh": (torch.asinh, False),
    "tan": (torch.tan, False),
    "cosh": (torch.cosh, False),
    "erfc": (torch.erfc, False),
    "sinc": (torch.sinc, False),
    "lgamma": (lambda z: torch.lgamma(z.detach().abs() + z), False),
    "logit": (lambda z: torch.logit(0.5 + 0.01 * z), False),
    "hypot": (lambda z: torch.hypot(z, torch.ones(())), False),
    "fmax": (lambda z: torch.fmax(z, torch.zeros(())), False),
    "logaddexp2": (lambda z: torch.logaddexp2(z, torch.zeros(())), False),
    "erfcx": (torch.special.erfcx, False),
    "log_ndtr": (torch.special.log_ndtr, False),
    "flip": (lambda z: z.flip(0), True),
    "cumsum": (lambda z: z.cumsum(1), True),
    "einsum": (lambda z: torch.einsum("ij,kj->ik", z, torch.ones(4, 6)), True),
    "pad": (lambda z: F.pad(z, (1, 1)), True),
    "gather": (lambda z: z.gather(1, torch.zeros(5, 2, dtype=torch.long)), True),
    "index": (lambda z: z[:, [0, 2]], True),
    "split and cat": (lambda z: torch.cat(z.split(2, dim=1), 0), True),
    "roll": (lambda z: z.roll(1, 1), True),
    "lerp": (lambda z: torch.lerp(z, torch.ones(()), 0.3), True),
    "pool": (lambda z: F.avg_pool1d(z[None], 2), True),
    "interpolate": (lambda z: F.interpolate(z[None], scale_factor=2), True),
    "fft": (lambda z: torch.fft.rfft(z).real, True),
    "write a slice": (lambda z: torch.zeros(5, 6).index_copy(0, torch.arange(5), z), True),
    "to half": (lambda z: z.half().float(), True),
    "dropout": (lambda z: F.dropout(z, 0.5), True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_linear_remains_and_what_is_does_not(name):
    function, linear = FUNCTIONS[name]
    model, _ = lbp.linearize(nn.Sequential(nn.Tanh(), Calls(function)))
    found = audit(model, X)
    assert (found.remaining == ()) == linear
    assert found.others == {}


def test_what_torchscript_computes_remains():
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        scripted = torch.jit.script(zoo.twice_tanh)
    model, _ = lbp.linearize(
        nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Calls(lambda z: scripted(z)))
    )
    assert audit(model, X).remaining


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_a_recurrent_layer_is_no_activation_function_that_remains(kind):
    class Recurrent(Calls):
        def forward(self, x):
            out = self.recurrent(self.tanh(self.layer(x)))
            return out[0] if isinstance(out, tuple) else out

    model = Recurrent(None)
    model.recurrent, model.tanh = kind(6, 6), nn.Tanh()
    _, report = lbp.linearize(model, example=X, strict=True)
    found = report.audit
    assert found.remaining == ()
    assert found.others


def test_gradients_that_are_no_numbers_are_those_of_backprop_if_backprop_has_them_too():
    model, _ = lbp.linearize(nn.Sequential(nn.Tanh(), Calls(lambda z: z * float("nan"))), "linear")
    assert not audit(model, X).differs


def test_calls_of_other_threads_are_not_counted():
    busy, _ = lbp.linearize(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
    stop = threading.Event()

    def work():
        while not stop.is_set():
            busy(X)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        model, _ = lbp.linearize(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
        assert [audit(model, X).reached for _ in range(5)] == [{"1": 1}] * 5
    finally:
        stop.set()
        thread.join()


def test_an_output_without_tensors_is_told():
    class Plain(Calls):
        def forward(self, x):
            return object()

    model, _ = lbp.linearize(nn.Sequential(nn.Tanh(), Plain(None)))
    with pytest.raises(LbpError, match="returns a object in which no tensor is found"):
        audit(model, X)


def test_a_class_that_was_not_chosen_is_not_said_to_be_taken():
    class Quick(nn.Module):
        def forward(self, z):
            return z * torch.sigmoid(1.702 * z)

    model = nn.Sequential(nn.Linear(6, 6), Quick(), nn.Tanh())
    _, report = lbp.linearize(model, where=nn.Tanh, example=X)
    assert report.by_behaviour == ()
    assert report.left["1"] == "Quick, not chosen"
