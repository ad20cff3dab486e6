"""The runs of each figure are those of the paper, and the order in which they are trained."""

from dataclasses import replace

import pytest

from lbp import experiments
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.experiments import FIGURES, SCALES, by_importance, runs

DECAYS = {0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001}  # the paper's grid
RATES = {0.001, 0.0001, 0.00001}
PAIRS = {
    ("tanh", "bp"): (1e-4, 1e-5),
    ("tanh", "linear"): (1e-5, 1e-1),
    ("relu", "bp"): (1e-3, 1e-6),
    ("relu", "linear"): (1e-5, 1e-2),
}


def test_the_papers_grid_has_72_runs_over_both_activations():
    found = set()
    for figure, activation in (("fig4", "tanh"), ("relu-grid", "relu")):
        grid = runs(figure, "paper").values()
        assert {(c.lr, c.l2, c.rule) for c in grid} == {
            (lr, l2, rule) for lr in RATES for l2 in DECAYS for rule in ("bp", "linear")
        }
        assert {(c.activation, c.epochs, c.seed) for c in grid} == {(activation, 100, 0)}
        found |= set(grid)
    assert len(found) == 72


def test_the_long_runs_have_1000_epochs_and_three_seeds():
    for pairs in (experiments.INFERRED_PAIRS, PAIRS):
        curves = {
            "fig2": [("tanh", "bp"), ("tanh", "linear")],
            "fig3": [("tanh", "linear"), ("relu", "bp"), ("relu", "linear")],
        }
        for figure, names in curves.items():
            found = runs(figure, "paper", pairs)
            assert len(found) == 3 * len(names)
            for name in names:
                for seed in (0, 1, 2):
                    config = found[f"{', '.join(name)}, seed {seed}"]
                    assert (config.activation, config.rule) == name
                    assert (config.lr, config.l2) == pairs[name]
                    assert (config.seed, config.epochs) == (seed, 1000)


def test_the_inferred_pairs_are_of_the_papers_grid():
    assert experiments.INFERRED_PAIRS.keys() == PAIRS.keys()
    for lr, l2 in experiments.INFERRED_PAIRS.values():
        assert lr in RATES
        assert l2 in DECAYS


def test_full_scale_is_the_papers():
    all_runs = by_importance("paper")
    for config in all_runs:
        assert config.precision == "bf16" or config in runs("precision", "paper").values()
        scale = (config.dataset, config.train_images, config.test_images)
        assert scale == ("cifar10", 50_000, 10_000)
        assert config.width == 1 or config in runs("width", "paper").values()
        assert (config.batch, config.held_out, config.model) == (128, 0, "vgg19")
        assert config.epochs in (100, 1000)


def test_the_reduced_scale_is_reduced():
    for config in by_importance("cpu"):
        full = RunConfig()
        assert config.dataset == "cifar10"
        assert config.width < full.width
        assert config.train_images < full.train_images
        assert config.test_images < full.test_images
        assert config.epochs <= 10
        assert config.precision == "float32" or config in runs("precision", "cpu").values()


def test_the_smoke_runs_are_of_the_stand_in_and_tiny():
    for config in by_importance("smoke"):
        assert config.dataset == "stand-in"
        assert config.train_images * config.epochs <= 2000
        assert config.width <= 1 / 16


@pytest.mark.parametrize("scale", SCALES)
def test_the_figures_differ_between_scales_in_scale_only(scale):
    """What is varied at a reduced scale is varied at full scale too."""
    size = ("width", "dataset", "train_images", "test_images", "batch", "epochs", "precision")
    plain = {name: getattr(RunConfig(), name) for name in size}
    for figure in FIGURES:
        varied, full = (
            {replace(run, **plain) for run in runs(figure, which).values()}
            for which in (scale, "paper")
        )
        assert varied <= full, figure


def test_the_recipes_change_one_thing_each():
    changes = {
        (("augment", True),),
        (("momentum", 0.9),),
        (("init", "he"),),
        (("init", "xavier"),),
        (("batch_norm", False), ("init", "he")),
        (("head", "mlp"),),
        (("normalisation", "unit"),),
        (),
    }
    for rule in ("bp", "linear"):
        for lr, l2 in ((1e-4, 1e-1), (1e-4, 1e-4), (1e-5, 1e-4)):
            plain = RunConfig(rule=rule, lr=lr, l2=l2, precision="bf16").to_dict()
            found = [
                tuple(sorted(config.to_dict().items() - plain.items()))
                for config in runs("recipe", "paper").values()
                if (config.rule, config.lr, config.l2) == (rule, lr, l2)
            ]
            assert len(found) == 8
            assert set(found) == changes
    assert len(runs("recipe", "paper")) == 48


