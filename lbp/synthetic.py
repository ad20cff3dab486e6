"""Section 1.1, Figure 1: small networks fit five points, many of them trained as one batch.

The target is y = x³ - 3x² - x + 1 plus noise; the network is 1-50-50-50-50-1 (7,801 parameters),
trained on all points at once until its training MSE is at most 1e-6. 50 initialisations are trained
under each backward rule: as a loop, 100 small networks are some 30,000 steps of a millisecond or
less, nearly all of it overhead. Here every operation works on all networks, and a network that is
done leaves the batch, so that nobody waits for the slowest one. `lbp.bench` measures the gain.

Everything is float64: what a network learns under Linear Backprop depends on every bit, and with
float64 the rounded results are the same on another processor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from lbp.errors import LbpError, check_choice
from lbp.rules import ACTIVATIONS, RULES, Activation, activate

WIDTHS = (1, 50, 50, 50, 50, 1)
LAYERS = tuple(zip(WIDTHS, WIDTHS[1:], strict=False))  # (inputs, outputs) of each linear layer
HIDDEN = len(LAYERS) - 1
PARAMETERS = sum(inputs * outputs + outputs for inputs, outputs in LAYERS)  # 7,801
INITIALISATIONS = ("default", "he", "xavier")
OPTIMISERS = ("adam", "momentum", "gradient descent")


def cubic(x: Tensor) -> Tensor:
    """Return the noiseless target x³ - 3x² - x + 1, of the shape of `x`."""
    return x**3 - 3 * x**2 - x + 1


@dataclass(frozen=True)
class Problem:
    """Training points, and where generalisation is measured; all float64 and dimensionless.

    Attributes:
        x: Training inputs, [points].
        y: Training targets with noise, [points].
        grid: Inputs of the generalisation MSE, [401].
        target: The noiseless target on `grid`, [401].
    """

    x: Tensor
    y: Tensor
    grid: Tensor
    target: Tensor


def cubic_problem(seed: int = 0, points: int = 5, noise: float = 0.1) -> Problem:
    """Draw the paper's regression problem on [-1, 3].

    The paper does not name the interval; this one holds both turning points of the cubic.

    Args:
        seed: Seed of the noise, 0 or more.
        points: Number of equidistant training points, 2 or more.
        noise: Standard deviation of the noise, 0 or more.

    Returns:
        The problem.

    Raises:
        LbpError: If an argument is out of its range.

    Source: Yazdani (2018), section 1.1.
    """
    _check_at_least("seed", seed, 0)
    _check_at_least("number of points", points, 2)
    _check_at_least("noise", noise, 0)
    x = torch.linspace(-1, 3, points, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    y = cubic(x) + noise * torch.randn(points, generator=generator, dtype=torch.float64)
    grid = torch.linspace(-1, 3, 401, dtype=torch.float64)
    return Problem(x, y, grid, cubic(grid))


@dataclass(frozen=True)
class Recipe:
    """How networks are trained: on all points in each step, at a constant learning rate.

    Attributes:
        activation: A name in `lbp.rules.ACTIVATIONS`.
        optimiser: A name in `OPTIMISERS`; "momentum" is gradient descent with momentum 0.9.
        lr: Learning rate, above 0.
        tolerance: The training MSE at which a network has converged, above 0.
        max_steps: Steps after which a network is given up, 1 or more.

    Raises:
        LbpError: If an attribute is not what is allowed.
    """

    activation: str = "relu"
    optimiser: str = "adam"
    lr: float = 1e-3
    tolerance: float = 1e-6
    max_steps: int = 5000

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        _check_above_zero("learning rate", self.lr)
        _check_above_zero("tolerance", self.tolerance)
        _check_at_least("max_steps", self.max_steps, 1)


@dataclass(frozen=True)
class Trained:
    """Networks after training, rule after rule and in each rule init after init.

    Attributes:
        activation: Their activation function.
        rules: The rule of each network, [networks].
        inits: The index of each network's initialisation, [networks].
        converged: Whether the training MSE reached the tolerance, [networks].
        diverged: Whether the training MSE became infinite or not a number, [networks].
        steps: Updates made until one of both, or until the network was given up, [networks].
        mse: Training MSE then, [networks].
        parameters: Parameters then, [networks, 7801], each row in the order of
            `torch.nn.utils.parameters_to_vector`.
    """

    activation: str
    rules: np.ndarray
    inits: np.ndarray
    converged: np.ndarray
    diverged: np.ndarray
    steps: np.ndarray
    mse: np.ndarray
    parameters: Tensor

    def of(self, rule: str) -> "Trained":
        """Return the networks trained under `rule`."""
        return self.where(self.rules == rule)

    def where(self, chosen: np.ndarray) -> "Trained":
        """Return the networks where `chosen`, bool [networks], is true."""
        return Trained(
            self.activation,
            self.rules[chosen],
            self.inits[chosen],
            self.converged[chosen],
            self.diverged[chosen],
            self.steps[chosen],
            self.mse[chosen],
            self.parameters[torch.from_numpy(chosen)],
        )


def initial_parameters(count: int, scheme: str = "default", seed: int = 0) -> Tensor:
    """Draw the starting points of `count` networks.

    Args:
        count: Number of networks, 1 or more.
        scheme: "default" is PyTorch's for `nn.Linear`: weights and biases uniform within
            ±1/√inputs. "he" is normal with variance 2/inputs, "xavier" uniform with variance
            2/(inputs + outputs), both with zero biases.
        seed: Seed, 0 or more. Network i does not depend on `count`.

    Returns:
        Parameters, float64 [count, 7801], each row in the order of
        `torch.nn.utils.parameters_to_vector`.

    Raises:
        LbpError: If an argument is not what is allowed.
    """
    _check_at_least("number of initialisations", count, 1)
    check_choice("initialisation", scheme, INITIALISATIONS)
    _check_at_least("seed", seed, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([_draw_network(scheme) for _ in range(count)])


def _draw_network(scheme: str) -> Tensor:
    layers = [nn.Linear(*widths, dtype=torch.float64) for widths in LAYERS]
    for layer in layers:
        if scheme == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif scheme == "xavier":
            nn.init.xavier_uniform_(layer.weight)
        if scheme != "default":
            nn.init.zeros_(layer.bias)
    return nn.utils.parameters_to_vector(nn.ModuleList(layers).parameters()).detach()


def network(parameters: Tensor, activation: str, rule: str) -> nn.Sequential:
    """Build one network as an ordinary module, to train alone or to look at.

    Args:
        parameters: One row of parameters, [7801].
        activation: A name in `lbp.rules.ACTIVATIONS`.
        rule: A name in `lbp.rules.RULES`.

    Returns:
        A module that maps [points, 1] to [points, 1], in the dtype of `parameters`.

    Raises:
        LbpError: If the activation or the rule is unknown.
    """
    modules: list[nn.Module] = []
    for inputs, outputs in LAYERS:
        modules += [
            nn.Linear(inputs, outputs, dtype=parameters.dtype),
            Activation(activation, rule),
        ]
    model = nn.Sequential(*modules[:-1])  # the output is linear
    nn.utils.vector_to_parameters(parameters.clone(), model.parameters())
    return model


# A batch holds weights as [n, inputs, outputs], so that no product and no gradient needs a
# transposed copy, and biases as [n, 1, outputs].
def _unpack(flat: Tensor) -> list[Tensor]:
    """Return weights and biases, layer by layer, from [n, 7801]."""
    parts = flat.split([size for i, o in LAYERS for size in (i * o, o)], dim=1)
    unpacked = []
    for (inputs, outputs), weight, bias in zip(LAYERS, parts[::2], parts[1::2], strict=True):
        unpacked += [weight.view(-1, outputs, inputs).mT.contiguous(), bias.unsqueeze(1).clone()]
    return unpacked


def _pack(tensors: Sequence[Tensor]) -> Tensor:
    """Return [n, 7801]: the inverse of `_unpack`."""
    return torch.cat([t.mT.flatten(1) for t in tensors], dim=1)


def _forward(
    tensors: Sequence[Tensor], x: Tensor, activation: str, groups: Sequence[tuple[str, int]]
) -> Iterator[Tensor]:
    """Yield each layer's pre-activations, [n, points, outputs]; the last are the outputs.

    `groups` names each rule and how many networks follow it, in the order of the batch.
    """
    sizes = [size for _, size in groups]
    h = x  # [n, points, 1]
    for layer in range(HIDDEN + 1):
        a = torch.baddbmm(tensors[2 * layer + 1], h, tensors[2 * layer])
        yield a
        if layer < HIDDEN and len(groups) == 1:
            h = activate(a, activation, groups[0][0])
        elif layer < HIDDEN:
            parts = zip(a.split(sizes), groups, strict=True)
            h = torch.cat([activate(part, activation, rule) for part, (rule, _) in parts])


class _Batch:
    """The networks still in training: which they are, their parameters, the optimiser's state."""

    def __init__(self, start: Tensor, rules: Sequence[str], recipe: Recipe) -> None:
        self.networks = torch.arange(len(start) * len(rules))
        self.rule = torch.arange(len(rules)).repeat_interleave(len(start))  # index of each's rule
        self.names = rules
        tensors = _unpack(start.repeat(len(rules), 1))
        self.parameters = [t.requires_grad_() for t in tensors]
        self.optimiser = _optimiser(self.parameters, recipe)

    def groups(self) -> list[tuple[str, int]]:
        """Return each rule with networks in the batch, and how many."""
        sizes = torch.bincount(self.rule, minlength=len(self.names)).tolist()
        return [(name, size) for name, size in zip(self.names, sizes, strict=True) if size]

    def set_gradients(self, output: Tensor, gradient: Tensor) -> None:
        """Run backward from the loss's gradient with respect to the output, [n, points, 1]."""
        gradients = torch.autograd.grad(output, self.parameters, gradient)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def keep(self, index: Tensor) -> None:
        """Drop all networks but these, with their gradients and optimiser state."""
        self.networks, self.rule = self.networks[index], self.rule[index]
        self.parameters = [self._kept(parameter, index) for parameter in self.parameters]
        self.optimiser.param_groups[0]["params"] = self.parameters

    def _kept(self, old: Tensor, index: Tensor) -> Tensor:
        new = old.detach()[index].requires_grad_()
        assert old.grad is not None
        new.grad = old.grad[index]
        self.optimiser.state[new] = {
            name: value[index] if value.shape == old.shape else value
            for name, value in self.optimiser.state.pop(old, {}).items()
            if value is not None
        }
        return new


