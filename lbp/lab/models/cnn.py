"""The convolutional network of Agostinelli et al. (2014) for CIFAR-10 and CIFAR-100."""

import math

from torch import Tensor, nn

from lbp.lab.config import RunConfig
from lbp.lab.units.make import make_unit

# The fields of a run that this network reads.
READS = ("activation", "width")

CHANNELS = (96, 128, 256)
HIDDEN = (2048, 2048)
# Of the initial weights. The first layer's are so small because the source's images are raw, 0 to
# 255. Those of a narrow network are larger, so that its signals have the same size.
FIRST_STD = 1e-4
STD = 1e-2


class CNN(nn.Module):
    """Three convolutions of 5 x 5, each with a pool of 3 x 3, and two linear layers.

    Agostinelli et al. (2014), section 3.1, and the network files of their code,
    github.com/ForestAgostinelli/Learned-Activation-Functions-Source, examples/cifar10/CNN: max
    pooling first, then average pooling, twice; for CIFAR-100 max, max, average. Dropout stands
    before and after each pool.

    Args:
        config: The run, of which the fields in `READS` are used, and the number of classes.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = 3, 32
        for number, full in enumerate(CHANNELS):
            out = max(1, round(full * config.width))
            maximum = number == 0 or (number == 1 and config.classes == 100)
            pool = nn.MaxPool2d if maximum else nn.AvgPool2d
            layers += [
                nn.Conv2d(channels, out, 5, padding=2),
                make_unit(config, (out, size, size)),
                nn.Dropout(0.25),
                pool(3, 2, ceil_mode=True),  # as Caffe does
                nn.Dropout(0.5 if number == 2 else 0.25),
            ]
            channels, size = out, size // 2
        layers.append(nn.Flatten())
        inputs = channels * size * size
        for full in HIDDEN:
            out = max(1, round(full * config.width))
            layers += [nn.Linear(inputs, out), make_unit(config, (out,)), nn.Dropout(0.5)]
            inputs = out
        layers.append(nn.Linear(inputs, config.classes))
        self.layers = nn.Sequential(*layers)
        _initialise(layers, config.width)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, 32, 32]."""
        logits: Tensor = self.layers(images)
        return logits


def _initialise(layers: list[nn.Module], width: float) -> None:
    std = FIRST_STD
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, std)
            if layer.bias is not None:  # they all have one, which mypy cannot know
                nn.init.zeros_(layer.bias)
            std = STD / math.sqrt(width)
