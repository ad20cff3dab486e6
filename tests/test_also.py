"""`also`: classes and functions that one call, or one block, takes whole."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lbp
from lbp.errors import LbpError
from lbp.linearization import activation_modules

Z = torch.tensor([-3.0, -1.2, -0.4, 0.3, 1.1, 3.0]).double()
G = torch.linspace(-1, 2, 6).double()


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.tanh = nn.Tanh()

    def forward(self, z):
        return self.tanh(z) ** 2


T = torch.tanh(Z)
TRUE = 2 * T * (1 - T**2) * G
WITHIN = 2 * T * G  # Linear Backprop through the inner tanh alone


def gradient(call):
    z = Z.clone().requires_grad_()
    (found,) = torch.autograd.grad(call(z), z, G)
    return found


def within(rule, unit, **named):
    def call(z):
        with lbp.backward_rule(rule, **named):
            return unit(z)

    return gradient(call)


def test_a_block_takes_it_whole_and_no_other_block_does():
    unit = Squared()
    for _ in range(2):
        torch.testing.assert_close(within("linear", unit), WITHIN)
        torch.testing.assert_close(within("linear", unit, also=[Squared]), G)
        torch.testing.assert_close(within("leaky", unit, also=[Squared]), 0.1 * G + 0.9 * TRUE)
        torch.testing.assert_close(within("bp", unit, also=[Squared]), TRUE)
        torch.testing.assert_close(gradient(unit), TRUE)
    assert list(activation_modules(nn.Sequential(unit))) == ["0.tanh"]


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ({"also": [Squared]}, {}, WITHIN),
        ({}, {"also": [Squared]}, G),
        ({"also": [Squared]}, {"rule": "bp"}, TRUE),
        ({"rule": "bp", "also": [Squared]}, {"also": [Squared]}, G),
    ],
)
def test_the_innermost_block_decides(outer, inner, expected):
    def call(z):
        with lbp.backward_rule(**outer), lbp.backward_rule(**inner):
            return Squared()(z)

    torch.testing.assert_close(gradient(call), expected)


def test_a_block_that_does_not_take_it_whole_knows_what_it_has_reached():
    within("linear", Squared(), also=[Squared])
    z = Z.clone().requires_grad_()
    with lbp.backward_rule():  # a warning would be an error here
        Squared()(z).backward(G)
    torch.testing.assert_close(z.grad, WITHIN)


def test_linearize_takes_it_whole_in_this_call():
    model, report = lbp.linearize(nn.Sequential(Squared(), nn.Tanh()), also=[Squared])
    assert report.changed == {"0": "Squared", "1": "Tanh"}
    assert torch.equal(gradient(model), G)
    assert list(model.state_dict()) == []
    fresh, report = lbp.linearize(Squared())
    assert report.changed == {"tanh": "Tanh"}
    torch.testing.assert_close(gradient(fresh), WITHIN)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(gradient(again), G)
    # Without `also` it is still found, as a module that is changed already.
    lbp.linearize(model, "bp")
    assert type(model[0]) is Squared
    assert type(lbp.restore(again)[0]) is Squared


def test_what_is_inside_gets_its_true_derivative_back():
    """A rule between the two takes a share of the true derivative, of the whole function."""
    unit, _ = lbp.linearize(Squared())
    lbp.linearize(unit, "leaky", also=[Squared])
    torch.testing.assert_close(gradient(unit), 0.1 * G + 0.9 * TRUE)
    torch.testing.assert_close(gradient(lbp.restore(unit)), TRUE)


def test_so_does_a_function_that_it_holds():
    class HeldSquared(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = torch.tanh

        def forward(self, z):
            return self.act(z) ** 2

    unit, report = lbp.linearize(HeldSquared())
    assert report.changed == {"act": "tanh"}
    lbp.linearize(unit, "leaky", also=[HeldSquared])
    torch.testing.assert_close(gradient(unit), 0.1 * G + 0.9 * TRUE)
    assert lbp.restore(unit).act is torch.tanh


def test_registering_it_later_lets_every_block_take_it_whole():
    class Later(Squared):
        pass

    unit, _ = lbp.linearize(Later(), also=[Later])
    lbp.register_activation(Later, bounded=True)
    assert torch.equal(gradient(unit), G)
    assert torch.equal(within("linear", Later()), G)


# --- functions


def cube(z):
    return torch.tanh(z) ** 3


class Holds(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.act = function

    def forward(self, z):
        return self.act(z)


def halves(z):
    return torch.relu(z)[:3]


@lbp.register_activation
def square(z, scale=1.0):
    return scale * torch.tanh(z) ** 2


def test_linearize_takes_a_held_function_whole():
    model, report = lbp.linearize(Holds(cube), also=[cube])
    assert report.changed == {"act": "cube"}
    for again in (model, pickle.loads(pickle.dumps(model))):
        assert torch.equal(gradient(again), G)
    assert lbp.restore(model).act is cube


def test_a_registered_function_is_seen_where_it_is_called():
    assert square.__name__ == "square"
    assert torch.equal(square(Z), T**2)
    torch.testing.assert_close(gradient(square), TRUE)
    torch.testing.assert_close(within("linear", square), G)
    torch.testing.assert_close(
        within("leaky", lambda z: square(z, scale=2.0)), 0.1 * G + 0.9 * 2 * TRUE
    )
    model, report = lbp.linearize(Holds(square))
    assert report.changed == {"act": "square"}
    assert torch.equal(gradient(pickle.loads(pickle.dumps(model))), G)


def test_further_arguments_keep_their_true_gradient():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def scaled(z, scale):
        return scale * torch.tanh(z)

    class Scaled(nn.Module):
        def forward(self, z, scale):
            return scaled(z, scale)

    registered = lbp.register_activation(scaled)
    held, _ = lbp.linearize(Holds(scaled), also=[scaled])
    whole, _ = lbp.linearize(Scaled(), also=[Scaled])
    for call in (registered, held.act, whole):
        z = Z.clone().requires_grad_()
        with lbp.backward_rule():
            out = call(z, scale)
        of_z, of_scale = torch.autograd.grad(out, [z, scale], G)
        assert torch.equal(of_z, G)
        torch.testing.assert_close(of_scale, (T * G).sum())


def test_pre_activations_may_be_given_by_name():
    model, _ = lbp.linearize(Holds(cube), also=[cube])
    torch.testing.assert_close(gradient(lambda z: square(z=z)), TRUE)
    torch.testing.assert_close(within("linear", lambda z: square(scale=1.0, z=z)), G)
    assert torch.equal(gradient(lambda z: model.act(z=z)), G)


class ByNameOnly(nn.Module):
    def forward(self, *, z):
        return z


class Pair(nn.Module):
    def forward(self, z):
        return z, z


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: lbp.backward_rule(also=[cube]),
            "also=cube: a block does not see a call of a Python function; let the model call what "
            "lbp.register_activation returns for it",
        ),
        (
            lambda: lbp.linearize(nn.Sequential(nn.Tanh()), also=[cube]),
            "also=cube: no module holds that function as an attribute; let the model call what "
            "lbp.register_activation returns for it",
        ),
        (
            lambda: lbp.linearize(nn.Sequential(nn.Tanh()), also=[Squared]),
            "also=Squared: the model has no module of that class",
        ),
        (
            lambda: lbp.linearize(nn.Tanh(), also=Squared),
            "also=<class 'tests.test_also.Squared'> is not a list: give also=[...] of classes and "
            "functions",
        ),
        (
            lambda: lbp.backward_rule(also=[nn.Tanh()]),
            "also=Tanh() is neither a class of modules nor a function: give a subclass of "
            "torch.nn.Module, or a function that modules hold",
        ),
        (
            lambda: lbp.register_activation(square),
            "square is registered already: a rule reaches it",
        ),
        (
            lambda: lbp.linearize(nn.Linear(2, 2), also=[nn.Linear]),
            "Linear is PyTorch's own, and no element-wise activation function: give a class of "
            "your own",
        ),
        (
            lambda: lbp.register_activation(ByNameOnly),
            "ByNameOnly cannot be called with the pre-activations first (too many positional "
            "arguments)",
        ),
        (
            lambda: within("linear", Pair(), also=[Pair]),
            "Pair gives a tuple for (6,): a rule needs an element-wise function",
        ),
        (lambda: lbp.register_activation(F.relu), "relu is registered already: a rule reaches it"),
        (
            lambda: gradient(lbp.linearize(Holds(halves), also=[halves])[0]),
            "halves gives (3,) for (6,): a rule needs an element-wise function",
        ),
        (
            lambda: within("linear", lbp.register_activation(halves)),
            "halves gives (3,) for (6,): a rule needs an element-wise function",
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(call, message):
    with pytest.raises(LbpError) as error:
        call()
    assert str(error.value) == message


# --- found by behaviour


class ActDrop(nn.Module):
    def forward(self, z):
        return F.dropout(F.relu(z), 0.5, self.training)


class ActNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, z):
        normed = F.batch_norm(z, self.mean, self.var, training=self.training)
        return F.leaky_relu(normed)


@pytest.mark.parametrize("kind", [ActDrop, ActNorm])
@pytest.mark.parametrize("training", [True, False])
def test_what_drops_or_normalises_in_training_is_no_activation_function(kind, training):
    model = nn.Sequential(nn.Linear(8, 8), kind(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    model.train(training)
    _, report = lbp.linearize(model, example=torch.randn(16, 8))
    assert report.by_behaviour == ()
    assert list(report.changed) == ["3"]
    assert [remaining.module for remaining in report.audit.remaining] == ["1"]
    assert all(module.training == training for module in model.modules())


class ISRU(nn.Module):
    def forward(self, z):
        return z / torch.sqrt(1 + z * z)


class Square(nn.Module):
    def forward(self, z):
        return z * z


class Lerp(nn.Module):
    def forward(self, z):
        return torch.lerp(z, 2 * z, z)


@pytest.mark.parametrize("kind", [ISRU, Square, Lerp])
def test_classes_made_of_products_and_roots_are_found(kind):
    model = nn.Sequential(nn.Linear(8, 8), kind(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    _, report = lbp.linearize(model, example=torch.randn(16, 8), strict=True)
    assert report.by_behaviour == (kind.__name__,)
    z = torch.randn(5, requires_grad=True)
    (grad,) = torch.autograd.grad(model[1](z).sum(), z)
    assert torch.equal(grad, torch.ones(5))


class RootMeanSquare(nn.Module):
    def forward(self, z):
        return z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)


def test_a_norm_is_found_neither_as_an_activation_function_nor_as_what_remains():
    model = nn.Sequential(nn.Linear(8, 8), RootMeanSquare(), nn.ReLU(), nn.Linear(8, 1))
    _, report = lbp.linearize(model, example=torch.randn(16, 8), strict=True)
    assert report.by_behaviour == ()
    assert list(report.changed) == ["2"]


class Quick(nn.Module):
    def forward(self, z):
        return z * torch.sigmoid(1.7 * z)


@pytest.mark.parametrize(
    "where", ["3", Quick, lbp.from_layer(2), lambda name, module: isinstance(module, Quick)]
)
def test_where_chooses_among_the_classes_that_the_example_finds(where):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), Quick(), nn.Linear(8, 1))
    _, report = lbp.linearize(model, where=where, example=torch.randn(4, 8))
    assert list(report.changed) == ["3"]
    assert type(model[1]) is nn.ReLU


@pytest.mark.parametrize("where", ["7", nn.Tanh, lbp.from_layer(3)])
def test_where_that_chooses_nothing_even_then_is_an_error_and_changes_nothing(where):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), Quick(), nn.Linear(8, 1))
    with pytest.raises(LbpError, match=r"matches no activation module|layer 3 does not"):
        lbp.linearize(model, where=where, example=torch.randn(4, 8))
    assert [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear, Quick, nn.Linear]
