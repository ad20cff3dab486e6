"""What the method page says of Linear Backprop's field, against numbers."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import lbp

PAGE = (Path(__file__).resolve().parents[1] / "book" / "method.md").read_text()


def field(w1: float, w2: float, rule: str) -> tuple[float, float]:
    """Return the rule's gradient of (y - t)^2 / 2 with y = w2 tanh(w1) and t = 0."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))
    model.double()
    for layer, value in ((0, w1), (2, w2)):
        nn.init.constant_(model[layer].weight, value)
    model, _ = lbp.linearize(model, rule)
    (model(torch.ones(1, 1, dtype=torch.float64)) ** 2 / 2).sum().backward()
    return model[0].weight.grad.item(), model[2].weight.grad.item()


def off_diagonal(w1: float, w2: float, rule: str) -> tuple[float, float]:
    """Return dv1/dw2 and dv2/dw1 by central differences."""
    step = 1e-5
    above, below = field(w1, w2 + step, rule), field(w1, w2 - step, rule)
    right, left = field(w1 + step, w2, rule), field(w1 - step, w2, rule)
    return (above[0] - below[0]) / (2 * step), (right[1] - left[1]) / (2 * step)


@pytest.mark.parametrize(("w1", "w2"), [(1.0, 1.0), (-0.7, 2.0), (0.3, -1.1)])
def test_the_jacobian_of_the_field_is_not_symmetric_and_that_of_a_gradient_is(w1, w2):
    f = math.tanh(w1)
    common = 2 * w2 * f  # e + w2 f, where e = w2 f
    expected = common, (1 - f**2) * common
    assert off_diagonal(w1, w2, "linear") == pytest.approx(expected, abs=1e-7)
    first, second = off_diagonal(w1, w2, "bp")
    assert first == pytest.approx(second, abs=1e-7)


def test_the_page_has_the_numbers_of_its_example():
    first, second = off_diagonal(1.0, 1.0, "linear")
    assert f"they are ${first:.2f}$ and ${second:.2f}$" in PAGE
