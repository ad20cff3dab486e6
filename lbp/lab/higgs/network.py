"""The network of the task Higgs to tau tau."""

from torch import nn

from lbp.lab.higgs.events import FEATURES
from lbp.lab.units.apl import APL
from lbp.linearization import linearize

HIDDEN = 7  # layers of hidden units, so that there are eight layers of weights
UNITS = 274


def network(hinges: int = 2, rule: str = "bp") -> nn.Sequential:
    """Return the network: eight layers of weights, APL units, and one logit for each event.

    From experiments/higgsboson of the authors' code, github.com/ForestAgostinelli/Learned-
    Activation-Functions-Source: 274 units in each hidden layer, dropout after the last two,
    weights from N(0, 0.01), those of the last layer from N(0, 1e-6), S = 2. There learning rate is
    0.006, momentum 0.5, batches have 100 events, and only the hinges have weight decay, 0.001.

    Args:
        hinges: S of its units; 0 makes them ReLU.
        rule: As for `lbp.linearize`.
    """
    layers: list[nn.Module] = []
    inputs = FEATURES
    for number in range(1, HIDDEN + 1):
        layers += [nn.Linear(inputs, UNITS), APL((UNITS,), hinges)]
        if number >= HIDDEN - 1:
            layers.append(nn.Dropout(0.5 if number == HIDDEN else 0.25))
        inputs = UNITS
    layers += [nn.Linear(inputs, 1), nn.Flatten(0)]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.normal_(layer.weight, 0, 0.1 if layer is not linear[-1] else 0.001)
        nn.init.zeros_(layer.bias)
    model, _ = linearize(nn.Sequential(*layers), rule)
    return model
