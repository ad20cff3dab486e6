"""The networks against known numbers and independent constructions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg19_bn

from lbp.errors import LbpError
from lbp.lab.config import RunConfig
from lbp.lab.models import arithmetic, build, training_flop
from lbp.lab.units import UNITS
from lbp.linearization import RULED, activation_modules


def modules(model: nn.Module, kind: type[nn.Module]) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


def images(number: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# --- VGG19


def test_vgg19_has_the_known_number_of_parameters():
    model = build(RunConfig())
    assert sum(p.numel() for p in model.parameters()) == 20_040_522
    assert len(modules(model, nn.Conv2d)) == 16


def test_vgg19s_features_are_torchvisions():
    torch.manual_seed(0)
    ours = build(RunConfig(activation="relu", rule="bp"))
    theirs = vgg19_bn()
    theirs.features.load_state_dict(ours.features.state_dict())
    torch.testing.assert_close(ours.features(images()), theirs.features(images()))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_vgg19s_head_is_that_of_its_field(head):
    torch.manual_seed(0)
    model = build(RunConfig(head=head, rule="bp")).eval()
    h = model.features(images()).flatten(1)
    weights = [layer.weight for layer in modules(model.head, nn.Linear)]
    biases = [layer.bias for layer in modules(model.head, nn.Linear)]
    sizes = {"linear": [(10, 512)], "mlp": [(512, 512), (512, 512), (10, 512)]}[head]
    assert [tuple(w.shape) for w in weights] == sizes
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        h = torch.tanh(h @ w.T + b)
    torch.testing.assert_close(model(images()), h @ weights[-1].T + biases[-1])
    assert [d.p for d in modules(model, nn.Dropout)] == [0.5] * (len(sizes) - 1)


def test_width_and_batch_norm():
    model = build(RunConfig(width=0.25, batch_norm=False))
    assert [c.out_channels for c in modules(model, nn.Conv2d)[:5]] == [16, 16, 32, 32, 64]
    assert not modules(model, nn.BatchNorm2d)
    assert model(images()).shape == (3, 10)


@pytest.mark.parametrize("init", ["default", "he", "xavier"])
def test_initialisations_have_the_standard_deviations_they_name(init):
    torch.manual_seed(0)
    model = build(RunConfig(init=init, batch_norm=False))
    layer = modules(model, nn.Conv2d)[-1]  # 512 -> 512
    fan = 9 * 512
    expected = {
        "default": math.sqrt(1 / (3 * fan)),
        "he": math.sqrt(2 / fan),
        "xavier": math.sqrt(2 / (fan + fan)),
    }
    assert layer.weight.std().item() == pytest.approx(expected[init], rel=0.01)
    assert (layer.bias == 0).all() == (init != "default")


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_uniform_scale_of_batch_norm_changes_no_other_parameter(head):
    states = {}
    for scale in ("one", "uniform"):
        torch.manual_seed(0)
        model = build(RunConfig(batch_norm_scale=scale, init="he", head=head, width=0.5))
        states[scale] = model.state_dict()
    scales = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(scales) == 16
    for name, one in states["one"].items():
        if name.removesuffix(".weight") not in scales:
            assert torch.equal(one, states["uniform"][name]), name
    assert all((states["one"][f"{name}.weight"] == 1).all() for name in scales)
    drawn = torch.cat([states["uniform"][f"{name}.weight"] for name in scales])
    deciles = torch.histc(drawn, bins=10, min=0, max=1)
    assert deciles.sum() == len(drawn) == 2752  # all within 0 and 1
    expected = len(drawn) / 10
    assert (deciles - expected).abs().max() < 5 * math.sqrt(expected)  # five standard deviations


# --- ResNet-18


def test_resnet18_has_the_known_number_of_parameters():
    model = build(RunConfig(model="resnet18"))
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert len(modules(model, nn.Conv2d)) == 20


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_resnet18_is_that_of_the_paper_written_out(activation):
    """He et al. (2016), with a first layer of 3 x 3 and no pooling behind it."""
    torch.manual_seed(0)
    model = build(RunConfig(model="resnet18", activation=activation, rule="bp"))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unit = {"relu": torch.relu, "tanh": torch.tanh}[activation]

    def convolution(h, conv, norm, stride=1):
        w = weights[f"{conv}.weight"]
        h = F.conv2d(h, w, stride=stride, padding=w.shape[-1] // 2)
        scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        return F.batch_norm(h, None, None, scale, shift, training=True)

    h = unit(convolution(images(), "conv1", "bn1"))
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            inner = unit(convolution(h, f"{at}.conv1", f"{at}.bn1", stride))
            inner = convolution(inner, f"{at}.conv2", f"{at}.bn2")
            if stride == 2:
                h = convolution(h, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            h = unit(h + inner)
    assert h.shape == (3, 512, 4, 4)
    logits = h.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    torch.testing.assert_close(model(images()), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0.5),
        ("batch_norm", False),
        ("batch_norm_scale", "uniform"),
        ("init", "he"),
        ("head", "mlp"),
    ],
)
def test_a_network_refuses_fields_that_it_does_not_have(field, value):
    config = RunConfig(model="resnet18", **{field: value})
    message = f"{field} = {value!r}: the network resnet18 has only activation: leave it out"
    for use in (build, arithmetic, lambda config: training_flop(config, 1)):
        with pytest.raises(LbpError) as error:
            use(config)
        assert str(error.value) == message


# --- both


SMALL = [{"model": "cnn", "width": 1 / 32}, {"model": "nin", "width": 1 / 32}]
NETWORKS = [  # and the number of their activation modules; ResNet-18 calls some of its own twice
    ({"width": 1 / 32}, 16),
    ({"width": 1 / 32, "head": "mlp"}, 18),
    ({"width": 1 / 32, "batch_norm": False}, 16),
    ({"model": "resnet18"}, 9),
    (SMALL[0], 5),
    (SMALL[1], 9),
]


@pytest.mark.parametrize(("network", "number"), NETWORKS)
@pytest.mark.parametrize("rule", ["bp", "linear", "as-printed"])
def test_networks_consist_of_stock_modules_but_for_the_units_under_a_rule(network, number, rule):
    model = build(RunConfig(activation="gelu", rule=rule, **network))
    units = activation_modules(model).values()
    assert len(units) == number
    assert {type(unit) for unit in units} == {nn.GELU if rule == "bp" else RULED[nn.GELU]}
    assert all(unit.lbp_rule.name == rule for unit in units if rule != "bp")
    homes = {type(m).__module__.partition(".")[0] for m in {*model.modules()} - {model, *units}}
    assert homes <= {"torch", "torchvision"}


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(
    "network",
    [{"width": 1 / 32, "head": "mlp"}, {"model": "resnet18"}, *SMALL],
)
def test_every_unit_of_a_network_is_the_one_that_the_run_names(name, network):
    config = RunConfig(activation=name, rule="bp", **network)
    if (config.model, name) == ("resnet18", "apl"):
        with pytest.raises(LbpError, match="the network resnet18 cannot have APL units"):
            build(config)
        return
    units = activation_modules(build(config)).values()
    assert {type(unit) for unit in units} == {UNITS[name]}


def convolution(size: int, inputs: int, outputs: int, kernel: int = 3) -> int:
    """Return the floating-point operations of one image: a product and a sum for each weight."""
    return 2 * size * size * inputs * outputs * kernel * kernel


VGG19 = [
    convolution(32, 3, 64), convolution(32, 64, 64),
    convolution(16, 64, 128), convolution(16, 128, 128),
    convolution(8, 128, 256), *[convolution(8, 256, 256)] * 3,
    convolution(4, 256, 512), *[convolution(4, 512, 512)] * 3,
    *[convolution(2, 512, 512)] * 4,
]  # fmt: skip
VGG19_UNITS = 32**2 * 2 * 64 + 16**2 * 2 * 128 + 8**2 * 4 * 256 + 4**2 * 4 * 512 + 2**2 * 4 * 512
RESNET18 = [
    convolution(32, 3, 64), *[convolution(32, 64, 64)] * 4,
    convolution(16, 64, 128), *[convolution(16, 128, 128)] * 3, convolution(16, 64, 128, 1),
    convolution(8, 128, 256), *[convolution(8, 256, 256)] * 3, convolution(8, 128, 256, 1),
    convolution(4, 256, 512), *[convolution(4, 512, 512)] * 3, convolution(4, 256, 512, 1),
    2 * 512 * 10,
]  # fmt: skip
RESNET18_UNITS = 32**2 * 5 * 64 + 16**2 * 4 * 128 + 8**2 * 4 * 256 + 4**2 * 4 * 512


@pytest.mark.parametrize(
    ("network", "layers", "units"),
    [
        ({}, [*VGG19, 2 * 512 * 10], VGG19_UNITS),
        (
            {"head": "mlp", "batch_norm": False},
            [*VGG19, 2 * 512 * 512, 2 * 512 * 512, 2 * 512 * 10],
            VGG19_UNITS + 2 * 512,
        ),
        ({"model": "resnet18"}, RESNET18, RESNET18_UNITS),
    ],
)
def test_units_and_arithmetic_by_hand_layer_by_layer(network, layers, units):
    """A layer's backward pass takes its forward pass twice, but for the gradient of the images."""
    for rule in ("bp", "linear"):
        config = RunConfig(rule=rule, activation="relu", **network)
        found = arithmetic(config)
        assert found.units == units
        assert found.forward == sum(layers)
        assert found.training == 3 * sum(layers) - layers[0]
        epochs = 7 * (50_000 * found.training + 10_000 * found.forward)
        assert training_flop(config, 7) == epochs


