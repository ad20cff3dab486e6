"""Activation classes of other packages that are taken whole, by their names.

No package is imported for them: those that are loaded are registered when a rule is asked for.
"""

import sys

import torch
from torch import nn

from lbp.coverage import MODULES
from lbp.registration import register_activation

KNOWN: dict[str, tuple[str, ...]] = {
    "transformers.activations": (
        *("GELUTanh", "NewGELUActivation", "PytorchGELUTanh", "GELUActivation", "SiLUActivation"),
        *("FastGELUActivation", "QuickGELUActivation", "ClippedGELUActivation"),
        *("AccurateGELUActivation", "MishActivation", "LaplaceActivation"),
        *("ReLUSquaredActivation", "SqrtSoftplusActivation", "XIELUActivation"),
    ),
    "transformers.models.bloom.modeling_bloom": ("BloomGelu",),
    "timm.layers.activations": (
        *("Swish", "Mish", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "HardMish", "PReLU"),
        *("GELU", "GELUTanh", "QuickGELU"),
    ),
    "timm.layers.activations_me": (
        *("SwishMe", "MishMe", "HardSigmoidMe", "HardSwishMe", "HardMishMe"),
    ),
    "timm.models.metaformer": ("SquaredReLU", "StarReLU"),
    "diffusers.models.activations": ("FP32SiLU",),
    "open_clip.transformer": ("QuickGELU",),
    "monai.networks.blocks.activation": ("Swish", "MemoryEfficientSwish", "Mish"),
    "x_transformers.x_transformers": ("ReluSquared",),
}
BOUNDED = {"Sigmoid", "Tanh", "HardSigmoid", "HardSigmoidMe", "LaplaceActivation"}


def register_loaded() -> None:
    """Register those classes whose packages are loaded, if they are not registered yet."""
    if torch.compiler.is_compiling():  # it was done before, or else Dynamo would look at all this
        return
    for home, names in KNOWN.items():
        package = sys.modules.get(home)
        if package is None:
            continue
        for name in names:
            found = getattr(package, name, None)
            if isinstance(found, type) and issubclass(found, nn.Module) and found not in MODULES:
                register_activation(found, bounded=name in BOUNDED)
