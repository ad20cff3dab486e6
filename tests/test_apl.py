"""APL units against a float64 reference, their properties, and what they keep."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

import lbp
from lbp.errors import LbpError
from lbp.lab.config import RunConfig
from lbp.lab.models import build
from lbp.lab.probe import saturated
from lbp.lab.units.apl import APL, apl, pieces
from lbp.lab.units.make import make_unit, shown_parameters
from lbp.linearization import activation_modules

SHAPES = [(4, 6, 5), (4, 1, 1), (4,)]  # of the parameters: by position, by channel, of a layer


def inputs(shape, dtype=torch.float64):
    """Return pre-activations that fit parameters of a shape, and a gradient."""
    torch.manual_seed(1)
    of_one = (shape[0], 6, 5) if len(shape) == 3 else shape
    return (torch.randn(7, *of_one, dtype=dtype) for _ in range(2))


def reference(z, slopes, offsets):
    """The sum as it is written, in float64, by autograd through PyTorch's ReLU."""
    z = z.double()
    value = F.relu(z)
    for slope, offset in zip(slopes.double(), offsets.double(), strict=True):
        value = value + slope * F.relu(-z + offset)
    return value


def grads(value, leaves, g):
    return torch.autograd.grad(value, leaves, g.to(value.dtype))


# --- values and gradients


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hinges", [1, 2, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_and_gradients_against_float64(shape, hinges, dtype, tolerance):
    unit = APL(shape, hinges).to(dtype)
    z, g = inputs(shape, dtype)
    leaf = z.clone().requires_grad_()
    leaves = (leaf, unit.slopes, unit.offsets)
    value = unit(leaf)
    wanted = reference(leaf, unit.slopes, unit.offsets)
    torch.testing.assert_close(value.double(), wanted, rtol=tolerance, atol=tolerance)
    for found, true in zip(grads(value, leaves, g), grads(wanted, leaves, g), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), true.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_have_gradients(shape):
    unit = APL(shape, 3).double()
    z, _ = inputs(shape)
    leaves = (z.requires_grad_(), unit.slopes, unit.offsets)
    assert torch.autograd.gradcheck(apl, leaves)
    assert torch.autograd.gradgradcheck(apl, leaves)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_backprop_passes_the_gradient_and_leaves_that_of_the_hinges(shape):
    unit = APL(shape, 4).double()
    z, g = inputs(shape)
    leaf = z.requires_grad_()
    wanted = grads(reference(leaf, unit.slopes, unit.offsets), (unit.slopes, unit.offsets), g)
    with lbp.backward_rule("linear"):
        in_block = unit(leaf)
    changed, _ = lbp.linearize(unit)
    for value in (in_block, changed(leaf)):
        found = grads(value, (leaf, unit.slopes, unit.offsets), g)
        assert torch.equal(found[0], g)
        torch.testing.assert_close(found[1:], wanted)


def test_in_half_precision_the_values_have_that_of_the_input():
    unit = APL((4,), 2)
    z = torch.randn(7, 4, dtype=torch.bfloat16, requires_grad=True)
    value = unit(z)
    assert value.dtype == torch.bfloat16
    value.float().sum().backward()
    assert z.grad.dtype == torch.bfloat16
    assert unit.slopes.grad.dtype == torch.float32


# --- what the function is


numbers = st.floats(-3, 3, width=32)


@given(z=arrays(np.float32, 9, elements=numbers))
def test_without_hinges_it_is_relu(z):
    z = torch.from_numpy(z)
    assert torch.equal(APL((9,), 0)(z), F.relu(z))


@given(z=arrays(np.float32, (2, 9), elements=numbers), seed=st.integers(0, 99))
def test_with_slopes_of_zero_it_is_relu(z, seed):
    torch.manual_seed(seed)
    unit = APL((9,), 3)
    nn.init.zeros_(unit.slopes)
    z = torch.from_numpy(z)
    assert torch.equal(unit(z), F.relu(z))


@given(hinges=st.lists(st.tuples(numbers, numbers), max_size=6))
def test_it_is_linear_between_its_bends_with_the_slopes_of_its_pieces(hinges):
    slopes, offsets = [a for a, _ in hinges], [b for _, b in hinges]
    bends, steps = pieces(slopes, offsets)
    assert bends == sorted({0.0, *offsets})
    assert len(steps) == len(bends) + 1
    assert steps[-1] == 1  # as ReLU, right of all hinges
    edges = [bends[0] - 1, *bends, bends[-1] + 1]
    for left, right, slope in zip(edges, edges[1:], steps, strict=False):
        z = torch.linspace(left, right, 5, dtype=torch.float64, requires_grad=True)
        columns = [torch.tensor(v, dtype=torch.float64)[:, None] for v in (slopes, offsets)]
        value = apl(z, *columns) if hinges else F.relu(z)
        for near, far in pairwise(value):
            assert (far - near).item() == pytest.approx(slope * (right - left) / 4, abs=1e-9)
        if right - left > 1e-9:
            (found,) = torch.autograd.grad(value.sum(), z)
            assert found[1:-1].tolist() == pytest.approx([slope] * 3, abs=1e-9)