def test_the_larger_steps_go_beyond_the_papers():
    found = runs("larger-step", "paper").values()
    assert {config.lr for config in found} == RATES | {0.01, 0.1}
    assert {config.l2 for config in found} == {0.1, 0.0001}
    assert len(found) == 5 * 2 * 2
    assert {config.activation for config in found} == {"tanh"}


def test_the_precisions_are_compared_by_seed():
    for scale, exact in (("paper", "tf32"), ("cpu", "float32")):
        found = runs("precision", scale)
        assert len(found) == 12
        for rule in ("bp", "linear"):
            for seed in (0, 1, 2):
                one, other = (found[f"{p}, {rule}, seed {seed}"] for p in (exact, "bf16"))
                assert (one.precision, other.precision) == (exact, "bf16")
                assert replace(one, precision="bf16") == other
                assert (one.rule, one.seed) == (rule, seed)


@pytest.mark.parametrize("scale", SCALES)
def test_the_widths_differ_in_nothing_else_and_hold_the_scales_own(scale):
    found = list(runs("width", scale).values())
    assert len({(run.width, run.rule) for run in found}) == len(found)
    assert len({replace(run, width=1.0, rule="bp") for run in found}) == 1
    own = next(iter(runs("fig4", scale).values())).width
    assert own in {run.width for run in found}


@pytest.mark.parametrize("pairs", [experiments.INFERRED_PAIRS, PAIRS])
@pytest.mark.parametrize("scale", SCALES)
def test_by_importance_has_every_figures_runs_once_and_nothing_else(scale, pairs):
    ordered = by_importance(scale, pairs)
    assert len(set(ordered)) == len(ordered)
    assert set(ordered) == {run for name in FIGURES for run in runs(name, scale, pairs).values()}


def test_the_order_is_recipes_then_the_papers_own_panels_then_the_long_runs():
    ordered = by_importance("paper", PAIRS)
    recipes = runs("recipe", "paper").values()
    assert set(ordered[: len(recipes)]) == set(recipes)
    rest = ordered[len(recipes) :]
    fig4 = set(runs("fig4", "paper").values()) - set(recipes)
    panels = [run for run in fig4 if run.lr in (1e-4, 1e-5)]
    assert set(rest[: len(panels)]) == set(panels)
    rest = rest[len(panels) :]
    for figure in ("fig2", "fig3"):
        wanted = [run for run in runs(figure, "paper", PAIRS).values() if run in rest]
        assert rest[: len(wanted)] == wanted
        assert all(run.epochs == 1000 for run in wanted)
        rest = rest[len(wanted) :]
    assert rest
    assert all(run.epochs == 100 for run in rest)


def test_chosen_pairs_count_at_full_scale_only():
    for scale in ("smoke", "cpu"):
        assert runs("fig2", scale, PAIRS) == runs("fig2", scale)
        assert by_importance(scale, PAIRS) == by_importance(scale)
    assert runs("fig2", "paper", PAIRS) != runs("fig2", "paper")


@pytest.mark.parametrize("scale", SCALES)
def test_labels_say_what_their_runs_are(scale):
    for figure in ("fig2", "fig3", "fig4", "relu-grid", "larger-step"):
        for label, config in runs(figure, scale).items():
            assert label.startswith(f"{config.activation}, {config.rule}, ")
            end = f"lr {config.lr:g}, l2 {config.l2:g}"
            if figure in ("fig2", "fig3"):
                end = f"seed {config.seed}"
            assert label.endswith(end)


def test_unknown_figures_scales_and_profiles_are_named():
    for call, message in (
        (lambda: runs("fig9", "paper"), "unknown figure 'fig9': choose from recipe, fig2"),
        (lambda: runs("fig2", "gpu"), "unknown scale 'gpu': choose from smoke, cpu, paper"),
        (lambda: experiments.scales("gpu"), "unknown profile 'gpu': choose from recorded"),
    ):
        with pytest.raises(LbpError, match=message):
            call()
    assert experiments.scales("recorded") == ("paper", "cpu")
    assert experiments.scales("smoke") == ("smoke",)
