"""The runs of each experiment are those of the paper, and the order in which they are trained."""

from dataclasses import replace

import pytest

from lbp.errors import LbpError
from lbp.experiments import (
    EXPERIMENTS,
    apl_units,
    grid,
    larger_step,
    recipe,
    scale_of,
    scales,
    table_binarized,
    width,
    work_list,
)
from lbp.experiments.places import places_table
from lbp.experiments.scales import NARROW, PAPER, SCALES, SMOKE
from lbp.lab.config import RunConfig
from lbp.lab.paths import project
from lbp.lab.run import Goal

DECAYS = {0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001}  # the paper's grid
RATES = {0.001, 0.0001, 0.00001}
every_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)


def configs(stem, scale=PAPER):
    return [goal.config for goal in EXPERIMENTS[stem].goals(scale)]


@pytest.mark.parametrize("scale", [PAPER, NARROW], ids=lambda s: s.name)
def test_the_papers_grid_has_72_runs_of_100_epochs(scale):
    goals = EXPERIMENTS["selection"].goals(scale)
    assert len(set(goals)) == len(goals) == 72
    for activation in ("tanh", "relu"):
        mine = [g.config for g in goals if g.config.activation == activation]
        assert {(c.lr, c.l2, c.rule) for c in mine} == {
            (lr, l2, rule) for lr in RATES for l2 in DECAYS for rule in ("bp", "linear")
        }
    assert {g.epochs for g in goals} == {100}
    assert set(configs("fig4_sweep", scale)) < {goal.config for goal in goals}


def test_the_long_runs_have_1000_epochs_and_three_seeds():
    curves = {
        "fig2_vgg19_tanh": {("tanh", "bp"), ("tanh", "linear")},
        "fig3_relu": {(name, rule) for name in ("tanh", "relu") for rule in ("bp", "linear")},
    }
    for stem, names in curves.items():
        goals = EXPERIMENTS[stem].goals(PAPER)
        found = {(g.config.activation, g.config.rule, g.config.seed) for g in goals}
        assert found == {(*name, seed) for name in names for seed in (0, 1, 2)}
        assert {g.epochs for g in goals} == {1000}
        for config in configs(stem):
            pair = grid.PAIRS[config.activation, config.rule]
            assert (config.lr, config.l2) == pair


def test_the_inferred_pairs_are_of_the_papers_grid():
    for lr, l2 in grid.PAIRS.values():
        assert lr in RATES
        assert l2 in DECAYS


def test_full_scale_is_the_papers():
    for stem in EXPERIMENTS:
        for config in configs(stem):
            scale = (config.dataset, config.train_images, config.test_images)
            assert scale == ("cifar10", 50_000, 10_000)
            assert config.width == 1 or stem == "width"
            of_another_paper = (100, "cnn") if stem == "apl_units" else (128, "vgg19")
            if stem != "table_binarized":
                assert (config.batch, config.model) == of_another_paper
            assert config.precision == "float32" or stem == "precision"


def test_the_narrow_scale_changes_the_width_and_cuts_the_length_and_nothing_else():
    for stem, experiment in EXPERIMENTS.items():
        if stem in ("width", "recipe", "table_binarized", "apl_units"):
            continue
        full, narrow = (experiment.goals(scale) for scale in (PAPER, NARROW))
        assert [replace(goal.config, width=1.0) for goal in narrow] == [g.config for g in full]
        assert {goal.config.width for goal in narrow} == {1 / 8}
        assert [min(goal.epochs, 100) for goal in full] == [goal.epochs for goal in narrow]


def test_the_binarized_network_has_the_papers_grid_and_vgg19_beside_it():
    goals = EXPERIMENTS["table_binarized"].goals(PAPER)
    found = [g.config for g in goals if g.config.model == "binarized_resnet"]
    expected = {(lr, l2, rule) for lr in RATES for l2 in DECAYS for rule in ("bp", "linear")}
    assert {(c.lr, c.l2, c.rule) for c in found} == expected
    assert {c.activation for c in found} == {"hardtanh"}
    assert [(c.lr, c.l2, c.rule) for c in found[:2]] == [
        (1e-3, 1e-4, "bp"),
        (1e-3, 1e-4, "linear"),
    ]
    assert {g.epochs for g in goals} == {100}
    vgg19 = {g.config for g in goals} - set(found)
    assert len(goals) == 36 + 2
    assert vgg19 < {g.config for g in EXPERIMENTS["fig2_vgg19_tanh"].goals(PAPER)}