@given(a=numbers, b=numbers)
def test_a_hinge_bends_at_its_offset_by_its_slope(a, b):
    bends, steps = pieces([a], [b])
    place = bends.index(b)
    jump = (b == 0) * 1.0  # ReLU's own bend
    assert steps[place + 1] - steps[place] == pytest.approx(a + jump)


def test_at_a_bend_the_slope_is_that_of_relu_there():
    z = torch.tensor([0.0, 0.5], requires_grad=True)
    slopes, offsets = torch.tensor([[2.0]]), torch.tensor([[0.5]])
    (found,) = torch.autograd.grad(apl(z, slopes, offsets).sum(), z)
    assert found.tolist() == [-2.0, 1.0]  # 0 for ReLU at 0, 0 for the hinge at its offset


# --- the unit


def test_it_begins_as_the_paper_says():
    torch.manual_seed(0)
    unit = APL((50, 20, 20), 5)
    slopes, offsets = unit.slopes.detach(), unit.offsets.detach()
    assert slopes.abs().max() <= 0.5
    assert slopes.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.01)
    assert offsets.mean().item() == pytest.approx(0, abs=0.01)
    assert offsets.std().item() == pytest.approx(0.5, rel=0.01)


def test_fixed_hinges_are_no_parameters_and_stay_in_the_state():
    unit = APL((4,), 3, learned=False)
    assert not list(unit.parameters())
    assert set(unit.state_dict()) == {"slopes", "offsets"}
    assert "learned=False" in repr(unit)
    z = torch.randn(2, 4, requires_grad=True)
    for rule in ("bp", "linear"):
        lbp.linearize(unit, rule)[0](z).sum().backward()


def test_a_negative_number_of_hinges_is_refused():
    with pytest.raises(LbpError, match="hinges = -1: an APL unit has none or more"):
        APL((4,), -1)


@pytest.mark.parametrize(
    ("fields", "shapes"),
    [
        ({"hinges": 2}, [(2, 6, 32, 32), (2, 8, 16, 16), (2, 16, 8, 8), (2, 128), (2, 128)]),
        ({"hinges_per": "channel"}, [(5, 6, 1, 1), (5, 8, 1, 1), (5, 16, 1, 1), (5, 128)] * 1),
    ],
)
def test_a_network_gives_each_unit_the_shape_of_its_maps(fields, shapes):
    config = RunConfig(model="cnn", activation="apl", width=1 / 16, **fields)
    found = [tuple(unit.slopes.shape) for unit in activation_modules(build(config)).values()]
    assert found[: len(shapes)] == shapes
    assert len(found) == 5


@pytest.mark.parametrize("field", [{"hinges": 2}, {"hinges_per": "channel"}])
def test_other_activations_refuse_the_fields_of_apl_units(field):
    ((name, value),) = field.items()
    message = f"{name} = {value!r}: the activation relu has no such field"
    with pytest.raises(LbpError, match=message):
        build(RunConfig(activation="relu", width=1 / 64, **field))


def test_other_units_draw_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    make_unit(RunConfig(activation="gelu"), (4, 2, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_shown_is_of_the_first_channels_and_the_middle():
    unit = APL((9, 6, 4), 2)
    slopes, offsets = shown_parameters(unit, 8)
    assert torch.equal(slopes, unit.slopes[:, :8, 3, 2])
    assert torch.equal(offsets, unit.offsets[:, :8, 3, 2])
    shown = shown_parameters(APL((9,), 2), 8)
    assert [tuple(values.shape) for values in shown] == [(2, 8), (2, 8)]
    assert shown_parameters(APL((9,), 2, learned=False), 8) == []
    assert [tuple(p.shape) for p in shown_parameters(nn.PReLU(9), 8)] == [(8,)]


def test_a_unit_is_saturated_where_its_slope_is_below_a_tenth_of_relus():
    unit = APL((1,), 1).double()
    nn.init.constant_(unit.slopes, -0.05)
    nn.init.constant_(unit.offsets, -1.0)
    z = torch.tensor([[-2.0], [-0.5], [0.5]], dtype=torch.float64)
    assert saturated(unit, z, "apl").flatten().tolist() == [True, True, False]
    nn.init.constant_(unit.slopes, -0.5)
    assert saturated(unit, z, "apl").flatten().tolist() == [False, True, False]


# --- memory


def kept(function, z) -> int:
    """Return the bytes that a call keeps for the backward pass, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(z)
    return sum(storages.values())


@pytest.mark.parametrize("hinges", [1, 2, 5, 10])
@pytest.mark.parametrize("rule", ["bp", "linear"])
def test_it_keeps_no_more_than_one_and_a_half_times_what_its_relus_would(hinges, rule):
    z = torch.randn(64, 8, 16, 16, requires_grad=True) * 1
    unit, _ = lbp.linearize(APL((8, 16, 16), hinges), rule)
    relus = hinges * kept(nn.ReLU(), z)
    parameters = sum(p.numel() * 4 for p in unit.parameters())
    found = kept(unit, z)
    assert relus == hinges * z.numel() * 4
    assert found == z.numel() * 4 + parameters  # the pre-activations, and itself
    assert found <= 1.5 * relus
