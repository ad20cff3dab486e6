"""Small networks that fit a few points (section 1.1 of the paper), many trained as one batch.

The target is y = x³ - 3x² - x + 1 plus noise. The network is 1-50-50-50-50-1 (7,801 parameters) and
is trained on all points at once until its training MSE is at most 1e-6. As a loop, a hundred
networks take some 30,000 steps of a millisecond or less, nearly all of it overhead. Here every
operation works on all networks of a batch. A network that is done leaves the batch, so that nobody
waits for the slowest one. `lbp.bench` measures the gain.

Everything is computed in float64. The medians of ReLU networks under "bp" and "linear" are then the
same to 14 digits on processors that round differently. Runs of a thousand steps and more under
"linear" and "as-printed" are chaotic in any precision: a difference in the last bit grows until it
shows.
"""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lbp.errors import LbpError, check_choice
from lbp.lab.units import UNITS
from lbp.linearization import linearize

WIDTHS = (1, 50, 50, 50, 50, 1)
LAYERS = tuple(itertools.pairwise(WIDTHS))  # (inputs, outputs) of each linear layer
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
class Optimisation:
    """How networks are trained: on all points in each step, at a constant learning rate.

    Attributes:
        optimiser: A name in `OPTIMISERS`; "momentum" is gradient descent with momentum 0.9.
        lr: Learning rate, above 0.
        tolerance: The training MSE at which a network has converged, above 0.
        max_steps: Steps after which a network is given up, 1 or more.

    Raises:
        LbpError: If an attribute is not what is allowed.
    """

    optimiser: str = "adam"
    lr: float = 1e-3
    tolerance: float = 1e-6
    max_steps: int = 5000

    def __post_init__(self) -> None:
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        _check_above_zero("learning rate", self.lr)
        _check_above_zero("tolerance", self.tolerance)
        _check_at_least("max_steps", self.max_steps, 1)


@dataclass(frozen=True)
class Batch:
    """Networks that are trained together, and how.

    Attributes:
        start: Starting points, [networks, 7801]; their dtype is that of the training.
        activation: A name in `lbp.lab.units.UNITS`.
        rule: A name in `lbp.literature.BUILT_IN`.
        optimisation: The optimiser, and when a network is done.

    Raises:
        LbpError: If `start` has another shape.
    """

    start: Tensor
    activation: str
    rule: str
    optimisation: Optimisation

    def __post_init__(self) -> None:
        shape = list(self.start.shape)
        if len(shape) != 2 or not shape[0] or shape[1] != PARAMETERS:
            raise LbpError(f"starting points of shape {shape}: [networks, {PARAMETERS}] is needed")


@dataclass(frozen=True)
class Trained:
    """The networks of a batch after training, in the order of their starting points.

    Attributes:
        activation: Their activation function.
        converged: Whether the training MSE reached the tolerance, [networks].
        diverged: Whether the training MSE became infinite or not a number, [networks].
        steps: Updates made until one of both, or until the network was given up, [networks].
        mse: Training MSE then, [networks].
        parameters: Parameters then, [networks, 7801], each row in the order of
            `torch.nn.utils.parameters_to_vector`.
    """

    activation: str
    converged: np.ndarray
    diverged: np.ndarray
    steps: np.ndarray
    mse: np.ndarray
    parameters: Tensor


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
        activation: A name in `lbp.lab.units.UNITS`.
        rule: A name in `lbp.literature.BUILT_IN`.

    Returns:
        A module that maps [points, 1] to [points, 1], in the dtype of `parameters`.

    Raises:
        LbpError: If the activation or the rule is unknown.
    """
    modules: list[nn.Module] = []
    for inputs, outputs in LAYERS:
        modules += [nn.Linear(inputs, outputs, dtype=parameters.dtype), _stock_unit(activation)]
    model = nn.Sequential(*modules[:-1])  # the output is linear
    nn.utils.vector_to_parameters(parameters.clone(), model.parameters())
    return linearize(model, rule)[0]


def _stock_unit(activation: str) -> nn.Module:
    check_choice("activation", activation, UNITS)
    return UNITS[activation]()


# A batch holds weights as [n, inputs, outputs], so that no product and no gradient needs a
# transposed copy, and biases as [n, 1, outputs].
def _unpack(flat: Tensor) -> list[Tensor]:
    """Return copies of weights and biases, layer by layer, from [n, 7801]."""
    parts = flat.split([size for i, o in LAYERS for size in (i * o, o)], dim=1)
    unpacked = []
    for (inputs, outputs), weight, bias in zip(LAYERS, parts[::2], parts[1::2], strict=True):
        transposed = weight.view(-1, outputs, inputs).mT
        unpacked += [
            transposed.clone(memory_format=torch.contiguous_format),
            bias.unsqueeze(1).clone(),
        ]
    return unpacked


def _pack(tensors: Sequence[Tensor]) -> Tensor:
    """Return [n, 7801]: the inverse of `_unpack`."""
    return torch.cat([t.mT.flatten(1) for t in tensors], dim=1)


def _forward(tensors: Sequence[Tensor], x: Tensor, unit: nn.Module) -> Iterator[Tensor]:
    """Yield each layer's pre-activations, [n, points, outputs]; the last are the outputs."""
    h = x  # [n, points, 1]
    for layer in range(HIDDEN + 1):
        z = torch.baddbmm(tensors[2 * layer + 1], h, tensors[2 * layer])
        yield z
        if layer < HIDDEN:
            h = unit(z)


