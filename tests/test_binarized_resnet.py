"""The binarized ResNet against its description, written out without its code."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lbp.errors import LbpError
from lbp.lab import images
from lbp.lab.config import RunConfig
from lbp.lab.models import arithmetic, build, clamped_parameters
from lbp.lab.models.binarized_resnet import BinaryConv2d, BinaryLinear, binarized
from lbp.lab.train import Trainer
from lbp.linearization import RULED, activation_modules

FULL = RunConfig(model="binarized_resnet", activation="hardtanh")
TINY = replace(
    FULL, width=1 / 16, dataset="stand-in", train_images=40, test_images=20, batch=40, lr=0.5,
    l2=0.1,
)  # fmt: skip
# Dynamo's own use of torch.autograd.Function.
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
# Place, stride and channels at width 1.
BLOCKS = [(0, 1, 80), (1, 1, 80), (2, 2, 160), (3, 1, 160), (4, 2, 320), (5, 1, 320)]


def binary_layers(model):
    return [m for m in model.modules() if isinstance(m, BinaryConv2d | BinaryLinear)]


def pictures(number=6):
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def run_by_hand(parameters, x, activation, rule):
    """Return the logits, given parameters by name: training mode, no code of lbp."""

    def sign(h):  # forward the sign, backward the identity
        s = torch.where(h < 0, -1.0, 1.0).to(h.dtype)
        return s.detach() + (h - h.detach())

    def unit(h):
        f = {"hardtanh": lambda h: h.clamp(-1, 1), "tanh": torch.tanh}[activation](h)
        return f if rule == "bp" else f.detach() + (h - h.detach())

    def norm(h, name):
        axes = [0, 2, 3][: h.dim() - 1]
        mean = h.mean(axes, keepdim=True)
        variance = ((h - mean) ** 2).mean(axes, keepdim=True)
        shape = [1, -1, 1, 1][: h.dim()]
        scale, shift = (parameters[f"{name}.{p}"].view(shape) for p in ("weight", "bias"))
        return (h - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv(h, name, stride=1):
        w = sign(parameters[f"{name}.weight"])
        return F.conv2d(h, w, stride=stride, padding=w.shape[-1] // 2)

    h = unit(norm(conv(x, "stem.0"), "stem.1"))
    for block, stride, _ in BLOCKS:
        at = f"blocks.{block}"
        inner = unit(norm(conv(sign(h), f"{at}.conv1", stride), f"{at}.norm1"))
        inner = conv(sign(inner), f"{at}.conv2")
        if stride == 2:
            h = norm(conv(sign(h)[:, :, ::2, ::2], f"{at}.shortcut.1"), f"{at}.shortcut.2")
        h = inner + h
        if block < 5:
            h = unit(norm(h, f"{at}.end.0"))
    assert h.shape[2:] == (8, 8)
    h = sign(unit(norm(h.mean((2, 3)), "head.0")))
    logits = h @ sign(parameters["head.2.weight"]).T + parameters["head.2.bias"]
    return norm(logits, "head.3")


def gradients_by_hand(parameters, x, labels, activation, rule):
    leaves = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    logits = run_by_hand(leaves, x, activation, rule)
    loss = (logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]).mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


# --- signs


def test_the_sign_is_plus_or_minus_one_and_its_gradient_passes():
    x = torch.tensor([-2.0, -1e-45, -0.0, 0.0, 1e-45, 0.3, math.inf, -math.inf])
    x.requires_grad_()
    signs = binarized(x)
    assert signs.tolist() == [-1, -1, 1, 1, 1, 1, 1, -1]
    g = torch.arange(8.0)
    (found,) = torch.autograd.grad(signs, x, g)
    assert torch.equal(found, g)
    assert binarized(x.double()).dtype == torch.float64
    assert x[0] == -2  # it stays as it is


def test_the_sign_can_be_mapped():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.func.vmap(binarized)(x), binarized(x))
    slopes = torch.func.vmap(torch.func.grad(lambda row: (binarized(row) * row).sum()))(x)
    assert torch.equal(slopes, x + binarized(x))


@compiles
def test_the_gradient_passes_through_a_compiled_sign():
    """PyTorch 2.11 silently makes it zero if the forward pass overwrites anything."""
    compiled = torch.compile(lambda x: binarized(x) * 3, backend="aot_eager", fullgraph=True)
    x = torch.linspace(-2, 2, 5).requires_grad_()
    assert torch.equal(compiled(x), 3 * binarized(x))
    assert torch.autograd.grad(compiled(x).sum(), x)[0].tolist() == [3] * 5


@compiles
@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one():
    eager, compiled = (
        Trainer(TINY, images.load(TINY, Path(), torch.device("cpu"))) for _ in range(2)
    )
    options = {"fullgraph": True, "dynamic": False, "backend": "aot_eager"}
    forward = torch.compile(compiled._forward, **options)
    update = torch.compile(compiled._update, **options)
    compiled._steps = {40: lambda: compiled._step(40, forward, update)}
    rows = [trainer.epoch() for trainer in (eager, compiled)]
    assert rows[0].train_loss == pytest.approx(rows[1].train_loss, rel=1e-4)
    assert rows[0].sign_flips == pytest.approx(rows[1].sign_flips, rel=0.02)


def test_what_layers_multiply_is_plus_or_minus_one_and_images_are_real(monkeypatch):
    seen = []
    for name in ("conv2d", "linear"):
        stock = getattr(F, name)

        def spy(x, weight, *rest, stock=stock):
            seen.append((x.detach(), weight.detach()))
            return stock(x, weight, *rest)

        monkeypatch.setattr(F, name, spy)
    torch.manual_seed(0)
    model = build(replace(FULL, width=1 / 8))
    with torch.no_grad():  # weights at the bounds and at zero
        for layer in binary_layers(model):
            layer.weight.view(-1)[:3] = torch.tensor([0.0, 1.0, -1.0])
    model(pictures())
    assert len(seen) == len(binary_layers(model)) == 16
    for place, (x, weight) in enumerate(seen):
        assert set(weight.unique().tolist()) == {-1, 1}
        assert (set(x.unique().tolist()) == {-1, 1}) == (place > 0)


# --- the network


def test_the_number_of_parameters_is_that_of_the_description():
    """The paper's code has 640 more, of a batch norm that it never calls."""
    convolutions = 3 * 80 * 9 + sum(
        {1: 2 * c * c * 9, 2: (c // 2 + c) * c * 9 + c // 2 * c}[stride] for _, stride, c in BLOCKS
    )
    norms = 2 * (80 + 4 * 80 + 4 * 160 + 160 + 3 * 320 + 320 + 320 + 10)
    model = build(FULL)
    assert convolutions + 320 * 10 == sum(p.numel() for p in clamped_parameters(model)) == 4_331_760
    total = sum(p.numel() for p in model.parameters())
    assert total == 4_331_760 + norms + 10 == 4_338_030 - 640
    assert [p.shape for p in clamped_parameters(model)] == [
        m.weight.shape for m in binary_layers(model)
    ]


@pytest.mark.parametrize("rule", ["bp", "linear"])
@pytest.mark.parametrize("activation", ["hardtanh", "tanh"])
def test_logits_and_gradients_against_float64_by_hand(activation, rule):
    torch.manual_seed(0)
    model = build(replace(FULL, activation=activation, rule=rule, width=1 / 16)).double()
    with torch.no_grad():
        for module in model.modules():  # not 1 and 0, as which some mistakes look right
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    x, labels = pictures().double(), torch.arange(6)
    parameters = dict(model.named_parameters())
    logits = model(x)
    torch.testing.assert_close(logits, run_by_hand(parameters, x, activation, rule))
    ours = torch.autograd.grad(F.cross_entropy(logits, labels), list(parameters.values()))
    expected = gradients_by_hand(parameters, x, labels, activation, rule)
    for name, gradient in zip(parameters, ours, strict=True):
        torch.testing.assert_close(gradient, expected[name], msg=name)
    other = gradients_by_hand(parameters, x, labels, activation, "linear" if rule == "bp" else "bp")
    stem = "stem.0.weight"
    cosine = F.cosine_similarity(expected[stem].flatten(), other[stem].flatten(), dim=0)
    assert cosine < 0.99  # the clip matters


def test_the_units_are_those_of_the_run_under_its_rule():
    for rule in ("bp", "linear"):
        units = activation_modules(build(replace(FULL, rule=rule, width=1 / 16))).values()
        kind = nn.Hardtanh if rule == "bp" else RULED[nn.Hardtanh]
        assert [type(unit) for unit in units] == [kind] * 13


def test_units_and_arithmetic_by_hand():
    def conv(size, inputs, outputs, kernel=3):
        return 2 * size * size * inputs * outputs * kernel * kernel

    stem = conv(32, 3, 80)
    rest = [
        *[conv(32, 80, 80)] * 4,
        conv(16, 80, 160), *[conv(16, 160, 160)] * 3, conv(16, 80, 160, 1),
        conv(8, 160, 320), *[conv(8, 320, 320)] * 3, conv(8, 160, 320, 1),
        2 * 320 * 10,
    ]  # fmt: skip
    found = arithmetic(FULL)
    assert found.units == 5 * 32**2 * 80 + 4 * 16**2 * 160 + 3 * 8**2 * 320 + 320
    assert found.forward == stem + sum(rest)
    assert found.training == 2 * stem + 3 * sum(rest)


def test_the_initialisation_is_that_of_the_papers_code():
    torch.manual_seed(0)
    model = build(FULL)
    for layer in binary_layers(model):
        w = layer.weight
        if isinstance(layer, BinaryConv2d):
            expected = math.sqrt(2 / (w.shape[0] * w.shape[2] * w.shape[3]))
        else:
            expected = 1 / math.sqrt(3 * 320)
        assert w.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * w.numel()))
        assert abs(w.mean().item()) < 4 * expected / math.sqrt(w.numel())
    scales = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(scales) == 16
    assert all((scale == 1).all() for scale in scales)


