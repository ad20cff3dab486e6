"""Where a result comes from: the commit, the numerical code, the versions and the device."""

import ast
import functools
import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lbp.paths import ROOT
from lbp.record import Provenance

# The modules that decide the numbers of a training run, besides its config.
NUMERICAL_MODULES = ("rules", "models", "data", "train", "probe")


@functools.cache
def fingerprint(modules: tuple[str, ...] = NUMERICAL_MODULES) -> str:
    """Return 16 hexadecimal digits that change only if the code of these modules does.

    Comments, docstrings and layout do not count. A record with another fingerprint is stale.
    """
    digest = hashlib.sha256()
    for name in modules:
        digest.update(code_digest((Path(__file__).parent / f"{name}.py").read_text()))
    return digest.hexdigest()[:16]


def code_digest(source: str) -> bytes:
    """Return the SHA-256 of Python source without its comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if ast.get_docstring(node):
            del node.body[0]
    return hashlib.sha256(repr(_plain(tree)).encode()).digest()


def _plain(node: Any) -> Any:
    """Return a syntax tree as nested lists.

    Unlike `ast.dump`, it is the same under every version of Python: fields that are empty, as those
    that a later version adds are, do not count.
    """
    if isinstance(node, ast.AST):
        filled = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *([name, _plain(value)] for name, value in filled)]
    return [_plain(child) for child in node] if isinstance(node, list) else repr(node)


def provenance(
    precision: str,
    device: torch.device,
    seconds: float,
    modules: tuple[str, ...] = NUMERICAL_MODULES,
) -> Provenance:
    """Describe this process and what it has finished, in this precision, in `seconds`.

    Args:
        precision: As in `lbp.config.RunConfig`.
        device: What it ran on.
        seconds: How long it took.
        modules: Those of this package that decide the result.
    """
    status = _git("status", "--porcelain", "--", ".", ":!data/results", ":!data/cost")
    return Provenance(
        # A copy of the project without git can name its commit by LBP_COMMIT.
        commit=_git("rev-parse", "HEAD") or os.environ.get("LBP_COMMIT"),
        dirty=None if status is None else bool(status),
        fingerprint=fingerprint(modules),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=version("torchvision"),
        device=device_name(device),
        threads=torch.get_num_threads(),
        precision=precision,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