def test_the_narrow_binarized_network_has_one_weight_decay_a_quarter_and_ten_epochs():
    full = {g.config for g in EXPERIMENTS["table_binarized"].goals(PAPER)}
    goals = EXPERIMENTS["table_binarized"].goals(NARROW)
    assert {g.epochs for g in goals} == {10}
    found = [g.config for g in goals if g.config.model == "binarized_resnet"]
    assert {(c.lr, c.l2, c.rule) for c in found} == {
        (lr, 1e-4, rule) for lr in RATES for rule in ("bp", "linear")
    }
    assert {c.width for c in found} == {1 / 4}
    assert {replace(g.config, width=1.0) for g in goals} < full
    vgg19 = {g.config for g in goals} - set(found)
    assert len(goals) == 6 + 2
    assert vgg19 < {g.config for g in EXPERIMENTS["fig2_vgg19_tanh"].goals(NARROW)}
    assert set(table_binarized.NOTES) == {NARROW.name}


def test_the_smoke_runs_are_of_the_stand_in_and_tiny():
    for stem, experiment in EXPERIMENTS.items():
        goals = experiment.goals(SMOKE)
        assert 0 < len(goals) <= 24, stem
        for goal in goals:
            assert goal.config.dataset == "stand-in"
            assert goal.config.train_images * goal.epochs <= 200
            assert goal.config.width <= 1 / 32


def test_the_recipes_change_one_thing_each():
    changes = {
        (),
        (("batch_norm_scale", "uniform"),),
        (("augment", True),),
        (("init", "he"),),
        (("normalisation", "unit"),),
        (("momentum", 0.9),),
        (("init", "xavier"),),
        (("head", "mlp"),),
        (("batch_norm", False), ("init", "he")),
    }
    for rule in ("bp", "linear"):
        for lr in (1e-4, 1e-5):
            plain = RunConfig(rule=rule, lr=lr, l2=1e-4).differing()
            found = [
                tuple(sorted(config.differing().items() - plain.items()))
                for config in configs("recipe")
                if (config.rule, config.lr, config.seed) == (rule, lr, 0)
            ]
            assert len(found) == len(changes)
            assert set(found) == changes
    assert configs("recipe", NARROW) == []


def test_the_larger_steps_go_beyond_the_papers():
    found = configs("larger_step")
    assert {config.lr for config in found} == RATES | {0.01, 0.1}
    assert {config.l2 for config in found} == {0.1, 0.0001}
    assert len(set(found)) == 5 * 2 * 2
    long = {replace(g.config, seed=0) for g in EXPERIMENTS["fig2_vgg19_tanh"].goals(PAPER)}
    assert long <= set(found)  # whose layers it shows


@every_scale
def test_the_premise_has_no_runs_of_its_own(scale):
    found = configs("premise", scale)
    assert len(set(found)) == len(found)
    if scale is not SMOKE:  # whose grids are parts
        assert set(found) <= set(configs("fig4_sweep", scale))
        assert len(found) == (6 + 1) * 2
        long = {replace(g.config, seed=0) for g in EXPERIMENTS["fig2_vgg19_tanh"].goals(scale)}
        assert long <= set(found)


def test_the_precisions_are_compared_by_seed():
    for scale in (PAPER, NARROW):
        found = set(configs("precision", scale))
        assert len(found) == 12
        for config in found:
            if config.precision == "float32":
                assert replace(config, precision="bf16") in found


def test_the_runs_of_apl_units_are_the_sources():
    full, narrow = (EXPERIMENTS["apl_units"].goals(scale) for scale in (PAPER, NARROW))
    assert {goal.epochs for goal in full} == {180}
    assert {goal.epochs for goal in narrow} == {15}
    assert {goal.config.width for goal in narrow} == {1 / 4}
    # The same runs, but for the width and the seeds.
    assert {replace(g.config, width=1.0) for g in narrow} < {goal.config for goal in full}
    assert [g.config.lr_in(epoch) for g in full[:1] for epoch in (120, 121, 161, 171)] == [
        pytest.approx(0.01 * factor) for factor in (1, 0.1, 0.01, 0.001)
    ]
    for goals, seeds in ((full, range(5)), (narrow, range(2))):
        found = [goal.config for goal in goals]
        assert len(set(found)) == len(found)
        assert {c.unit_l2 for c in found if c.activation == "relu"} == {0}
        assert {c.unit_l2 for c in found if c.activation == "apl" and c.hinges_learned} == {1e-3}
        main = [c for c in found if (c.hinges, c.hinges_learned) == (5, True)]
        other = [c for c in main if c.lr != apl_units.RATES[c.rule]]
        assert {(c.activation, c.rule, c.lr) for c in other} == {
            (activation, "linear", lr)
            for activation in ("relu", "apl")
            for lr in (0.01, 1e-3, 1e-4)
        }
        main = [c for c in main if c not in other]
        assert {(c.activation, c.rule, c.seed) for c in main} == {
            (activation, rule, seed)
            for activation in ("relu", "apl")
            for rule in ("bp", "linear")
            for seed in seeds
        }
        ablation = [c for c in found if c.activation == "apl" and (c.rule, c.seed) == ("bp", 0)]
        assert {(c.hinges, c.hinges_learned) for c in ablation} == {
            (hinges, learned) for hinges in (1, 2, 5, 10) for learned in (True, False)
        }


