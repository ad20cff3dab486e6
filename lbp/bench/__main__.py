"""The command. Each benchmark prints its own lines; both sides of a ratio are timed in one run."""

import platform
import sys
from collections.abc import Callable, Sequence

import torch

from lbp.bench.faults import faults
from lbp.bench.figure1 import figure1
from lbp.bench.training import training
from lbp.errors import LbpError, check_choice
from lbp.lab.provenance import device_name

BENCHMARKS: dict[str, Callable[[], None]] = {
    "figure1": figure1,
    "training": training,
    "faults": faults,
}


def machine() -> str:
    """Return processor, GPU if there is one, and versions in one line."""
    kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    names = ", ".join(device_name(torch.device(kind)) for kind in kinds)
    return f"{names}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def main(names: Sequence[str]) -> int:
    """Run the benchmarks of these names, all of them for none; return 2 after a wrong input."""
    try:
        for name in names:
            check_choice("benchmark", name, BENCHMARKS)
        print(machine(), flush=True)
        for name in names or BENCHMARKS:
            BENCHMARKS[name]()
    except LbpError as error:
        print(f"lbp.bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