class _Optimiser:
    """PyTorch's Adam and SGD for a stack of networks, by the fused calls that they end in.

    What these do to one element depends on no other, so a stack can share them. Without the
    optimiser objects around them a step has half the overhead, and to drop networks is to index.
    """

    def __init__(self, parameters: Sequence[Tensor], optimisation: Optimisation) -> None:
        self.name, self.lr = optimisation.optimiser, optimisation.lr
        self.moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
        self.steps = [torch.zeros(()) for _ in parameters]

    def step(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        first, second = self.moments
        for count in self.steps:
            count += 1
        if self.name == "adam":
            torch._fused_adam_(
                parameters, gradients, first, second, [], self.steps,
                lr=self.lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
                amsgrad=False, maximize=False,
            )  # fmt: skip
            return
        momentum = 0.9 if self.name == "momentum" else 0.0
        torch._fused_sgd_(
            parameters, gradients, first if momentum else [],
            lr=self.lr, momentum=momentum, weight_decay=0.0, dampening=0.0, nesterov=False,
            maximize=False, is_first_step=False,
        )  # fmt: skip

    def keep(self, index: Tensor) -> None:
        self.moments = [[moment[index] for moment in moments] for moments in self.moments]


def train(problem: Problem, batches: Sequence[Batch]) -> list[Trained]:
    """Train each batch, as many of them at once as there are cores.

    A network's training does not depend on the others. It ends with the first step at which its
    training MSE is at most the tolerance or not finite.

    A batch has one thread: it is no faster on two at this size, and its results do not depend on
    how many cores there are.

    Args:
        problem: What to fit.
        batches: What to train.

    Returns:
        The trained networks of each batch.

    Raises:
        LbpError: If an activation or a rule is unknown.

    Source: Yazdani (2018), section 1.1, Algorithms 1 and 2.
    """
    # Made here, so that an unknown name is told before anything is trained.
    units = [linearize(_stock_unit(batch.activation), batch.rule)[0] for batch in batches]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(_train, itertools.repeat(problem), batches, units))
    finally:
        torch.set_num_threads(threads)  # the batches have set the default of new threads


def _train(problem: Problem, batch: Batch, unit: nn.Module) -> Trained:
    """Train a batch on one thread; `unit` is its activation function under its rule."""
    torch.set_num_threads(1)  # of this Python thread alone
    start, optimisation = batch.start, batch.optimisation
    n = len(start)
    points = problem.x.to(start.dtype).view(1, -1, 1).repeat(n, 1, 1)  # [n, points, 1]
    y = problem.y.to(start.dtype).view(1, -1, 1)
    steps = torch.zeros(n, dtype=torch.int64)
    mse = torch.zeros(n, dtype=start.dtype)
    final = torch.zeros_like(start)

    networks = torch.arange(n)  # those still in training
    parameters = [p.requires_grad_() for p in _unpack(start)]  # updated in place
    optimiser = _Optimiser(parameters, optimisation)
    for step in range(optimisation.max_steps + 1):
        *_, output = _forward(parameters, points, unit)
        error = output.detach() - y  # [n, points, 1]
        loss = error.square().mean((1, 2))  # [n]
        going = (loss > optimisation.tolerance) & (loss < math.inf)  # false for NaN, too
        if step == optimisation.max_steps:
            going.fill_(False)
        # d loss / d output, and back from there
        gradients = list(torch.autograd.grad(output, parameters, error.mul_(2 / len(problem.x))))
        if not going.all():
            out, stay = (~going).nonzero()[:, 0], going.nonzero()[:, 0]
            steps[networks[out]], mse[networks[out]] = step, loss[out]
            final[networks[out]] = _pack([p.detach()[out] for p in parameters])
            if not len(stay):
                break
            networks, points = networks[stay], points[stay]
            parameters = [p.detach()[stay].requires_grad_() for p in parameters]
            gradients = [gradient[stay] for gradient in gradients]
            optimiser.keep(stay)
        with torch.no_grad():
            optimiser.step(parameters, gradients)
    return Trained(
        activation=batch.activation,
        converged=(mse <= optimisation.tolerance).numpy(),
        diverged=(~mse.isfinite()).numpy(),
        steps=steps.numpy(),
        mse=mse.numpy(),
        parameters=final,
    )


def pre_activations(parameters: Tensor, x: Tensor, activation: str) -> Tensor:
    """Return the pre-activations of all hidden units, [n, 4, points, 50].

    Args:
        parameters: [n, 7801].
        x: Inputs, [points].
        activation: A name in `lbp.lab.units.UNITS`.

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
    return list(_forward(_unpack(parameters), inputs, _stock_unit(activation)))


def generalisation_mse(problem: Problem, trained: Trained) -> np.ndarray:
    """Return each network's MSE against the noiseless target on the grid, [networks]."""
    output = predict(trained.parameters, problem.grid, trained.activation)  # [networks, 401]
    return (output - problem.target).square().mean(1).numpy()


def _check_at_least(what: str, value: float, least: float) -> None:
    if not value >= least:
        raise LbpError(f"{what} {value!r}: a value of {least} or more is needed")


def _check_above_zero(what: str, value: float) -> None:
    if not value > 0:
        raise LbpError(f"{what} {value!r}: a value above 0 is needed")
