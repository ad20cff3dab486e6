"""The rules of the literature against their formulas, and what rules are built of."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lbp import literature
from lbp.block import backward_rule
from lbp.errors import LbpError
from lbp.linearization import linearize
from lbp.literature import BUILT_IN, PUBLISHED, as_rule, compose
from lbp.rules import AS_PRINTED, BP, LINEAR, Rule, leaky, surrogate

# z clear of the places where a rule jumps.
Z = torch.tensor([-9.0, -4.0, -2.5, -1.05, -0.7, -0.2, 0.3, 0.8, 1.2, 3.0, 5.0, 8.0]).double()


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def steps(a, c):
    return lambda z: sum(a_i * (z > c_i) for a_i, c_i in zip(a, c, strict=True))


# The factors as functions of z, and of the forward pass's value and slope, without PyTorch.
GELU_STEPS = (
    (-0.0492226, 1.0979632, -0.0487406),
    (-3.185881, -0.0011788, 3.1908326),
)
SILU_STEPS = (
    (-0.0406036, 1.0809254, -0.0403219),
    (-6.3050461, -0.0008685, 6.3258152),
)
FACTORS = {
    "ste-clip": lambda z, y: np.abs(z) <= 1,
    "clipped-relu": lambda z, y: (z > 0) & (z < 1),
    "proxygrad": lambda z, y: np.where(z > 0, 1, 0.3),
    "bpa": lambda z, y: sigmoid(z) + z * sigmoid(z) * sigmoid(-z),
    "sugar-bsilu": lambda z, y: sigmoid(z) + (z + 1.67) * sigmoid(z) * sigmoid(-z),
    "sugar-nelu": lambda z, y: np.where(z > 0, 1, 0.1 * z / (1 + z**2) ** 2),
    "approx-gelu": lambda z, y: steps(*GELU_STEPS)(z),
    "approx-silu": lambda z, y: steps(*SILU_STEPS)(z),
    "attnlrp": lambda z, y: y / z,
}
every_factor = pytest.mark.parametrize("name", FACTORS)


def gradient(rule, f, z, g):
    z = z.clone().requires_grad_()
    with backward_rule(rule):
        y = f(z)
    (found,) = torch.autograd.grad(y, z, g)
    return found


@every_factor
@pytest.mark.parametrize("f", [F.relu, torch.tanh, F.gelu, F.silu])
def test_a_rule_is_its_formula(name, f):
    g = torch.linspace(-1, 2, len(Z)).double()
    factor = FACTORS[name](Z.numpy(), f(Z).numpy())
    expected = torch.as_tensor(factor) * g
    torch.testing.assert_close(gradient(name, f, Z, g), expected, rtol=1e-6, atol=1e-6)


@every_factor
def test_a_module_and_a_block_agree(name):
    g = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double()
    z = Z.view(2, 6)
    unit, _ = linearize(nn.GELU(), name)
    leaf = z.clone().requires_grad_()
    unit(leaf).backward(g)
    assert torch.equal(leaf.grad, gradient(name, F.gelu, z, g))
    assert torch.equal(unit(z), F.gelu(z))


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("f", [F.relu, F.gelu, torch.tanh])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_far_from_zero_a_rule_gives_numbers(name, f, dtype):
    """A square or an exponential that overflows must not make a NaN of it."""
    z = torch.tensor([-1e4, -300.0, 0.0, 300.0, 1e4], dtype=dtype)
    assert torch.isfinite(gradient(name, f, z, torch.ones_like(z))).all()


@pytest.mark.parametrize(("name", "low", "high"), [
    ("proxygrad", 0.3, 1), ("bpa", 0, 1), ("sugar-bsilu", 0, 1), ("sugar-nelu", 0, 1),
    ("approx-gelu", 0, 1), ("approx-silu", 0, 1), ("ste-clip", 0, 0), ("clipped-relu", 0, 0),
])  # fmt: skip
def test_far_from_zero_a_rule_has_its_limits_in_half_precision(name, low, high):
    z = torch.tensor([-1e4, 1e4], dtype=torch.float16)
    found = gradient(name, F.relu, z, torch.ones_like(z))
    assert found.tolist() == pytest.approx([low, high], abs=1e-3)


def test_bsilu_is_steepest_where_it_was_computed_to_be():
    """Known numbers: 0.9175 at 0, at most 1.29 at 1.49, negative below -2.74."""
    z = torch.linspace(-8, 8, 16001).double()
    slope = gradient("sugar-bsilu", F.relu, z, torch.ones_like(z))
    assert slope.max().item() == pytest.approx(1.29, abs=0.005)
    assert z[slope.argmax()].item() == pytest.approx(1.49, abs=0.01)
    assert z[slope > 0].min().item() == pytest.approx(-2.74, abs=0.01)
    at_zero = gradient("sugar-bsilu", F.relu, torch.zeros(1), torch.ones(1)).item()
    assert at_zero == pytest.approx(0.5 + 1.67 / 4, abs=1e-6)


@pytest.mark.parametrize(("name", "f"), [("approx-gelu", F.gelu), ("approx-silu", F.silu)])
def test_approx_bp_is_the_slope_of_a_broken_line_beside_the_function(name, f):
    """The paper's conditions: the line meets f far out, and is nearer to it than ReLU."""
    z = torch.linspace(-12, 12, 240001).double()
    slope = gradient(name, f, z, torch.ones_like(z))
    line = torch.cumulative_trapezoid(slope, z)
    assert line[-1].item() == pytest.approx(12, abs=1e-3)
    assert (line - f(z[1:])).square().mean() < 0.5 * (z.relu() - f(z)).square().mean()


