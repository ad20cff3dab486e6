"""Section 1.1, Figure 1: small networks fit five points, many of them trained as one batch.

The target is y = x³ - 3x² - x + 1 plus noise; the network is 1-50-50-50-50-1 (7,801 parameters),
trained on all points at once until its training MSE is at most 1e-6. 50 initialisations are trained
under each backward rule: as a loop, 100 small networks are some 30,000 steps of a millisecond or
less, nearly all of it overhead. Here every operation works on all networks of a rule, and a network
that is done leaves the batch, so that nobody waits for the slowest one. `lbp.bench` measures the
gain.

The figure is computed in float64. Its ReLU medians under "bp" and "linear" are then the same to 14
digits on processors that round differently. Runs of a thousand steps and more under "linear" and
"as-printed" are chaotic in any precision: a difference in the last bit grows until it shows.
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
from lbp.rules import ACTIVATIONS, RULES, Activation, activate

WIDTHS = (1, 50, 50, 50, 50, 1)
LAYERS = tuple(itertools.pairwise(WIDTHS))  # (inputs, outputs) of each linear layer
HIDDEN = len(LAYERS) - 1
PARAMETERS = sum(inputs * outputs + outputs for inputs, outputs in LAYERS)  # 7,801
INITIALISATIONS = ("default", "he", "xavier")
OPTIMISERS = ("adam", "momentum", "gradient descent")
# Learning rates of the table: with each of them bp converges from every initialisation.
TABLE_LR = {"adam": 1e-3, "momentum": 1e-3, "gradient descent": 5e-3}
SATURATED = math.log(99)  # |a| above which sigmoid(a) is within 0.01 of 0 or 1


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


def _forward(tensors: Sequence[Tensor], x: Tensor, activation: str, rule: str) -> Iterator[Tensor]:
    """Yield each layer's pre-activations, [n, points, outputs]; the last are the outputs."""
    h = x  # [n, points, 1]
    for layer in range(HIDDEN + 1):
        a = torch.baddbmm(tensors[2 * layer + 1], h, tensors[2 * layer])
        yield a
        if layer < HIDDEN:
            h = activate(a, activation, rule)


class _Optimiser:
    """PyTorch's Adam and SGD for a stack of networks, by the fused calls that they end in.

    What these do to one element depends on no other, so a stack can share them. Without the
    optimiser objects around them a step has half the overhead, and to drop networks is to index.
    """

    def __init__(self, parameters: Sequence[Tensor], recipe: Recipe) -> None:
        self.recipe = recipe
        self.moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
        self.steps = [torch.zeros(()) for _ in parameters]

    def step(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        first, second = self.moments
        lr, decay = self.recipe.lr, 0.0
        for count in self.steps:
            count += 1
        if self.recipe.optimiser == "adam":
            torch._fused_adam_(
                parameters, gradients, first, second, [], self.steps,
                lr=lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=decay,
                amsgrad=False, maximize=False,
            )  # fmt: skip
            return
        momentum = 0.9 if self.recipe.optimiser == "momentum" else 0.0
        torch._fused_sgd_(
            parameters, gradients, first if momentum else [],
            lr=lr, momentum=momentum, weight_decay=decay, dampening=0.0, nesterov=False,
            maximize=False, is_first_step=False,
        )  # fmt: skip

    def keep(self, index: Tensor) -> None:
        self.moments = [[moment[index] for moment in moments] for moments in self.moments]


def train(problem: Problem, start: Tensor, rules: Sequence[str], recipe: Recipe) -> Trained:
    """Train every starting point under every rule, each rule's as one batch.

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
    return _join(_train_all(problem, [(start, rule, recipe) for rule in rules]))


def _train_all(problem: Problem, jobs: Sequence[tuple[Tensor, str, Recipe]]) -> list[Trained]:
    """Train each job's networks as one batch, as many jobs at once as there are cores.

    On one thread a job is as fast as on two at this size, and its results do not depend on how many
    cores there are.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda job: _train(problem, *job), jobs))
    finally:
        torch.set_num_threads(threads)  # the jobs have set the default of new threads


