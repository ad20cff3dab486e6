"""Where a result comes from: the commit, the versions, the device and the time."""

import functools
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

_ROOT = Path(__file__).resolve().parents[2]  # of the checkout, if this is one


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The commit, versions, device and time of something that was computed."""

    commit: str | None  # None outside a git checkout
    dirty: bool | None  # whether the checkout differed from the commit
    python: str
    torch: str
    torchvision: str
    device: str  # the processor's or GPU's name
    threads: int  # of PyTorch on the CPU
    tf32: bool  # whether a GPU might round the factors of float32 products to TF32
    finished: str  # UTC, ISO 8601
    seconds: float


def origin(device: torch.device, seconds: float) -> Origin:
    """Describe this process and what it has finished on `device`, in `seconds`."""
    commit, dirty = _checkout()
    return Origin(
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=version("torchvision"),
        device=device_name(device),
        threads=torch.get_num_threads(),
        tf32=device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor with its cores and its vector instructions.

    PyTorch picks its kernels by these instructions, so two processors of one name can round
    differently.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    instructions = torch.backends.cpu.get_cpu_capability()
    named = "" if instructions == "DEFAULT" else f", {instructions}"
    return f"{name}, {os.cpu_count()} cores{named}"


@functools.cache
def _checkout() -> tuple[str | None, bool | None]:
    """Return the commit of this code, and whether the code differs from it.

    LBP_COMMIT names the commit of a copy without git. A repository around a copy does not count.
    """
    if named := os.environ.get("LBP_COMMIT"):
        return named, None
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "HEAD")
    if Path(top or "") != _ROOT or not re.fullmatch("[0-9a-f]{40}", commit or ""):
        return None, None
    status = _git("status", "--porcelain", "--", "lbp")
    return commit, None if status is None else bool(status)


def git_environment() -> dict[str, str]:
    """Return the environment without the variables that would point git to another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=git_environment(),
            timeout=20,
        )
    except (OSError, UnicodeError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


_checkout()  # now: what is committed while this process trains is not the code that it runs