@pytest.mark.parametrize("name", ["approx-gelu", "approx-silu"])
def test_approx_bp_keeps_two_bits_a_unit(name):
    sizes = []
    z = torch.randn(8, 100, requires_grad=True)

    def pack(tensor):
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), backward_rule(name):
        F.gelu(z)
    assert sum(sizes) == z.numel() * 2 / 8


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1023])
def test_packing_loses_nothing_at_any_size(size):
    z = torch.randn(size, generator=torch.Generator().manual_seed(size)).double() * 4
    expected = steps(*GELU_STEPS)(z.numpy())
    found = gradient("approx-gelu", F.gelu, z, torch.ones_like(z))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_full_jam_is_noise_that_keeps_the_sign():
    g = torch.tensor([-1.0, 2.0]).repeat(5000)
    torch.manual_seed(0)
    ratio = gradient("full-jam", torch.tanh, torch.zeros_like(g), g) / g
    assert ratio.min() >= 0
    assert ratio.max() <= 1
    assert ratio.mean().item() == pytest.approx(0.5, abs=0.02)
    assert ratio.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.02)


@pytest.mark.parametrize("name", [n for n in BUILT_IN if n not in ("bp", "leaky")])
@pytest.mark.parametrize("how", ["plain", "in place", "vmap"])
def test_every_rule_works_in_place_and_vectorised(name, how):
    g = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))

    def loss(z, g):
        with backward_rule(name):
            y = F.relu(z * 1, inplace=how == "in place")
        return (y * g).sum()

    torch.manual_seed(3)
    expected = gradient(name, F.relu, z, g)
    torch.manual_seed(3)
    if how == "vmap":
        alike = torch.vmap(torch.func.grad(loss), randomness="different")
        found = alike(z, g)
        if name == "full-jam":  # its numbers are others
            assert ((found / g >= 0) & (found / g <= 1)).all()
            return
    else:
        leaf = z.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(leaf, g), leaf)
    torch.testing.assert_close(found, expected)


# --- surrogates


@pytest.mark.parametrize(
    ("s", "same"),
    [
        (torch.nn.Identity(), "linear"),
        (F.silu, "bpa"),
        (lambda z: F.leaky_relu(z, 0.3), "proxygrad"),
        (lambda z: (z + 1.67) * torch.sigmoid(z) - 0.835, "sugar-bsilu"),
        (lambda z: torch.where(z > 0, z, -0.05 / (1 + z * z)), "sugar-nelu"),
        (nn.Hardtanh(), "ste-clip"),
    ],
    ids=["identity", "silu", "leaky relu", "b-silu", "nelu", "hardtanh"],
)
def test_a_surrogate_passes_the_derivative_of_its_function(s, same):
    g = torch.linspace(-1, 2, len(Z)).double()
    found = gradient(surrogate(s), F.relu, Z, g)
    torch.testing.assert_close(found, gradient(same, F.relu, Z, g))


def test_a_surrogate_leaves_the_forward_pass_alone_and_is_itself_under_no_rule():
    z = Z.clone().requires_grad_()
    with backward_rule(surrogate(F.gelu)):
        y = torch.tanh(z)
    assert torch.equal(y, torch.tanh(Z))
    expected = Z.clone().requires_grad_()
    F.gelu(expected).sum().backward()
    y.sum().backward()
    assert torch.equal(z.grad, expected.grad)


