"""Make a machine of Google Colab ready for the notebooks: their first cell runs this.

Colab's own packages stay wherever the project can use them: its PyTorch fits the driver of its GPU,
and what its kernel has imported cannot be exchanged under it. Packages that are missing or too old
come in the versions of requirements.lock.
"""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from lock import ROOT, asked, pins
from packaging.utils import canonicalize_name


def lacking(installed: Callable[[str], str] = version) -> list[str]:
    """Return what the notebooks import and is not here, each with its locked version.

    Args:
        installed: Returns a package's version, or raises `PackageNotFoundError`.
    """
    versions = pins()
    found = []
    for requirement in asked("notebook"):
        try:
            fits = requirement.specifier.contains(installed(requirement.name), prereleases=True)
        except PackageNotFoundError:
            fits = False
        if not fits:
            found.append(f"{requirement.name}=={versions[canonicalize_name(requirement.name)]}")
    return found


def main() -> None:
    """Install what is lacking, and say what can be trained here."""
    if wanted := lacking():
        print("Installing", *wanted, flush=True)
        if subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted]).returncode:
            sys.exit("colab.py: pip failed: run this cell again, or restart the runtime first")
    sys.path.insert(0, str(ROOT))
    import torch

    from lbp.experiments import free_gpu

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    print(free_gpu.advice(gpu))


if __name__ == "__main__":
    main()