def test_a_uniform_scale_is_drawn_around_the_linear_layer_alone():
    states = []
    for scale in ("one", "uniform"):
        torch.manual_seed(0)
        states.append(build(replace(FULL, batch_norm_scale=scale)).state_dict())
    one, uniform = states
    drawn = {name for name, tensor in one.items() if not torch.equal(tensor, uniform[name])}
    assert drawn == {"head.0.weight", "head.3.weight"}
    values = uniform["head.0.weight"]
    assert 0 <= values.min() < 0.05
    assert 0.95 < values.max() <= 1


@pytest.mark.parametrize(
    ("field", "value"), [("batch_norm", False), ("init", "he"), ("head", "mlp")]
)
def test_fields_that_it_does_not_have_are_refused(field, value):
    with pytest.raises(LbpError, match="has only activation, width, batch_norm_scale"):
        build(replace(FULL, **{field: value}))


# --- training


@pytest.mark.parametrize("rule", ["bp", "linear"])
def test_a_step_is_the_one_written_out_by_hand(rule):
    config = replace(TINY, rule=rule)
    split = images.load(config, Path(), torch.device("cpu"))
    trainer = Trainer(config, split)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    row = trainer.epoch()  # of one step: all images are in one batch

    x = images.Normalise("channel")(split.train.images)
    gradients = gradients_by_hand(before, x, split.train.labels, "hardtanh", rule)
    after, flips, binary = {}, 0, 0
    for name, w in before.items():
        after[name] = w - 0.5 * (gradients[name] + 0.1 * w)
        if w.dim() > 1:
            after[name] = after[name].clamp(-1, 1)
            flips += ((after[name] < 0) != (w < 0)).sum().item()
            binary += w.numel()
    for name, p in trainer.model.named_parameters():
        # Rounding may change the sign of a few activations near zero.
        update, expected = p - before[name], after[name] - before[name]
        assert (update - expected).norm() < 0.02 * expected.norm() + 1e-5, name
    weights = torch.cat([p.detach().flatten() for p in clamped_parameters(trainer.model)])
    assert weights.abs().max() == 1  # the clamp was needed
    assert flips > 10
    assert row.sign_flips == pytest.approx(flips / binary, rel=0.02)


def test_it_learns_the_stand_in():
    config = replace(TINY, train_images=200, batch=20, lr=0.1, l2=0.0, width=1 / 8)
    trainer = Trainer(config, images.load(config, Path(), torch.device("cpu")))
    rows = [trainer.epoch() for _ in range(4)]
    assert rows[-1].train_loss < rows[0].train_loss - 0.2
    assert all(row.sign_flips > 0 for row in rows)
    assert trainer.layers().weight[0] > 0
