"""The rules on every activation function of PyTorch, against derivatives written by hand."""

import copy
import inspect
import io
import json
import math
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from lbp.autograd import check_torch
from lbp.block import backward_rule
from lbp.coverage import COVERED, LEFT_ALONE, coverage_table, left_alone_table, resolve
from lbp.errors import LbpError, LbpWarning
from lbp.linearization import activation_modules, from_layer, linearize, restore
from lbp.literature import BUILT_IN
from lbp.rules import Rule, leaky


def sech2(z):
    return 1 / z.cosh() ** 2


def logistic(z):
    return 1 / (1 + (-z).exp())


def gaussian(z):
    return (-(z**2) / 2).exp() / math.sqrt(2 * math.pi)


def where(condition, value):
    return condition.double() * value


def gelu_tanh(z):
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
    return (1 + inner.tanh()) / 2 + z / 2 * sech2(inner) * slope


def mish(z):
    soft = (1 + z.exp()).log()
    return soft.tanh() + z * sech2(soft) * logistic(z)


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# A module, and its derivative worked out by hand.
DERIVATIVES = {
    "ReLU": (nn.ReLU(), lambda z: where(z > 0, 1)),
    "ReLU in place": (nn.ReLU(inplace=True), lambda z: where(z > 0, 1)),
    "ReLU6": (nn.ReLU6(), lambda z: where((z > 0) & (z < 6), 1)),
    "LeakyReLU": (nn.LeakyReLU(0.2), lambda z: where(z > 0, 1) + where(z <= 0, 0.2)),
    "PReLU": (nn.PReLU(), lambda z: where(z > 0, 1) + where(z <= 0, 0.25)),
    "RReLU": (nn.RReLU(0.1, 0.4).eval(), lambda z: where(z > 0, 1) + where(z <= 0, 0.25)),
    "ELU": (nn.ELU(1.5), lambda z: where(z > 0, 1) + where(z <= 0, 1.5 * z.exp())),
    "SELU": (
        nn.SELU(),
        lambda z: SELU_SCALE * (where(z > 0, 1) + where(z <= 0, SELU_ALPHA * z.exp())),
    ),
    "CELU": (nn.CELU(2.0), lambda z: where(z > 0, 1) + where(z <= 0, (z / 2).exp())),
    "GELU": (nn.GELU(), lambda z: (1 + (z / 2**0.5).erf()) / 2 + z * gaussian(z)),
    "GELU, tanh": (nn.GELU("tanh"), gelu_tanh),
    "SiLU": (nn.SiLU(), lambda z: logistic(z) * (1 + z * (1 - logistic(z)))),
    "Mish": (nn.Mish(), mish),
    "Softplus": (nn.Softplus(beta=2), lambda z: logistic(2 * z)),
    "Softsign": (nn.Softsign(), lambda z: 1 / (1 + z.abs()) ** 2),
    "Tanh": (nn.Tanh(), sech2),
    "Tanhshrink": (nn.Tanhshrink(), lambda z: 1 - sech2(z)),
    "Hardtanh": (nn.Hardtanh(-2, 3), lambda z: where((z > -2) & (z < 3), 1)),
    "Hardsigmoid": (nn.Hardsigmoid(), lambda z: where(z.abs() < 3, 1 / 6)),
    "Hardswish": (nn.Hardswish(), lambda z: where(z.abs() < 3, z / 3 + 0.5) + where(z > 3, 1)),
    "Hardshrink": (nn.Hardshrink(0.7), lambda z: where(z.abs() > 0.7, 1)),
    "Softshrink": (nn.Softshrink(0.7), lambda z: where(z.abs() > 0.7, 1)),
    "Sigmoid": (nn.Sigmoid(), lambda z: logistic(z) * (1 - logistic(z))),
    "LogSigmoid": (nn.LogSigmoid(), lambda z: logistic(-z)),
    "Threshold": (nn.Threshold(0.4, 7.0), lambda z: where(z > 0.4, 1)),
}
ALPHA = 0.1

