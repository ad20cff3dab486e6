"""Backward rules together with what PyTorch does to models: each against plain eager training."""

import contextlib
import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from lbp.block import backward_rule
from lbp.coverage import COVERED, coverage_table, resolve
from lbp.errors import LbpError
from lbp.linearization import linearize, restore


def doubled(z, g):
    return 2 * g * z.cos()


RULES = ("linear", "as-printed", "ste-clip", "leaky", doubled)
every_rule = pytest.mark.parametrize("rule", RULES)

# PyTorch's compiler instantiates autograd functions, against PyTorch's own advice.
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


class Net(nn.Module):
    """Modules, functions, methods and in-place forms, with and without parameters.

    The first modules are the activation functions of the book's networks.
    """

    def __init__(self, functions=True):
        super().__init__()
        self.functions = functions
        self.book = nn.Sequential(
            *(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU()),
            *(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.Hardtanh(-0.4, 0.4)),
        )
        self.linear = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.tanh, self.prelu, self.silu = nn.Tanh(), nn.PReLU(), nn.SiLU(inplace=True)

    def forward(self, x):
        x = self.prelu(self.linear[0](x) + self.book(x))
        x = self.silu(self.linear[1](x)) * 2
        x = self.linear[2](F.gelu(x, approximate="tanh") if self.functions else x) * 1
        if self.functions:
            x[..., 1:].sigmoid_()
        return self.tanh(self.linear[3](x).relu())


def net(functions=True):
    torch.manual_seed(0)
    return Net(functions).double()


def inputs():
    return torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(model, f=None, x=None):
    """The gradients of a loss by every parameter, with f for the forward pass."""
    model.zero_grad()
    f = model if f is None else f
    (f(inputs() if x is None else x) ** 2).sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def assert_same(grads, expected):
    assert len(grads) == len(expected) > 0
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, other)


def inside(model, rule):
    def forward(*args):
        with backward_rule(rule):
            return model(*args)

    return forward


def not_stock(grads, model):
    """Whether the rule can be seen at all: a test on true gradients would prove nothing."""
    true = gradients(copy.deepcopy(model))
    return any(not torch.allclose(t, g) for t, g in zip(true, grads, strict=True))


@pytest.mark.slow
@compiles
@every_rule
def test_compiles_without_graph_breaks(rule):
    torch._dynamo.reset()
    model = net()
    f = inside(model, rule)
    expected = gradients(model, f)
    assert not_stock(expected, net())
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert_same(gradients(model, compiled), expected)
    changed, _ = linearize(net(), rule)
    expected = gradients(changed)
    assert_same(
        gradients(changed, torch.compile(changed, fullgraph=True, backend="aot_eager")), expected
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_inductor_follows_the_rules():
    """With the compiler that `torch.compile` takes if none is named; it fuses and recomputes."""
    torch._dynamo.reset()
    mixed = net(functions=False)
    for name, rule in (("tanh", "linear"), ("prelu", "leaky"), ("silu", doubled)):
        linearize(mixed, rule, where=name)
    expected = gradients(mixed)
    assert not_stock(expected, net(functions=False))
    assert_same(gradients(mixed, torch.compile(mixed, fullgraph=True)), expected)
    model = net()
    f = inside(model, "as-printed")
    assert_same(gradients(model, torch.compile(f, fullgraph=True)), gradients(model, f))


@pytest.mark.slow
@compiles
def test_the_block_may_stand_around_the_compiled_model():
    torch._dynamo.reset()
    model = net()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    true = gradients(model)
    assert_same(gradients(model, compiled), true)
    expected = gradients(model, inside(model, "linear"))
    assert_same(gradients(model, inside(compiled, "linear")), expected)  # it compiles again
    assert_same(gradients(model, compiled), true)


@pytest.mark.slow
@compiles
@every_rule
def test_compiled_blocks_nest(rule):
    torch._dynamo.reset()

    def f(z):
        with backward_rule("linear"):
            z = torch.tanh(z)
            with backward_rule("bp"):
                z = torch.sigmoid(z)
            with backward_rule(rule):
                return F.silu(z)

    eager, compiled = inputs().requires_grad_(), inputs().requires_grad_()
    f(eager).sum().backward()
    torch.compile(f, fullgraph=True, backend="aot_eager")(compiled).sum().backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


@every_rule
def test_vmap_of_grad_is_a_loop(rule):
    for model, rule_of_block in ((linearize(net(functions=False), rule)[0], "bp"), (net(), rule)):

        def loss(parameters, row, model=model, rule=rule_of_block):
            with backward_rule(rule):
                return (torch.func.functional_call(model, parameters, (row,)) ** 2).sum()

        parameters = dict(model.named_parameters())
        together = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, inputs())
        for k, row in enumerate(inputs()):
            alone = gradients(model, inside(model, rule_of_block), row)
            assert_same([grad[k] for grad in together.values()], alone)


