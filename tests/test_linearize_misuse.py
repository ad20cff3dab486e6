"""The usual mistakes, and what is out of reach: told in one sentence, never passed over."""

import functools
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import lbp
from lbp import literature, rules
from lbp.block import backward_rule
from lbp.errors import LbpError, LbpWarning
from lbp.linearization import from_layer, linearize, restore
from lbp.literature import compose
from lbp.rules import leaky, surrogate


def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.ReLU())


def own_forward(module, x):
    return type(module).forward(module, x)


def with_own_forward(module):
    module.forward = functools.partial(own_forward, module)  # as accelerate's hooks do
    return module


def jit(function, *args):
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        return function(*args)


UNPACK = (
    "linearize returns the model and a report: unpack them, as in "
    "`model, report = lbp.linearize(model)`"
)
MISTAKES = {
    "a model as a rule": (
        lambda: backward_rule(net()),
        "the module Sequential is not a backward rule: give a name such as 'linear', a function of "
        "(pre-activation, gradient) or lbp.surrogate(module)",
    ),
    "a class as a rule": (
        lambda: linearize(net(), nn.LeakyReLU),
        "the class LeakyReLU is not a backward rule: give a function of (pre-activation, gradient)",
    ),
    "a module as where": (
        lambda: linearize(net(), where=nn.ReLU()),
        "where=ReLU() is not understood: give a name pattern, a class or a tuple of classes, "
        "a function of name and module, from_layer(k) or not_gates(model, inputs)",
    ),
    "a function of one argument as where": (
        lambda: linearize(net(), where=str.upper),
        "where=<method 'upper' of 'str' objects> is not understood: give a name pattern, a class "
        "or a tuple of classes, a function of name and module, from_layer(k) or "
        "not_gates(model, inputs)",
    ),
    "called": (lambda: linearize(net())(torch.ones(4)), UNPACK),
    "asked for parameters": (lambda: linearize(net()).parameters(), UNPACK),
    "changed again": (lambda: linearize(linearize(net())), UNPACK),
    "restored": (lambda: restore(linearize(net())), UNPACK),
    "True as a layer": (
        lambda: from_layer(True),
        "layer True does not exist: layers count from 1, in whole numbers",
    ),
    "all with a forward of their own": (
        lambda: linearize(nn.Sequential(with_own_forward(nn.Tanh()))),
        "the model has no activation modules that a rule can reach: 0: Tanh, its forward was "
        "replaced on the instance: linearize before that, or use lbp.backward_rule",
    ),
    "restored under a forward of its own": (
        lambda: restore(nn.Sequential(with_own_forward(linearize(nn.Tanh())[0]))),
        "the forward of RuledTanh was replaced on the instance after linearize: undo that first "
        "(del module.forward)",
    ),
    "scripted": (
        lambda: jit(torch.jit.script, linearize(net())[0]),
        "torch.jit.script would lose the backward rule 'linear': lbp.restore(model) first",
    ),
    "a surrogate that detaches": (
        lambda: linearize(net(), surrogate(lambda z: z.detach()))[0](torch.ones(4)),
        "the function of the rule surrogate(<lambda>) has no gradient: give one that PyTorch can "
        "differentiate, without detach() and torch.no_grad()",
    ),
    "a surrogate of another shape": (
        lambda: linearize(net(), surrogate(torch.sum))[0](torch.ones(4)),
        "the function of the rule surrogate(sum) returned shape () for (4,): give an element-wise "
        "one",
    ),
    "a strided nested tensor, overwritten": (
        lambda: overwritten(torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])),
        "the rule 'linear' cannot overwrite a strided nested tensor: "
        "call the function without inplace, or take layout=torch.jagged",
    ),
}


def overwritten(z):
    with backward_rule("linear"):
        z.relu_()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(name):
    call, message = MISTAKES[name]
    with pytest.raises(LbpError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    "call",
    [
        lambda: linearize(net().state_dict()),
        lambda: restore((net(), 1)),
        lambda: restore(net().state_dict()),
        lambda: linearize(net(), net().state_dict()),
        lambda: linearize(net(), where=[net()]),
    ],
)
def test_a_long_value_is_cut(call):
    with pytest.raises(LbpError) as error:
        call()
    assert "..." in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_what_linearize_returns_is_a_pair():
    model = net()
    result = linearize(model)
    same, report = result
    assert (same, report) == (result[0], result[1]) == (model, result.report)
    assert not hasattr(result, "parameters")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        result.nonsense  # noqa: B018
    assert pickle.loads(pickle.dumps(result)).report == report


