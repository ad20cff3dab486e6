"""Modules taken whole: their value by their own code, the rule on the way back."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lbp
from lbp.errors import LbpError
from tests import zoo
from tests.zoo import MemoryEfficientSwish

Z = torch.tensor([-3.0, -1.2, -0.4, 0.3, 1.1, 3.0]).double()
G = torch.linspace(-1, 2, 6).double()


class TanhGELU(nn.Module):
    def forward(self, z):
        return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


class SquaredReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, input):
        return self.relu(input) ** 2


class Efficient(nn.Module):
    def forward(self, z):
        return MemoryEfficientSwish.apply(z)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.inplace = True

    def forward(self, z):
        return z.mul_(z.sigmoid())


class Learned(nn.Module):
    """a sin(z)², with a learned a."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7).double())

    def forward(self, z):
        return self.a * torch.sin(z) ** 2


class Wider(nn.Module):
    def forward(self, z):
        return torch.cat([z.relu(), z.relu()], -1)


UNITS = (TanhGELU, SquaredReLU, Efficient, InPlace, Learned)
for kind in (*UNITS, Wider):
    lbp.register_activation(kind)
every_unit = pytest.mark.parametrize("kind", UNITS)


def true_gradient(unit, z, g):
    z = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(unit(z * 1), z, g)
    return found


def gradients(unit, rule, way, z=Z, g=G):
    """The unit's value, its input's gradient and those of its parameters."""
    leaf = z.clone().requires_grad_()
    if way == "module":
        lbp.linearize(unit, rule)
        value = unit(leaf * 1)
    else:
        with lbp.backward_rule(rule):
            value = unit(leaf * 1)
    found = torch.autograd.grad(value, [leaf, *unit.parameters()], g)
    return value, found[0], found[1:]


@every_unit
@pytest.mark.parametrize("way", ["module", "block"])
def test_the_forward_pass_is_bit_identical_and_the_rule_holds_as_a_whole(kind, way):
    true = true_gradient(kind(), Z, G)
    expected = {"linear": G, "as-printed": Z * G, "leaky": 0.1 * G + 0.9 * true}
    for rule, gradient in expected.items():
        value, found, _ = gradients(kind(), rule, way)
        assert torch.equal(value, kind()(Z.clone()))
        torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("way", ["module", "block"])
@pytest.mark.parametrize("rule", ["linear", "leaky", "approx-gelu", lbp.surrogate(F.silu)])
def test_parameters_keep_their_true_gradient(rule, way):
    _, _, (found,) = gradients(Learned(), rule, way)
    expected = (torch.sin(Z) ** 2 * G).sum()
    torch.testing.assert_close(found, expected)


def test_factors_at_three_are_those_of_the_rule_and_not_of_a_factor():
    """Replacing the inner tanh alone would give -2.64 and 3.64."""
    z, one = torch.tensor([-3.0, 3.0]).double(), torch.ones(2).double()
    _, found, _ = gradients(TanhGELU(), "linear", "block", z, one)
    assert found.tolist() == [1, 1]
    expected = [-0.0116, 1.0116]
    torch.testing.assert_close(
        true_gradient(TanhGELU(), z, one), torch.tensor(expected).double(), atol=1e-3, rtol=0
    )


@every_unit
def test_outside_of_a_block_and_after_restore_the_gradient_is_true(kind):
    unit = kind()
    true = true_gradient(unit, Z, G)
    gradients(unit, "linear", "block")
    assert torch.equal(true_gradient(unit, Z, G), true)
    lbp.linearize(unit)
    assert not torch.equal(true_gradient(unit, Z, G), true)
    assert type(lbp.restore(unit)) is kind
    assert torch.equal(true_gradient(unit, Z, G), true)


def test_what_is_inside_a_whole_unit_is_not_changed():
    model, report = lbp.linearize(nn.Sequential(SquaredReLU(), nn.ReLU()))
    assert report.changed == {"0": "SquaredReLU", "1": "ReLU"}
    assert type(model[0].relu) is nn.ReLU


def test_it_may_be_called_by_name():
    unit, _ = lbp.linearize(SquaredReLU())
    z = Z.clone().requires_grad_()
    unit(input=z).backward(G)
    assert torch.equal(z.grad, G)
    with lbp.backward_rule():
        (found,) = torch.autograd.grad(SquaredReLU()(input=z), z, G)
    assert torch.equal(found, G)