def _optimiser(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    # PyTorch's own: what they do to one element depends on no other, so a stack of networks can
    # share them. "fused" updates everything in one pass over memory.
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, fused=True)
    momentum = 0.9 if recipe.optimiser == "momentum" else 0.0
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=momentum, fused=True)


def train(problem: Problem, start: Tensor, rules: Sequence[str], recipe: Recipe) -> Trained:
    """Train every starting point under every rule, all in one batch.

    A network's training does not depend on the others. It ends with the first step at which its
    training MSE is at most `recipe.tolerance` or not finite.

    Args:
        problem: What to fit.
        start: Starting points, [inits, 7801]; the dtype is that of the training.
        rules: Different names in `lbp.rules.RULES`.
        recipe: How to train.

    Returns:
        The trained networks, [len(rules) · inits] of them.

    Raises:
        LbpError: If a rule is unknown or named twice, or `start` has another shape.

    Source: Yazdani (2018), section 1.1, Algorithms 1 and 2.
    """
    _check_rules(rules)
    if start.ndim != 2 or start.shape[1] != PARAMETERS or not len(start):
        raise LbpError(
            f"starting points of shape {list(start.shape)}: [inits, {PARAMETERS}] is needed"
        )
    inits, n = len(start), len(start) * len(rules)
    x = problem.x.to(start.dtype).view(1, -1, 1)  # [1, points, 1]
    y = problem.y.to(start.dtype).view(1, -1, 1)
    steps = torch.zeros(n, dtype=torch.int64)
    mse = torch.zeros(n, dtype=start.dtype)
    parameters = torch.zeros(n, PARAMETERS, dtype=start.dtype)

    batch = _Batch(start, rules, recipe)
    points, groups = x.repeat(n, 1, 1), batch.groups()
    for step in range(recipe.max_steps + 1):
        *_, output = _forward(batch.parameters, points, recipe.activation, groups)
        error = output.detach() - y  # [n, points, 1]
        loss = error.square().mean((1, 2))  # [n]
        going = loss > recipe.tolerance  # false where it is not a number, too
        if step == recipe.max_steps:
            going.fill_(False)
        batch.set_gradients(output, error.mul_(2 / len(problem.x)))  # d loss / d output
        if not going.all():
            out, stay = (~going).nonzero()[:, 0], going.nonzero()[:, 0]
            networks = batch.networks[out]
            steps[networks], mse[networks] = step, loss[out]
            parameters[networks] = _pack([p.detach()[out] for p in batch.parameters])
            if not len(stay):
                break
            batch.keep(stay)
            points, groups = x.repeat(len(stay), 1, 1), batch.groups()
        batch.optimiser.step()
    return Trained(
        recipe.activation,
        np.repeat(np.array(rules), inits),
        np.tile(np.arange(inits), len(rules)),
        (mse <= recipe.tolerance).numpy(),
        (~mse.isfinite()).numpy(),
        steps.numpy(),
        mse.numpy(),
        parameters,
    )


