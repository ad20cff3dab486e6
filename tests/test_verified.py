"""`linearize` with an example: the report says what a pass showed, and `strict` insists on it."""

from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lbp
from lbp.errors import LbpError

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A module that is reached, one that is never called, a held function and a hidden clamp."""

    def __init__(self):
        super().__init__()
        self.layer, self.tanh, self.unused = nn.Linear(6, 6), nn.Tanh(), nn.ReLU()
        self.act = F.silu

    def forward(self, x, *, scale=1.0):
        return self.act(self.tanh(self.layer(x)) * scale).clamp(min=0)


@pytest.mark.parametrize("example", [X, (X,), {"x": X}, UserDict(x=X, scale=2.0)])
def test_an_example_is_what_the_model_is_called_with(example):
    _, report = lbp.linearize(Net(), example=example)
    assert report.audit.reached == {"tanh": 1, "act": 1}
    assert report.audit.never_called == ("unused",)
    assert [(r.module, r.node) for r in report.audit.remaining] == [("", "ClampBackward1")]
    assert report.audit.differs
    assert str(report).endswith(f"in a pass:\n{report.audit}")


def test_without_one_the_report_says_that_nothing_was_verified():
    _, report = lbp.linearize(Net())
    assert report.audit is None
    assert "\nnot verified: " in str(report)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.relu = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x):
        return self.layer(x)


def rules(model):
    return [getattr(m, "lbp_rule", None) for m in model.modules()] + [model.act]


CALLS = {
    "strict": (
        {"example": X, "strict": True},
        "strict: the rule linear does not reach a clamp, perhaps a relu in the model: "
        "use lbp.backward_rule for PyTorch's activation functions, and a module class of its own "
        "for others",
    ),
    "strict, of what is chosen": (
        {"example": X, "strict": True, "where": "unused"},
        "strict: the rule linear does not reach a clamp, perhaps a relu in the model: "
        "use lbp.backward_rule for PyTorch's activation functions, and a module class of its own "
        "for others",
    ),
    "an example that does not fit": (
        {"example": X[:, :2]},
        "the model rejects this input (RuntimeError: mat1 and mat2 shapes cannot be multiplied "
        "(5x2 and 6x6)): give what it is called with",
    ),
    "strict without an example": (
        {"strict": True},
        "strict=True needs an example: give example=, what the model is called with",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_error_leaves_the_model_as_it_was(name):
    named, message = CALLS[name]
    model = Net()
    fresh = rules(model)
    for before in (fresh, None):
        if before is None:  # again, with rules that an earlier call has given
            lbp.linearize(model, "leaky", where="[au]*")
            before = rules(model)
        with pytest.raises(LbpError) as error:
            lbp.linearize(model, **named)
        assert str(error.value) == message
        assert rules(model) == before


def test_strict_looks_at_what_is_chosen():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU())
    _, report = lbp.linearize(model, where=nn.ReLU, example=X, strict=True)
    assert [r.module for r in report.audit.remaining] == ["1"]
    with pytest.raises(LbpError, match="strict: the rule linear reaches no call in this pass"):
        lbp.linearize(Unused(), example=X, strict=True)


class Squared(nn.Module):
    """A function by itself, with a part that a rule reaches."""

    def __init__(self):
        super().__init__()
        self.tanh = nn.Tanh()

    def forward(self, z):
        return self.tanh(z) ** 2


class Cubed(nn.Module):
    def forward(self, z):
        return z + z**3


class RowMean(nn.Module):
    def forward(self, z):
        return torch.tanh(z) - z.mean(1, keepdim=True)


class Block(nn.Module):
    """A residual block that is a ReLU as long as its layer is zero."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x):
        return torch.relu(x + self.layer(x))


class Affine(nn.Module):
    def forward(self, z):
        return (2 * z + 1).clamp(-1e9, 1e9)


class Wide(nn.Module):
    def forward(self, z):
        return torch.relu(torch.cat([z, -z], 1))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, z):
        return z * self.sigmoid(z)


@pytest.mark.parametrize(
    ("kind", "suggested"),
    [
        *((Squared, True), (Gated, True)),
        *((RowMean, False), (Block, False), (Affine, False), (Wide, False)),
    ],
)
def test_an_audit_suggests_a_class_that_behaves_as_an_activation(kind, suggested):
    model = nn.Sequential(nn.Linear(6, 6), kind(), nn.ReLU())
    lbp.linearize(model)
    found = lbp.audit(model, X)
    assert dict(found.suggested) == ({kind.__name__: ("1",)} if suggested else {})
    line = f"{kind.__name__} looks like an activation function (1): lbp.register_activation("
    assert (line in str(found)) == suggested
    assert type(model[1]) is kind


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        *((Squared, True), (Gated, True)),
        *((RowMean, False), (Block, False), (Affine, False), (Wide, False)),
    ],
)
def test_with_an_example_it_is_taken_whole(kind, taken):
    model = nn.Sequential(nn.Linear(6, 6), kind(), nn.ReLU())
    _, report = lbp.linearize(model, example=X)
    assert report.by_behaviour == ((kind.__name__,) if taken else ())
    assert ("found by their behaviour" in str(report)) == taken
    assert (report.changed.get("1") == kind.__name__) == taken
    if taken:
        z = torch.randn(5, 6, requires_grad=True)
        (passed,) = torch.autograd.grad(model[1](z).sum(), z)
        assert torch.equal(passed, torch.ones(5, 6))
        lbp.restore(model)
        assert type(model[1]) is kind


def test_a_model_whose_only_activation_is_of_its_own_class_needs_an_example():
    model = nn.Sequential(nn.Linear(6, 6), Cubed())
    with pytest.raises(LbpError, match="the model has no activation modules"):
        lbp.linearize(model)
    _, report = lbp.linearize(model, example=X)
    assert report.changed == {"1": "Cubed"}
    with pytest.raises(LbpError, match="the model has no activation modules"):
        lbp.linearize(nn.Sequential(nn.Linear(6, 6)), example=X)


def test_also_may_be_an_iterator():
    model = nn.Sequential(nn.Linear(6, 6), Gated(), Cubed())
    _, report = lbp.linearize(model, also=iter([Gated]), example=X)
    assert report.changed == {"1": "Gated", "2": "Cubed"}
    assert report.by_behaviour == ("Cubed",)


def test_where_chooses_among_what_is_found_by_behaviour():
    model = nn.Sequential(nn.Linear(6, 6), Squared(), nn.ReLU())
    _, report = lbp.linearize(model, where="2", example=X)
    assert report.changed == {"2": "ReLU"}
    assert report.left["1"] == "Squared, not chosen"
    assert type(model[1]) is Squared


def test_one_that_is_taken_whole_is_not_suggested():
    model = nn.Sequential(nn.Linear(6, 6), Squared(), Gated())
    with lbp.backward_rule(also=[Squared, Gated]):
        found = lbp.audit(model, X)
    _, report = lbp.linearize(model, also=[Squared, Gated], example=X, strict=True)
    for audit in (found, report.audit):
        assert audit.reached == {"1": 1, "2": 1}
        assert audit.complete
        assert audit.suggested == {}