@every_unit
def test_it_can_be_copied_and_pickled(kind):
    unit, _ = lbp.linearize(kind())
    for again in (copy.deepcopy(unit), pickle.loads(pickle.dumps(unit))):
        assert type(again) is type(unit)
        assert torch.equal(true_gradient(again, Z, G), G)
    assert list(unit.state_dict()) == list(kind().state_dict())


@pytest.mark.slow
def test_another_process_that_reads_it_knows_the_class_in_blocks_as_well(tmp_path):
    transformers = pytest.importorskip("transformers.activations")
    unit, _ = lbp.linearize(nn.Sequential(transformers.NewGELUActivation()))
    path = tmp_path / "unit.pkl"
    path.write_bytes(pickle.dumps(unit))
    code = f"""
import pickle, torch
unit = pickle.load(open({str(path)!r}, "rb"))
import lbp
from transformers.activations import NewGELUActivation
z = torch.tensor([-3.0, 3.0], requires_grad=True)
print(torch.autograd.grad(unit(z).sum(), z)[0].tolist())
with lbp.backward_rule():
    print(torch.autograd.grad(NewGELUActivation()(z).sum(), z)[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[1.0, 1.0]", "[1.0, 1.0]"]


def test_torch_fx_takes_it_for_a_leaf():
    unit, _ = lbp.linearize(nn.Sequential(TanhGELU()))
    traced = torch.fx.symbolic_trace(unit)
    assert torch.equal(true_gradient(traced, Z, G), G)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_torch_jit_is_told_that_it_would_lose_the_rule():
    unit, _ = lbp.linearize(nn.Sequential(TanhGELU()))
    for context in (torch.enable_grad, torch.no_grad):
        with context(), pytest.raises(LbpError, match=r"torch.jit.trace would lose the backward"):
            torch.jit.trace(unit, Z)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo's own, of any broken graph
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_it_follows_the_rule(backend):
    torch._dynamo.reset()
    unit, _ = lbp.linearize(nn.Sequential(TanhGELU()))
    z = Z.clone().requires_grad_()
    torch.compile(unit, backend=backend)(z * 1).backward(G)
    assert torch.equal(z.grad, G)


@pytest.mark.parametrize("way", ["module", "block"])
def test_another_shape_is_refused(way):
    with pytest.raises(
        LbpError, match=r"Wider gives \(12,\) for \(6,\): a rule needs an element-w"
    ):
        gradients(Wider(), "linear", way)


# --- models of other packages


def accumulated(name):
    """The names of the modules that a module is in."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts))]


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.filterwarnings("ignore::lbp.errors.LbpWarning")  # softmax
def test_models_of_other_packages(name):
    pytest.importorskip("timm" if name in zoo.TIMM else "transformers")
    model, args, kwargs = zoo.build(name)

    def value(model):
        torch.manual_seed(0)
        outputs = copy.deepcopy(model)(*args, **kwargs)
        return outputs if isinstance(outputs, torch.Tensor) else outputs[0]

    stock = value(model)
    before = lbp.audit(model, *args, **kwargs)
    assert before.reached == {}
    with lbp.backward_rule():
        assert torch.equal(value(model), stock)
        block = lbp.audit(model, *args, **kwargs)
    with lbp.backward_rule("bp"):
        assert not lbp.audit(model, *args, **kwargs).differs
    lbp.linearize(model)
    assert torch.equal(value(model), stock)
    modules = lbp.audit(model, *args, **kwargs)
    for found in (block, modules):
        # What had a true derivative is reached or named, module by module.
        named = {*found.reached, *(r.module for r in found.remaining)}
        for remained in before.remaining:  # perhaps inside of one that is taken whole
            parents = [remained.module, *accumulated(remained.module)]
            assert named & {*parents}, remained
        assert found.differs
        assert found.remaining == ()
    assert sum(modules.reached.values()) <= sum(block.reached.values())


class Overwrites(nn.Module):
    """A swish that overwrites its input, as timm's does."""

    def __init__(self, inplace=True):
        super().__init__()
        self.inplace = inplace

    def forward(self, z):
        share = torch.sigmoid(z)
        return z.mul_(share) if self.inplace else z * share


