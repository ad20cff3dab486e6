"""The task Higgs to tau tau on generated events; the significance against known formulae."""

import gzip
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from lbp.cli import _parser
from lbp.cli import main as lbp
from lbp.errors import LbpError
from lbp.lab.higgs import Events, discovery, load, network, significance, train
from lbp.lab.higgs.train import LR
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
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
        (b"label,feature\n", "it is empty"),
        (b"1,2,3\n", "has 3 columns: 26 are needed"),
        (b"1,2\n1,2,3\n", "holds no events"),
        (b"1,nonsense\n", "holds no events"),
        (b"\xff\xfe", "holds no events"),
        (b"\x1f\x8bdamaged", "holds no events"),
        (gzip.compress(b"1,2,3\n" * 99)[:30], "holds no events"),
        (gzip.compress(b"1,2,3\n" * 99)[:12] + b"\xff" * 30, "holds no events"),
        (",".join(["2"] * 26).encode(), "labels other than 0 and 1"),
        (",".join(["1", *["nan"] * 25]).encode(), "values that are not numbers"),
    ],
)
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


@pytest.mark.parametrize("rule", ["bp", "linear"])
def test_it_learns_generated_events(rule):
    torch.manual_seed(0)
    fresh = generated(1500, seed=1)
    first, *_, last = train(network(rule=rule), generated(3000), fresh, epochs=6)
    assert last.number == 6
    assert last.train_loss < first.train_loss
    # Half of the events are signal, and a guess has the loss ln 2.
    assert last.test_loss < 0.9 * math.log(2)
    guess = significance(torch.randn(len(fresh)), fresh.labels)
    assert last.significance > 2 * guess


def test_an_epoch_is_its_steps_written_out():
    """Two batches of SGD with momentum 0.5; weight decay 0.001 on the hinges alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(25, 6), APL((6,), 2), nn.Linear(6, 1), nn.Flatten(0)).double()
    events = Events(torch.randn(150, 25).double(), (torch.rand(150) > 0.5).double())
    test = generated(300)
    test = Events(test.features.double(), test.labels.double())
    mine = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(3)
    (epoch,) = train(model, events, test, epochs=1, lr=0.1)

    torch.manual_seed(3)
    velocity, total = {name: torch.zeros_like(p) for name, p in mine.items()}, 0.0
    for batch in torch.randperm(150).split(100):
        leaves = {name: p.requires_grad_() for name, p in mine.items()}
        z = events.features[batch] @ leaves["0.weight"].T + leaves["0.bias"]
        h = z.clamp(min=0) + sum(
            slope * (offset - z).clamp(min=0)
            for slope, offset in zip(leaves["1.slopes"], leaves["1.offsets"], strict=True)
        )
        logit = (h @ leaves["2.weight"].T + leaves["2.bias"]).squeeze(1)
        sign = 2 * events.labels[batch] - 1
        loss = torch.log1p(torch.exp(-sign * logit))
        total += loss.sum().item()
        grads = torch.autograd.grad(loss.mean(), list(leaves.values()))
        for name, grad in zip(list(mine), grads, strict=True):
            decay = 0.001 if name.startswith("1.") else 0.0
            velocity[name] = 0.5 * velocity[name] + grad + decay * mine[name].detach()
            mine[name] = mine[name].detach() - 0.1 * velocity[name]
    assert epoch.train_loss == pytest.approx(total / 150)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), mine[name])


def test_a_run_that_diverges_ends_and_says_so():
    torch.manual_seed(0)
    (epoch,) = train(network(), generated(1000), generated(200), epochs=3, lr=1e4)
    assert str(epoch) == "epoch 1: diverged"
    assert math.isnan(epoch.significance)


def test_test_events_that_are_too_few_are_told_before_training():
    with pytest.raises(LbpError, match="events: one and 20 needed"):
        next(train(network(), generated(100), generated(10), epochs=1))


@pytest.fixture
def files(tmp_path):
    for name, number, seed in (("train", 400, 0), ("test", 200, 1)):
        (tmp_path / name).write_text(text(generated(number, seed)))
    return [str(tmp_path / "train"), str(tmp_path / "test")]


def test_the_command_trains_and_is_repeatable(files, capsys):
    printed = []
    for _ in range(2):
        assert lbp(["higgs", *files, "--rule", "linear", "--epochs", "2", "--device", "cpu"]) == 0
        printed.append(capsys.readouterr().out)
    lines = printed[0].splitlines()
    assert lines[0] == "400 events to train on, 200 to judge by"
    assert [line.partition(":")[0] for line in lines[1:]] == ["epoch 1", "epoch 2"]
    assert printed[0] == printed[1]
    assert _parser().parse_args(["higgs", *files]).lr == LR


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--epochs", "0"], "epochs = 0: give 1 or more"),
        (["--lr", "nan"], "lr = nan: give a number above 0"),
        (["--seed", str(2**70)], f"seed = {2**70}: give a number from 0 to 2147483647"),
        (["--device", "cpu,auto"], "device"),
        (["--hinges", "-1"], "hinges = -1"),
        (["--rule", "nonsense"], "unknown backward rule 'nonsense'"),
    ],
)
def test_the_command_tells_of_a_wrong_input_in_one_line(files, capsys, given, message):
    assert lbp(["higgs", *files, *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


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


def test_signal_below_all_background_counts_with_the_lowest():
    """More than a bin's share of the background has the smallest score."""
    labels = torch.cat([torch.zeros(1000), torch.ones(100)])
    background = torch.cat([torch.zeros(200), torch.linspace(1, 2, 800)])
    signal = torch.cat([torch.full((50,), -1.0), torch.full((50,), 3.0)])
    found = significance(torch.cat([background, signal]), labels, bins=10)
    b = np.array([1000.0, *[500.0] * 8])
    s = np.array([50.0, *[0.0] * 7, 50.0])
    assert found == pytest.approx(discovery(s, b), rel=1e-3)


@pytest.mark.parametrize("labels", [torch.zeros(30), torch.ones(30)])
def test_events_of_one_kind_have_no_significance(labels):
    with pytest.raises(LbpError, match="events: one and 20 needed"):
        significance(torch.zeros(30), labels)
