"""The glances at the layers against float64 and closed forms; they must change nothing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lbp import linearize
from lbp.lab import images
from lbp.lab.config import RunConfig
from lbp.lab.models import build
from lbp.lab.probe import probe, saturated
from lbp.lab.train import Trainer
from lbp.lab.units import LARGEST_SLOPE, UNITS
from lbp.linearization import activation_modules
from tests.test_train import CPU, SMALL, state

LABELS = torch.arange(10).repeat(2)


def pictures(number: int = 20) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def unit(activation: str, rule: str) -> nn.Module:
    return linearize(UNITS[activation](), rule)[0]


# --- the units and their slopes in closed form, float64


def logistic(a: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-a))


def normal(a: torch.Tensor) -> torch.Tensor:
    return (1 + torch.erf(a / math.sqrt(2))) / 2


def normal_density(a: torch.Tensor) -> torch.Tensor:
    return torch.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)


UNIT = {
    "tanh": lambda a: 1 - 2 / (torch.exp(2 * a) + 1),
    "relu": lambda a: a * (a > 0),
    "sigmoid": logistic,
    "hardtanh": lambda a: torch.where(a.abs() < 1, a, a.sign()),
    "gelu": lambda a: a * normal(a),
    "silu": lambda a: a * logistic(a),
}
SLOPE = {
    "tanh": lambda a: 1 / torch.cosh(a) ** 2,
    "relu": lambda a: (a > 0).double(),
    "sigmoid": lambda a: logistic(a) * logistic(-a),
    "hardtanh": lambda a: (a.abs() < 1).double(),
    "gelu": lambda a: normal(a) + a * normal_density(a),
    "silu": lambda a: logistic(a) * (1 + a * logistic(-a)),
}
STOCK = list(UNIT)  # those without parameters; tests/test_apl.py has the others
GRID = torch.linspace(-12, 12, 240_001, dtype=torch.float64)


@pytest.mark.parametrize("activation", STOCK)
def test_units_and_their_largest_slopes(activation):
    found = UNITS[activation]()(GRID)
    torch.testing.assert_close(found, UNIT[activation](GRID), atol=1e-12, rtol=1e-12)
    largest = SLOPE[activation](GRID).abs().max().item()
    assert LARGEST_SLOPE[activation] == pytest.approx(largest, abs=5e-5)


@pytest.mark.parametrize("activation", STOCK)
def test_saturation_is_a_slope_below_a_tenth_of_the_largest_one(activation):
    z = torch.linspace(-8, 8, 5000)
    slope = SLOPE[activation](z.double()).abs()
    limit = 0.1 * SLOPE[activation](GRID).abs().max()
    z = z[(slope / limit - 1).abs() > 1e-3]  # away from where rounding decides
    expected = (SLOPE[activation](z.double()).abs() < limit).double().mean().item()
    assert 0.3 < expected < 0.95
    for rule in ("bp", "linear"):
        model = nn.Sequential(unit(activation, rule), nn.Linear(len(z), 10))
        config = RunConfig(activation=activation, rule=rule)
        found = probe(model, config, torch.stack([z, z]), LABELS[:2], 0)
        assert found.saturated == [pytest.approx(expected, abs=1e-4)]  # a record has four digits


EDGE = math.atanh(math.sqrt(0.9))  # where tanh' is a tenth; sigmoid' is a fortieth at twice that


@pytest.mark.parametrize(
    ("activation", "inputs", "saturated"),
    [
        ("tanh", [0, EDGE - 0.01, 0.01 - EDGE, EDGE + 0.01, -EDGE - 0.01], 0.4),
        ("tanh", [-50, 50, 1, 1, 1], 0.4),
        ("relu", [-1e-6, -3, 0, 1e-6, 50], 0.6),
        ("sigmoid", [0, 2 * EDGE - 0.01, -2 * EDGE - 0.01, 2 * EDGE + 0.01, 2], 0.4),
        ("hardtanh", [0.99, -0.99, 1.01, -1.01, 5], 0.6),
        ("gelu", [0, 50, -50, -0.7, -1.4], 0.4),  # its slope changes its sign at -0.75
    ],
)
def test_saturation_by_hand(activation, inputs, saturated):
    model = nn.Sequential(unit(activation, "linear"), nn.Linear(5, 10))
    x = torch.tensor([inputs] * 2, dtype=torch.float32)
    found = probe(model, RunConfig(activation=activation), x, LABELS[:2], 0)
    assert found.saturated == [pytest.approx(saturated)]
    squares = sum(value**2 for value in inputs)
    assert found.preactivation == [pytest.approx(math.sqrt(squares / 5), rel=1e-3)]


# --- norms and cosines


def small_network(activation: str, rule: str) -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, stride=4),
        nn.BatchNorm2d(4),
        unit(activation, rule),
        nn.Conv2d(4, 5, 3, padding=1, stride=4),
        nn.BatchNorm2d(5),
        unit(activation, rule),
        nn.Flatten(),
        nn.Linear(20, 10),
    )
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.uniform_(0.5, 3)
            norm.bias.uniform_(-1, 1)
            norm.running_mean.fill_(77)  # of no use in training mode
            norm.running_var.fill_(55)
    return model


def by_hand(model, activation: str, rule: str, x, labels):
    """Return the weights, their gradients and the pre-activations: float64, no lbp code."""

    def ruled(a):
        f = UNIT[activation](a)
        if rule == "linear":
            return a + (f - a).detach()
        if rule == "as-printed":
            return a**2 / 2 + (f - a**2 / 2).detach()
        return f

    def norm(a, layer):
        mean = a.mean((0, 2, 3), keepdim=True)
        variance = ((a - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, shift = (p.detach().double().view(1, -1, 1, 1) for p in layer.parameters())
        return (a - mean) / (variance + layer.eps).sqrt() * scale + shift

    weights = [model[i].weight.detach().double().requires_grad_() for i in (0, 3, 7)]
    first, second, last = (model[i].bias.detach().double() for i in (0, 3, 7))
    h = F.conv2d(x.double(), weights[0], first, padding=1, stride=4)
    a1 = norm(h, model[1])
    a2 = norm(F.conv2d(ruled(a1), weights[1], second, padding=1, stride=4), model[4])
    logits = ruled(a2).flatten(1) @ weights[2].T + last
    loss = (logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]).mean()
    return weights, torch.autograd.grad(loss, weights), [a1.detach(), a2.detach()]


@pytest.mark.parametrize("activation", STOCK)
@pytest.mark.parametrize("rule", ["bp", "linear", "as-printed"])
def test_every_number_against_float64(activation, rule):
    model = small_network(activation, rule)
    config = RunConfig(activation=activation, rule=rule, lr=0.02, l2=0.3)
    x = pictures()
    found = probe(model, config, x, LABELS, 7)
    assert found.epoch == 7
    weights, ours, inputs = by_hand(model, activation, rule, x, LABELS)
    _, true, _ = by_hand(model, activation, "bp", x, LABELS)

    def length(tensor):
        return math.sqrt((tensor**2).sum().item())

    pairs = list(zip(ours, true, strict=True))
    expected = {
        "update": [0.02 * length(g + 0.3 * w) for g, w in zip(ours, weights, strict=True)],
        "weight": [length(w) for w in weights],
        "gradient": [length(g) for g in true],
        "cosine": [(g * t).sum().item() / (length(g) * length(t)) for g, t in pairs],
        "preactivation": [math.sqrt((a**2).mean().item()) for a in inputs],
    }
    for name, values in expected.items():
        assert getattr(found, name) == pytest.approx(values, rel=2e-3, abs=1e-4), name
    limit = 0.1 * SLOPE[activation](GRID).abs().max()
    shares = [(SLOPE[activation](a).abs() < limit).double().mean().item() for a in inputs]
    assert found.saturated == pytest.approx(shares, abs=4e-3)
    assert found.cosine[-1] == pytest.approx(1, abs=1e-5)  # no activation function after it
    if rule == "bp":
        assert found.cosine == pytest.approx([1, 1, 1], abs=1e-5)
    else:
        assert max(found.cosine[:2]) < 0.999


@pytest.mark.parametrize(
    ("network", "number"),
    [
        ({"width": 1 / 32, "batch_norm": False, "init": "he"}, 17),
        ({"width": 1 / 32, "batch_norm": False, "init": "he", "head": "mlp"}, 19),
        ({"model": "resnet18"}, 21),
    ],
)
def test_backprop_agrees_with_itself_layer_by_layer(network, number):
    torch.manual_seed(0)
    config = RunConfig(rule="bp", **network)
    found = probe(build(config), config, pictures(), LABELS, 3)
    assert found.cosine == pytest.approx([1] * number, abs=1e-4)


def test_both_rules_see_the_same_dropout():
    torch.manual_seed(0)
    config = RunConfig(rule="linear", width=1 / 8, head="mlp")
    found = probe(build(config), config, pictures(), LABELS, 3)
    # The rule is not met between the loss and the last layer.
    assert found.cosine[-1] == pytest.approx(1, abs=1e-5)
    assert found.cosine[0] < 0.99


@pytest.mark.parametrize("scale", [1e-6, 1e-13])
def test_the_cosine_of_tiny_gradients_is_a_cosine(scale):
    """As of a network that weight decay has all but ended: float32 cannot square its gradients."""
    torch.manual_seed(0)
    hidden, last = nn.Linear(6, 40), nn.Linear(40, 10)
    model = nn.Sequential(hidden, unit("tanh", "linear"), last)
    with torch.no_grad():
        hidden.bias.zero_()
        last.weight.mul_(scale)
    x = torch.randn(20, 6) * scale  # so both rules agree, and gradients are about scale squared
    found = probe(model, RunConfig(rule="linear"), x, LABELS, 0)
    assert found.cosine == pytest.approx([1, 1], abs=1e-3)
    with torch.no_grad():  # the logits are the bias but for terms of the order of scale squared
        residual = last.bias.double().softmax(0) - F.one_hot(LABELS, 10)
        true = (residual @ last.weight.double()).T @ x.double() / 20  # [40, 6]
    assert found.gradient[0] == pytest.approx(true.norm().item(), rel=1e-3)
    assert 0 < found.gradient[0] < scale


# --- they change nothing


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_is(training):
    torch.manual_seed(0)
    config = RunConfig(rule="linear", width=1 / 32, head="mlp")
    model = build(config).train(training)
    model.features[1].eval()  # one module in another mode than the others
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert probe(model, config, pictures(), LABELS, 0).cosine[0] < 0.99
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    units = activation_modules(model).values()
    assert {unit.lbp_rule.name for unit in units} == {"linear"}
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_training_is_the_same_with_and_without_glances():
    config = replace(SMALL, momentum=0.9, head="mlp", augment=True)
    split = images.load(config, Path(), CPU)
    plain, watched = Trainer(config, split), Trainer(config, split)
    watched.layers()
    for number in (1, 2):
        losses = [trainer.epoch().train_loss for trainer in (plain, watched)]
        assert losses[0] == losses[1]
        assert watched.layers().epoch == number
        assert watched.layers() == watched.layers()
    for a, b in zip(state(plain), state(watched), strict=True):
        assert torch.equal(a, b)


def test_the_trainer_looks_at_its_first_training_images():
    config = replace(SMALL, train_images=300, normalisation="unit")
    trainer = Trainer(config, images.load(config, Path(), CPU))
    x = trainer.split.train.images[:256].float() / 255
    labels = trainer.split.train.labels[:256]
    expected = probe(trainer.model, config, x, labels, 0)
    found = trainer.layers()
    for name in ("update", "gradient", "cosine", "preactivation", "saturated"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=2e-3)


def test_which_units_are_saturated_in_closed_form():
    z = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    logistic = 1 / (1 + torch.exp(-z))
    by_hand = {
        "sigmoid": logistic * (1 - logistic) < 0.1 * 0.25,
        "tanh": 1 - torch.tanh(z) ** 2 < 0.1,
        "relu": z <= 0,
        "hardtanh": z.abs() >= 1,
    }
    assert torch.equal(by_hand["sigmoid"], z.abs() > 2 * math.log(3 + math.sqrt(10)))
    for activation, expected in by_hand.items():
        unit = linearize(UNITS[activation](), "linear")[0]  # the rule does not matter
        assert torch.equal(saturated(unit, z, activation), expected), activation
