"""Write environment.yml, for conda and Binder, from requirements.lock: part of `make lock`."""

from lock import PROJECT, ROOT, asked, pins
from packaging.utils import canonicalize_name

HEAD = """\
# For conda users: conda env create -f environment.yml && conda activate lbp
# Binder makes its machines from it, too. `make lock` writes it: the versions are those of
# requirements.lock, which also holds the hashes.
name: lbp
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""
MACHINE = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux"}


def text() -> str:
    """Return the content of environment.yml: what pyproject.toml asks for, without its own uv."""
    extras = [name for name in PROJECT["optional-dependencies"] if name != "env"]
    versions = pins(MACHINE)
    names = [canonicalize_name(requirement.name) for requirement in asked(*extras)]
    lines = [f"{name}=={versions[name]}" for name in names]
    return HEAD + "".join(f"      - {line}\n" for line in [*lines, "--editable ."])


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(text())