@pytest.mark.parametrize("rule", ["linear", "as-printed", "leaky"])
@pytest.mark.parametrize("block", [False, True])
def test_a_unit_that_overwrites_its_input_still_does(rule, block):
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)
    g = torch.linspace(1, 3, 5, dtype=torch.float64)
    results = []
    for inplace in (True, False):  # and its gradient is that of the one that does not
        unit, options = Overwrites(inplace), {"also": [Overwrites]}
        leaf = z.clone().requires_grad_()
        read = leaf * 1
        if block:
            with lbp.backward_rule(rule, **options):
                out = unit(read)
        else:
            out = lbp.linearize(unit, rule, **options)[0](read)
        assert torch.equal(out, z * torch.sigmoid(z))
        assert torch.equal(read, out if inplace else z)
        results.append(torch.autograd.grad(out, leaf, g)[0])
    torch.testing.assert_close(*results)


def test_a_unit_that_only_says_that_it_overwrites_its_input_does_not():
    class Says(Overwrites):
        def forward(self, z):
            return z * torch.sigmoid(z)

    z = torch.randn(5)
    read = z.clone()
    out = lbp.linearize(Says(), also=[Says])[0](read)
    assert torch.equal(read, z)
    assert torch.equal(out, z * torch.sigmoid(z))


def test_a_unit_that_returns_its_input_may_be_overwritten():
    class Same(nn.Module):
        def forward(self, z):
            return z

    layer = nn.Linear(3, 3)
    model, _ = lbp.linearize(nn.Sequential(layer, Same()), also=[Same])
    out = model(torch.ones(2, 3))
    out += 1
    out.sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((3,), 2.0))