def test_numpys_numbers_are_layers():
    assert from_layer(np.int64(2)) == from_layer(2)


@pytest.mark.parametrize("gradients", [True, False])
def test_torch_jit_trace_is_refused(gradients):
    model, _ = linearize(net())
    z = torch.ones(4)
    with torch.set_grad_enabled(gradients):
        with pytest.raises(LbpError, match=r"torch\.jit\.trace would lose the backward rule 'lin"):
            jit(torch.jit.trace, model, z)
        with backward_rule("linear"), pytest.raises(LbpError, match=r"torch\.jit\.trace would lo"):
            jit(torch.jit.trace, net(), z)
        with backward_rule("bp"):
            jit(torch.jit.trace, restore(model), z)


def test_fuse_modules_of_torch_ao_is_loud_and_works_after_restore():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    linearize(model)
    with pytest.raises(AssertionError, match="RuledReLU"):
        torch.ao.quantization.fuse_modules(model, ["0", "1"])
    torch.ao.quantization.fuse_modules(restore(model), ["0", "1"])


def test_a_forward_of_its_own_is_reported():
    model = nn.Sequential(with_own_forward(nn.Tanh()), nn.ReLU())
    _, report = linearize(model)
    assert report.changed == {"1": "ReLU"}
    assert report.left == {
        "0": "Tanh, its forward was replaced on the instance: linearize before that, "
        "or use lbp.backward_rule"
    }
    assert type(model[0]) is nn.Tanh


