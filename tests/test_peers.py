"""What the README says of other packages, shown by a few lines for each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lbp

Z = torch.tensor([-2.0, 0.5, 3.0])
TANH = 1 - Z.tanh() ** 2
STEP = torch.tensor([0.0, 1.0, 1.0])
ONES = torch.ones(3)


class Functional(nn.Module):
    """A model as people write them: its activation function is no module."""

    def forward(self, x):
        return F.relu(x)


def gradient(f):
    z = Z.clone().requires_grad_()
    f(z).sum().backward()
    return z.grad


def test_lbp_reaches_all_of_them():
    for f in (torch.tanh, nn.Tanh(), Functional(), nn.ReLU()):
        with lbp.backward_rule():
            assert torch.equal(gradient(f), ONES)


def test_freegrad_reaches_its_own_modules_alone():
    freegrad = pytest.importorskip("freegrad")
    with freegrad.use(rule="d(Linear)"):
        assert torch.equal(gradient(freegrad.wrappers.Activation("Tanh")), ONES)
        torch.testing.assert_close(gradient(nn.Tanh()), TANH)
        torch.testing.assert_close(gradient(torch.tanh), TANH)


def test_zennit_reaches_modules_and_no_functions():
    pytest.importorskip("zennit")
    from zennit.composites import LayerMapComposite
    from zennit.rules import Pass
    from zennit.types import Activation

    composite = LayerMapComposite([(Activation, Pass())])
    for model, expected in ((nn.Sequential(nn.ReLU()), ONES), (nn.Sequential(Functional()), STEP)):
        with composite.context(model) as changed:
            assert torch.equal(gradient(changed), expected)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
def test_captum_attributes_and_does_not_train():
    pytest.importorskip("captum")
    from captum.attr import Deconvolution

    last = nn.Linear(3, 1)
    x = Z[None].clone().requires_grad_()
    found = Deconvolution(nn.Sequential(nn.Tanh(), last)).attribute(x, target=0)
    torch.testing.assert_close(found, TANH * last.weight.detach())  # of ReLU modules alone
    assert last.weight.grad is None


@pytest.mark.parametrize(
    ("package", "function"),
    [("brevitas.function.ops_ste", "binary_sign_ste"), ("snntorch.surrogate", "heaviside")],
)
def test_the_others_are_functions_of_their_own(package, function):
    """They replace the forward pass as well: their values are steps, not the model's own."""
    step = getattr(pytest.importorskip(package), function)
    step = step() if package.startswith("snntorch") else step
    assert set(step(Z).tolist()) <= {-1.0, 0.0, 1.0}
    torch.testing.assert_close(gradient(torch.tanh), TANH)