class Noisy(nn.Module):
    """A unit with a parameter, a buffer that counts its calls, and random numbers."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5).double())
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        self.calls += 1
        return torch.where(z > 0, z, self.slope * torch.rand_like(z) * z)


@pytest.mark.parametrize("rule", ["linear", "leaky", "approx-gelu", lbp.surrogate(torch.tanh)])
def test_a_unit_that_learns_is_computed_once(rule):
    z, stock = Z.clone().requires_grad_(), Noisy()
    unit, _ = lbp.linearize(Noisy(), rule, also=[Noisy])
    found = []
    for each in (stock, unit):
        torch.manual_seed(0)
        value = each(z)
        found.append((value, *torch.autograd.grad(value, [z, each.slope], G)))
    assert unit.calls == 1
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][2], found[0][2])  # its own gradient is the true one
    if rule == "leaky":
        torch.testing.assert_close(found[1][1], 0.1 * G + 0.9 * found[0][1])


def test_outside_of_blocks_it_compiles_whole_under_a_default_device():
    unit, z = TanhGELU(), torch.linspace(-2, 2, 5)
    with torch.device("cpu"):
        compiled = torch.compile(unit, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(z), F.gelu(z, approximate="tanh"))


def test_a_unit_that_overwrites_its_input_and_returns_something_else_is_refused():
    class Both(nn.Module):
        inplace = True

        def forward(self, z):
            return z.mul_(2) + 1

    unit, _ = lbp.linearize(Both(), also=[Both])
    with pytest.raises(LbpError, match="Both overwrites its input and returns something else"):
        unit(torch.ones(3))


class Quick(nn.Module):
    def forward(self, z):
        return z * torch.sigmoid(1.702 * z)


@pytest.mark.parametrize("restored", [True, False])
def test_a_class_taken_whole_can_still_be_exported(restored):
    model, x = nn.Sequential(nn.Linear(4, 4), Quick()), torch.randn(2, 4)
    expected = model(x)
    lbp.linearize(model, also=[Quick])
    if restored:
        lbp.restore(model)
    with torch.set_grad_enabled(restored):
        program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), expected)


class Scaled(nn.Module):
    """Its scale is computed elsewhere, and is no parameter of its own."""

    def forward(self, z):
        return torch.tanh(self.scale * z)


class Hyper(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.act = Scaled()

    def forward(self, z):
        self.act.scale = self.log_scale.exp()
        return self.act(z)


@pytest.mark.parametrize("rule", ["bp", "leaky", "linear", "ste-clip", "attnlrp"])
def test_a_tensor_that_a_module_holds_keeps_its_true_gradient(rule):
    net = Hyper()
    scale = net.log_scale.exp().item()
    true = (G * (1 - torch.tanh(scale * Z) ** 2) * Z * scale).sum()
    lbp.linearize(net, rule, also=[Scaled])
    (net(Z) * G).sum().backward()
    assert net.log_scale.grad == pytest.approx(true.item())


class Beta(nn.Module):
    def __init__(self, beta):
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta, dtype=torch.float64))

    def forward(self, z):
        return torch.tanh(self.beta * z)


def test_an_ensemble_of_modules_with_buffers():
    models = [nn.Sequential(nn.Linear(6, 6).double(), Beta(beta)) for beta in (0.5, 1.0)]
    for model in models:
        lbp.linearize(model, also=[Beta])
    parameters, buffers = torch.func.stack_module_state(models)

    def loss(own, held, x):
        return torch.func.functional_call(models[0], (own, held), (x,)).sum()

    x = torch.stack([Z.repeat(3, 1), -Z.repeat(3, 1)])
    found = torch.func.vmap(torch.func.grad(loss))(parameters, buffers, x)
    # Linear Backprop: each unit passes its gradient of one on.
    assert torch.allclose(found["0.weight"], x.sum(1)[:, None, :].expand(2, 6, 6))


def test_a_part_of_it_that_is_called_elsewhere_is_reported_as_left():
    class Gated(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act = act

        def forward(self, z):
            return z * self.act(z)

    act = nn.Tanh()
    net = nn.Sequential(act, Gated(act))
    _, report = lbp.linearize(net, also=[Gated])
    assert report.changed == {"1": "Gated"}
    assert report.left == {"0": "Tanh, part of a module that is taken whole"}
    assert type(act) is nn.Tanh


def test_a_call_without_an_input_has_pytorchs_own_error():
    for module in (lbp.linearize(nn.ReLU())[0], lbp.linearize(Quick(), also=[Quick])[0]):
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            module()


# --- what a class may do that another could not


class Clip(nn.Module):
    """It overwrites its input, and says so or not."""

    def forward(self, z):
        return z.clamp_(-1, 1)


def test_a_class_that_overwrites_its_input_has_to_say_so():
    x = Z.clone().requires_grad_()
    model, _ = lbp.linearize(nn.Sequential(nn.Identity(), Clip()), "ste-clip", also=[Clip])
    with pytest.raises(LbpError, match="Clip overwrites its input: give it an attribute inplace"):
        model(x * 1)
    model[1].inplace = True
    (grad,) = torch.autograd.grad(model(x * 1), x, G)
    assert torch.equal(grad, G * (Z.abs() <= 1))


class Swish(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.linspace(0.5, 2, 6).double())

    def forward(self, z):
        return z * torch.sigmoid(self.b * z)


def test_composed_rules_hold_for_a_class_that_learns_under_vmap():
    """As printed, z times the gradient; the gradient of b stays the true one."""
    rule = lbp.compose("as-printed", "linear")
    unit, _ = lbp.linearize(Swish(), rule, also=[Swish])
    parameters = {"b": unit.b.detach()}

    def loss(parameters, z):
        return torch.func.functional_call(unit, parameters, (z,)).sum()

    grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), (None, 0))
    many = torch.stack([Z, 2 * Z, -Z])
    of_b, of_z = grads(parameters, many)
    torch.testing.assert_close(of_z, many)
    share = torch.sigmoid(unit.b.detach() * many)
    torch.testing.assert_close(of_b["b"], many**2 * share * (1 - share))


SCRIPTED = """
import torch
import torch.nn.functional as F
from torch import nn
import lbp
import other

lbp.linearize(nn.Sequential(other.Bend(), nn.ReLU()), also=[other.Bend])
again = torch.jit.script(other.Bend())
print(again(torch.tensor([-1.0, 2.0])).tolist())
"""
OTHER = """
import torch.nn.functional as F
from torch import nn

def seen(z):
    return 2 * z

def stock(z):
    return z + 1

class Bend(nn.Module):
    def forward(self, z):
        return stock(seen(F.relu(z)))
"""


def test_torch_jit_script_finds_what_a_class_names_that_was_taken_whole(tmp_path):
    (tmp_path / "other.py").write_text(OTHER)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPTED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[1.0, 5.0]\n", done.stderr


class Closed:
    """A base whose subclasses need a name."""

    def __init_subclass__(cls, *, key, **kwargs):
        super().__init_subclass__(**kwargs)


class Keyed(Closed, nn.Module, key="a"):
    def forward(self, z):
        return z * torch.sigmoid(z)


def test_a_class_that_can_have_no_subclass_is_named():
    with pytest.raises(LbpError, match="Keyed cannot have a subclass RuledKeyed"):
        lbp.linearize(nn.Sequential(Keyed()), also=[Keyed])