# The gradient with respect to z under each rule, from z, the gradient g and the derivative d.
RULES = {
    "bp": lambda z, g, d: d * g,
    "linear": lambda z, g, d: g,
    "as-printed": lambda z, g, d: z * g,
    "ste-clip": lambda z, g, d: where(z.abs() <= 1, g),
    "leaky": lambda z, g, d: (ALPHA + (1 - ALPHA) * d) * g,
}
every_rule = pytest.mark.parametrize("rule", RULES)
every_module = pytest.mark.parametrize("name", DERIVATIVES)


def pre_activations():
    """Float64 numbers on both sides of every kink above, and on none."""
    return torch.linspace(-6.83, 7.19, 61, dtype=torch.float64)


def gradient(f, z, g):
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(f(z * 1), z, g)  # in-place functions refuse a leaf
    return grad


def under(rule, f, **options):
    def call(z):
        with backward_rule(rule, **options):
            return f(z)

    return call


def ways(module, rule):
    """Both ways to give a module a rule."""
    module = copy.deepcopy(module).double()
    changed, _ = linearize(copy.deepcopy(module), rule)
    return changed, under(rule, module)


def bits(x):
    """Compare as integers: NaN equals NaN then, and 0 is not -0."""
    return x.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[x.dtype.itemsize])


def strides(x):
    """The strides that mean something: those of axes with more than one element."""
    if x.numel() == 0:
        return []
    return [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]


def test_every_activation_module_of_torch_is_in_the_table():
    stock = {name for name in nn.modules.activation.__all__ if hasattr(nn, name)}
    told = {c.name for c in COVERED} | {name for d in LEFT_ALONE for name in d.modules}
    assert stock <= told
    assert {c.name for c in COVERED} - {"sign"} == {
        name.split()[0].strip(",") for name in DERIVATIVES
    }


def test_every_in_place_function_of_torch_is_in_the_table():
    flagged = {
        f"F.{name}"
        for name, f in vars(F).items()
        if inspect.isfunction(f)
        and "inplace" in inspect.signature(f).parameters
        and "dropout" not in name
        and not name.startswith("_")
        and "embedding" not in name
    }
    trailing = {f"F.{n}" for n in vars(F) if n.endswith("_") and not n.startswith("_")}
    assert flagged <= {name for c in COVERED for name in c.functions}
    assert trailing <= {name for c in COVERED for name in c.in_place}


def test_the_table_names_everything():
    table = coverage_table()
    for c in COVERED:
        assert all(f"`{name}`" in table for name in (*c.functions, *c.in_place))
    assert "`F.relu(inplace=True)`" in table
    assert "`nn.GELU`" in table
    assert {line.count("|") for line in table.splitlines()} == {5}
    table = left_alone_table()
    assert "| `nn.GLU` | `F.glu` | not element-wise" in table
    assert {line.count("|") for line in table.splitlines()} == {4}


@every_rule
@every_module
def test_gradients_are_the_rules_and_values_are_the_stock_functions(name, rule):
    module, derivative = DERIVATIVES[name]
    z = pre_activations()
    g = torch.randn(z.shape, dtype=torch.float64)
    expected = RULES[rule](z, g, derivative(z))
    stock = copy.deepcopy(module).double()(z.clone())
    for f in ways(module, rule):
        assert torch.equal(f(z.clone().requires_grad_() * 1), stock)
        # Hardsigmoid multiplies by a sixth in single precision.
        torch.testing.assert_close(gradient(f, z, g), expected, rtol=1e-7, atol=1e-12)