def test_an_experiment_may_have_scales_of_its_own():
    assert "a quarter" in scale_of("apl_units", NARROW).note
    assert scale_of("apl_units", SMOKE) is SMOKE
    assert scale_of("width", NARROW) is NARROW


@every_scale
def test_the_widths_differ_in_nothing_else_and_hold_the_scales_own(scale):
    found = configs("width", scale)
    assert len(set(found)) == len(found) == 4
    assert len({replace(c, width=1.0) for c in found}) == 2
    own = EXPERIMENTS["fig2_vgg19_tanh"].goals(scale)[0].config.width
    assert own in {config.width for config in found}
    assert set(width.WIDTHS) == set(SCALES)


@every_scale
def test_the_work_list_holds_every_goal_and_nothing_else(scale):
    wanted: dict[RunConfig, int] = {}
    for experiment in EXPERIMENTS.values():
        for goal in experiment.goals(scale):
            wanted[goal.config] = max(goal.epochs, wanted.get(goal.config, 0))
    there: dict[RunConfig, int] = {}
    for goal in work_list(scale):
        there[goal.config] = max(goal.epochs, there.get(goal.config, 0))
    assert there == wanted


def test_at_full_scale_the_recipe_and_the_beginning_of_the_curves_come_first():
    first = work_list(PAPER)[:24]
    assert [goal.epochs for goal in first] == [1] * 16 + [5] * 4 + [2] * 4
    recipes, curves, high = first[:16], first[16:20], first[20:]
    assert {g.config for g in recipes} < {g.config for g in recipe.goals(PAPER)}
    assert {replace(g.config, rule="bp") for g in recipes if g.config.lr == 1e-4} == {
        RunConfig(rule="bp", lr=1e-4, l2=1e-4, **changes)
        for changes in (
            {}, {"seed": 1}, {"batch_norm_scale": "uniform"}, {"augment": True}, {"init": "he"},
            {"normalisation": "unit"},
        )
    }  # fmt: skip
    assert {(g.config.lr, g.config.l2) for g in curves} == {(1e-4, 0.1), (1e-5, 1e-4)}
    assert {(g.config.activation, g.config.lr, g.config.l2) for g in high} == {
        ("tanh", 1e-3, 0.1),
        ("relu", 1e-3, 0.1),
    }


def test_in_a_narrow_network_the_long_runs_come_first():
    ordered = work_list(NARROW)
    names = [(g.config.activation, g.config.rule, g.epochs) for g in ordered[:4]]
    assert sorted(names) == [
        (activation, rule, 100) for activation in ("relu", "tanh") for rule in ("bp", "linear")
    ]
    pairs = ordered[4:18]
    assert {g.epochs for g in pairs} == {60}
    assert {(g.config.lr, g.config.l2) for g in pairs} == {
        (1e-4, 1e-1), (1e-4, 1e-2), (1e-5, 1e-1), (1e-5, 1e-4), (1e-3, 1e-1), (1e-3, 1e-4),
        (1e-2, 1e-4),
    }  # fmt: skip
    assert max(larger_step.LEARNING_RATES) > 1e-2
    assert [(g.config.width, g.epochs) for g in ordered[18:20]] == [(1 / 4, 20)] * 2


def test_unknown_profiles_are_named():
    message = "unknown profile 'gpu': choose from recorded, smoke, narrow, paper"
    with pytest.raises(LbpError, match=message):
        scales.of_profile("gpu")
    assert scales.of_profile("recorded") == (PAPER, NARROW)
    assert scales.of_profile("smoke") == (SMOKE,)


def test_a_goal_takes_the_recipe_then_the_scale_then_its_own_fields():
    goal = NARROW.goal(1000, {"init": "he", "width": 1.0}, rule="bp")
    assert goal == Goal(RunConfig(init="he", width=1 / 8, rule="bp"), 100)
    assert NARROW.goal(20, {}, width=1 / 4).config.width == 1 / 4


def test_one_stem_everywhere():
    """An experiment's file, notebook and claims have one name; the README lists it."""
    root = project()
    notebooks = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    files = {path.stem for path in (root / "lbp" / "experiments").glob("*.py")}
    stems = {*EXPERIMENTS, "fig1_synthetic", "cost", "own_model", "rule_atlas"}
    assert stems <= files
    assert notebooks == stems | {"claims", "promises", "reruns"}
    readme = (root / "README.md").read_text()
    assert len(places_table().rows) == len(stems)
    for row in places_table().rows:
        assert "| " + " | ".join(row) + " |" in readme