BACKWARD = {
    "Tensor.backward": lambda loss, x: loss.backward(),
    "torch.autograd.backward": lambda loss, x: torch.autograd.backward([loss]),
    "torch.autograd.grad": lambda loss, x: torch.autograd.grad(loss, x),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_a_block_around_the_backward_pass_alone_warns(name):
    x = torch.ones(3, requires_grad=True)
    loss = torch.tanh(x).sum()
    message = "a backward pass in this block, but the rule 'linear' has reached no activation"
    with backward_rule("linear"), pytest.warns(LbpWarning, match=message) as caught:
        BACKWARD[name](loss, x)
    assert caught[0].filename == __file__
    with backward_rule("linear"):  # warnings are errors here
        BACKWARD[name](torch.tanh(x).sum(), x)
    with backward_rule("bp"):
        BACKWARD[name](x.exp().sum(), x)


def test_a_block_around_a_reentrant_checkpoint_warns():
    x = torch.ones(3, requires_grad=True)
    with backward_rule("linear"), pytest.warns(LbpWarning, match="has reached no activation"):
        checkpoint(torch.tanh, x, use_reentrant=True).sum().backward()


def test_without_the_fast_path_a_transformer_gives_almost_the_same_values():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(4, 5, 16)
    with torch.no_grad():
        fast = encoder(x)
        with backward_rule("linear"):
            torch.testing.assert_close(encoder(x), fast, rtol=0, atol=2e-6)


class Marked(torch.Tensor):
    """A subclass with nothing of its own."""


RULES = {
    "linear": "linear",
    "as-printed": "as-printed",
    "leaky": "leaky",
    "attnlrp": "attnlrp",
    "surrogate": surrogate(torch.tanh),
    "composed": compose(literature.full_jam(), rules.BP),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("module", [nn.Tanh(), nn.PReLU(), nn.ReLU(inplace=True)])
def test_a_tensor_subclass_remains_one(module, rule):
    z = torch.randn(4).as_subclass(Marked).requires_grad_()
    with backward_rule(RULES[rule]):
        assert type(module(z * 1)) is Marked
    changed, _ = linearize(pickle.loads(pickle.dumps(module)), RULES[rule])
    assert type(changed(z * 1)) is Marked


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("rule", ["linear", "as-printed", "leaky", "ste-clip"])
@pytest.mark.parametrize("module", [nn.GELU(), nn.ELU()])
def test_nested_tensors(module, rule, layout):
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    z = torch.nested.nested_tensor(parts, layout=layout, requires_grad=True)
    with backward_rule(rule):
        out = module(z)
    (grad,) = torch.autograd.grad(out, z, torch.ones_like(out))
    for part, value, found in zip(parts, out.unbind(), grad.unbind(), strict=True):
        part.requires_grad_()
        with backward_rule(rule):
            expected = module(part)
        torch.testing.assert_close(value, expected)
        expected.sum().backward()
        torch.testing.assert_close(found, part.grad)


@pytest.mark.parametrize("rule", ["linear", "as-printed", "leaky"])
def test_in_place_functions_take_all_their_arguments(rule):
    z = torch.linspace(-2, 2, 7)
    leaf = z.clone().requires_grad_()

    def drawn():
        return torch.Generator().manual_seed(3)

    for f in (
        lambda z: F.elu_(z, 1.0, 2.0),
        lambda z: torch.rrelu_(z, 0.1, 0.9, True, generator=drawn()),
        lambda z: F.rrelu_(z, 0.1, 0.9, True, drawn()),
        lambda z: torch.rrelu(z, training=True, generator=drawn()),
        lambda z: F.hardtanh_(z, -1.0, 1.5),
        lambda z: F.threshold_(z, 0.5, 7.0),
    ):
        with backward_rule(rule):
            assert torch.equal(f(leaf * 1), f(z.clone()))


def test_leaky_takes_pythons_and_numpys_numbers():
    assert leaky(np.float64(0.5)).name == leaky(np.float32(0.5)).name == "leaky(0.5)"
    assert leaky(1).name == "leaky(1)"


def test_a_surrogate_that_overwrites_its_input_is_told():
    model, _ = linearize(
        nn.Sequential(nn.Linear(3, 3), nn.Tanh()), surrogate(nn.ReLU(inplace=True))
    )
    with pytest.raises(LbpError, match="overwrites its input: give one without in-place"):
        model(torch.ones(2, 3))


def test_an_example_that_the_model_rejects_leaves_a_parametrized_unit_and_the_rules_alone():
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, _ = linearize(nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Tanh()))
    nn.utils.parametrize.register_parametrization(model[1], "weight", Twice())
    with pytest.raises(LbpError, match="the model rejects this input"):
        linearize(model, "ste-clip", example=torch.ones(2, 5))
    assert model[2].lbp_rule.name == model[1].lbp_rule.name == "linear"


def test_an_argument_of_the_model_may_be_called_model():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = net()

        def forward(self, model):
            return self.layers(model)

    _, report = linearize(Named(), example={"model": torch.ones(2, 4)})
    assert report.audit.complete


def test_a_function_that_a_decorated_or_a_traced_forward_calls_is_named():
    def passed_on(forward):
        @functools.wraps(forward)
        def wrapped(*args, **kwargs):
            return forward(*args, **kwargs)

        return wrapped

    class Decorated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = net()

        @passed_on
        def forward(self, x):
            return torch.sigmoid(self.layers(x))

    for model in (Decorated(), torch.fx.symbolic_trace(Decorated())):
        assert "calls sigmoid" in linearize(model)[1].left[""]


@pytest.mark.parametrize("rule", ["linear", "bp"])
def test_what_runs_after_a_decorated_call_cannot_be_decorated(rule):
    async def coroutine():
        return torch.relu(torch.zeros(1))

    def generator():
        yield torch.relu(torch.zeros(1))

    async def both():
        yield torch.relu(torch.zeros(1))

    for function, kind in {
        coroutine: "a coroutine",
        generator: "a generator",
        both: "an asynchronous generator",
        nn.ReLU: "a class",
    }.items():
        with pytest.raises(LbpError, match=f"{function.__name__} is {kind}, which runs after"):
            backward_rule(rule)(function)


def test_a_block_that_is_left_twice_says_so():
    block = backward_rule("linear")
    with block:
        pass
    with pytest.raises(LbpError, match="the block of the rule 'linear' is not open"):
        block.__exit__(None, None, None)


@pytest.mark.parametrize("rule", [torch.tanh, F.relu])
def test_an_activation_function_is_no_rule(rule):
    with pytest.raises(LbpError, match=rf"lbp\.surrogate\({rule.__name__}\) takes"):
        linearize(net(), rule)


def test_an_array_is_no_rule():
    with pytest.raises(LbpError, match=r"unknown backward rule array\(\[1, 2\]\)"):
        linearize(net(), np.array([1, 2]))


def test_a_loop_over_rules_may_be_strict_with_its_baseline():
    model, x = net(), torch.randn(4, 4)
    for rule in ("bp", "linear"):
        _, report = linearize(model, rule, example=x, strict=True)
        assert report.audit.differs == (rule != "bp")


def test_a_named_tuple_is_one_argument():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.act = nn.LSTM(4, 4, batch_first=True), nn.Tanh()

        def forward(self, packed):
            return self.act(self.rnn(packed)[1][0])

    sequences = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 3, 4), [3, 2], batch_first=True)
    _, report = linearize(Packed(), example=sequences)
    assert report.audit.reached == {"act": 1}