@every_rule
@pytest.mark.parametrize("spelling", [n for c in COVERED for n in (*c.functions, *c.in_place)])
def test_every_spelling_is_reached(spelling, rule):
    further = {
        "leaky_relu": (0.2,),
        "threshold": (0.4, 7.0),
        "prelu": (torch.tensor([0.3]).double(),),
    }
    bare = spelling.rpartition(".")[2].rstrip("_")
    args = further.get(bare, ())
    function = resolve(spelling)
    z = pre_activations()
    g = torch.randn(z.shape, dtype=torch.float64)
    derivative = torch.stack([torch.func.grad(lambda t: function(t * 1, *args))(t) for t in z])
    expected = RULES[rule](z, g, derivative)
    call = under(rule, lambda t: function(t, *args), sign=True)
    torch.testing.assert_close(gradient(call, z, g), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(call(z.clone().requires_grad_() * 1), function(z.clone(), *args))


def test_arguments_may_come_by_name():
    z = pre_activations()
    g = torch.ones_like(z)
    for f in (
        lambda z: torch.tanh(input=z),
        lambda z: torch.tanh(x=z),
        lambda z: F.elu(input=z, alpha=2.0, inplace=True),
        lambda z: F.hardtanh(z, -2.0, 2.0, True),
    ):
        assert torch.equal(gradient(under("linear", f), z, g), g)


@every_rule
def test_prelus_weight_keeps_its_true_gradient(rule):
    z, g = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    by_hand = (g * z.clamp(max=0)).sum((0, 2))
    for make in (lambda p: linearize(p, rule)[0], lambda p: under(rule, p)):
        prelu = nn.PReLU(3).double()
        make(prelu)(z.clone().requires_grad_()).backward(g)
        torch.testing.assert_close(prelu.weight.grad, by_hand)


@every_rule
def test_rrelu_draws_what_the_stock_function_draws(rule):
    z = torch.randn(50, dtype=torch.float64)
    g = torch.randn(50, dtype=torch.float64)
    torch.manual_seed(3)
    stock = F.rrelu(z, training=True)
    slope = stock / z  # the slopes that were drawn are the derivative
    for f in ways(nn.RReLU(), rule):
        torch.manual_seed(3)
        assert torch.equal(f(z.clone().requires_grad_()), stock)
        torch.manual_seed(3)
        torch.testing.assert_close(gradient(f, z, g), RULES[rule](z, g, slope))


@every_rule
def test_in_place_functions_overwrite_their_input_and_what_comes_next_sees_it(rule):
    z = torch.randn(4, 6, dtype=torch.float64)

    def overwriting(z):
        h = 2 * z
        with backward_rule(rule):
            F.silu(h, inplace=True)
            h[:, 1:4].sigmoid_()
        return h * h.detach()

    def apart(z):
        with backward_rule(rule):
            h = F.silu(2 * z)
            middle = torch.sigmoid(h[:, 1:4])
        h = torch.cat([h[:, :1], middle, h[:, 4:]], 1)
        return h * h.detach()

    # PyTorch's sigmoid rounds the last bit of a dense tensor and of a slice differently.
    torch.testing.assert_close(overwriting(z), apart(z), rtol=1e-14, atol=0)
    g = torch.ones_like(z)
    torch.testing.assert_close(gradient(overwriting, z, g), gradient(apart, z, g))


def test_in_place_functions_refuse_what_autograd_refuses():
    z = torch.randn(3, requires_grad=True)
    for rule in RULES:
        with backward_rule(rule), pytest.raises(RuntimeError, match="leaf Variable"):
            z.relu_()
    h = z * 1
    kept = h.exp()  # needs its own result, which the next line overwrites
    with backward_rule("linear"):
        kept.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def test_for_relu_linear_is_linbp():
    # Guo et al. (2020): x + relu(-x).detach(), equal to relu(x) in value.
    x = torch.randn(1000, dtype=torch.float32)
    g = torch.randn(1000)

    def linbp(x):
        return x + torch.relu(-x).detach()

    for f in (under("linear", torch.relu), linearize(nn.ReLU(), "linear")[0]):
        assert torch.equal(f(x.clone().requires_grad_()), linbp(x))
        assert torch.equal(gradient(f, x, g), gradient(linbp, x, g))


def test_sign_has_to_be_asked_for():
    z, g = torch.randn(9), torch.randn(9)
    assert torch.equal(gradient(under("linear", torch.sign), z, g), torch.zeros(9))
    assert torch.equal(gradient(under("linear", torch.sign, sign=True), z, g), g)
    assert torch.equal(gradient(under("bp", torch.sign, sign=True), z, g), torch.zeros(9))


@every_module
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=10)
@given(data=st.data())
def test_values_shapes_strides_and_special_numbers(name, dtype, data):
    module, _ = DERIVATIVES[name]
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    seed = data.draw(st.integers(0, 1000))
    scale = data.draw(st.sampled_from([0.1, 3.0, 100.0]))
    rule = data.draw(st.sampled_from(list(RULES)))
    z = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
    layout = data.draw(st.sampled_from(["plain", "transposed", "strided", "expanded", "special"]))
    if layout == "transposed":
        z = z.transpose(0, -1)
    elif layout == "strided":
        z = z[..., ::2] if shape else z
    elif layout == "expanded" and not getattr(module, "inplace", False):
        z = z.unsqueeze(0).expand(3, *z.shape)
    elif layout == "special":
        z = torch.tensor([0, -0.0, 1, -1, torch.inf, -torch.inf, torch.nan]).to(dtype)
    if layout != "expanded":  # a clone of an expanded tensor is dense
        z = z.clone(memory_format=torch.preserve_format)
    module = copy.deepcopy(module).to(dtype)

    def call(f, z):
        return f(z * 1) if getattr(module, "inplace", False) else f(z)

    stock = call(module, z)
    changed, _ = linearize(copy.deepcopy(module), rule)
    g = torch.ones_like(stock)
    grads = []
    for f in (changed, under(rule, module)):
        leaf = z.detach().requires_grad_()
        out = call(f, leaf)
        assert (out.dtype, out.shape) == (stock.dtype, stock.shape)
        assert strides(out) == strides(stock)
        assert torch.equal(bits(out), bits(stock))
        (grad,) = torch.autograd.grad(out, leaf, g)
        assert (grad.dtype, grad.shape) == (z.dtype, z.shape)
        grads.append(grad)
    assert torch.equal(bits(grads[0]), bits(grads[1]))
    if rule == "linear":
        assert torch.equal(grads[0], g)  # ones, even where the derivative would be NaN