def test_arithmetic_counts_one_image_whatever_the_run_trains_on():
    config = RunConfig(
        width=1 / 8, dataset="stand-in", train_images=100, batch=30, lr=0.5, seed=3, augment=True
    )
    assert arithmetic(config) == arithmetic(RunConfig(width=1 / 8))
    assert training_flop(config, 1) < training_flop(RunConfig(width=1 / 8), 1)


def test_counting_leaves_pytorchs_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    arithmetic(RunConfig(width=3 / 32))  # one that no other test has counted
    assert torch.equal(torch.rand(3), expected)


# --- the networks of Agostinelli et al.


def layer_names(model: nn.Module) -> list[str]:
    """Return what tells the layers of a sequence, but for the units."""

    def name(m: nn.Module) -> str:
        if isinstance(m, nn.Conv2d):
            return f"conv {m.kernel_size[0]} {m.out_channels}"
        if isinstance(m, nn.MaxPool2d | nn.AvgPool2d):
            return f"{'max' if isinstance(m, nn.MaxPool2d) else 'mean'} {m.kernel_size} {m.stride}"
        if isinstance(m, nn.Linear):
            return f"linear {m.out_features}"
        return f"drop {m.p}" if isinstance(m, nn.Dropout) else type(m).__name__.lower()

    return [name(m) for m in model.layers]