def test_second_derivatives_are_those_of_the_surrogate():
    z = Z.clone().requires_grad_()
    with backward_rule(surrogate(F.silu)):
        y = F.relu(z)
    (first,) = torch.autograd.grad(y.sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    s = torch.sigmoid(Z)
    slope = s * (1 - s)
    torch.testing.assert_close(second, 2 * slope + Z * slope * (1 - 2 * s))


def test_a_surrogate_learns_its_parameters():
    learned = nn.PReLU(init=0.2).double()
    alone = copy.deepcopy(learned)
    model, _ = linearize(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double(), surrogate(learned))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    g = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()
    model(x).backward(g)
    z = model[0](x).detach()
    alone(z).backward(g)  # by PyTorch itself
    assert learned.weight.grad.item() != 0
    torch.testing.assert_close(learned.weight.grad, alone.weight.grad)
    expected = (torch.where(z > 0, 1.0, 0.2).double() * g).T @ x
    torch.testing.assert_close(model[0].weight.grad, expected)


# --- composed rules


def test_rules_are_composed_in_turn():
    g = torch.linspace(-1, 2, len(Z)).double()
    found = gradient(compose(as_rule("ste-clip"), as_rule("proxygrad"), BP), torch.tanh, Z, g)
    inside = (Z.abs() <= 1).double() * torch.where(Z > 0, 1.0, 0.3).double()
    torch.testing.assert_close(found, inside * g * (1 - torch.tanh(Z) ** 2))


@pytest.mark.parametrize("last", ["linear", "approx-gelu", "attnlrp", "leaky"])
def test_the_last_rule_may_be_any(last):
    g = torch.linspace(-1, 2, len(Z)).double()
    found = gradient(compose(as_rule("ste-clip"), as_rule(last)), F.gelu, Z, g)
    expected = gradient(last, F.gelu, Z, (Z.abs() <= 1) * g)
    torch.testing.assert_close(found, expected)


def test_a_composed_rule_is_named_by_its_parts():
    assert compose("ste-clip", "bp").name == "ste-clip then bp"
    assert compose(LINEAR) is LINEAR


# --- the list


def test_the_rules_of_the_books_runs_are_those_of_the_numerical_code():
    """Runs name them, and the fingerprint of a run covers `lbp.rules`, not this list."""
    assert [as_rule(name) for name in ("bp", "linear", "as-printed")] == [BP, LINEAR, AS_PRINTED]


def test_every_name_has_a_source_and_a_formula():
    for name, published in PUBLISHED.items():
        assert published.formula, name
        assert published.source, name
        assert published.rule.name == name or published.rule.name.startswith(f"{name}("), name


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_model_that_holds_a_rule_can_be_pickled(name):
    unit, _ = linearize(nn.Sequential(nn.GELU()), name)
    again = pickle.loads(pickle.dumps(unit))
    z = torch.tensor([-0.5, 0.4])
    torch.manual_seed(0)
    expected = gradient(name, F.gelu, z, torch.ones(2))
    torch.manual_seed(0)
    leaf = z.clone().requires_grad_()
    again(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: literature.proxygrad(0), "alpha = 0: a number above 0 is needed"),
        (lambda: literature.clipped_relu("1"), "c = '1': a number above 0 is needed"),
        (lambda: literature.sugar_nelu(True), "alpha = True: a number above 0 is needed"),
        (
            lambda: gradient(surrogate(torch.sum), F.relu, Z, Z),
            "the function of the rule surrogate(sum) returned shape () for (12,): give an "
            "element-wise one",
        ),
        (lambda: literature.sugar_bsilu(math.nan), "a = nan: a number above 0 is needed"),
        (lambda: literature.proxygrad(math.inf), "alpha = inf: a number above 0 is needed"),
        (lambda: compose(), "compose() of no rules: give two or more, such as 'full-jam' and 'bp'"),
        (
            lambda: surrogate(1.5),
            "surrogate 1.5 is no function of the pre-activations (1.5 is not a callable object): "
            "give one",
        ),
        (
            lambda: surrogate(nn.Tanh),
            "surrogate <class 'torch.nn.modules.activation.Tanh'> is no function of the "
            "pre-activations (it is a class): give one",
        ),
        (
            lambda: compose(leaky(), LINEAR),
            "the rule leaky(0.1) needs the function, so it can only be the last one in compose",
        ),
        (
            lambda: Rule("half", torch.mul, true_share=0.5, surrogate=F.silu),
            "the rule half has a true_share: give no keep and no surrogate",
        ),
        (
            lambda: Rule("short", lambda g: g),
            "backward rule 'short' cannot be called with a pre-activation and a gradient "
            "(too many positional arguments): give a function of these two",
        ),
    ],
)
def test_bad_rules_are_told_in_one_line(call, message):
    with pytest.raises(LbpError) as error:
        call()
    assert str(error.value) == message


def test_a_surrogate_takes_features_of_inference_mode():
    with torch.inference_mode():
        features = torch.randn(3, 4)
    head = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
    expected = head(features)
    linearize(head, surrogate(torch.tanh))
    assert torch.equal(head(features), expected)
