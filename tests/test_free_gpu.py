"""The times on a free GPU follow from the runs' arithmetic."""

import math

import pytest

from lbp.experiments import EXPERIMENTS, free_gpu
from lbp.experiments.scales import PAPER
from lbp.lab.config import RunConfig
from lbp.lab.run import Goal

# VGG19 on images of 32 × 32: each convolution's channels in and out, and the side of its output.
CONVOLUTIONS = [
    *((3, 64, 32), (64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8)),
    *([(256, 256, 8)] * 3 + [(256, 512, 4)] + [(512, 512, 4)] * 3 + [(512, 512, 2)] * 4),
]


def test_an_epoch_takes_as_long_as_its_multiplications_and_additions():
    forward = [2 * 9 * a * b * side**2 for a, b, side in CONVOLUTIONS]
    # Each layer three times in training, but the first, whose images need no gradient, twice.
    training = 3 * sum(forward) - forward[0]
    expected = (50_000 * training + 10_000 * sum(forward)) / (0.3 * 8.1e12)
    # The linear layers are left out of this count.
    assert free_gpu.seconds([Goal(RunConfig(), 1)]) == pytest.approx(expected, rel=0.02)


def test_the_table_has_every_experiment_and_its_times_agree():
    rows = {row[0].strip("`"): list(map(int, row[1:])) for row in free_gpu.table().rows}
    assert set(rows) == set(EXPERIMENTS)
    for stem, (runs, epoch, shortest, longest, every) in rows.items():
        goals = EXPERIMENTS[stem].goals(PAPER)
        assert runs == len(goals)
        assert 1 <= shortest <= longest
        assert runs * (shortest - 1) < 60 * every
        assert 60 * (every - 1) < runs * longest
        epochs = sum(goal.epochs for goal in goals)
        assert epochs * (epoch - 1) < 3600 * every
        assert every == math.ceil(free_gpu.seconds(goals) / 3600)


def test_the_advice_is_one_line_and_names_the_gpu():
    assert free_gpu.advice("").startswith("No GPU: ")
    assert free_gpu.advice("Tesla T4").startswith("Tesla T4: ")
    assert "\n" not in free_gpu.advice("Tesla T4")