def test_an_example_that_is_too_small_says_how_large_it_has_to_be():
    class Own(nn.Module):
        def forward(self, z):
            return z * torch.sigmoid(1.7 * z)

    with pytest.raises(LbpError, match="by its behaviour if it is called with 8 numbers"):
        linearize(nn.Sequential(nn.Linear(4, 4), Own()), example=torch.randn(1, 4))
    _, report = linearize(nn.Sequential(nn.Linear(4, 4), Own()), example=torch.randn(2, 4))
    assert report.by_behaviour == ("Own",)


def test_inference_mode_is_named_where_a_pass_needs_gradients():
    with torch.inference_mode(), pytest.raises(LbpError, match="inference_mode"):
        linearize(net(), example=torch.randn(4, 4))


def test_a_look_at_a_model_leaves_all_random_numbers_as_they_are():
    class Random(nn.Module):
        def forward(self, x):
            return torch.tanh(x) * random.random() * np.random.rand()  # noqa: NPY002

    before = random.getstate(), str(np.random.get_state())  # noqa: NPY002
    assert not lbp.audit(nn.Sequential(Random()), torch.randn(3, requires_grad=True)).differs
    assert (random.getstate(), str(np.random.get_state())) == before  # noqa: NPY002


@pytest.mark.parametrize("given", [None, (torch.ones(3),), "a", 3])
def test_what_is_no_tensor_has_the_functions_own_error(given):
    with pytest.raises((TypeError, AttributeError)) as stock:
        nn.ReLU()(given)
    unit, _ = linearize(nn.ReLU())
    with pytest.raises(type(stock.value)) as found:
        unit(given)
    assert str(found.value) == str(stock.value)
    with backward_rule("linear"), pytest.raises(type(stock.value)):
        torch.relu(given)


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda z: F.relu(z), "in 0: use lbp.backward_rule$"),
        (
            lambda z: torch.sin(z),
            "use lbp.backward_rule for PyTorch's activation functions, and a module class of its "
            "own for others$",
        ),
    ],
)
def test_strict_says_what_reaches_the_rest(function, advice):
    class Calls(nn.Linear):
        def forward(self, x):
            return function(super().forward(x))

    model = nn.Sequential(Calls(4, 4), nn.Tanh())
    with pytest.raises(LbpError, match=advice):
        linearize(model, example=torch.randn(8, 4), strict=True)


def test_the_parts_of_a_rule_are_checked():
    with pytest.raises(LbpError, match="true_share 'x' of the rule a: choose it from 0 to 1"):
        lbp.Rule("a", lambda z, g: g, true_share="x")
    with pytest.raises(LbpError, match="inner 'bp' of the rule a: give a Rule"):
        lbp.Rule("a", lambda z, g: g, inner="bp")


def test_a_field_that_returns_many_numbers_is_told_in_one_line():
    unit, _ = linearize(nn.Tanh(), lambda z, g: (g, g))
    z = torch.randn(200, requires_grad=True)
    with pytest.raises(LbpError, match="returned") as error:
        unit(z).sum().backward()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
