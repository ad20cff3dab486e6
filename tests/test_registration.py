"""An activation function of a user's own, reached as those of PyTorch are."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lbp
from lbp.errors import LbpError
from lbp.linearization import activation_modules

SHARE = 0.1  # of the rule leaky


class Bump(nn.Module):
    """A function that calls another activation function, with a parameter and a constant."""

    def __init__(self):
        super().__init__()
        self.height = nn.Parameter(torch.tensor([0.5, -0.3, 2.0]))
        self.scale = 1.5

    def forward(self, z):
        return bump(z, self.height, scale=self.scale)


def _bump(z, height, scale):
    return height * torch.tanh(scale * z) ** 2 + F.relu(z)


bump = lbp.register_activation(Bump, _bump, arguments=("height", "scale"), learns=True)


def derivative(z, height, scale):
    t = torch.tanh(scale * z)
    return 2 * height * t * (1 - t**2) * scale + (z > 0)


RULES = {
    "bp": lambda z, g, d: d * g,
    "linear": lambda z, g, d: g,
    "as-printed": lambda z, g, d: z * g,
    "ste-clip": lambda z, g, d: (z.abs() <= 1) * g,
    "leaky": lambda z, g, d: (SHARE + (1 - SHARE) * d) * g,
}


def pair():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(7, 3, dtype=torch.float64, generator=generator) for _ in range(2))


def ways(rule):
    """Return modules under a rule and how each is called: linearized, and in a block."""
    module = Bump().double()

    def in_block(z):
        with lbp.backward_rule(rule):
            return module(z)

    changed, _ = lbp.linearize(copy.deepcopy(module), rule)
    return [(changed, changed), (module, in_block)]


@pytest.mark.parametrize("rule", RULES)
def test_the_input_gets_the_rules_gradient_and_the_parameter_its_true_one(rule):
    z, g = pair()
    for module, call in ways(rule):
        height = module.height.detach()
        leaf = z.clone().requires_grad_()
        out = call(leaf)
        torch.testing.assert_close(out, _bump(z, height, 1.5))
        grads = torch.autograd.grad(out, (leaf, module.height), g)
        torch.testing.assert_close(grads[0], RULES[rule](z, g, derivative(z, height, 1.5)))
        torch.testing.assert_close(grads[1], (g * torch.tanh(1.5 * z) ** 2).sum(0))


def test_no_rule_reaches_into_the_function_and_a_bare_call_is_not_seen():
    z, g = pair()
    leaf = z.requires_grad_()
    with lbp.backward_rule("linear"):
        bare = _bump(leaf, torch.ones(3, dtype=torch.float64), 1.5)
    (grad,) = torch.autograd.grad(bare, leaf, g)  # linear through tanh and ReLU in its code
    t = torch.tanh(1.5 * z)
    torch.testing.assert_close(grad, (2 * t * 1.5 + 1) * g)


def test_the_innermost_block_decides_and_bp_is_the_true_gradient():
    z, g = pair()
    module = Bump().double()
    for inner in RULES:
        leaf = z.clone().requires_grad_()
        with lbp.backward_rule("as-printed"), lbp.backward_rule(inner):
            out = module(leaf)
        d = derivative(z, module.height.detach(), 1.5)
        torch.testing.assert_close(torch.autograd.grad(out, leaf, g)[0], RULES[inner](z, g, d))


def test_it_is_found_changed_and_restored_like_any_module():
    model = nn.Sequential(nn.Linear(3, 3), Bump(), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    assert list(activation_modules(model)) == ["1", "2"]
    _, report = lbp.linearize(model, where=Bump)
    assert report.changed == {"1": "Bump"}
    assert report.left == {"2": "ReLU, not chosen"}
    assert isinstance(model[1], Bump)
    assert "rule=linear" in repr(model[1])
    assert model.state_dict().keys() == before.keys()
    again = pickle.loads(pickle.dumps(model))
    assert type(again[1]) is type(model[1])
    lbp.restore(model)
    assert type(model[1]) is Bump


def test_without_gradients_the_function_itself_runs():
    z = torch.randn(4, 3)
    model, _ = lbp.linearize(Bump())
    with torch.no_grad(), lbp.backward_rule("linear"):
        assert torch.equal(model(z), _bump(z, model.height, 1.5))


def test_transforms_reach_it():
    z, _ = pair()
    model, _ = lbp.linearize(Bump().double())
    found = torch.func.vmap(torch.func.grad(lambda row: model(row).sum()))(z)
    assert torch.equal(found, torch.ones_like(z))


def gradients(model, call, x):
    model.zero_grad()
    call(x).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_models_and_blocks_keep_the_rule():
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    model = nn.Sequential(nn.Linear(3, 3), Bump(), nn.Linear(3, 2))

    def block(x):
        with lbp.backward_rule("linear"):
            return model(x)

    expected = gradients(model, block, x)
    compiled = torch.compile(model, backend="aot_eager")

    def around(x):
        with lbp.backward_rule("linear"):
            return compiled(x)

    changed, _ = lbp.linearize(copy.deepcopy(model))
    whole = torch.compile(changed, backend="aot_eager", fullgraph=True)
    calls = {
        "block compiled": (model, torch.compile(block, backend="aot_eager")),
        "block around": (model, around),
        "linearized": (changed, whole),
    }
    for name, (owner, call) in calls.items():
        for found, wanted in zip(gradients(owner, call, x), expected, strict=True):
            torch.testing.assert_close(found, wanted, msg=name)


@pytest.mark.parametrize(
    ("module", "function", "arguments", "message"),
    [
        (nn.ReLU(), _bump, (), "ReLU.* is not a class of modules"),
        (int, _bump, (), "<class 'int'> is not a class of modules"),
        (nn.GELU, _bump, (), "GELU is registered already"),
        (Bump, _bump, ("height", "scale"), "Bump is registered already"),
        (nn.Linear, _bump, ("height",), "Linear cannot be called with the pre-activations, height"),
        (nn.Linear, _bump, ("width",), "Linear cannot be called with .* width"),
    ],
)
def test_what_cannot_be_registered_is_told_in_one_line(module, function, arguments, message):
    with pytest.raises(LbpError, match=message) as error:
        lbp.register_activation(module, function, arguments=arguments)
    assert "\n" not in str(error.value)
    assert list(activation_modules(nn.Linear(2, 2))) == []


def test_a_function_without_a_signature_is_told():
    class Erf(nn.Module):
        def forward(self, z):
            return torch.erf(z)

    with pytest.raises(LbpError, match="the function of Erf cannot be called with the pre-activat"):
        lbp.register_activation(Erf, torch.erf)


def test_a_parameter_learns_the_same_either_way_if_that_was_not_said():
    class Wave(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.5))

        def forward(self, z):
            return wave(z, self.a)

    wave = lbp.register_activation(Wave, lambda z, a: torch.sin(a * z), arguments=("a",))
    z = torch.linspace(-1, 2, 6, requires_grad=True)
    module = Wave()
    with lbp.backward_rule("linear"):
        (in_block,) = torch.autograd.grad(module(z).sum(), module.a)
    lbp.linearize(module)
    (by_layer,) = torch.autograd.grad(module(z).sum(), module.a)
    assert torch.equal(in_block, by_layer)
    assert by_layer == pytest.approx((z * torch.cos(0.5 * z)).sum().item())


def test_a_class_of_the_users_own_is_not_overwritten(monkeypatch):
    class Curve(nn.Module):
        def forward(self, z):
            return z

    monkeypatch.setattr(f"{__name__}.RuledCurve", "the user's own", raising=False)
    with pytest.raises(LbpError, match="has a RuledCurve already"):
        lbp.register_activation(Curve, lambda z: torch.sin(z))
    assert globals()["RuledCurve"] == "the user's own"
    with pytest.raises(LbpError, match="no activation modules"):
        lbp.linearize(Curve())
