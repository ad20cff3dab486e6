"""VGG19 against known numbers and an independent construction."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import vgg19_bn

from lbp.config import RunConfig
from lbp.models import build
from lbp.rules import Activation


def test_vgg19_has_the_known_number_of_parameters():
    model = build(RunConfig())
    assert sum(p.numel() for p in model.parameters()) == 20_040_522
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 16


def test_features_are_torchvisions_vgg19_bn():
    torch.manual_seed(0)
    ours = build(RunConfig(activation="relu", rule="bp"))
    theirs = vgg19_bn()
    theirs.features.load_state_dict(ours.features.state_dict())
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(ours.features(images), theirs.features(images))


def test_activations_after_every_convolution_follow_the_config():
    for head, count in (("linear", 16), ("mlp", 18)):
        model = build(RunConfig(activation="hardtanh", rule="as-printed", width=1 / 16, head=head))
        units = [m for m in model.modules() if isinstance(m, Activation)]
        assert [(u.activation, u.rule) for u in units] == [("hardtanh", "as-printed")] * count


def test_width_and_batch_norm():
    model = build(RunConfig(width=0.25, batch_norm=False))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions[:5]] == [16, 16, 32, 32, 64]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("init", ["default", "he", "xavier"])
def test_initialisations_have_the_standard_deviations_they_name(init):
    torch.manual_seed(0)
    model = build(RunConfig(init=init, batch_norm=False))
    layer = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]  # 512 -> 512
    fan = 9 * 512
    expected = {
        "default": math.sqrt(1 / (3 * fan)),
        "he": math.sqrt(2 / fan),
        "xavier": math.sqrt(2 / (fan + fan)),
    }
    assert layer.weight.std().item() == pytest.approx(expected[init], rel=0.01)
    assert (layer.bias == 0).all() == (init != "default")