def test_a_function_of_ones_own():
    def halved(z, g):
        return g / 2 + 0 * z

    z, g = torch.randn(5), torch.randn(5)
    for f in ways(nn.GELU(), halved):
        assert torch.equal(gradient(f, z.double(), g.double()), g.double() / 2)


def test_leaky_goes_from_bp_to_linear():
    z, g = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    for alpha, rule in ((0, "bp"), (1, "linear")):
        expected = gradient(under(rule, torch.tanh), z, g)
        assert torch.equal(gradient(under(leaky(alpha), torch.tanh), z, g), expected)


def test_bp_is_the_stock_path():
    z = torch.randn(3, requires_grad=True)
    model, _ = linearize(nn.Tanh(), "bp")
    assert type(model) is nn.Tanh
    with backward_rule("bp"):
        assert "TanhBackward0" in type(torch.tanh(z).grad_fn).__name__
        assert not isinstance(torch.overrides._get_current_function_mode(), TorchFunctionMode)


def test_a_block_may_be_made_before_it_is_entered():
    blocks = {rule: backward_rule(rule) for rule in RULES}
    z, g = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    for outer in RULES:
        for inner in RULES:

            def f(z, outer=outer, inner=inner):
                with blocks[outer], blocks[inner]:
                    return torch.tanh(z)

            torch.testing.assert_close(gradient(f, z, g), RULES[inner](z, g, 1 - z.tanh() ** 2))


def test_a_rule_may_add_a_field_to_the_whole_true_gradient():
    z, g = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    rule = Rule("more", lambda z, g: 10 * g, true_share=1.0)
    for f in ways(nn.Tanh(), rule):
        torch.testing.assert_close(gradient(f, z, g), (11 - z.tanh() ** 2) * g)


def test_the_innermost_block_decides():
    z, g = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    for outer in RULES:
        for inner in RULES:
            expected = RULES[inner](z, g, 1 - z.tanh() ** 2)
            f = under(outer, under(inner, torch.tanh))
            torch.testing.assert_close(gradient(f, z, g), expected)
            if inner != "bp":  # a module made stock again follows the block
                f = under(outer, linearize(nn.Tanh(), inner)[0])
                torch.testing.assert_close(gradient(f, z, g), expected)


