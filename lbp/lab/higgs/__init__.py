"""The task Higgs to tau tau of Agostinelli et al. (2014): events, network, training, significance.

Not yet run: needs the events, 80 million of them in the paper, and a GPU. What is here is tested on
generated events. `lbp higgs TRAIN TEST` runs it.
"""

from lbp.lab.higgs.events import Events, load
from lbp.lab.higgs.network import network
from lbp.lab.higgs.significance import discovery, significance
from lbp.lab.higgs.train import Epoch, train

__all__ = ["Epoch", "Events", "discovery", "load", "network", "significance", "train"]
