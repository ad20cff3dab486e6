"""The task Higgs to tau tau on generated events; the significance against known formulae."""

import gzip
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn

from lbp.errors import LbpError
from lbp.lab.higgs import Events, discovery, load, network, significance
from lbp.lab.units.apl import APL
from lbp.linearization import activation_modules


def generated(number: int, seed: int = 0) -> Events:
    """Return events that can be told apart by a bent boundary."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(number, 25, generator=generator)
    noise = torch.randn(number, generator=generator)
    labels = (features[:, 0].abs() + features[:, 1] + 0.3 * noise > 0.8).float()
    return Events(features, labels)


def text(events: Events) -> str:
    table = torch.cat([events.labels[:, None], events.features], dim=1)
    return "\n".join(",".join(f"{v:.8e}" for v in row) for row in table.tolist()) + "\n"


@pytest.mark.parametrize("header", ["", "# label," + ",".join(f"f{n}" for n in range(25)) + "\n"])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_events_are_those_of_the_file(tmp_path, header, pack):
    events = generated(7)
    path = tmp_path / "htautau.csv.gz"
    path.write_bytes(pack((header + text(events)).encode()))
    found = load(path)
    assert torch.equal(found.labels, events.labels)
    torch.testing.assert_close(found.features, events.features)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no events|has 0 columns|has 1 columns"),
        (b"1,2,3\n", "has 3 columns: 26 are needed"),
        (b"1,2\n1,2,3\n", "holds no events"),
        (b"1,nonsense\n", "holds no events"),
        (b"\xff\xfe", "holds no events"),
        (b"\x1f\x8bdamaged", "holds no events"),
        (",".join(["2"] * 26).encode(), "labels other than 0 and 1"),
        (",".join(["1", *["nan"] * 25]).encode(), "values that are not numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")
def test_a_file_that_holds_no_events_is_told_in_one_line(tmp_path, content, message):
    path = tmp_path / "events.csv"
    path.write_bytes(content)
    with pytest.raises(LbpError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(LbpError, match="cannot be read"):
        load(tmp_path / "none")


@pytest.mark.parametrize("rule", ["bp", "linear"])
def test_the_network_is_the_sources(rule):
    model = network(rule=rule)
    layers = [m for m in model if isinstance(m, nn.Linear)]
    assert [m.out_features for m in layers] == [274] * 7 + [1]
    assert layers[0].in_features == 25
    units = activation_modules(model).values()
    assert len(units) == 7
    assert all(isinstance(unit, APL) and unit.slopes.shape == (2, 274) for unit in units)
    assert [m.p for m in model if isinstance(m, nn.Dropout)] == [0.25, 0.5]
    assert [m.weight.std().item() for m in layers] == pytest.approx([0.1] * 7 + [0.001], rel=0.15)
    assert model(torch.zeros(3, 25)).shape == (3,)


def test_it_learns_generated_events():
    torch.manual_seed(0)
    model, events = network(), generated(1500)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.006, momentum=0.5)
    for _ in range(6):
        for batch in torch.randperm(len(events.labels)).split(50):
            loss = F.binary_cross_entropy_with_logits(
                model(events.features[batch]), events.labels[batch]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    fresh = generated(1500, seed=1)
    with torch.no_grad():
        scores = model.eval()(fresh.features)
    assert ((scores > 0) == (fresh.labels > 0)).float().mean() > 0.7
    shuffled = scores[torch.randperm(len(scores))]
    assert significance(scores, fresh.labels) > significance(shuffled, fresh.labels)


# --- significance


def test_without_uncertainty_it_is_the_known_formula():
    for s, b in ((100.0, 5000.0), (10.0, 40.0)):
        known = math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s))
        found = discovery(np.array([s]), np.array([b]), relative=1e-9)
        assert found == pytest.approx(known, rel=1e-4)


def test_bins_that_the_scale_does_not_touch_add_in_squares():
    s, b = np.array([3.0, 50.0, 47.0]), np.array([100.0, 1000.0, 3900.0])
    each = [discovery(s[i : i + 1], b[i : i + 1], relative=1e-9) for i in range(3)]
    assert discovery(s, b, relative=1e-9) == pytest.approx(math.hypot(*each), rel=1e-4)


def test_the_likelihood_is_largest_where_a_search_finds_it():
    s, b, relative = np.array([20.0, 80.0]), np.array([4000.0, 1000.0]), 0.05
    n = s + b

    def deviance(scale):
        expected = scale * b
        poisson = 2 * (n * np.log(n / expected) - n + expected).sum()
        return poisson + ((scale - 1) / relative) ** 2

    best = minimize_scalar(deviance, bounds=(0.5, 2), method="bounded", options={"xatol": 1e-10})
    assert discovery(s, b, relative) == pytest.approx(math.sqrt(best.fun), rel=1e-6)


def test_an_uncertain_background_hides_a_signal_of_the_same_shape():
    """One bin: the 5 % of 5,000 events are more than the signal, the square root is not."""
    found = discovery(np.array([100.0]), np.array([5000.0]))
    assert 0.3 < found < 0.4  # 100 / sqrt(5000 + 250²) = 0.38
    assert discovery(np.array([0.0]), np.array([5000.0])) == 0


def test_scores_are_binned_with_the_same_background_each():
    labels = torch.cat([torch.zeros(1000), torch.ones(100)])
    background = torch.linspace(0, 1, 1000)
    signal = torch.full((100,), 0.97)
    found = significance(torch.cat([background, signal]), labels, bins=10)
    b = np.full(10, 500.0)
    s = np.zeros(10)
    s[-1] = 100
    assert found == pytest.approx(discovery(s, b), rel=1e-3)
    alike = significance(torch.zeros(1100), labels)
    assert alike == pytest.approx(discovery(np.array([100.0]), np.array([5000.0])))


@pytest.mark.parametrize("labels", [torch.zeros(30), torch.ones(30)])
def test_events_of_one_kind_have_no_significance(labels):
    with pytest.raises(LbpError, match="events: one and 20 needed"):
        significance(torch.zeros(30), labels)
