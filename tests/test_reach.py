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


# --- what remains, wherever it stands


class Clamped(nn.Module):
    """In a class of its own it would be found by its behaviour; the layer keeps it from that."""

    def __init__(self, before):
        super().__init__()
        self.layer, self.before = nn.Linear(8, 8), before

    def forward(self, x):
        return self.before(self.layer(x)).clamp(min=0)


@pytest.mark.parametrize("before", [nn.Identity(), nn.BatchNorm1d(8), nn.LayerNorm(8)])
def test_a_clamp_behind_a_normalisation_remains(before):
    model = nn.Sequential(Clamped(before), nn.Tanh(), nn.Linear(8, 1))
    lbp.linearize(model)
    (remaining,) = audit(model, torch.randn(16, 8)).remaining
    assert (remaining.module, remaining.likely) == ("0", "a clamp, perhaps a relu")


def test_the_clamp_of_a_norm_does_not_remain():
    model = nn.Sequential(Calls(lambda x: F.normalize(x, dim=-1)), nn.Tanh())
    lbp.linearize(model)
    assert audit(model, X).remaining == ()


def sigmoid_of_a_slice(y):
    y[:, :2].sigmoid_()
    return y


def copied_into_a_slice(y):
    y[:, :2] = 2 * y[:, 2:4]
    y[:, 4:] += 1
    y[:, 5:] *= 2
    return y


@pytest.mark.parametrize(
    "function",
    [
        sigmoid_of_a_slice,
        lambda y: F.relu(y.flatten(1)[:], inplace=True),
        lambda y: y.view(-1).relu_().view(5, 6),
    ],
)
def test_a_function_in_place_on_a_slice_remains_unless_a_rule_reaches_it(function):
    model = nn.Sequential(Calls(function), nn.Linear(6, 6), nn.Tanh())
    lbp.linearize(model)
    (remaining,) = audit(model, X).remaining
    assert (remaining.module, remaining.times) == ("0", 1)
    assert remaining.likely == "work in place on a slice, perhaps an activation function"
    with lbp.backward_rule("linear"):
        assert audit(model, X).remaining == ()


def test_what_is_copied_added_and_multiplied_into_a_slice_does_not_remain():
    model = nn.Sequential(Calls(copied_into_a_slice), nn.Tanh())
    lbp.linearize(model)
    assert audit(model, X).remaining == ()


class Cell(nn.GRUCell):
    def forward(self, x, h=None):
        return torch.tanh(F.linear(x, self.weight_ih[:8], self.bias_ih[:8]))


class Layer(nn.TransformerEncoderLayer):
    def _ff_block(self, x):
        return self.linear2(F.relu(self.linear1(x)))


TALL = {
    "a lambda in a transformer's layer": (
        nn.TransformerEncoderLayer(8, 2, 16, activation=lambda z: F.silu(z), batch_first=True),
        "a silu",
    ),
    "a transformer's layer with code of its own": (Layer(8, 2, 16, batch_first=True), "a relu"),
    "a cell with code of its own": (Cell(8, 8), "a tanh"),
}


@pytest.mark.parametrize("name", TALL)
def test_what_is_in_classes_near_to_those_left_alone_remains(name):
    module, likely = TALL[name]
    x = torch.randn(5, 8) if isinstance(module, Cell) else torch.randn(2, 5, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), copy.deepcopy(module))
    lbp.linearize(model)
    found = audit(model, x)
    assert {remaining.likely for remaining in found.remaining} == {likely}
    assert not found.complete


class SquaredThenPooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.layer, self.act, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), pool
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.pool(self.act(self.layer(x)) ** 2).flatten(1))


@pytest.mark.parametrize("pool", [nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d(1)])
def test_a_squared_relu_remains_whatever_pools_it(pool):
    model, _ = lbp.linearize(SquaredThenPooled(pool))
    (remaining,) = audit(model, torch.randn(2, 3, 8, 8)).remaining
    assert remaining.likely == "a power, perhaps a squared relu"


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: (z - 1).pow(2).mean(),
        lambda z: 0.5 * (z - 1).pow(2).mean(-1),
        lambda z: (z - 1).pow(2).sum(-1),
        lambda z: z / (z.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt(),
    ],
)
def test_the_squares_of_a_loss_and_of_a_norm_do_not_remain(loss):
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Calls(loss))
    lbp.linearize(model)
    assert audit(model, X).remaining == ()


def test_a_scripted_module_in_a_model_is_looked_around():
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        scripted = torch.jit.script(nn.Linear(6, 6))
    _, report = lbp.linearize(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), scripted), example=X)
    assert report.audit.reached == {"1": 1}
    assert "2: ScriptModule" not in str(report)


# --- what an audit leaves alone


def test_an_audit_leaves_the_gradients_of_tensors_outside_the_model_alone():
    slope = nn.PReLU()
    fixed = nn.Parameter(torch.ones(6))
    fixed.grad = torch.full((6,), 7.0)
    kept = fixed.grad
    model = nn.Sequential(Calls(lambda z: torch.relu(z) * fixed), nn.ReLU())
    with lbp.backward_rule(lbp.surrogate(slope)):
        audit(model, X)
    assert slope.weight.grad is None
    assert fixed.grad is kept
    assert torch.equal(kept, torch.full((6,), 7.0))


class Batch:
    """What PyTorch cannot look into."""

    def __init__(self, h):
        self.h = h


class OfABatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(6, 6), nn.Tanh()

    def forward(self, batch):
        return self.act(self.layer(batch.h))


def test_a_graph_behind_an_input_that_cannot_be_copied_is_told_in_one_line():
    encoder = nn.Linear(6, 6)
    model, _ = lbp.linearize(OfABatch())
    with pytest.raises(LbpError, match="the model has no backward pass here") as error:
        audit(model, Batch(torch.tanh(encoder(X))))
    assert "\n" not in str(error.value)


def test_an_audit_does_not_mind_the_default_device():
    model, _ = lbp.linearize(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    with torch.device("meta"):
        assert audit(model, X).reached == {"1": 1}
