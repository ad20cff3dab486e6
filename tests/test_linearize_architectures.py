"""Both ways on torchvision's classification architectures, with random weights and small inputs."""

import copy
import itertools

import pytest
import torch
import torchvision
from torch import nn

from lbp.block import backward_rule
from lbp.errors import LbpError
from lbp.linearization import linearize, restore

# Name, and the side of an input that all its layers can take.
ARCHITECTURES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_large": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnet50": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_0": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11_bn": 32,
    "vit_b_32": 32,
}

# These call an activation function in their own code, where only `backward_rule` reaches it; the
# last two have no activation modules at all.
CALLING = {"densenet121", "swin_v2_t", "googlenet", "inception_v3"}
WITHOUT_MODULES = {"googlenet", "inception_v3"}


def build(name):
    torch.manual_seed(0)
    further = {}
    if name in ("googlenet", "inception_v3"):
        further = {"aux_logits": False, "init_weights": False}
    if name == "vit_b_32":
        further = {"image_size": ARCHITECTURES[name]}
    model = getattr(torchvision.models, name)(weights=None, num_classes=3, **further)
    if name in ("alexnet", "vgg11_bn"):  # their dense layers would take nearly all of the time
        dense = [k for k, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
        sizes = (model.classifier[dense[0]].in_features, 32, 32, 3)
        for k, sides in zip(dense, itertools.pairwise(sizes), strict=True):
            model.classifier[k] = nn.Linear(*sides)
    if name == "vit_b_32":  # starts at zero, where no gradient comes back
        nn.init.normal_(model.heads.head.weight, std=0.1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
    return model


def inside(model, rule):
    def forward(x):
        with backward_rule(rule):
            return model(x)

    return forward


def step(model, x, target, forward=None):
    """One step of training; return the output, the gradients and the weights after it."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    out = (forward or model)(x)
    nn.functional.cross_entropy(out, target).backward()
    grads = [p.grad for p in model.parameters()]
    optimizer.step()
    return out.detach(), grads, [p.detach() for p in model.parameters()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lbp.errors.LbpWarning")  # the transformers' softmax
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_ways_agree_on(name):
    start = build(name)
    size = ARCHITECTURES[name]
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 2])
    stock, true, _ = step(copy.deepcopy(start), x, target)
    assert torch.isfinite(stock).all()
    for rule in ("bp", "linear", "as-printed", "ste-clip", "leaky"):
        model = copy.deepcopy(start)
        out, grads, weights = step(model, x, target, inside(model, rule))
        assert torch.equal(out, stock)
        assert all(map(torch.equal, grads, true)) == (rule == "bp")  # the rule can be seen
        if name in WITHOUT_MODULES:
            with pytest.raises(LbpError, match="calls relu: use lbp"):
                linearize(model, rule)
            continue
        model, report = linearize(copy.deepcopy(start), rule)
        calls = [why for why in report.left.values() if why.startswith("calls")]
        assert bool(calls) == (name in CALLING)
        if calls:  # the modules alone follow the rule, too: below, the block might do it for them
            alone, partly, _ = step(copy.deepcopy(model), x, target)
            assert torch.equal(alone, stock)
            assert all(map(torch.equal, partly, true)) == (rule == "bp")
        forward = inside(model, rule) if calls else model
        found = step(model, x, target, forward)
        assert torch.equal(found[0], stock)
        assert all(map(torch.equal, found[1], grads))
        assert all(map(torch.equal, found[2], weights))
        assert list(model.state_dict()) == list(start.state_dict())
        assert [type(m) for m in restore(model).modules()] == [type(m) for m in start.modules()]
