"""ResNet-18 for images of 32 x 32."""

from torch import nn

from lbp.errors import LbpError
from lbp.lab.config import RunConfig
from lbp.lab.units import UNITS

# The fields of a run that this network reads.
READS = ("activation",)


def resnet18(config: RunConfig) -> nn.Module:
    """Return torchvision's ResNet-18 with the first layer that is usual for small images.

    Args:
        config: The run, of which the fields in `READS` are used.

    Raises:
        LbpError: If the activation function needs to know the shape of its maps: torchvision's
            blocks call one module in several places.
    """
    if config.activation == "apl":
        raise LbpError("activation = 'apl': the network resnet18 cannot have APL units")
    from torchvision.models import resnet18  # imported here: it takes seconds

    model: nn.Module = resnet18(num_classes=config.classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, UNITS[config.activation]())
    return model
