"""Compiled calls: the rule as without torch.compile, or an error, and nothing left behind."""

import logging
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from lbp.block import backward_rule
from lbp.errors import LbpError, LbpWarning
from lbp.linearization import linearize
from lbp.literature import compose
from lbp.rules import leaky, surrogate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # those of PyTorch's compiler
    pytest.mark.filterwarnings("error::lbp.errors.LbpWarning"),
]
every_backend = pytest.mark.parametrize("backend", ["eager", "aot_eager"])
every_way = pytest.mark.parametrize("way", ["linearize", "block"])

Z = torch.tensor([-2.0, 0.5, 1.0, 2.0])
ONES = torch.ones(4)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def inside(rule, f):
    def call(*args):
        with backward_rule(rule):
            return f(*args)

    return call


def tanh(way, rule="linear"):
    return (
        linearize(nn.Sequential(nn.Tanh()), rule)[0] if way == "linearize" else inside(rule, F.tanh)
    )


def gradient(f):
    z = Z.clone().requires_grad_()
    (g,) = torch.autograd.grad(f(z).sum(), z)
    return g


@every_backend
@every_way
def test_vmap_and_torch_compile(way, backend):
    act = tanh(way)
    assert torch.equal(gradient(torch.compile(torch.vmap(act), backend=backend)), ONES)
    assert torch.equal(gradient(torch.vmap(torch.compile(act, backend=backend))), ONES)
    twice = torch.compile(lambda z: torch.vmap(torch.vmap(act))(z.view(2, 2)), backend=backend)
    assert torch.equal(gradient(twice), ONES)
    torch._dynamo.reset()
    whole = torch.compile(torch.vmap(act), backend=backend, fullgraph=True)
    with pytest.raises(Exception, match="would lose the backward rule"):
        whole(Z.clone().requires_grad_())


@every_backend
@pytest.mark.parametrize("rule", ["linear", "leaky"])
def test_a_compiled_ensemble(rule, backend):
    models = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)) for _ in range(3)]
    for model in models:
        linearize(model, rule)
    parameters, _ = stack_module_state(models)

    def losses(parameters, x):
        def call(own, x):
            return functional_call(models[0], own, (x,))

        return torch.vmap(call, (0, None))(parameters, x).square().sum()

    def found(f):
        return torch.autograd.grad(f(parameters, torch.randn(5, 4)), list(parameters.values()))

    torch.manual_seed(1)
    expected = found(losses)
    torch.manual_seed(1)
    torch.testing.assert_close(found(torch.compile(losses, backend=backend)), expected)


TRANSFORMED = {
    "grad": lambda f: grad(lambda z: f(z).sum()),
    "vjp": lambda f: lambda z: vjp(f, z)[1](ONES)[0],
    "jacrev": lambda f: lambda z: jacrev(f)(z).diagonal(),
    "grad by a weight": lambda f: lambda z: grad(lambda w: f(z @ w).sum())(torch.eye(4)).diagonal(),
}


@every_way
@pytest.mark.parametrize(
    ("rule", "backend"), [("linear", "eager"), ("as-printed", "aot_eager"), ("leaky", "aot_eager")]
)
@pytest.mark.parametrize("name", TRANSFORMED)
def test_one_gradient_of_torch_func_compiles(name, rule, way, backend):
    f = TRANSFORMED[name](tanh(way, rule))
    compiled = torch.compile(f, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(Z), f(Z))


REFUSED = {
    "grad of vmap": lambda f: grad(lambda z: torch.vmap(f)(z.view(2, 2)).sum()),
    "vmap of grad": lambda f: lambda z: torch.vmap(grad(lambda x: f(x).sum()))(z.view(2, 2)),
    "grad of grad": lambda f: grad(lambda z: grad(lambda x: (f(x) ** 2).sum())(z).sum()),
    "jvp": lambda f: lambda z: jvp(f, (z,), (ONES,))[1],
    "vmap of jvp": lambda f: jacfwd(f),
}


@every_way
@pytest.mark.parametrize("name", REFUSED)
def test_other_transforms_are_refused_when_compiled(name, way):
    compiled = torch.compile(REFUSED[name](tanh(way)), backend="aot_eager")
    with pytest.raises(LbpError, match=f"lose the backward rule under torch.func's {name}"):
        compiled(Z)


def slice_by_slice(z):
    out = torch.zeros(4)
    for k in range(4):
        out[k].copy_(z[k])
    return out


def through_a_view(z):
    out = torch.zeros(2, 2)
    out.view(-1).copy_(z)
    return out.view(4)


def added(z):
    out = torch.zeros(2, 2)
    out[:, :2].add_(z.view(2, 2))
    return out


@every_backend
@every_way
@pytest.mark.parametrize("fill", [slice_by_slice, through_a_view, added])
def test_a_buffer_that_was_filled_through_a_view(fill, way, backend):
    act = tanh(way)
    compiled = torch.compile(lambda z: act(fill(z)), backend=backend, fullgraph=True)
    assert torch.equal(gradient(compiled), ONES)