def _join(parts: Sequence[Trained]) -> Trained:
    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Trained(
        parts[0].activation,
        column("rules"),
        column("inits"),
        column("converged"),
        column("diverged"),
        column("steps"),
        column("mse"),
        torch.cat([part.parameters for part in parts]),
    )


def _train(problem: Problem, start: Tensor, rule: str, recipe: Recipe) -> Trained:
    """Train every starting point under one rule, in one batch and on one thread."""
    torch.set_num_threads(1)  # of this Python thread alone
    n = len(start)
    points = problem.x.to(start.dtype).view(1, -1, 1).repeat(n, 1, 1)  # [n, points, 1]
    y = problem.y.to(start.dtype).view(1, -1, 1)
    steps = torch.zeros(n, dtype=torch.int64)
    mse = torch.zeros(n, dtype=start.dtype)
    final = torch.zeros_like(start)

    networks = torch.arange(n)  # those still in training
    parameters = [p.requires_grad_() for p in _unpack(start.clone())]  # updated in place
    optimiser = _Optimiser(parameters, recipe)
    for step in range(recipe.max_steps + 1):
        *_, output = _forward(parameters, points, recipe.activation, rule)
        error = output.detach() - y  # [n, points, 1]
        loss = error.square().mean((1, 2))  # [n]
        going = (loss > recipe.tolerance) & (loss < math.inf)  # false for NaN, too
        if step == recipe.max_steps:
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
        recipe.activation,
        np.repeat(np.array([rule]), n),
        np.arange(n),
        (mse <= recipe.tolerance).numpy(),
        (~mse.isfinite()).numpy(),
        steps.numpy(),
        mse.numpy(),
        final,
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
    return list(_forward(_unpack(parameters), inputs, activation, "bp"))


def generalisation_mse(problem: Problem, trained: Trained) -> np.ndarray:
    """Return each network's MSE against the noiseless target on the grid, [networks]."""
    output = predict(trained.parameters, problem.grid, trained.activation)  # [networks, 401]
    return (output - problem.target).square().mean(1).numpy()


@dataclass(frozen=True)
class Figure1:
    """What Figure 1 shows.

    Attributes:
        problem: The five points and the target.
        relu: ReLU networks under every rule.
        relu_mse: Generalisation MSE of each network in `relu`, [networks].
        sigmoid: Sigmoid networks under "bp" and "linear".
    """

    problem: Problem
    relu: Trained
    relu_mse: np.ndarray
    sigmoid: Trained


def figure1(inits: int = 50, seed: int = 0, max_steps: int = 4000) -> Figure1:
    """Train everything that Figure 1 shows, from the same initialisations under each rule.

    Adam is the one optimiser of three (see `outcomes`) with which Linear Backprop converges from
    every default initialisation. With sigmoid units the learning rate is 1e-2 instead of 1e-3, for
    the same reason: at 3e-3 and 5e-3 fewer networks converge under Linear Backprop.

    Args:
        inits: Number of initialisations, 1 or more.
        seed: Seed of the noise and of the initialisations, 0 or more.
        max_steps: Steps after which a network is given up, 1 or more.

    Returns:
        The trained networks.

    Raises:
        LbpError: If an argument is out of its range.

    Source: Yazdani (2018), section 1.1, Figure 1.
    """
    relu = Recipe("relu", "adam", 1e-3, max_steps=max_steps)
    sigmoid = Recipe("sigmoid", "adam", 1e-2, max_steps=max_steps)
    problem, start = cubic_problem(seed), initial_parameters(inits, "default", seed)
    jobs = [(start, rule, relu) for rule in RULES]
    jobs += [(start, rule, sigmoid) for rule in ("linear", "bp")]
    *trained, linear, bp = _train_all(problem, jobs)
    relu_networks = _join(trained)
    mse = generalisation_mse(problem, relu_networks)
    return Figure1(problem, relu_networks, mse, _join([bp, linear]))