def test_linear_keeps_nothing_for_the_backward_pass():
    kept = []
    z = torch.randn(5, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        for module in (nn.GELU(), nn.SiLU(inplace=True), nn.Tanh(), nn.ReLU()):
            linearize(module, "linear")[0](z)
        assert sum(tensor.numel() for tensor in kept) == 0
        linearize(nn.Tanh(), "as-printed")[0](z)
    assert sum(tensor.numel() for tensor in kept) == z.numel()  # the hook does see what is kept


def test_without_gradients_the_stock_function_runs():
    z = torch.randn(3)
    with torch.no_grad(), backward_rule("linear"):
        assert torch.equal(torch.tanh(z), z.tanh())
        assert torch.tanh(z, out=torch.empty(3)).grad_fn is None


class Block(nn.Module):
    """Modules of every kind, and a function."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.act = nn.PReLU(6)
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.gate = nn.Sigmoid()
        self.softmax = nn.Softmax(-1)

    def forward(self, x):
        h = self.inner(self.act(self.linear(x)))
        return self.softmax(F.gelu(h) * self.gate(h))


def test_the_report_names_what_was_changed_and_what_was_left():
    model = Block()
    same, report = linearize(model, "linear", where="[!g]*")
    assert same is model
    assert report.rule == "linear"
    assert report.changed == {"act": "PReLU", "inner.1": "ReLU"}
    assert report.left == {
        "": "calls gelu: only lbp.backward_rule reaches that",
        "gate": "Sigmoid, not chosen",
        "softmax": "Softmax, not element-wise, its derivative is a matrix",
    }
    assert "changed to the rule linear: 2\n  act: PReLU" in str(report)
    assert "rule=linear" in repr(model.inner[1])


def test_functions_held_or_called_elsewhere_are_reported():
    layer = nn.Sequential(nn.TransformerEncoderLayer(4, 2), nn.ReLU(), nn.LSTM(4, 4))
    _, report = linearize(layer)
    assert report.changed == {"0.activation": "relu", "1": "ReLU"}
    assert report.left == {
        "0": "TransformerEncoderLayer, its fast path is taken only where no gradient is wanted and "
        "no block is entered (the last bits may differ); on the other path it calls its activation "
        "as any module does",
        "0.self_attn": "MultiheadAttention, its softmax is not element-wise, and fused",
        "2": "LSTM, fused, its activations are out of reach inside one kernel",
    }


def test_activation_modules_are_found_in_the_order_of_registration_each_once():
    class Shifted(nn.ReLU):
        pass

    shared = nn.Tanh()
    inner = nn.Sequential(nn.Linear(2, 2), nn.PReLU(), shared)
    model = nn.Sequential(shared, inner, nn.Softmax(-1), Shifted(), nn.ReLU())
    expected = {"0": shared, "1.1": inner[1], "4": model[4]}
    assert list(activation_modules(model).items()) == list(expected.items())
    linearize(model, "linear", where="1.*")
    assert list(activation_modules(model).items()) == list(expected.items())
    assert activation_modules(shared) == {"": shared}
    assert activation_modules(nn.Linear(2, 2)) == {}


def test_subclasses_with_code_of_their_own_are_left_alone():
    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x - 1)

    model = nn.Sequential(Shifted(), nn.ReLU())
    _, report = linearize(model)
    assert report.changed == {"1": "ReLU"}
    assert report.left == {"0": "Shifted, a subclass of ReLU"}
    z, g = torch.randn(5), torch.randn(5)
    assert torch.equal(gradient(under("linear", model), z, g), g)


def test_linearizing_changes_no_key_no_object_and_can_be_undone():
    model = Block()
    keys, children = list(model.state_dict()), dict(model.named_modules())
    parameters = list(model.parameters())
    linearize(model, "linear")
    linearize(model, "leaky", where=nn.PReLU)
    assert list(model.state_dict()) == keys
    assert dict(model.named_modules()) == children
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    Block().load_state_dict(model.state_dict())
    assert isinstance(model.act, nn.PReLU)
    assert restore(model) is model
    assert [type(m) for m in model.modules()] == [type(m) for m in Block().modules()]
    assert {k: vars(m).keys() for k, m in model.named_modules()} == {
        k: vars(m).keys() for k, m in Block().named_modules()
    }


def test_rules_can_be_mixed():
    model = nn.Sequential(nn.Tanh(), nn.Sigmoid(), nn.Tanh())
    linearize(model, "linear", where=nn.Tanh)
    linearize(model, leaky(0.5), where="2")
    assert [str(m) for m in model] == [
        "RuledTanh(rule=linear)",
        "Sigmoid()",
        "RuledTanh(rule=leaky(0.5))",
    ]
    linearize(model, "bp", where="0")
    assert [type(m) for m in model[:2]] == [nn.Tanh, nn.Sigmoid]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "save"])
@every_rule
def test_a_copy_follows_the_rule(how, rule):
    model, _ = linearize(Block().double().eval(), rule)
    if how == "save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = how(model)
    x = torch.randn(5, 6, dtype=torch.float64)
    g = torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(gradient(twin, x, g), gradient(model, x, g))
    restore(twin)
    assert type(twin.gate) is nn.Sigmoid
    assert (type(model.gate) is nn.Sigmoid) == (rule == "bp")


def test_another_process_can_load_a_model(tmp_path):
    model, _ = linearize(Block().double().eval(), "leaky")
    model = model.inner  # `Block` itself is known only here
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import torch\n"
        f"model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "model(torch.linspace(-2, 2, 12).double().view(2, 6)).sum().backward()\n"
        "print(model[0].bias.grad.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model(torch.linspace(-2, 2, 12).double().view(2, 6)).sum().backward()
    assert json.loads(done.stdout) == model[0].bias.grad.tolist()


def test_a_module_that_was_made_of_a_changed_one_is_named():
    model, _ = linearize(nn.Sequential(nn.Tanh(), nn.PReLU()))
    parametrize.register_parametrization(model[1], "weight", nn.Identity())
    with pytest.raises(LbpError, match="ParametrizedRuledPReLU was made from a changed module"):
        restore(model)
    assert type(model[0]) is not nn.Tanh
    parametrize.remove_parametrizations(model[1], "weight")
    assert [type(module) for module in restore(model)] == [nn.Tanh, nn.PReLU]


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        (None, "0 1 2.0 2.1"),
        ("2.*", "2.0 2.1"),
        ("*1", "1 2.1"),
        (nn.ReLU, "0 2.1"),
        ((nn.Tanh, nn.SiLU), "1 2.0"),
        (lambda name, module: name == "1" or isinstance(module, nn.SiLU), "1 2.0"),
        (from_layer(1), "0 1 2.0 2.1"),
        (from_layer(3), "2.0 2.1"),
    ],
)
def test_where(where, chosen):
    model = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sequential(nn.SiLU(), nn.ReLU()))
    _, report = linearize(model, "linear", where)
    assert list(report.changed) == chosen.split()
    assert [n for n, m in model.named_modules() if "Ruled" in type(m).__name__] == chosen.split()


def test_from_layer_is_linbp_from_that_layer_on():
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(5, 5), nn.ReLU()))).double()
    x, g = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)

    def linbp(x):
        for k in range(4):
            x = model[2 * k](x)
            x = torch.relu(x) if k < 2 else x + torch.relu(-x).detach()
        return x

    expected = gradient(linbp, x, g)
    linearize(model, "linear", from_layer(3))
    torch.testing.assert_close(gradient(model, x, g), expected)


def test_half_and_channels_last():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Hardswish(inplace=True))
    linearize(model, "linear")
    model.to(torch.bfloat16, memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    out = model(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    restore(model)
    assert torch.equal(out, model(x))


def test_dropout_is_left_alone():
    x = torch.ones(100, requires_grad=True)
    with backward_rule("linear"):
        out = F.dropout(x, 0.5)
    out.sum().backward()
    assert torch.equal(x.grad, out)  # 0 or 2, as the mask was


LEFT_CALLS = {
    "F.softmax": lambda x: F.softmax(x, -1),
    "F.glu": F.glu,
    "torch.lstm": lambda x: nn.LSTM(4, 4)(x)[0],
    "torch.gru": lambda x: nn.GRU(4, 4)(x)[0],
    "torch.rnn_tanh": lambda x: nn.RNN(4, 4)(x)[0],
    "torch.lstm_cell": lambda x: nn.LSTMCell(4, 4)(x[0])[0],
    "torch.gru_cell": lambda x: nn.GRUCell(4, 4)(x[0]),
    "torch.rnn_relu_cell": lambda x: nn.RNNCell(4, 4, nonlinearity="relu")(x[0]),
    "F.multi_head_attention_forward": lambda x: nn.MultiheadAttention(4, 2)(x, x, x)[0],
    "F.scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "F.log_softmax": lambda x: nn.LogSoftmax(-1)(x),
}


@pytest.mark.parametrize("name", LEFT_CALLS)
def test_what_is_left_alone_warns_and_keeps_its_derivative(name):
    x = torch.randn(2, 3, 4, requires_grad=True)
    with backward_rule("linear"), pytest.warns(LbpWarning, match=f"^{name} keeps its true deriv"):
        LEFT_CALLS[name](x)
    with backward_rule("bp"):
        LEFT_CALLS[name](x)  # warnings are errors here
    with backward_rule("linear"), torch.no_grad():
        LEFT_CALLS[name](x)


def test_the_transformers_fast_path_only_serves_calls_without_gradients():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    layer.double().eval()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    with torch.no_grad():
        fast = layer(x)
        with backward_rule("linear"):
            torch.testing.assert_close(layer(x), fast)
    x.requires_grad_()
    true = torch.autograd.grad(layer(x).square().sum(), x)[0]
    with backward_rule("linear"), warnings.catch_warnings():
        warnings.simplefilter("ignore", LbpWarning)
        ruled = torch.autograd.grad(layer(x).square().sum(), x)[0]
    assert (true - ruled).abs().max() > 1e-3  # its activation, a function, is reached


def test_bad_input_is_told_in_one_line():
    tanh = nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh(), nn.Tanh())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(2, 2))

    class Functional(nn.Module):
        def forward(self, x):
            return [F.gelu(t) for t in x]

    for call, message in (
        (
            lambda: linearize(nn.Linear(2, 2)),
            "the model has no activation modules: lbp.backward_ru",
        ),
        (
            lambda: linearize(Functional()),
            "the model has no activation modules but calls gelu: use lbp.backward_rule",
        ),
        (
            lambda: linearize(tanh, where="layer*"),
            "where='layer[*]' matches no activation module: choose from 0, 1, 2, [.][.][.]$",
        ),
        (lambda: linearize(tanh, where=nn.ReLU), "matches no activation module: choose from 0"),
        (lambda: linearize(tanh, where=3), "where=3 is not understood: give a name pattern"),
        (
            lambda: linearize(tanh, where=from_layer(5)),
            "layer 5 does not exist: the model has 4 activations",
        ),
        (lambda: from_layer(0), "layer 0 does not exist: layers count from 1"),
        (lambda: from_layer(1.5), "layer 1.5 does not exist: layers count from 1, in whole"),
        (lambda: linearize(tanh, where=("0", "1")), "is not understood: give a name pattern"),
        (lambda: linearize([nn.Tanh()]), "Tanh.* is not a model: give a torch.nn.Module$"),
        (
            lambda: linearize(nn.LSTM(2, 2)),
            "that a rule can reach: the model: LSTM, fused, its activations are",
        ),
        (
            lambda: linearize(scripted),
            "that a rule can reach: the model: compiled by TorchScript, out of reach",
        ),
        (lambda: restore([nn.Tanh()]), "Tanh.* is not a model: give a torch.nn.Module$"),
        (lambda: linearize(tanh, "lin"), "unknown backward rule 'lin': choose from bp"),
        (lambda: backward_rule("lin"), "unknown backward rule 'lin': choose from bp"),
        (
            lambda: gradient(under(lambda z, g: g.sum(), F.tanh), torch.zeros(2), torch.ones(2)),
            r"backward rule '<lambda>' returned shape \(\): return a tensor of the gradient's",
        ),
        (lambda: check_torch("2.3.1"), "torch 2.3.1 is too old: install torch 2.11 or newer"),
    ):
        with pytest.raises(LbpError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert all(type(m) is nn.Tanh for m in tanh)


def test_every_built_in_rule_is_tested_here():
    assert set(RULES) < set(BUILT_IN)  # tests/test_literature.py has the others


def test_newer_versions_of_torch_are_accepted():
    check_torch("2.11.0+cpu")
    check_torch("2.12.0a0")
