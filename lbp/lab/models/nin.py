"""The network in network of Agostinelli et al. (2014) for CIFAR-10 and CIFAR-100."""

import math

from torch import Tensor, nn

from lbp.lab.config import RunConfig
from lbp.lab.units.make import make_unit

# The fields of a run that this network reads.
READS = ("activation", "width")

# A block's convolutions, by channels and kernel, then how it is pooled.
BLOCKS = (
    ((192, 5), (160, 1), (96, 1)),
    ((192, 5), (192, 1), (192, 1)),
    ((192, 3), (192, 1)),
)
STD = 0.05  # of the initial weights


class NIN(nn.Module):
    """Nine convolutions, six of them of 1 x 1, and the mean over each class's map.

    Lin, Chen and Yan (2013), as in examples/cifar100/NIN of the code of Agostinelli et al. (2014),
    github.com/ForestAgostinelli/Learned-Activation-Functions-Source: an activation function follows
    every convolution, the last one too. Not yet run: needs a GPU. The source trains the last
    convolution at a tenth of the learning rate and all biases at twice the rate and without weight
    decay; this trainer has one rate and one weight decay.

    Args:
        config: The run, of which the fields in `READS` are used, and the number of classes.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = 3, 32
        for number, block in enumerate(BLOCKS):
            for full, kernel in block:
                out = max(1, round(full * config.width))
                layers += [
                    nn.Conv2d(channels, out, kernel, padding=kernel // 2),
                    make_unit(config, (out, size, size)),
                ]
                channels = out
            if number < 2:
                pool = nn.AvgPool2d if number else nn.MaxPool2d
                layers += [pool(3, 2, ceil_mode=True), nn.Dropout(0.5)]  # as Caffe does
                size //= 2
        layers += [
            nn.Conv2d(channels, config.classes, 1),
            make_unit(config, (config.classes, size, size)),
            nn.AvgPool2d(size),
            nn.Flatten(),
        ]
        self.layers = nn.Sequential(*layers)
        std = STD
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, std)
                if layer.bias is not None:  # they all have one, which mypy cannot know
                    nn.init.zeros_(layer.bias)
                std = STD / math.sqrt(config.width)  # the first layer has three inputs at any width

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, 32, 32]."""
        logits: Tensor = self.layers(images)
        return logits
