"""The batch against single networks and NumPy, its properties, and bad input."""

import numpy as np
import pytest
import torch
from torch import nn

from lbp.errors import LbpError
from lbp.lab import small_networks
from lbp.lab.small_networks import (
    Batch,
    Optimisation,
    cubic_problem,
    generalisation_mse,
    initial_parameters,
    network,
    pre_activations,
    predict,
    train,
)

RULES = ("bp", "linear", "as-printed")
LR = {"adam": 1e-3, "momentum": 1e-3, "gradient descent": 1e-2}
STOCK = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "gradient descent": lambda p, lr: torch.optim.SGD(p, lr=lr),
}


@pytest.fixture(scope="module")
def problem():
    return cubic_problem()


def train_one(problem, start, optimisation, activation="relu", rule="bp"):
    (trained,) = train(problem, [Batch(start, activation, rule, optimisation)])
    return trained


def alone(problem, start, optimisation, activation="relu", rule="bp"):
    """Train one ordinary module; return steps, training MSE and parameters."""
    model = network(start, activation, rule)
    optimiser = STOCK[optimisation.optimiser](model.parameters(), optimisation.lr)
    x, y = problem.x.view(-1, 1), problem.y.view(-1, 1)
    for step in range(optimisation.max_steps + 1):
        loss = nn.functional.mse_loss(model(x), y)
        if loss.item() <= optimisation.tolerance or step == optimisation.max_steps:
            flat = nn.utils.parameters_to_vector(model.parameters()).detach()
            return step, loss.item(), flat
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise AssertionError


def by_hand(row, x, f):
    """Return pre-activations [4, points, 50] and outputs [points] of one network, in NumPy."""
    at, h, hidden = 0, np.asarray(x)[:, None], []
    for i, o in [(1, 50), (50, 50), (50, 50), (50, 50), (50, 1)]:
        weight = row[at : at + i * o].reshape(o, i)
        bias = row[at + i * o : at + i * o + o]
        z = h @ weight.T + bias
        h, at = f(z), at + i * o + o
        hidden.append(z)
    assert at == len(row)
    return np.stack(hidden[:-1]), hidden[-1][:, 0]


# --- the problem and the starting points


def test_problem_is_the_papers_cubic():
    exact = cubic_problem(noise=0)
    x = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(exact.x, x, atol=1e-15)
    np.testing.assert_allclose(exact.y, np.polyval([1, -3, -1, 1], x), atol=1e-12)
    np.testing.assert_allclose(exact.target, np.polyval([1, -3, -1, 1], exact.grid), atol=1e-12)
    assert len(exact.grid) == 401
    assert (float(exact.grid[0]), float(exact.grid[-1])) == (-1.0, 3.0)


def test_noise_has_a_standard_deviation_of_a_tenth():
    many = cubic_problem(points=20_000)
    noise = many.y.numpy() - np.polyval([1, -3, -1, 1], many.x.numpy())
    assert noise.std() == pytest.approx(0.1, rel=0.02)  # 4 standard errors
    assert noise.mean() == pytest.approx(0, abs=0.003)


def test_network_has_the_papers_size():
    model = network(initial_parameters(1)[0], "relu", "bp")
    assert sum(p.numel() for p in model.parameters()) == 7801 == small_networks.PARAMETERS
    assert [m.out_features for m in model if isinstance(m, nn.Linear)] == [50, 50, 50, 50, 1]


def test_default_initialisation_is_pytorchs():
    torch.manual_seed(7)
    layers = [nn.Linear(i, o, dtype=torch.float64) for i, o in [(1, 50), *[(50, 50)] * 3, (50, 1)]]
    expected = nn.utils.parameters_to_vector(p for m in layers for p in m.parameters())
    assert torch.equal(initial_parameters(1, seed=7)[0], expected)


