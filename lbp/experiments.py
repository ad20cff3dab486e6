"""Which runs each figure needs, at which scale."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lbp.config import RunConfig
from lbp.errors import check_choice

# A scale is a set of runs; a profile says which scales a notebook or command works with.
SCALES = ("smoke", "cpu", "paper")
PROFILES = ("recorded", *SCALES)

SCALE_NOTES = {
    "smoke": "a test on generated stand-in images, not CIFAR-10: it shows nothing about the paper",
    "cpu": "reduced scale: a narrower network, fewer images and fewer epochs than in the paper",
    "paper": "full scale, as in the paper",
}

RULES = ("bp", "linear")
LEARNING_RATES = (1e-3, 1e-4, 1e-5)  # the paper's grid
WEIGHT_DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SEEDS = (0, 1, 2)

# What a scale changes of the full runs: the long ones of Figures 2 and 3, and the short ones of
# the grids. Below full scale the batches are smaller, so that the few images give more steps.
_STAND_IN: dict[str, Any] = {
    "width": 1 / 16, "dataset": "stand-in", "train_images": 200, "test_images": 100, "batch": 50,
    "epochs": 2, "precision": "float32",
}  # fmt: skip
_CPU: dict[str, Any] = {"width": 1 / 8, "batch": 32, "precision": "float32"}
LONG: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 1000},
    "cpu": _CPU | {"train_images": 20_000, "test_images": 4_000, "epochs": 10},
    "smoke": _STAND_IN | {"train_images": 600, "test_images": 200, "batch": 128, "epochs": 3},
}
SHORT: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 100},
    "cpu": _CPU | {"train_images": 10_000, "test_images": 2_000, "epochs": 4},
    "smoke": _STAND_IN,
}

# The learning rate and weight decay of the runs of 1000 epochs, by activation and rule. The paper
# names none. With tanh, Backprop's curve is far above its Figure 4 curves, which leaves 1e-3 of the
# paper's grid; Linear Backprop's fits the best curve of Figure 4, 1e-4 with 0.1. For ReLU there
# is no hint, and the pairs of tanh stand in until this book's own grid has been run.
Pair = tuple[float, float]
Pairs = Mapping[tuple[str, str], Pair]
INFERRED_PAIRS: Pairs = {
    ("tanh", "bp"): (1e-3, 1e-1),
    ("tanh", "linear"): (1e-4, 1e-1),
    ("relu", "bp"): (1e-3, 1e-1),
    ("relu", "linear"): (1e-4, 1e-1),
}

# The recipes that the paper's silence allows, as changes of the one that its curves suggest.
RECIPES: dict[str, dict[str, Any]] = {
    "batch norm, default initialisation": {},
    "with augmentation": {"augment": True},
    "with momentum 0.9": {"momentum": 0.9},
    "with He initialisation": {"init": "he"},
    "with Xavier initialisation": {"init": "xavier"},
    "without batch norm, He initialisation": {"batch_norm": False, "init": "he"},
    "with a 512-512-10 head and dropout": {"head": "mlp"},
    "with images in [0, 1] only": {"normalisation": "unit"},
}
RECIPE_PAIRS: tuple[Pair, ...] = ((1e-4, 1e-1), (1e-4, 1e-4), (1e-5, 1e-4))

# How the width, which the reduced scale changes most, changes the beginning of the curves.
WIDTHS: dict[str, tuple[float, ...]] = {
    "paper": (1 / 4, 1 / 2, 1),
    "cpu": (1 / 16, 1 / 8, 1 / 4),
    "smoke": (1 / 32, 1 / 16),
}

# Is it only a larger step? The paper's learning rates and two above them.
EXTENDED_LEARNING_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
EXTENDED_WEIGHT_DECAYS = (1e-1, 1e-4)

Runs = dict[str, RunConfig]


def _run(
    activation: str, rule: str, pair: Pair, scale: Mapping[str, Any], **more: Any
) -> RunConfig:
    options = {"precision": "bf16"} | dict(scale) | more
    return RunConfig(activation=activation, rule=rule, lr=pair[0], l2=pair[1], **options)  # type: ignore[arg-type]


def label(config: RunConfig) -> str:
    """Return the activation and the rule, as the paper's digitised curves are called."""
    return f"{config.activation}, {config.rule}"


def _labelled(runs: Iterable[RunConfig], *, pair: bool = False, seed: bool = False) -> Runs:
    """Name runs by what tells them apart."""
    return {
        label(run) + f", lr {run.lr:g}, l2 {run.l2:g}" * pair + f", seed {run.seed}" * seed: run
        for run in runs
    }


def _long(names: Iterable[tuple[str, str]], scale: str, pairs: Pairs) -> Runs:
    return _labelled(
        (
            _run(*name, pairs[name], LONG[scale], seed=seed)
            for seed in (SEEDS[:2] if scale == "smoke" else SEEDS)
            for name in names
        ),
        seed=True,
    )