@every_backend
def test_a_frozen_backbone_compiles_whole_and_stays_frozen(backend):
    backbone = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.PReLU(), nn.Tanh())
    linearize(backbone.requires_grad_(False))
    compiled = torch.compile(backbone, backend=backend, fullgraph=True)
    assert not compiled(Z).requires_grad
    assert torch.equal(compiled(Z), backbone(Z))


def breaking(z):
    z = F.relu(torch.tanh(z))
    torch._dynamo.graph_break()
    return torch.tanh(z)


def block_that_breaks(z):
    with backward_rule("leaky"):
        z = breaking(z)
    return F.tanh(z)


@every_backend
def test_a_rule_is_applied_once_and_ends_with_its_block(backend):
    """Where the backend calls the graph's functions one by one, modes see them again."""

    def around(f):
        return lambda z: F.tanh(inside("leaky", f)(z))

    for f in (torch.tanh, F.silu, F.hardswish, breaking):
        compiled = torch.compile(f, backend=backend)
        torch.testing.assert_close(gradient(around(compiled)), gradient(around(f)))
        torch._dynamo.reset()  # it stops compiling a function anew after eight times
        for model, own in ((f, "attnlrp"), (linearize(nn.Tanh(), "leaky")[0], "linear")):
            expected = gradient(inside("leaky", inside(own, model)))
            compiled = torch.compile(inside(own, model), backend=backend)
            torch.testing.assert_close(gradient(inside("leaky", compiled)), expected)
    expected = gradient(block_that_breaks)
    compiled = torch.compile(block_that_breaks, backend=backend)
    torch.testing.assert_close(gradient(compiled), expected)


def test_a_graph_of_torch_fx_is_no_compiled_graph():
    traced = torch.fx.symbolic_trace(lambda z: F.silu(torch.tanh(z)))
    assert torch.equal(gradient(inside("linear", traced)), ONES)


@every_backend
def test_checkpointing_in_a_compiled_block(backend):
    def call(z):
        with backward_rule("linear"):
            return checkpoint(lambda x: F.silu(torch.tanh(x)), z, use_reentrant=False)

    assert torch.equal(gradient(torch.compile(call, backend=backend)), ONES)


def failing(z):
    with backward_rule("linear"):
        z = torch.tanh(z)
        torch._dynamo.graph_break()
        return torch.tanh(z) @ torch.zeros(3, 3)


@torch.compiler.disable
def fail():
    raise KeyError


def failing_uncompiled(z):
    with backward_rule("linear"):
        z = torch.tanh(z)
        fail()
        return torch.tanh(z)


@every_backend
@pytest.mark.parametrize("f", [failing, failing_uncompiled])
def test_no_rule_outlives_a_block_that_fails(f, backend, caplog):
    caplog.set_level(logging.CRITICAL, "torch")
    with pytest.raises((RuntimeError, KeyError)):
        torch.compile(f, backend=backend)(Z.clone().requires_grad_())
    assert _get_current_function_mode_stack() == []
    torch.testing.assert_close(gradient(torch.tanh), 1 - Z.tanh() ** 2)


@every_backend
def test_a_rule_made_anew_in_compiled_code(backend):
    alphas = (0.5, 0.6, 0.7)  # from the second on, Dynamo treats the number as a variable

    def call(z, alpha):
        with backward_rule(leaky(alpha)):
            return torch.tanh(z)

    compiled = torch.compile(call, backend=backend)
    for alpha in alphas:
        expected = gradient(lambda z, a=alpha: call(z, a))
        torch.testing.assert_close(gradient(lambda z, a=alpha: compiled(z, a)), expected)


@every_backend
def test_a_compiled_model_in_a_block_is_no_block_without_activations(backend):
    model = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), backend=backend)
    for _ in range(2):
        with warnings.catch_warnings(), backward_rule("linear"):
            warnings.simplefilter("error", LbpWarning)
            model(Z).sum().backward()
    loss = model(Z).sum()
    with backward_rule("linear"), pytest.warns(LbpWarning, match="call the model inside the"):
        loss.backward()


def test_elu_in_place_with_all_its_arguments():
    def call(z):
        with backward_rule("leaky"):
            return F.elu_(z * 1, 1.0, 2.0)

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    assert torch.equal(compiled(Z), F.elu_(Z.clone(), 1.0, 2.0))
    torch.testing.assert_close(gradient(compiled), gradient(call))


@pytest.mark.parametrize(
    ("rule", "act"),
    [
        (surrogate(nn.PReLU()), nn.Tanh()),
        (compose("full-jam", "bp"), nn.ReLU(inplace=True)),
        (compose("as-printed", "leaky"), nn.ReLU()),
    ],
    ids=["a module as surrogate", "composed with bp", "composed"],
)
def test_rules_with_parts_compile_whole(rule, act):
    x = torch.randn(3, 4)
    model, _ = linearize(nn.Sequential(nn.Linear(4, 4), act), rule)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = torch.autograd.grad(model(x).sum(), model[0].weight)[0]
    torch.manual_seed(0)
    assert torch.allclose(torch.autograd.grad(compiled(x).sum(), model[0].weight)[0], expected)