@dataclass(frozen=True)
class Outcome:
    """How training ended for one initialisation scheme, optimiser and rule.

    Attributes:
        scheme: A name in `INITIALISATIONS`.
        optimiser: A name in `OPTIMISERS`.
        lr: Learning rate.
        rule: A name in `lbp.rules.RULES`.
        inits: Number of networks.
        converged: How many of them reached the tolerance.
        diverged: How many had an MSE that was infinite or not a number.
        steps: Median steps of the converged ones, NaN if there are none.
        mse: Median generalisation MSE of the converged ones, NaN if there are none.
    """

    scheme: str
    optimiser: str
    lr: float
    rule: str
    inits: int
    converged: int
    diverged: int
    steps: float
    mse: float


def outcomes(inits: int = 6, seed: int = 0, max_steps: int = 2000) -> list[Outcome]:
    """Train ReLU networks with each initialisation scheme and optimiser, where the paper is silent.

    Args:
        inits: Number of initialisations of each scheme, 1 or more.
        seed: Seed of the noise and of the initialisations, 0 or more.
        max_steps: Steps after which a network is given up, 1 or more.

    Returns:
        One outcome for each optimiser, scheme and rule.

    Raises:
        LbpError: If an argument is out of its range.
    """
    problem = cubic_problem(seed)
    start = torch.cat([initial_parameters(inits, scheme, seed) for scheme in INITIALISATIONS])
    rules = ("bp", "linear")
    recipes = {name: Recipe("relu", name, lr, max_steps=max_steps) for name, lr in TABLE_LR.items()}
    parts = _train_all(problem, [(start, rule, r) for r in recipes.values() for rule in rules])
    found = []
    for number, (optimiser, recipe) in enumerate(recipes.items()):
        trained = _join(parts[2 * number : 2 * number + 2])
        mse = generalisation_mse(problem, trained)
        for index, scheme in enumerate(INITIALISATIONS):
            for rule in rules:
                mine = (trained.inits // inits == index) & (trained.rules == rule)
                good = mine & trained.converged
                ends = int(good.sum()), int((mine & trained.diverged).sum())
                medians = _median(trained.steps[good]), _median(mse[good])
                found.append(Outcome(scheme, optimiser, recipe.lr, rule, inits, *ends, *medians))
    return found


def measures(result: Figure1) -> dict[str, float]:
    """Return the numbers of Figure 1 by name; NaN where no network converged.

    `{rule}` is bp or linear, and as_printed where said; `{f}` is relu or sigmoid. Pre-activations
    are those of all four hidden layers at the five training points, in absolute value.

    - `inits`: initialisations under each rule.
    - `relu_{rule}_converged`, `_diverged`: networks; as_printed, too.
    - `relu_{rule}_steps`, `_mse`: median steps and generalisation MSE of the converged networks;
      as_printed, too.
    - `converged_min`: the smaller of `relu_bp_converged` and `relu_linear_converged`.
    - `mse_ratio`: `relu_linear_mse` by `relu_bp_mse`.
    - `as_printed_mse_ratio`: `relu_as_printed_mse` by `relu_bp_mse`.
    - `relu_linear_better`: share of initialisations from which linear generalises better than bp,
      among those that converge under both.
    - `sigmoid_{rule}_converged`, `_diverged`, `_steps`: as above.
    - `{f}_{rule}_median`, `_mean`, `_q99`: median, mean and 99th percentile of the pre-activations
      of the converged networks; `_all_median`, `_all_mean`, `_all_q99`: of all that stayed finite.
    - `{f}_{rule}_layer1_median`, `_layer1_mean` to `_layer4_`: of converged networks, by layer.
    - `sigmoid_{rule}_saturated`, `sigmoid_{rule}_all_saturated`: share of units whose output is
      within 0.01 of 0 or 1.
    - `{f}_preactivation_ratio`: `{f}_linear_median` by `{f}_bp_median`.
    - `{f}_preactivation_ratio_...`: linear by bp for the other names of pre-activations, such as
      `_mean`, `_all_mean`, `_saturated`, `_layer1_median`.
    - `{f}_preactivation_ratio_min_layer`: the smallest of the four layers' `_layer..._median`.

    Args:
        result: What `figure1` returned.
    """
    relu, sigmoid = result.relu, result.sigmoid
    found: dict[str, float] = {"inits": float((relu.rules == "bp").sum())}
    for rule in RULES:
        good = (relu.rules == rule) & relu.converged
        found |= _ends(relu, rule) | {f"relu_{_key(rule)}_mse": _median(result.relu_mse[good])}
    found["converged_min"] = min(found["relu_bp_converged"], found["relu_linear_converged"])
    found["mse_ratio"] = found["relu_linear_mse"] / found["relu_bp_mse"]
    found["as_printed_mse_ratio"] = found["relu_as_printed_mse"] / found["relu_bp_mse"]
    found["relu_linear_better"] = _share_better(result)
    for trained in (relu, sigmoid):
        f = trained.activation
        bp, linear = (_sizes(result.problem, trained.of(rule)) for rule in ("bp", "linear"))
        found |= {f"{f}_bp_{name}": value for name, value in bp.items()}
        found |= {f"{f}_linear_{name}": value for name, value in linear.items()}
        ratios = {n: linear[n] / bp[n] if bp[n] else math.nan for n in bp}
        layers = [ratios[f"layer{layer + 1}_median"] for layer in range(HIDDEN)]
        found[f"{f}_preactivation_ratio"] = ratios.pop("median")
        found[f"{f}_preactivation_ratio_min_layer"] = min(layers)
        found |= {f"{f}_preactivation_ratio_{name}": value for name, value in ratios.items()}
    return found | _ends(sigmoid, "bp") | _ends(sigmoid, "linear")


def _key(rule: str) -> str:
    return rule.replace("-", "_")


def _ends(trained: Trained, rule: str) -> dict[str, float]:
    mine, name = trained.of(rule), f"{trained.activation}_{_key(rule)}"
    return {
        f"{name}_converged": float(mine.converged.sum()),
        f"{name}_diverged": float(mine.diverged.sum()),
        f"{name}_steps": _median(mine.steps[mine.converged]),
    }


def _share_better(result: Figure1) -> float:
    bp, linear = result.relu.rules == "bp", result.relu.rules == "linear"
    both = result.relu.converged[bp] & result.relu.converged[linear]
    better = (result.relu_mse[linear] < result.relu_mse[bp])[both]
    return float(better.mean()) if len(better) else math.nan


def _sizes(problem: Problem, trained: Trained) -> dict[str, float]:
    """Return statistics of absolute pre-activations, for the networks of one rule."""
    a = pre_activations(trained.parameters, problem.x, trained.activation).abs().numpy()
    good = a[trained.converged]  # [networks, 4, points, 50]
    found = {}
    for prefix, values in (("", good), ("all_", a[~trained.diverged])):
        found[f"{prefix}median"] = _median(values)
        found[f"{prefix}mean"] = float(values.mean()) if values.size else math.nan
        found[f"{prefix}q99"] = float(np.quantile(values, 0.99)) if values.size else math.nan
        if trained.activation == "sigmoid":
            share = (values > SATURATED).mean() if values.size else math.nan
            found[f"{prefix}saturated"] = float(share)
    for layer in range(HIDDEN):
        values = good[:, layer]
        found[f"layer{layer + 1}_median"] = _median(values)
        found[f"layer{layer + 1}_mean"] = float(values.mean()) if values.size else math.nan
    return found


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else math.nan


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