def pre_activations(parameters: Tensor, x: Tensor, activation: str) -> Tensor:
    """Return the pre-activations of all hidden units, [n, 4, points, 50].

    Args:
        parameters: [n, 7801].
        x: Inputs, [points].
        activation: A name in `lbp.rules.ACTIVATIONS`.

    Raises:
        LbpError: If the activation is unknown.
    """
    return torch.stack(_layers(parameters, x, activation)[:-1], dim=1)


def predict(parameters: Tensor, x: Tensor, activation: str) -> Tensor:
    """Return the networks' outputs, [n, points]; arguments as in `pre_activations`."""
    return _layers(parameters, x, activation)[-1][..., 0]


@torch.no_grad()
def _layers(parameters: Tensor, x: Tensor, activation: str) -> list[Tensor]:
    inputs = x.to(parameters.dtype).view(1, -1, 1).repeat(len(parameters), 1, 1)
    return list(_forward(_unpack(parameters), inputs, activation, [("bp", len(parameters))]))


def generalisation_mse(problem: Problem, trained: Trained) -> np.ndarray:
    """Return each network's MSE against the noiseless target on the grid, [networks]."""
    output = predict(trained.parameters, problem.grid, trained.activation)  # [networks, 401]
    return (output - problem.target).square().mean(1).numpy()


def _check_rules(rules: Sequence[str]) -> None:
    for rule in rules:
        check_choice("backward rule", rule, RULES)
    if not rules or len(set(rules)) < len(rules):
        raise LbpError(f"rules {list(rules)}: name one or more of {', '.join(RULES)}, each once")


def _check_at_least(what: str, value: float, least: float) -> None:
    if not value >= least:
        raise LbpError(f"{what} {value!r}: a value of {least} or more is needed")


def _check_above_zero(what: str, value: float) -> None:
    if not value > 0:
        raise LbpError(f"{what} {value!r}: a value above 0 is needed")
