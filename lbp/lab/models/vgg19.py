"""VGG19 for images of 32 x 32."""

import math

from torch import Tensor, nn

from lbp.lab.config import RunConfig
from lbp.lab.units.make import make_unit

# Configuration E of Simonyan and Zisserman (2015): 16 convolutions; "M" is a 2 x 2 max pool.
LAYERS: tuple[int | str, ...] = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
)
# The fields of a run that this network reads.
READS = ("activation", "width", "batch_norm", "batch_norm_scale", "init", "head")


class VGG19(nn.Module):
    """VGG19 of stock modules (Yazdani 2018, section 1.2): 20,040,522 parameters at width 1.

    The paper names only "19-layer VGG". This is the widespread form for CIFAR-10: convolutions of
    3 x 3 with padding 1 and bias, batch norm after each, and one linear layer as the head.

    Args:
        config: The run, of which the fields in `READS` are used.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = 3, 32
        for layer in LAYERS:
            if isinstance(layer, str):
                layers.append(nn.MaxPool2d(2))
                size //= 2
                continue
            out = scaled(layer, config.width)
            layers.append(nn.Conv2d(channels, out, 3, padding=1))
            if config.batch_norm:
                layers.append(nn.BatchNorm2d(out))
            layers.append(make_unit(config, (out, size, size)))
            channels = out
        self.features = nn.Sequential(*layers)
        if config.head == "linear":
            self.head = nn.Sequential(nn.Linear(channels, config.classes))
        else:
            hidden = scaled(512, config.width)
            self.head = nn.Sequential(
                nn.Dropout(), nn.Linear(channels, hidden), make_unit(config, (hidden,)),
                nn.Dropout(), nn.Linear(hidden, hidden), make_unit(config, (hidden,)),
                nn.Linear(hidden, config.classes),
            )  # fmt: skip
        initialise(self, config.init)
        if config.batch_norm_scale == "uniform":
            draw_batch_norm_scale(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of normalised images [N, 3, 32, 32]."""
        h = self.features(images)  # [N, 512 * width, 1, 1]
        logits: Tensor = self.head(h.flatten(1))
        return logits


def scaled(channels: int, width: float) -> int:
    """Return the number of channels at `width`, at least 1."""
    return max(1, round(channels * width))


def initialise(model: nn.Module, init: str) -> None:
    """Initialise every convolution and linear layer in place.

    "default" keeps PyTorch's U(-1/sqrt(fan_in), 1/sqrt(fan_in)); "he" draws convolutions from
    N(0, 2 / (k^2 C_out)) and linear layers from N(0, 0.01^2), as torchvision's first VGG did;
    "xavier" is Glorot's uniform distribution. The last two set the biases to zero.
    """
    if init == "default":
        return
    for module in model.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if init == "xavier":
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        else:
            nn.init.normal_(module.weight, 0, 0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def draw_batch_norm_scale(model: nn.Module) -> None:
    """Draw every batch norm's scale from U(0, 1) in place, as PyTorch did up to version 1.1.

    The draws come after all others, so that the other parameters are those of a model without them.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