@every_rule
def test_grad_of_vmap_and_functional_call_on_linearized_modules(rule):
    model, _ = linearize(net(functions=False), rule)
    model.requires_grad_(True)
    parameters = dict(model.named_parameters())

    def loss(parameters):
        def call(row):
            return torch.func.functional_call(model, parameters, (row,))

        return (torch.func.vmap(call)(inputs()) ** 2).sum()

    assert_same(list(torch.func.grad(loss)(parameters).values()), gradients(model))


@every_rule
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_recomputes_under_the_rule(rule, use_reentrant):
    changed, _ = linearize(net(functions=False), rule)

    def checkpointed(x):
        return checkpoint(changed, x.requires_grad_(), use_reentrant=use_reentrant)

    expected = gradients(changed)
    assert not_stock(expected, net(functions=False))
    assert_same(gradients(changed, checkpointed), expected)


@pytest.mark.slow
@compiles
@every_rule
def test_checkpointing_inside_a_compiled_graph(rule):
    torch._dynamo.reset()
    changed, _ = linearize(net(functions=False), rule)

    def checkpointed(x):
        return checkpoint(changed, x, use_reentrant=False)

    compiled = torch.compile(checkpointed, fullgraph=True, backend="aot_eager")
    assert_same(gradients(changed, compiled), gradients(changed))


@every_rule
def test_checkpointing_in_a_block_takes_a_context_for_the_recomputation(rule):
    model = net()

    def contexts():
        return contextlib.nullcontext(), backward_rule(rule)

    def checkpointed(x):
        return checkpoint(model, x, use_reentrant=False, context_fn=contexts)

    assert_same(gradients(model, inside(checkpointed, rule)), gradients(model, inside(model, rule)))


def test_gradients_accumulate():
    for model, f in ((m := net(), inside(m, "linear")), (m := linearize(net())[0], m)):
        first, second = inputs()[:2], inputs()[2:]
        expected = gradients(model, f)
        model.zero_grad()
        for part in (first, second):
            (f(part) ** 2).sum().backward()
        assert_same([p.grad for p in model.parameters()], expected)


@every_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(rule, dtype):
    for make in (lambda m: linearize(m, rule)[0], lambda m: inside(m, rule)):
        model = net(functions=False).float()
        with torch.autocast("cpu", dtype):
            stock = model(inputs().float())
        f = make(model)
        with torch.autocast("cpu", dtype):
            out = f(inputs().float())
        assert out.dtype == stock.dtype == dtype
        assert torch.equal(out, stock)
        (out.float() ** 2).sum().backward()
        low = [p.grad.clone() for p in model.parameters()]
        assert all(g.dtype == torch.float32 for g in low)
        full = gradients(model, f, inputs().float())
        for g, expected in zip(low, full, strict=True):
            torch.testing.assert_close(
                g, expected, rtol=0.1, atol=0.1 * float(expected.abs().max())
            )


def test_gradscaler():
    plain, scaled = linearize(net().float())[0], linearize(net().float())[0]
    for model in (plain, scaled):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=model is scaled)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = (model(inputs().float()) ** 2).sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    start = net().float()
    for p, q, r in zip(plain.parameters(), scaled.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)
        assert not torch.equal(p, r)


def test_export():
    model, _ = linearize(net(functions=False))
    for strict in (False, True):
        with pytest.raises(Exception, match=r"torch\.export would lose the backward rule") as error:
            torch.export.export(model, (inputs(),), strict=strict)
        if not strict:
            assert error.type is LbpError
    expected = model(inputs())
    with torch.no_grad():
        exported = torch.export.export(model, (inputs(),))
    assert torch.equal(exported.module()(inputs()), expected)
    restore(model)
    torch.export.export(model, (inputs(),))