def _fig2(scale: str, pairs: Pairs) -> Runs:
    return _long([("tanh", "bp"), ("tanh", "linear")], scale, pairs)


def _fig3(scale: str, pairs: Pairs) -> Runs:
    return _long([("tanh", "linear"), ("relu", "bp"), ("relu", "linear")], scale, pairs)


def _grid(
    activation: str, scale: str, rates: Iterable[float], decays: Iterable[float]
) -> Iterator[RunConfig]:
    for lr in rates:
        for l2 in decays:
            for rule in RULES:
                yield _run(activation, rule, (lr, l2), SHORT[scale])


def _fig4(scale: str, pairs: Pairs) -> Runs:
    decays = WEIGHT_DECAYS[::5] if scale == "smoke" else WEIGHT_DECAYS
    # In the order of importance: the paper shows no panel for 1e-3.
    return _labelled(_grid("tanh", scale, (1e-4, 1e-5, 1e-3), decays), pair=True)


def _relu_grid(scale: str, pairs: Pairs) -> Runs:
    decays = WEIGHT_DECAYS if scale == "paper" else EXTENDED_WEIGHT_DECAYS
    rates = (1e-3,) if scale == "smoke" else LEARNING_RATES
    return _labelled(_grid("relu", scale, rates, decays), pair=True)


def _recipe(scale: str, pairs: Pairs) -> Runs:
    return {
        f"{recipe}: {rule}, lr {pair[0]:g}, l2 {pair[1]:g}": _run(
            "tanh", rule, pair, SHORT[scale], **changes
        )
        for recipe, changes in RECIPES.items()
        for pair in (RECIPE_PAIRS[:1] if scale == "smoke" else RECIPE_PAIRS)
        for rule in RULES
    }


def _width(scale: str, pairs: Pairs) -> Runs:
    return {
        f"width {width:g}, {rule}": _run(
            "tanh", rule, (1e-4, 1e-1), SHORT[scale] | {"width": width}
        )
        for width in WIDTHS[scale]
        for rule in RULES
    }


def _larger_step(scale: str, pairs: Pairs) -> Runs:
    rates = (1e-3, 1e-1) if scale == "smoke" else EXTENDED_LEARNING_RATES
    return _labelled(_grid("tanh", scale, rates, EXTENDED_WEIGHT_DECAYS), pair=True)


def _precision(scale: str, pairs: Pairs) -> Runs:
    exact = "tf32" if scale == "paper" else "float32"
    return {
        f"{precision}, {rule}, seed {seed}": _run(
            "tanh", rule, (1e-4, 1e-1), SHORT[scale] | {"precision": precision}, seed=seed
        )
        for seed in (SEEDS[:2] if scale == "smoke" else SEEDS)
        for precision in (exact, "bf16")
        for rule in RULES
    }


_BUILDERS = {
    "recipe": _recipe,
    "fig2": _fig2,
    "fig3": _fig3,
    "fig4": _fig4,
    "relu-grid": _relu_grid,
    "larger-step": _larger_step,
    "precision": _precision,
    "width": _width,
}
FIGURES = tuple(_BUILDERS)


def runs(figure: str, scale: str, pairs: Pairs = INFERRED_PAIRS) -> Runs:
    """Return a figure's runs at a scale, by their labels.

    Args:
        figure: A name in `FIGURES`.
        scale: A name in `SCALES`.
        pairs: Learning rate and weight decay of the long runs at full scale; the reduced runs keep
            to `INFERRED_PAIRS`.

    Raises:
        LbpError: If the figure or the scale is unknown.
    """
    check_choice("figure", figure, FIGURES)
    check_choice("scale", scale, SCALES)
    return _BUILDERS[figure](scale, pairs if scale == "paper" else INFERRED_PAIRS)


def by_importance(scale: str, pairs: Pairs = INFERRED_PAIRS) -> list[RunConfig]:
    """Return the runs of all figures at a scale, each once, the most important ones first."""
    fig4 = list(runs("fig4", scale).values())
    shown = [run for run in fig4 if run.lr < 1e-3]  # in the paper's own panels
    ordered = [
        *runs("recipe", scale).values(),
        *shown,
        *runs("fig2", scale, pairs).values(),
        *runs("fig3", scale, pairs).values(),
        *fig4,
        *runs("relu-grid", scale).values(),
        *runs("larger-step", scale).values(),
        *runs("precision", scale).values(),
        *runs("width", scale).values(),
    ]
    return list(dict.fromkeys(ordered))


def scales(profile: str) -> tuple[str, ...]:
    """Return the scales of a profile: the profile's own; for "recorded" paper, then cpu.

    Raises:
        LbpError: If the profile is unknown.
    """
    check_choice("profile", profile, PROFILES)
    return ("paper", "cpu") if profile == "recorded" else (profile,)
