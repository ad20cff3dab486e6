"""`not_gates`: sigmoids that multiply another branch keep their true derivative."""

import copy

import pytest
import torch
from torch import nn

import lbp
from lbp.errors import LbpError
from tests import zoo

X = torch.randn(4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class SqueezeExcite(nn.Module):
    """The input, multiplied by a number between 0 and 1 for each channel."""

    def __init__(self, gate):
        super().__init__()
        self.reduce, self.act, self.expand = nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6)
        self.gate = gate

    def forward(self, x):
        return x * self.gate(self.expand(self.act(self.reduce(x.mean(-1))))).unsqueeze(-1)


def net(gate):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    return nn.Sequential(first, SqueezeExcite(gate), nn.Sigmoid()).double()


def identity_backwards(function, z):
    return z + (function(z) - z).detach()


# The gate by PyTorch's functions alone, and by its definition.
GATES = {
    "module": (nn.Sigmoid(), lambda z: 1 / (1 + torch.exp(-z))),
    "hard": (nn.Hardsigmoid(), lambda z: ((z + 3) / 6).clamp(0, 1)),
    "held function": (torch.sigmoid, lambda z: 1 / (1 + torch.exp(-z))),
}


@pytest.mark.parametrize("name", GATES)
def test_the_gate_is_true_and_all_else_linear(name):
    gate, definition = GATES[name]
    model = net(copy.deepcopy(gate))
    where = lbp.not_gates(model, X)
    assert where.gates == {"1.gate"}
    assert not lbp.audit(model, X).reached  # the model itself is not changed
    _, report = lbp.linearize(model, where=where, example=X, strict=True)
    assert set(report.changed) == {"0.1", "1.act", "2"}
    assert report.audit.gates == {"0.1": 1}  # a bounded signal, which the gate multiplies
    assert type(model[1].gate) is type(gate)

    def by_definition(x):
        x = identity_backwards(torch.tanh, model[0][0](x))
        block = model[1]
        hidden = identity_backwards(torch.relu, block.reduce(x.mean(-1)))
        x = x * definition(block.expand(hidden)).unsqueeze(-1)
        return identity_backwards(torch.sigmoid, x)

    leaf = X.clone().requires_grad_()
    leaves = [leaf, *model.parameters()]
    found = torch.autograd.grad(model(leaf).square().sum(), leaves)
    expected = torch.autograd.grad(by_definition(leaf).square().sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_it_can_be_joined_with_another_condition():
    model = net(nn.Sigmoid())
    open_to_change = lbp.not_gates(model, X)
    _, report = lbp.linearize(
        model, where=lambda name, module: name != "0.1" and open_to_change(name, module)
    )
    assert set(report.changed) == {"1.act", "2"}


def test_a_model_of_gates_alone_has_nothing_to_change():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.sigmoid = nn.Sigmoid()

        def forward(self, x):
            return x * self.sigmoid(x.mean(1, keepdim=True))

    model = nn.Sequential(nn.Linear(5, 5).double(), Gate())
    with pytest.raises(LbpError, match=r"where=NotGates\(.*1.sigmoid.* matches no activation mod"):
        lbp.linearize(model, where=lbp.not_gates(model, X))


def hard_sigmoid_slope(z):
    return (z.abs() < 3).double() / 6


def sigmoid_slope(z):
    value = 1 / (1 + torch.exp(-z))
    return value * (1 - value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "efficientnet_b0", "regnety_002", "semnasnet_075"]
)
def test_squeeze_and_excitation_networks(name):
    pytest.importorskip("timm")
    model, args, _ = zoo.build(name)

    def norm(model):
        again = copy.deepcopy(model)
        again(*args).square().sum().backward()
        return torch.stack([p.grad.norm() for p in again.parameters()]).norm().item()

    norms = {
        "Backprop": norm(model),
        "Linear Backprop": norm(lbp.linearize(copy.deepcopy(model))[0]),
    }
    where = lbp.not_gates(model, *args)
    kinds = {gate: type(model.get_submodule(gate)) for gate in where.gates}
    _, report = lbp.linearize(model, where=where, example=args)
    norms["gates left alone"] = norm(model)
    print(name, {rule: f"{value:.3g}" for rule, value in norms.items()})

    assert kinds
    assert report.audit.gates == {}
    names = [name for name, _ in model.named_modules()]
    assert where.gates == {name for name in names if name.endswith(".se.gate")}
    z = torch.linspace(-4, 4, 10, dtype=torch.float64, requires_grad=True)
    for gate, kind in kinds.items():
        module = model.get_submodule(gate)
        assert type(module) is kind
        slope = hard_sigmoid_slope if "ard" in kind.__name__ else sigmoid_slope
        (found,) = torch.autograd.grad(module(z * 1).sum(), z)
        torch.testing.assert_close(found, slope(z.detach()))