@pytest.mark.parametrize(("scheme", "deviation"), [("he", (2 / 50) ** 0.5), ("xavier", 0.02**0.5)])
def test_scaled_initialisations(scheme, deviation):
    model = network(initial_parameters(1, scheme)[0], "relu", "bp")
    assert model[2].weight.std().item() == pytest.approx(deviation, rel=0.06)  # 4 standard errors
    assert not any(m.bias.any() for m in model if isinstance(m, nn.Linear))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first = initial_parameters(2, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(initial_parameters(5, seed=3)[:2], first)
    assert not torch.equal(initial_parameters(2, seed=4), first)


# --- the forward pass


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_outputs_and_pre_activations_in_numpy(problem, activation):
    f = {"relu": lambda z: z.clip(0), "tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z))}
    rows = initial_parameters(2, seed=1)
    hidden = pre_activations(rows, problem.x, activation)
    output = predict(rows, problem.x, activation)
    assert hidden.shape == (2, 4, 5, 50)
    for index, row in enumerate(rows.numpy()):
        expected_hidden, expected_output = by_hand(row, problem.x, f[activation])
        np.testing.assert_allclose(hidden[index], expected_hidden, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(output[index], expected_output, rtol=1e-12, atol=1e-13)
        single = network(rows[index], activation, "bp")(problem.x[:, None])[:, 0]
        torch.testing.assert_close(single, output[index])


def test_generalisation_mse_in_numpy(problem):
    trained = train_one(problem, initial_parameters(2), Optimisation(max_steps=1))
    x, mse = np.linspace(-1, 3, 401), generalisation_mse(problem, trained)
    for row, found in zip(trained.parameters.numpy(), mse, strict=True):
        _, output = by_hand(row, x, lambda z: z.clip(0))
        assert found == pytest.approx(np.mean((output - np.polyval([1, -3, -1, 1], x)) ** 2))


# --- training


@pytest.mark.parametrize("optimiser", sorted(LR))
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_a_few_steps_equal_those_of_single_networks(problem, optimiser, activation):
    start = initial_parameters(2, seed=5)
    optimisation = Optimisation(optimiser, LR[optimiser] / 10, max_steps=12)
    batches = [Batch(start, activation, rule, optimisation) for rule in RULES]
    for rule, trained in zip(RULES, train(problem, batches), strict=True):
        for index in range(2):
            steps, mse, parameters = alone(problem, start[index], optimisation, activation, rule)
            assert trained.steps[index] == steps
            assert trained.mse[index] == pytest.approx(mse, rel=1e-11)
            torch.testing.assert_close(trained.parameters[index], parameters, rtol=1e-9, atol=1e-11)


def test_a_step_of_each_rule_in_numpy(problem):
    """Gradient descent on a network whose hidden layers are worked out by hand."""
    lr, start = 1e-3, initial_parameters(1)
    x, y = problem.x.numpy()[:, None], problem.y.numpy()[:, None]
    hidden, output = by_hand(start[0].numpy(), x[:, 0], lambda z: z.clip(0))
    weights = [m.weight.detach().numpy() for m in network(start[0], "relu", "bp")[::2]]
    slopes = {
        "bp": lambda z: (z > 0).astype(float),
        "linear": np.ones_like,
        "as-printed": lambda z: z,
    }
    optimisation = Optimisation("gradient descent", lr, max_steps=1)
    for rule, slope in slopes.items():
        g = 2 / len(x) * (output[:, None] - y)
        update = []
        for layer in reversed(range(5)):
            h = hidden[layer - 1].clip(0) if layer else x
            update = [(g.T @ h).ravel(), g.sum(0), *update]
            if layer:
                g = g @ weights[layer] * slope(hidden[layer - 1])
        trained = train_one(problem, start, optimisation, rule=rule)
        np.testing.assert_allclose(
            trained.parameters[0] - start[0], -lr * np.concatenate(update), rtol=1e-9, atol=1e-15
        )


def test_whole_runs_equal_those_of_single_networks(problem):
    start, optimisation = initial_parameters(3), Optimisation(tolerance=1e-3, max_steps=250)
    batches = [Batch(start, "relu", rule, optimisation) for rule in ("bp", "linear")]
    found = train(problem, batches)
    assert len({int(steps) for trained in found for steps in trained.steps}) > 2  # one by one
    for batch, trained in zip(batches, found, strict=True):
        for index in range(3):
            steps, mse, parameters = alone(problem, start[index], optimisation, rule=batch.rule)
            assert trained.steps[index] == steps
            assert trained.converged[index] == (mse <= optimisation.tolerance)
            assert trained.mse[index] == pytest.approx(mse, rel=1e-4)
            torch.testing.assert_close(trained.parameters[index], parameters, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimiser", ["momentum", "gradient descent"])
def test_optimiser_state_follows_the_networks_that_stay(problem, optimiser):
    start = initial_parameters(4)
    optimisation = Optimisation(optimiser, LR[optimiser], tolerance=0.2, max_steps=500)
    trained = train_one(problem, start, optimisation)
    assert len(set(trained.steps)) > 1
    for index in range(4):
        steps, _, parameters = alone(problem, start[index], optimisation)
        assert trained.steps[index] == steps
        torch.testing.assert_close(trained.parameters[index], parameters, rtol=1e-8, atol=1e-10)


def test_company_does_not_matter(problem):
    start, optimisation = initial_parameters(4), Optimisation(tolerance=1e-2, max_steps=150)
    batches = [Batch(start, "relu", rule, optimisation) for rule in RULES]
    for rule, together in zip(RULES, train(problem, batches), strict=True):
        apart = train_one(problem, start[1:2], optimisation, rule=rule)
        assert together.steps[1] == apart.steps[0]
        torch.testing.assert_close(
            together.parameters[1], apart.parameters[0], rtol=1e-6, atol=1e-8
        )


def test_recorded_parameters_have_the_recorded_mse(problem):
    optimisation = Optimisation(tolerance=1e-3, max_steps=300)
    trained = train_one(problem, initial_parameters(3), optimisation)
    error = predict(trained.parameters, problem.x, "relu") - problem.y
    np.testing.assert_allclose(error.square().mean(1), trained.mse, rtol=1e-6)
    np.testing.assert_array_equal(trained.converged, trained.mse <= 1e-3)


def test_who_is_there_already_takes_no_step(problem):
    start = initial_parameters(2)
    trained = train_one(problem, start, Optimisation(tolerance=1e6))
    assert trained.converged.all()
    assert not trained.steps.any()
    assert torch.equal(trained.parameters, start)


@pytest.mark.parametrize("networks", [1, 2])
def test_start_is_not_changed(problem, networks):
    start = initial_parameters(networks)
    before = start.clone()
    train_one(problem, start, Optimisation(max_steps=3), rule="linear")
    assert torch.equal(start, before)
    assert not start.requires_grad


def test_diverged_networks_leave_and_disturb_nobody(problem):
    start = initial_parameters(3)
    wild = start.clone()
    wild[1] *= 1e60  # the output grows with the fifth power
    trained, calm = (train_one(problem, s, Optimisation(max_steps=30)) for s in (wild, start))
    assert trained.diverged.tolist() == [False, True, False]
    assert trained.steps[1] < 30
    for index in (0, 2):
        assert trained.steps[index] == 30
        torch.testing.assert_close(trained.parameters[index], calm.parameters[index])


def test_training_keeps_the_dtype(problem):
    trained = train_one(problem, initial_parameters(1).float(), Optimisation(max_steps=2))
    assert trained.parameters.dtype == torch.float32
    assert generalisation_mse(problem, trained).shape == (1,)


def test_training_uses_one_thread_and_gives_the_others_back(problem):
    optimisation, start = Optimisation(max_steps=20), initial_parameters(2)
    torch.set_num_threads(2)
    two = train_one(problem, start, optimisation)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    one = train_one(problem, start, optimisation)
    assert torch.equal(one.parameters, two.parameters)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cubic_problem(seed=-1), "seed -1: a value of 0 or more is needed"),
        (lambda: cubic_problem(points=1), "number of points 1: a value of 2 or more is needed"),
        (lambda: cubic_problem(noise=-0.1), "noise -0.1: a value of 0 or more is needed"),
        (
            lambda: initial_parameters(0),
            "number of initialisations 0: a value of 1 or more is needed",
        ),
        (
            lambda: initial_parameters(1, "glorot"),
            "unknown initialisation 'glorot': choose from default, he, xavier",
        ),
        (
            lambda: Optimisation("sgd"),
            "unknown optimiser 'sgd': choose from adam, momentum, gradient descent",
        ),
        (lambda: Optimisation(lr=0.0), "learning rate 0.0: a value above 0 is needed"),
        (lambda: Optimisation(lr=float("nan")), "learning rate nan: a value above 0 is needed"),
        (lambda: Optimisation(tolerance=-1), "tolerance -1: a value above 0 is needed"),
        (lambda: Optimisation(max_steps=0), "max_steps 0: a value of 1 or more is needed"),
        (
            lambda: Batch(torch.zeros(2, 7800), "relu", "bp", Optimisation()),
            "starting points of shape [2, 7800]: [networks, 7801] is needed",
        ),
        (
            lambda: Batch(torch.zeros(0, 7801), "relu", "bp", Optimisation()),
            "starting points of shape [0, 7801]: [networks, 7801] is needed",
        ),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_allowed(call, message):
    with pytest.raises(LbpError) as raised:
        call()
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("activation", "rule", "message"),
    [
        ("selu", "bp", "unknown activation 'selu': choose from tanh, relu, sigmoid, "),
        ("relu", "bq", "unknown backward rule 'bq': choose from bp, linear, as-printed, "),
    ],
)
def test_an_unknown_name_is_told_before_anything_is_trained(
    problem, monkeypatch, activation, rule, message
):
    def trained(*arguments):
        raise AssertionError("something is trained")

    monkeypatch.setattr(small_networks, "_train", trained)
    start, optimisation = initial_parameters(1), Optimisation()
    with pytest.raises(LbpError, match=message):
        train(
            problem,
            [
                Batch(start, "relu", "bp", optimisation),
                Batch(start, activation, rule, optimisation),
            ],
        )
    with pytest.raises(LbpError, match=message):
        network(start[0], activation, rule)
