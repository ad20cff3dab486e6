"""The lock file is complete, and environment.yml says the same."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
# The interpreter of environment.yml, to which the lock's markers are applied.
CONDA = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux"}


def locked() -> list[tuple[Requirement, list[str]]]:
    """Return the lock's requirements, each with its hashes."""
    logical = re.sub(r"\\\n", "", re.sub(r"^\s*#.*\n", "", LOCK, flags=re.M))
    found = []
    for line in filter(None, map(str.strip, logical.splitlines())):
        requirement, *hashes = re.split(r"\s+--hash=", line)
        found.append((Requirement(requirement), hashes))
    return found


def versions() -> dict[str, str]:
    """Return the versions that the lock chooses for environment.yml's interpreter."""
    chosen: dict[str, str] = {}
    for requirement, _ in locked():
        if requirement.marker is None or requirement.marker.evaluate(CONDA):
            assert requirement.name not in chosen
            chosen[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return chosen


def conda() -> tuple[list[str], list[str]]:
    """Return environment.yml's conda and pip dependencies."""
    *plain, last = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return plain, last["pip"]


def direct() -> list[Requirement]:
    """Return pyproject's dependencies and those of its extras, which may name other extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != project["name"]]


def test_lock_pins_and_hashes_every_package():
    assert len(locked()) > 100
    for requirement, hashes in locked():
        assert re.fullmatch(r"==[^=*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), requirement


def test_lock_names_no_host():
    assert "://" not in LOCK
    assert not re.search(r"^\s*-{1,2}(i|index|extra|find|trusted|f)", LOCK, flags=re.M)


@pytest.mark.parametrize(
    ("name", "version"),
    [("torch", "2.11.0"), ("torchvision", "0.26.0"), ("jupyter-book", "1.0.4.post1")],
)
def test_lock_holds_what_is_known_to_work_together(name, version):
    found = {str(r.specifier) for r, _ in locked() if canonicalize_name(r.name) == name}
    assert found == {f"=={version}"}


def test_lock_satisfies_pyproject():
    for requirement in direct():
        version = versions()[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_conda_pins_equal_the_lock():
    plain, pip = conda()
    assert "python=3.11" in plain
    assert "--editable ." in pip
    pins = [Requirement(line) for line in pip if not line.startswith("-")]
    for pin in pins:
        assert versions()[canonicalize_name(pin.name)] == str(pin.specifier), pin
    names = {canonicalize_name(pin.name) for pin in pins}
    needed = {canonicalize_name(r.name) for r in direct()} - {"uv"}  # conda's pip takes its place
    assert needed == names


def test_conda_file_names_no_host():
    text = (ROOT / "environment.yml").read_text()
    assert "://" not in text
    assert "index" not in text


def test_the_lock_command_writes_the_conda_file(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book")
    environment = importlib.import_module("environment")
    assert environment.text() == (ROOT / "environment.yml").read_text()
