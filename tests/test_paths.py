"""Where the project's files are: in the clone that is named, that holds the code, or around us."""

import os
from pathlib import Path

import pytest

from lbp.errors import LbpError
from lbp.lab import paths
from tests import toys

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LBP_PROJECT", raising=False)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this package lay in no clone."""
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "lbp" / "lab" / "p.py"))


def test_a_clone_that_is_named_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = toys.clone(tmp_path / "clone")
    monkeypatch.setenv("LBP_PROJECT", str(clone))
    assert paths.project() == clone
    assert paths.results() == clone / "data" / "results"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LBP_PROJECT", "clone")
    assert paths.project() == clone
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LBP_PROJECT", f"~{os.sep}clone")
    assert paths.project() == clone


def test_the_clone_of_this_code_comes_before_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toys.clone(tmp_path / "clone"))
    assert paths.project() == ROOT


@pytest.mark.usefixtures("installed")
def test_else_it_is_the_current_folder_or_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = toys.clone(tmp_path / "clone")
    monkeypatch.chdir(clone)
    assert paths.project() == clone
    (clone / "data" / "results").mkdir()
    monkeypatch.chdir(clone / "data" / "results")
    assert paths.project() == clone


@pytest.mark.usefixtures("installed")
def test_without_a_clone_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LbpError, match=r"^this needs a clone of the project, .* --project DIR$"):
        paths.project()


@pytest.mark.parametrize("name", ["nowhere", "folder", "folder/_toc.yml"])
def test_a_name_that_leads_to_no_clone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "_toc.yml").touch()
    monkeypatch.setattr(os, "environ", {"LBP_PROJECT": str(tmp_path / name)})
    with pytest.raises(LbpError) as error:
        paths.project()
    assert str(error.value).startswith(f"{tmp_path / name} is not a clone of this project")
