"""Training runs: a run as data, networks, images, the trainer, and the store of records."""

from lbp.errors import require

require("lbp.lab", "lab", "filelock", "numpy", "torchvision", "tqdm")