@pytest.mark.parametrize(("dataset", "second"), [("cifar10", "mean 3 2"), ("cifar100", "max 3 2")])
def test_the_cnn_is_that_of_the_sources_network_file(dataset, second):
    model = build(RunConfig(model="cnn", activation="relu", rule="bp", dataset=dataset))
    assert layer_names(model) == [
        *("conv 5 96", "relu", "drop 0.25", "max 3 2", "drop 0.25"),
        *("conv 5 128", "relu", "drop 0.25", second, "drop 0.25"),
        *("conv 5 256", "relu", "drop 0.25", "mean 3 2", "drop 0.5"),
        "flatten",
        *("linear 2048", "relu", "drop 0.5", "linear 2048", "relu", "drop 0.5"),
        f"linear {model.layers[-1].out_features}",
    ]
    assert model(images()).shape == (3, 10 if dataset == "cifar10" else 100)
    weights = [m.weight for m in modules(model, nn.Conv2d) + modules(model, nn.Linear)]
    assert [tuple(w.shape[1:]) for w in weights] == [
        *((3, 5, 5), (96, 5, 5), (128, 5, 5)),
        *((4 * 4 * 256,), (2048,), (2048,)),
    ]
    stds = [1e-4, *[1e-2] * 5]
    assert [w.std().item() for w in weights] == pytest.approx(stds, rel=0.05)


def test_a_narrow_cnn_keeps_the_size_of_its_signals():
    sizes = {}
    for width in (1.0, 1 / 4):
        torch.manual_seed(0)
        model = build(RunConfig(model="cnn", activation="relu", rule="bp", width=width)).eval()
        h, found = 60 * images(), []
        for layer in model.layers:
            h = layer(h)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                found.append(h.std().item())
        sizes[width] = found
    # But for the logits, which are too few to tell.
    assert sizes[1 / 4][:-1] == pytest.approx(sizes[1.0][:-1], rel=0.3)


def test_network_in_network_is_that_of_the_sources_network_file():
    model = build(RunConfig(model="nin", activation="relu", rule="bp", dataset="cifar100"))
    assert layer_names(model) == [
        *("conv 5 192", "relu", "conv 1 160", "relu", "conv 1 96", "relu", "max 3 2", "drop 0.5"),
        *("conv 5 192", "relu", "conv 1 192", "relu", "conv 1 192", "relu", "mean 3 2", "drop 0.5"),
        *("conv 3 192", "relu", "conv 1 192", "relu", "conv 1 100", "relu", "mean 8 8", "flatten"),
    ]
    assert model(images()).shape == (3, 100)


def test_the_arithmetic_of_a_network_follows_its_classes():
    ten, hundred = (RunConfig(model="cnn", width=1 / 8, dataset=d) for d in ("cifar10", "cifar100"))
    assert arithmetic(hundred).forward - arithmetic(ten).forward == 2 * 90 * 256
