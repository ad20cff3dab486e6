"""Functions that modules hold as attributes: reached by `linearize`, and restored."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lbp
from lbp.errors import LbpError

X = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FUNCTIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "torch.tanh": torch.tanh,
    "Tensor.tanh": torch.Tensor.tanh,
    "tanh gelu": partial(F.gelu, approximate="tanh"),
    "relu, overwriting": partial(F.relu, inplace=True),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def encoder(function, kind=nn.TransformerEncoderLayer):
    torch.manual_seed(0)
    layer = kind(8, 2, 16, dropout=0.0, activation=function, batch_first=True).double()
    if kind is nn.TransformerDecoderLayer:
        return layer
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def gradients(model, *inputs):
    model.zero_grad()
    model(*inputs).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def passing(function, z):
    """The function, with a backward pass that is that of the identity up to rounding."""
    return z + (function(z * 1) - z).detach()


@every_function
@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_the_value_is_bit_identical_and_the_gradient_that_of_the_identity(function, kind):
    inputs = (X,) if kind is nn.TransformerEncoderLayer else (X, X.flip(1))
    model, reference = encoder(function, kind), encoder(partial(passing, function), kind)
    value = model(*inputs)
    _, report = lbp.linearize(model, example=inputs, strict=True)
    assert all(name.endswith("activation") for name in report.changed)
    assert torch.equal(model(*inputs), value)
    for found, expected in zip(
        gradients(model, *inputs), gradients(reference, *inputs), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_the_fast_path_is_taken_as_before(name):
    model = encoder(name).eval()
    flags = [layer.activation_relu_or_gelu for layer in model.layers]
    assert all(flags)
    with torch.no_grad():
        fast = model(X)
    lbp.linearize(model)
    assert [layer.activation_relu_or_gelu for layer in model.layers] == flags
    with torch.no_grad():
        assert torch.equal(model(X), fast)


@every_function
def test_restore_gives_back_the_same_object(function):
    model = encoder(function)
    true, state = gradients(model, X), list(model.state_dict())
    lbp.linearize(model)
    lbp.linearize(model, "leaky")
    assert list(model.state_dict()) == state
    assert not torch.equal(gradients(model, X)[0], true[0])
    lbp.restore(model)
    # A TransformerEncoder copies its layers, and with them a partial.
    assert [type(layer.activation) for layer in model.layers] == [type(function)] * 2
    assert isinstance(function, partial) or model.layers[0].activation is function
    assert all(map(torch.equal, gradients(model, X), true))


@every_function
def test_copies_and_pickles_follow_the_rule_and_are_restored_alone(function):
    model, _ = lbp.linearize(encoder(function))
    expected = gradients(model, X)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, gradients(again, X), expected))
        lbp.restore(again)
        assert not torch.equal(gradients(again, X)[0], expected[0])
    assert all(map(torch.equal, gradients(model, X), expected))


class Holds(nn.Module):
    """A linear layer, a held function and one in a dict."""

    def __init__(self, function=torch.tanh):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.act = function
        self.further = {"relu": F.relu}

    def forward(self, x):
        return self.further["relu"](self.act(self.layer(x)))


def test_where_chooses_them_by_name_order_and_the_class_that_holds_them():
    def net():
        return nn.Sequential(nn.ReLU(), Holds(), nn.Tanh())

    for where, changed in (
        ("*.act", {"1.act"}),
        (Holds, {"1.act"}),
        (nn.Tanh, {"2"}),
        (lbp.from_layer(2), {"1.act", "2"}),
        (lambda name, module: isinstance(module, Holds), {"1.act"}),
    ):
        _, report = lbp.linearize(net(), where=where)
        assert report.changed.keys() == changed
        assert {name for name, why in report.left.items() if "not chosen" in why} == (
            {"0", "1.act", "2"} - changed
        )


def test_what_is_in_a_container_is_named():
    _, report = lbp.linearize(Holds())
    assert report.changed == {"act": "tanh"}
    assert report.left == {"": "calls relu: only lbp.backward_rule reaches that"}


@pytest.mark.parametrize("function", [torch.sign, torch.sin, partial(F.leaky_relu, None)])
def test_what_no_rule_reaches_is_not_changed(function):
    with pytest.raises(LbpError, match="the model has no activation modules but calls relu"):
        lbp.linearize(Holds(function))


class Act(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = F.gelu

    def forward(self, x):
        return self.act(x)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_tracers_are_told_that_they_would_lose_the_rule():
    model, _ = lbp.linearize(Act())
    with pytest.raises(RuntimeError, match="RuledFunction"):  # its own message
        torch.jit.script(model)
    for call in (
        lambda: torch.jit.trace(model, X),
        lambda: torch.fx.symbolic_trace(model),
    ):
        for context in (torch.enable_grad, torch.no_grad):
            with context(), pytest.raises(LbpError, match="would lose the backward rule 'linear'"):
                call()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_whole_they_follow_the_rule():
    torch._dynamo.reset()
    model, _ = lbp.linearize(Holds().double())
    expected = gradients(model, X)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(X).square().sum().backward()
    model.zero_grad()
    compiled(X).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_held_function_keeps_its_name():
    def held(function):
        return lbp.linearize(encoder(function))[0].layers[0].activation

    assert held(F.gelu).__name__ == F.gelu.__name__
    assert not hasattr(held(FUNCTIONS["tanh gelu"]), "__name__")  # a partial has none either
