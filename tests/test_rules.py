"""The rules as data, and in whole networks against the paper's algorithms."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lbp.block import backward_rule
from lbp.errors import LbpError
from lbp.linearization import linearize
from lbp.literature import BUILT_IN, as_rule
from lbp.rules import Rule, leaky

# The activation functions of the book's networks and, independent of PyTorch, their values and
# derivatives.
ACTIVATIONS = {
    "tanh": (nn.Tanh, np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (nn.ReLU, lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "sigmoid": (
        nn.Sigmoid,
        lambda z: 1 / (1 + np.exp(-z)),
        lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
    ),
    "hardtanh": (nn.Hardtanh, lambda z: np.clip(z, -1, 1), lambda z: (np.abs(z) < 1) * 1.0),
}


def numpy_gradients(weights, biases, x, target, f, factor):
    """Algorithms 1 and 2 for an MLP with a linear output and half the squared error as its loss.

    The factor, as a function of the pre-activations, is what the error is multiplied by.
    """
    last = len(weights) - 1
    hidden, pre = [x], []
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        pre.append(w @ hidden[-1] + b)
        hidden.append(f(pre[-1]) if k < last else pre[-1])
    g = hidden.pop() - target  # dL/dy
    grads = []
    for k in reversed(range(len(weights))):
        if k < last:
            g = g * factor(pre[k])
        grads.append((np.outer(g, hidden[k]), g))
        g = weights[k].T @ g
    return grads[::-1]


@pytest.mark.parametrize("rule", ["bp", "linear", "as-printed"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_algorithms(activation, rule):
    module, f, derivative = ACTIVATIONS[activation]
    rng = np.random.default_rng(0)
    sizes = (4, 7, 6, 5, 3)
    weights = [rng.normal(size=(o, i)) for i, o in itertools.pairwise(sizes)]
    biases = [rng.normal(size=o) for o in sizes[1:]]
    x, target = rng.normal(size=4), rng.normal(size=3)
    factor = {"bp": derivative, "linear": np.ones_like, "as-printed": np.array}[rule]
    expected = numpy_gradients(weights, biases, x, target, f, factor)

    def gradients(way):
        linears = [nn.Linear(i, o, dtype=torch.float64) for i, o in itertools.pairwise(sizes)]
        for linear, w, b in zip(linears, weights, biases, strict=True):
            linear.weight.data, linear.bias.data = torch.tensor(w), torch.tensor(b)
        layers = [layer for linear in linears for layer in (linear, module())]
        out = way(nn.Sequential(*layers[:-1]))
        (0.5 * (out - torch.tensor(target)).square().sum()).backward()
        return [(linear.weight.grad, linear.bias.grad) for linear in linears]

    def linearized(model):
        return linearize(model, rule)[0](torch.tensor(x))

    def in_a_block(model):
        with backward_rule(rule):
            return model(torch.tensor(x))

    for way in (linearized, in_a_block):
        for found, by_hand in zip(gradients(way), expected, strict=True):
            for grad, grad_by_hand in zip(found, by_hand, strict=True):
                np.testing.assert_allclose(grad, grad_by_hand, rtol=1e-12, atol=1e-12)


def test_as_rule_takes_a_name_a_function_and_a_rule():
    def halved(z, g):
        return g / 2

    for name, rule in BUILT_IN.items():
        assert as_rule(name) is as_rule(rule) is rule
    rule = as_rule(halved)
    assert (rule.name, rule.field, rule.true_share) == ("halved", halved, 0)
    assert as_rule(torch.mul).name == "mul"  # a C function, which has no signature
    assert leaky(0.25).name == "leaky(0.25)"
    assert leaky(np.float32(0.25)).name == "leaky(0.25)"


def test_only_the_true_gradient_is_bp():
    bp = [name for name, rule in BUILT_IN.items() if rule.is_bp]
    assert bp == ["bp"]
    assert leaky(0).is_bp
    assert not Rule("more", torch.mul, true_share=1.0).is_bp


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: as_rule("lin"),
            f"unknown backward rule 'lin': choose from {', '.join(BUILT_IN)}, "
            "a function of (pre-activation, gradient)",
        ),
        (
            lambda: as_rule("a function of (pre-activation, gradient)"),
            "unknown backward rule 'a function of (pre-activation, gradient)': choose from "
            f"{', '.join(BUILT_IN)}, a function of (pre-activation, gradient)",
        ),
        (
            lambda: as_rule(lambda z: z),
            "backward rule '<lambda>' cannot be called with a pre-activation and a gradient "
            "(too many positional arguments): give a function of these two",
        ),
        (
            lambda: as_rule(nn.ReLU),
            "backward rule 'ReLU' cannot be called with a pre-activation and a gradient "
            "(too many positional arguments): give a function of these two",
        ),
        (
            lambda: Rule("much", torch.mul, true_share=2.0),
            "true_share 2.0 of the rule much: choose it from 0 to 1",
        ),
        (lambda: leaky(1.5), "alpha 1.5 of the rule leaky: choose it from 0 (bp) to 1 (linear)"),
        (lambda: leaky("a"), "alpha 'a' of the rule leaky: choose it from 0 (bp) to 1 (linear)"),
        (
            lambda: Rule("sum", lambda z, g: g.sum()).gradient(None, torch.ones(2, 3)),
            "backward rule 'sum' returned shape (): return a tensor of the gradient's shape (2, 3)",
        ),
        (
            lambda: Rule("none", lambda z, g: None).gradient(None, torch.ones(2)),
            "backward rule 'none' returned None: return a tensor of the gradient's shape (2,)",
        ),
    ],
)
def test_bad_rules_are_told_in_one_line(call, message):
    with pytest.raises(LbpError) as error:
        call()
    assert str(error.value) == message
