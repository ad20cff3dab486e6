"""The backward rules against independent computations, and what they promise."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lbp.errors import LbpError
from lbp.rules import ACTIVATIONS, RULES, Activation, activate

every_rule = pytest.mark.parametrize("rule", RULES)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)

# Independent of PyTorch: the functions and their derivatives.
FORWARD = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "hardtanh": lambda a: np.clip(a, -1, 1),
}
DERIVATIVE = {
    "tanh": lambda a: 1 - np.tanh(a) ** 2,
    "relu": lambda a: (a > 0).astype(a.dtype),
    "sigmoid": lambda a: np.exp(-a) / (1 + np.exp(-a)) ** 2,
    "hardtanh": lambda a: (np.abs(a) < 1).astype(a.dtype),
}


def numpy_gradients(weights, biases, x, target, activation, rule):
    """Algorithms 1 and 2 for an MLP with a linear output and half the squared error as its loss."""
    h, hidden, pre = x, [x], []
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        a = w @ h + b
        pre.append(a)
        h = FORWARD[activation](a) if k < len(weights) - 1 else a
        hidden.append(h)
    g = h - target  # dL/dy
    dw, db = [], []
    for k in reversed(range(len(weights))):
        if k < len(weights) - 1:
            factor = {"bp": DERIVATIVE[activation], "linear": np.ones_like, "as-printed": np.array}
            g = g * factor[rule](pre[k])
        dw.insert(0, np.outer(g, hidden[k]))
        db.insert(0, g)
        g = weights[k].T @ g
    return dw, db


@every_rule
@every_activation
def test_gradients_are_those_of_the_algorithms(activation, rule):
    rng = np.random.default_rng(0)
    sizes = (4, 7, 6, 5, 3)
    weights = [rng.normal(size=(o, i)) for i, o in itertools.pairwise(sizes)]
    biases = [rng.normal(size=o) for o in sizes[1:]]
    x, target = rng.normal(size=4), rng.normal(size=3)

    layers = []
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        linear = nn.Linear(w.shape[1], w.shape[0], dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(w), torch.tensor(b)
        layers += [linear] + [Activation(activation, rule)] * (k < len(weights) - 1)
    network = nn.Sequential(*layers)
    loss = 0.5 * (network(torch.tensor(x)) - torch.tensor(target)).square().sum()
    loss.backward()

    dw, db = numpy_gradients(weights, biases, x, target, activation, rule)
    found = [m for m in network if isinstance(m, nn.Linear)]
    for k, linear in enumerate(found):
        np.testing.assert_allclose(linear.weight.grad, dw[k], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(linear.bias.grad, db[k], rtol=1e-12, atol=1e-12)


@every_activation
def test_bp_is_the_true_derivative(activation):
    a = torch.linspace(-2.9, 3.1, 13, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: activate(a, activation, "bp"), a)
    assert torch.autograd.gradgradcheck(lambda a: activate(a, activation, "bp"), a)


@every_rule
@every_activation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_forward_is_the_stock_function_bit_for_bit(activation, rule, dtype, data):
    shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
    seed = data.draw(st.integers(0, 1000))
    scale = data.draw(st.sampled_from([0.1, 1.0, 30.0]))
    a = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
    special = torch.tensor([0.0, -0.0, 1, -1, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    for values in (a, a.transpose(0, -1) if a.dim() > 1 else a, special):
        stock = ACTIVATIONS[activation](values)
        for tensor in (values, values.clone().requires_grad_()):
            out = activate(tensor, activation, rule)
            assert out.dtype == stock.dtype
            assert out.shape == stock.shape
            assert out.stride() == stock.stride()
            assert torch.equal(out.view(_bits(dtype)), stock.view(_bits(dtype)))


def _bits(dtype):
    return {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]


@every_activation
def test_linear_saves_nothing(activation):
    saved = []
    a = torch.randn(5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        activate(a, activation, "linear")
        assert saved == []
        activate(a, activation, "as-printed")
    assert len(saved) == 1  # the hook does see what is saved


# PyTorch's compiler instantiates autograd functions, against PyTorch's own advice.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.slow
@every_rule
@every_activation
def test_compiles_without_graph_breaks(activation, rule):
    def f(a):
        return (activate(a * 1.5, activation, rule) ** 2).sum()

    torch._dynamo.reset()
    x = torch.randn(4, 5, dtype=torch.float64)
    eager, compiled = x.clone().requires_grad_(), x.clone().requires_grad_()
    f(eager).backward()
    torch.compile(f, fullgraph=True, backend="aot_eager")(compiled).backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


@every_rule
@every_activation
def test_vmap_of_grad_is_a_loop(activation, rule):
    def f(a):
        return (activate(a, activation, rule) ** 2).sum()

    a = torch.randn(6, 3, dtype=torch.float64)
    together = torch.func.vmap(torch.func.grad(f))(a)
    for row, expected in zip(a, together, strict=True):
        row = row.clone().requires_grad_()
        f(row).backward()
        torch.testing.assert_close(expected, row.grad)


@every_rule
@every_activation
def test_autocast_keeps_the_dtype_of_the_layer(activation, rule):
    linear = nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = activate(linear(torch.randn(2, 8)), activation, rule)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert linear.weight.grad.dtype == torch.float32
    assert linear.weight.grad.abs().sum() > 0


def test_double_backward_differentiates_the_rules_own_field():
    a = torch.tensor([0.3, -0.7, 1.9], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    # The field of "linear" is g; with g = 2 v tanh(a), its gradient passes through g alone.
    (field,) = torch.autograd.grad(v @ activate(a, "tanh", "linear") ** 2, a, create_graph=True)
    torch.testing.assert_close(field, 2 * v * torch.tanh(a))
    by_a, by_v = torch.autograd.grad(field.sum(), (a, v))
    torch.testing.assert_close(by_v, 2 * torch.tanh(a))
    torch.testing.assert_close(by_a, 2 * v)  # the activation inside g follows the rule again
    # The field of "as-printed" is v a, linear in both.
    (field,) = torch.autograd.grad(v @ activate(a, "tanh", "as-printed"), a, create_graph=True)
    by_a, by_v = torch.autograd.grad(field.sum(), (a, v))
    torch.testing.assert_close(by_a, v.detach())
    torch.testing.assert_close(by_v, a.detach())


@pytest.mark.parametrize(
    ("activation", "rule", "message"),
    [
        ("gelu", "bp", "unknown activation 'gelu': choose from tanh, relu, sigmoid, hardtanh"),
        ("tanh", "lin", "unknown backward rule 'lin': choose from bp, linear, as-printed"),
    ],
)
def test_unknown_names_are_told(activation, rule, message):
    with pytest.raises(LbpError, match=message):
        activate(torch.zeros(1), activation, rule)
    with pytest.raises(LbpError, match=message):
        Activation(activation, rule)