def test_double_backward_differentiates_the_rules_own_field():
    z = torch.tensor([0.3, -0.7, 1.9], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    t, d = z.detach().tanh(), 1 - z.detach().tanh() ** 2
    fields = {  # of z and g = v, and what their sum's gradients by z and by v are
        "linear": (v, torch.zeros(3), torch.ones(3)),
        "as-printed": (v * z, v, z),
        "ste-clip": (v * (z.abs() <= 1), torch.zeros(3), (z.abs() <= 1)),
        "leaky": (v * (0.1 + 0.9 * d), v * 0.9 * -2 * t * d, 0.1 + 0.9 * d),
        doubled: (2 * v * z.cos(), -2 * v * z.sin(), 2 * z.cos()),
    }
    for rule, (field, by_z, by_v) in fields.items():
        for f in (linearize(nn.Tanh(), rule)[0], inside(nn.Tanh(), rule)):
            (grad,) = torch.autograd.grad(v @ f(z), z, create_graph=True)
            torch.testing.assert_close(grad, field)
            found = torch.autograd.grad(grad.sum(), (z, v), allow_unused=True)
            found = [torch.zeros(3).double() if g is None else g for g in found]
            torch.testing.assert_close(found, [by_z.double().detach(), by_v.double().detach()])


def test_double_backward_through_the_incoming_gradient():
    z = torch.tensor([0.3, -0.7, 1.9], dtype=torch.float64, requires_grad=True)
    # The field of "linear" is g = 2 tanh(z). The tanh inside it follows the rule again.
    for f in (linearize(nn.Tanh(), "linear")[0], inside(torch.tanh, "linear")):
        (field,) = torch.autograd.grad((f(z) ** 2).sum(), z, create_graph=True)
        torch.testing.assert_close(field, 2 * z.tanh())
        (by_z,) = torch.autograd.grad(field.sum(), z)
        torch.testing.assert_close(by_z, torch.full_like(z, 2))


def test_double_backward_of_an_in_place_call():
    z, v = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with backward_rule("as-printed"):
        out = (3 * z).tanh_()
    (grad,) = torch.autograd.grad(v @ out, z, create_graph=True)
    torch.testing.assert_close(grad, 9 * z * v)
    (by_z,) = torch.autograd.grad(grad.sum(), z)
    torch.testing.assert_close(by_z, 9 * v.detach())


DDP = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from lbp.linearization import linearize
from tests.test_linearize_composes import inputs, net, inside, gradients, assert_same

torch.set_num_threads(1)
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
x = inputs()[:4]
for rule in ("linear", "as-printed", "leaky"):
    for model, rule_of_block in ((linearize(net(), rule)[0], "bp"), (net(), rule)):
        expected = gradients(model, inside(model, rule_of_block), x)
        true = gradients(net(), None, x)
        assert any(not torch.allclose(t, e) for t, e in zip(true, expected))
        whole = [g / 2 for g in expected]  # DDP averages over the ranks
        parallel = inside(DistributedDataParallel(model), rule_of_block)
        assert_same(gradients(model, parallel, x[2 * rank : 2 * rank + 2]), whole)
dist.destroy_process_group()
print("same")
"""


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    root = Path(__file__).resolve().parents[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DDP, str(rank), str(tmp_path / "meeting")],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "same" in output


def test_a_deep_copy_trains_alike():
    model, _ = linearize(net())
    assert_same(gradients(copy.deepcopy(model)), gradients(model))


def spellings():
    """Every function of the table, in place and not, with the arguments that it needs."""
    further = {"leaky_relu": (0.2,), "threshold": (0.4, 7.0), "prelu": (torch.tensor([0.3]),)}
    table = coverage_table()
    for c in COVERED:
        for name in (*c.functions, *c.in_place):
            args = further.get(name.rpartition(".")[2].rstrip("_"), ())
            yield pytest.param(resolve(name), args, {}, id=name)
            if f"`{name}(inplace=True)`" in table:
                yield pytest.param(resolve(name), args, {"inplace": True}, id=f"{name}, in place")


@pytest.mark.slow
@compiles
@pytest.mark.parametrize(("function", "args", "options"), list(spellings()))
def test_every_spelling_is_reached_when_compiled(function, args, options):
    torch._dynamo.reset()

    def f(z):
        with backward_rule("linear", sign=True):
            return function(z * 1, *args, **options)

    z = torch.linspace(-6.83, 7.19, 11).requires_grad_()
    out = torch.compile(f, fullgraph=True, backend="eager")(z)
    out.sum().backward()
    assert torch.equal(out, f(z))
    assert torch.equal(z.grad, torch.ones(11))


@every_rule
def test_checkpointing_notices_a_recomputation_without_the_rule(rule):
    """Even where all that is kept, weights and activations, has one shape."""
    layers = [m for _ in range(4) for m in (nn.Linear(6, 6), nn.Tanh())]
    x = torch.randn(6, 6, dtype=torch.float64)
    with backward_rule(rule):
        out = checkpoint(nn.Sequential(*layers).double(), x, use_reentrant=False)
    with pytest.raises(CheckpointError, match="different"):
        out.sum().backward()


@every_rule
def test_fx_traces_keep_the_rule_or_say_that_they_cannot(rule):
    model, _ = linearize(net(functions=False), rule)
    model = nn.Sequential(model.linear[0], model.prelu, model.linear[1], model.silu)
    traced = torch.fx.symbolic_trace(model)
    assert isinstance(traced, torch.fx.GraphModule)
    assert_same(gradients(traced), gradients(model))
    tanh = inside(torch.tanh, rule)
    with pytest.raises(LbpError, match=r"torch\.fx would lose the backward rule"):
        torch.fx.symbolic_trace(lambda z: tanh(z))
