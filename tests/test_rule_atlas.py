"""The rule atlas against integrals, largest slopes and sizes that are known."""

import math

import pytest

from lbp.experiments import rule_atlas
from lbp.lab.units import LARGEST_SLOPE
from lbp.literature import PUBLISHED


@pytest.mark.parametrize(
    ("rule", "activation", "integral"),
    [
        ("bp", "tanh", 2 * math.tanh(8)),
        ("bp", "sigmoid", math.tanh(4)),
        ("bp", "relu", 8),
        ("linear", "tanh", 16),
        ("as-printed", "relu", 0),
        ("ste-clip", "gelu", 2),
        ("proxygrad", "relu", 8 + 0.3 * 8),
        ("leaky", "tanh", 0.1 * 16 + 0.9 * 2 * math.tanh(8)),
    ],
)
def test_integrals_are_differences_of_the_antiderivative(rule, activation, integral):
    assert rule_atlas.curve(rule, activation).integral == pytest.approx(integral, abs=0.01)


@pytest.mark.parametrize("activation", rule_atlas.SHOWN)
def test_backprops_largest_factor_is_the_largest_slope(activation):
    found = rule_atlas.curve("bp", activation).largest
    assert found == pytest.approx(LARGEST_SLOPE[activation], abs=1e-3)


@pytest.mark.parametrize(
    ("rule", "bits"), [("bp", 32), ("linear", 0), ("bpa", 32), ("approx-gelu", 2), ("full-jam", 0)]
)
def test_bits_kept(rule, bits):
    assert rule_atlas.bits(rule, "gelu") == bits


def test_only_rules_that_read_the_function_have_several_curves():
    several = {rule for rule in PUBLISHED if "any" not in rule_atlas.curves(rule)}
    assert several == {"bp", "leaky", "attnlrp"}


def test_the_tables_have_every_rule():
    sources = [row[0] for row in rule_atlas.sources_table().rows]
    assert sources == [f"`{name}`" for name in PUBLISHED]
    measured = rule_atlas.measures_table().rows
    assert {row[0].partition(",")[0] for row in measured} == set(sources)
    (pole,) = [row for row in measured if row[0] == "`attnlrp`, sigmoid"]
    assert pole[1:3] == ["no bound", "-"]
    assert ["`linear`, any", "1.00", "16.00", "0"] in measured


def test_every_rule_has_a_panel():
    figure = rule_atlas.draw()
    titled = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in titled] == list(PUBLISHED)
    assert all(axes.lines for axes in titled)
