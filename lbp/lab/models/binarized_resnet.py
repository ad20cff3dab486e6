"""The binarized ResNet for images of 32 x 32: weights and activations of -1 and +1.

After `resnet_binary` of Hubara's BinaryNet for PyTorch, which the paper names, as it was in 2018:
https://github.com/itayhubara/BinaryNet.pytorch/blob/f5c3672dede608f568e073a583cadd7a8a88fa9d/models/resnet_binary.py
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.lab.config import RunConfig
from lbp.lab.units.make import make_unit

WIDTHS = (80, 160, 320)  # channels of the three stages at width 1
BLOCKS = 2  # in each stage
# The fields of a run that this network reads.
READS = ("activation", "width", "batch_norm_scale")


class _Sign(torch.autograd.Function):
    """The sign, which the backward pass does not see."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        # The first sign of 0 is 0, the second one is +1. Nothing is overwritten in place, or else
        # torch.compile (PyTorch 2.11) would make the gradient zero and say nothing.
        return (x.sign() + 0.5).sign()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass  # the backward pass needs nothing

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def binarized(x: Tensor) -> Tensor:
    """Return -1 where `x` is negative and +1 elsewhere; the gradient passes as it is.

    So a weight's gradient is that of its sign, and a clip, if there is one, is the derivative of
    the hard tanh in front. At 0 the sign is +1, as in Courbariaux et al. (2016), equation 1. In the
    code that the paper names it is 0 there, which concerns a few units of the first steps: while
    its shift is 0, a batch norm of whole numbers can be 0.

    Args:
        x: Of any shape and floating-point type, which the result has as well.
    """
    signs: Tensor = _Sign.apply(x)  # type: ignore[no-untyped-call]
    return signs


class BinaryConv2d(nn.Conv2d):
    """A convolution without bias that takes the sign of its weights and, unless told, its input.

    Its weights are real-valued and kept within [-1, 1] by the trainer.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Height and width, an odd number; the borders are padded with zeros.
        stride: The step of the kernel.
        real_input: Whether the input stays as it is, as that of the first layer does.
    """

    clamped = ("weight",)

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, real_input: bool = False
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.real_input = real_input
        nn.init.normal_(self.weight, 0, math.sqrt(2 / (kernel * kernel * outputs)))

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H', W'] of [N, inputs, H, W]."""
        x = x if self.real_input else binarized(x)
        return F.conv2d(x, binarized(self.weight), None, self.stride, self.padding)


class BinaryLinear(nn.Linear):
    """A linear layer that takes the sign of its weights and its input; its bias is real-valued.

    Its weights are real-valued and kept within [-1, 1] by the trainer.
    """

    clamped = ("weight",)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs] of [N, inputs]."""
        return F.linear(binarized(x), binarized(self.weight), self.bias)


class Block(nn.Module):
    """Two binarized convolutions, with what came in added in front of the last batch norm.

    The residual is real-valued: only the convolutions take the sign of their inputs.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Of the first convolution; where it is not 1, a binarized convolution of 1 x 1 and a
            batch norm are on the shortcut.
        config: The run, which names the activation function.
        size: Height and width of the output.
        is_last: Whether the block ends with the sum, without batch norm and activation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        config: RunConfig,
        size: int,
        *,
        is_last: bool,
    ) -> None:
        super().__init__()
        maps = (outputs, size, size)
        self.conv1 = BinaryConv2d(inputs, outputs, 3, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.unit1 = make_unit(config, maps)
        self.conv2 = BinaryConv2d(outputs, outputs, 3)
        self.shortcut = nn.Sequential()
        if stride != 1:
            # The stride is a module of its own. PyTorch 2.11 on a processor writes past its memory
            # in the backward pass of some convolutions of 1 x 1 with a stride, channels last.
            every_other = nn.AvgPool2d(1, stride)
            self.shortcut.extend(
                [every_other, BinaryConv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)]
            )
        self.end = (
            nn.Sequential()
            if is_last
            else nn.Sequential(nn.BatchNorm2d(outputs), make_unit(config, maps))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride] of [N, inputs, H, W]."""
        h = self.conv2(self.unit1(self.norm1(self.conv1(x))))
        out: Tensor = self.end(h + self.shortcut(x))
        return out


class BinarizedResNet(nn.Module):
    """The binarized ResNet (Yazdani 2018, section 1.2): 4,337,390 parameters at width 1.

    It has 14 layers with weights, not counting the two shortcuts: a stem, three stages of two
    blocks, and a linear layer. The first layer's input alone is not binarized. Batch norm behind
    the last layer removes that layer's bias again, so that the bias needs no clamp, which the code
    that the paper names gives it. That code also has a batch norm that it never calls, left out
    here.

    Convolutions start from N(0, 2 / (k^2 C_out)), the linear layer from PyTorch's default. The
    scales of batch norm start at 1. With `batch_norm_scale="uniform"` those of the two batch norms
    around the linear layer are drawn from U(0, 1), as PyTorch did up to version 1.1; the code that
    the paper names set the others, behind convolutions, to 1 itself.

    Args:
        config: The run, of which the fields in `READS` are used.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        widths = [max(1, round(width * config.width)) for width in WIDTHS]
        channels = widths[0]
        self.stem = nn.Sequential(
            BinaryConv2d(3, channels, 3, real_input=True),
            nn.BatchNorm2d(channels),
            make_unit(config, (channels, 32, 32)),
        )
        blocks = []
        for stage, width in enumerate(widths):
            for place in range(BLOCKS):
                stride = 2 if stage > 0 and place == 0 else 1
                is_last = (stage, place) == (len(widths) - 1, BLOCKS - 1)
                size = 32 >> stage
                blocks.append(Block(channels, width, stride, config, size, is_last=is_last))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.BatchNorm1d(channels), make_unit(config, (channels,)),
            BinaryLinear(channels, config.classes), nn.BatchNorm1d(config.classes),
        )  # fmt: skip
        if config.batch_norm_scale == "uniform":
            for module in self.head.modules():
                if isinstance(module, nn.BatchNorm1d):
                    nn.init.uniform_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, 10] of normalised images [N, 3, 32, 32]."""
        h = self.blocks(self.stem(images))  # [N, 320 * width, 8, 8]
        logits: Tensor = self.head(F.avg_pool2d(h, 8).flatten(1))
        return logits