class Einsum(nn.Module):
    """A layer behind a sigmoid, written as a product with a weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.act = nn.Parameter(torch.randn(2, 5).double()), nn.Sigmoid()

    def forward(self, x):
        return torch.einsum("...h,oh->...o", self.act(x), self.weight)


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.gain = nn.Sigmoid(), nn.Parameter(torch.ones(5).double())

    def forward(self, x):
        return self.act(x) * self.gain


@pytest.mark.parametrize("kind", [Einsum, Gain])
def test_a_weight_is_no_branch(kind):
    model = kind()
    assert lbp.not_gates(model, X).gates == frozenset()
    audit = lbp.audit(lbp.linearize(model)[0], X.clone().requires_grad_())
    assert not audit.gates
    assert "a product of two branches" not in audit.others


class InputGate(nn.Module):
    """The data themselves, multiplied by a gate; they may be overwritten."""

    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(5, 5).double(), nn.Sigmoid()

    def forward(self, x):
        x -= 1
        return x * self.act(self.layer(x))


def test_data_and_frozen_layers_are_branches():
    x = X.clone()
    assert lbp.not_gates(InputGate(), x).gates == {"act"}
    assert torch.equal(x, X)
    assert not x.requires_grad
    frozen = nn.Sequential(nn.Linear(5, 5).double(), InputGate())
    frozen[0].requires_grad_(False)
    assert lbp.not_gates(frozen, X).gates == {"1.act"}
    assert [p.requires_grad for p in frozen.parameters()] == [False, False, True, True]


# --- on its way to the product a gate may go through what only moves it


class Gated(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.body, self.act, self.gate = nn.Linear(5, 5), nn.Tanh(), nn.Sigmoid()
        self.mask, self.join = nn.Linear(5, 5), join

    def forward(self, x):
        return self.join(x, self.act(self.body(x)), self.gate(self.mask(x)))


JOINS = {
    "lerp": lambda x, a, g: torch.lerp(x, a, g),
    "addcmul": lambda x, a, g: torch.addcmul(x, a, g),
    "interpolate": lambda x, a, g: a * nn.functional.interpolate(g, scale_factor=1),
    "index": lambda x, a, g: a * g[..., [4, 3, 2, 1, 0]],
    "flip": lambda x, a, g: a * g.flip(-1),
    "roll": lambda x, a, g: a * g.roll(1, -1),
    "pad": lambda x, a, g: a * nn.functional.pad(g[..., :4], (0, 1)),
    "clamp": lambda x, a, g: a * g.clamp(0.1, 0.9),
    "masked": lambda x, a, g: a * g.masked_fill(x > 0, 0.0),
    "cat": lambda x, a, g: a * torch.cat([g[..., :2], 1 - g[..., 2:]], -1),
}


@pytest.mark.parametrize("join", JOINS)
def test_a_gate_is_found_through_what_moves_it(join):
    model = Gated(JOINS[join]).double()
    chosen = lbp.not_gates(model, X)
    assert chosen.gates == {"gate"}
    model, report = lbp.linearize(model, where=chosen)
    assert list(report.changed) == ["act"]
    lbp.linearize(model)
    assert "gate" in lbp.audit(model, X).gates


def test_a_mean_of_itself_is_no_gate():
    """As a ReLU behind which each number is divided by the mean of all."""
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), Own()).double()
    lbp.linearize(model)
    assert lbp.audit(model, X).gates == {}


class Own(nn.Module):
    def forward(self, z):
        return z * z.mean(-1, keepdim=True)


def test_lazy_layers_get_their_shape_in_the_copy():
    lazy = nn.Sequential(nn.LazyLinear(5), nn.ReLU()).double()
    assert lbp.not_gates(lazy, X).gates == frozenset()
    assert isinstance(lazy[0], nn.LazyLinear)
