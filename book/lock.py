"""What pyproject.toml asks for, and the versions that requirements.lock chooses."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked(*extras: str) -> list[Requirement]:
    """Return the requirements of the project with some of its extras, which may name others."""
    extra = PROJECT["optional-dependencies"]
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for requirement in (Requirement(line) for name in extras for line in extra[name]):
        own = requirement.name == PROJECT["name"]
        found += asked(*requirement.extras) if own else [requirement]
    return list(dict.fromkeys(found))


def pins(machine: dict[str, str] | None = None) -> dict[str, str]:
    """Return the locked version of each package.

    Args:
        machine: What differs from this machine, by the names of environment markers.
    """
    chosen = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.removesuffix("\\"))
            if requirement.marker is None or requirement.marker.evaluate(machine):
                (version,) = requirement.specifier
                chosen[canonicalize_name(requirement.name)] = version.version
    return chosen
