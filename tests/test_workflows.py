"""The workflows are valid, careful with permissions, and their steps do what they say."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
TEXTS = {path.stem: path.read_text() for path in sorted(GITHUB.glob("workflows/*.yml"))}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]
# What the permissions of a job may be beyond reading the code.
PERMISSIONS = {
    ("links", "report"): {"issues": "write"},
    ("preview", "preview"): {"actions": "read"},
    ("publish", "deploy"): {"pages": "write", "id-token": "write"},
    ("release", "release"): {"contents": "write"},
    ("rerun", "report"): {"issues": "write"},
}

every_workflow = pytest.mark.parametrize("name", WORKFLOWS)
every_job = pytest.mark.parametrize(("name", "job"), JOBS)


def steps() -> dict[tuple[str, str], dict]:
    """Return the steps that run commands, by workflow and id."""
    return {
        (name, step["id"]): step
        for name, job in JOBS
        for step in WORKFLOWS[name]["jobs"][job]["steps"]
        if "run" in step
    }


# --- valid, and careful


def checked(program: str, *arguments: object) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("github-actions", "actions/*/action.yml"),
        ("dependabot", "dependabot.yml"),
    ],
)
def test_files_follow_their_schema(schema, files):
    checked("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *GITHUB.glob(files))


@pytest.mark.slow
def test_zizmor_finds_no_fault():
    checked("zizmor", "--offline", "--no-progress", "--config", GITHUB / "zizmor.yml", GITHUB)


@every_job
def test_every_job_has_a_timeout_and_its_least_permissions(name, job):
    assert WORKFLOWS[name]["permissions"] == {}
    found = WORKFLOWS[name]["jobs"][job]
    assert 0 < found["timeout-minutes"] <= 120
    reads = any("checkout" in step.get("uses", "") for step in found["steps"])
    own = {"contents": "read"} if reads else {}
    assert found["permissions"] == own | PERMISSIONS.get((name, job), {})


@every_workflow
def test_no_condition_compares_with_false(name):
    assert not re.search(r"==\s*'?false|'?false'?\s*==", TEXTS[name])


@every_workflow
def test_expressions_name_steps_and_jobs_that_exist(name):
    for job in WORKFLOWS[name]["jobs"].values():
        ids = {step["id"] for step in job["steps"] if "id" in step}
        needs = {job["needs"]} if "needs" in job else set()
        assert set(re.findall(r"\bsteps\.([\w-]+)", str(job))) <= ids
        assert (
            set(re.findall(r"\bneeds\.([\w-]+)", str(job))) <= needs <= set(WORKFLOWS[name]["jobs"])
        )


@every_workflow
def test_actions_are_pinned_by_major_version(name):
    for action in re.findall(r"uses: (\S+)", TEXTS[name]):
        assert re.fullmatch(r"\./\.github/actions/setup|[\w./-]+@v\d+", action)


def test_a_book_is_deployed_only_after_its_build():
    assert WORKFLOWS["publish"]["jobs"]["deploy"]["needs"] == "build"
    assert "if" not in WORKFLOWS["publish"]["jobs"]["deploy"]


def test_a_newer_push_cancels_the_runs_of_a_pull_request_alone():
    for name, workflow in WORKFLOWS.items():
        triggers = workflow[True]  # YAML's name for "on"
        cancels = workflow.get("concurrency", {}).get("cancel-in-progress", False)
        assert cancels == ("pull_request" in triggers), name
    assert (
        "github.event.pull_request.number || github.sha" in WORKFLOWS["ci"]["concurrency"]["group"]
    )


def test_dependabot_leaves_what_is_known_to_work_together():
    pip, actions = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    assert (pip["package-ecosystem"], actions["package-ecosystem"]) == ("pip", "github-actions")
    assert {update["schedule"]["interval"] for update in (pip, actions)} == {"weekly"}
    ignored = {rule["dependency-name"]: rule.get("versions") for rule in pip["ignore"]}
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    assert set(ignored) == {line.partition("==")[0] for line in pinned["constraint-dependencies"]}
    assert ignored["torch"] is ignored["torchvision"] is None  # every version
    (versions,) = ignored["jupyter-book"]
    assert "2.0" in SpecifierSet(versions)
    assert "1.0.5" not in SpecifierSet(versions)


# --- the steps, with stand-ins for make and gh that write down what they are asked

# The programs that a step calls, word for word; the other steps speak to GitHub or take long.
CALLS = {
    ("ci", "make"): ["make book"],
    ("links", "book"): ["make book"],
    ("preview", "book"): ["make book"],
    ("publish", "book"): ["make book"],
    ("release", "book"): ["make book pdf zip"],
    ("release", "release"): [
        "gh release create v1.0 --verify-tag --generate-notes dist/SHA256SUMS dist/lbp.pdf"
    ],
    ("rerun", "test"): ["make test"],
}
# Tried below, each in its own test.
TRIED = {
    *(("links", "issue"), ("rerun", "issue")),
    *(("preview", "published"), ("preview", "changes")),
    *(("release", "tag"), ("release", "checksums")),
}
PARSED = {("release", "wheel")}  # builds for long


@pytest.fixture
def folder(tmp_path):
    """A folder as a step finds it, and stand-ins on its PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "dist").mkdir()
    for name in ("lbp.pdf", "SHA256SUMS"):
        (tmp_path / "dist" / name).touch()
    shutil.copytree(GITHUB, tmp_path / ".github")
    for program in ("make", "gh"):
        stand_in(tmp_path, program, "")
    return tmp_path


def stand_in(folder: Path, program: str, body: str) -> None:
    path = folder / "bin" / program
    path.write_text(f'#!/bin/bash\necho "{program} $*" >> {folder}/calls\n{body}\n')
    path.chmod(0o755)


def run(folder: Path, key: tuple[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub does: bash that stops at the first error."""
    given = {"GITHUB_REF_NAME": "v1.0", "TARGET": "book", "RUN": "https://example.org/1"}
    given |= {"BASE": "main", "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps()[key]["run"]],
        cwd=folder,
        env=os.environ | given | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_every_step_is_tried_or_parsed():
    assert set(steps()) == set(CALLS) | TRIED | PARSED


@pytest.mark.parametrize("key", steps(), ids="-".join)
def test_every_step_is_bash(key):
    done = subprocess.run(["bash", "-n"], input=steps()[key]["run"], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("key", CALLS, ids="-".join)
def test_a_step_calls_its_programs(folder, key):
    done = run(folder, key)
    assert done.returncode == 0, done.stderr
    assert calls(folder) == CALLS[key]


@pytest.mark.parametrize("key", [("links", "issue"), ("rerun", "issue")], ids="-".join)
def test_one_issue_is_opened_and_no_second_one(folder, key):
    done = run(folder, key)
    assert done.returncode == 0, done.stderr
    _, created = calls(folder)
    title = re.search(r"--title (.*) --body .*https://example.org/1$", created)[1]

    (folder / "calls").unlink()
    stand_in(folder, "gh", f'echo "{title}"; echo "Another issue"')
    assert run(folder, key).returncode == 0
    assert [call.split()[2] for call in calls(folder)] == ["list"]

    # A title that only begins alike is another issue.
    stand_in(folder, "gh", f'echo "{title} again"')
    assert run(folder, key).returncode == 0
    assert [call.split()[2] for call in calls(folder)][1:] == ["list", "create"]


def test_a_failing_list_of_issues_opens_none(folder):
    stand_in(folder, "gh", "exit 1")
    assert run(folder, ("links", "issue")).returncode != 0
    assert len(calls(folder)) == 1


def test_the_last_published_book_is_fetched(folder):
    (folder / "index.html").write_text("published")
    subprocess.run(["tar", "-cf", "book.tar", "index.html"], cwd=folder, check=True)
    body = "case $2 in list) echo 7;; download) cp book.tar artifact.tar;; esac"
    stand_in(folder, "gh", body)
    done = run(folder, ("preview", "published"))
    assert done.returncode == 0, done.stderr
    assert (folder / "published" / "index.html").read_text() == "published"
    listed, downloaded = calls(folder)
    assert "--workflow publish.yml --branch main --status success" in listed
    assert downloaded == "gh run download 7 --name github-pages"


@pytest.mark.parametrize("body", ["", "case $2 in list) echo 7;; *) exit 1;; esac"])
def test_where_no_book_is_published_a_preview_goes_on(folder, body):
    stand_in(folder, "gh", body)
    assert run(folder, ("preview", "published")).returncode == 0
    assert list((folder / "published").iterdir()) == []


def test_a_preview_names_the_pages_that_change(folder):
    for name, text in (("published", "old"), ("_build/html", "new")):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.html").write_text(f"<article>{text}</article>")
    project(folder)
    done = run(folder, ("preview", "changes"))
    assert done.returncode == 0, done.stderr
    assert "- `a.html`" in (folder / "summary").read_text()


def project(folder: Path) -> None:
    """Give a folder the project's scripts, and the Python that they are called with."""
    shutil.copytree(ROOT / "book", folder / "book")
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)


@pytest.mark.slow
def test_a_tag_is_released_only_if_its_files_name_it(folder):
    project(folder)
    for name in ("_config.yml", "CITATION.cff", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    (folder / "notebooks").mkdir()
    shutil.copy2(ROOT / "notebooks" / "selection.ipynb", folder / "notebooks")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]

    def commit() -> None:
        files = ["_config.yml", "CITATION.cff", "notebooks"]
        subprocess.run([*git, "add", *files], cwd=folder, check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "a"], cwd=folder, check=True)

    def release(tag: str) -> subprocess.CompletedProcess[str]:
        return run(folder, ("release", "tag"), GITHUB_REF_NAME=tag)

    subprocess.run([*git, "init", "--quiet"], cwd=folder, check=True)
    commit()
    done = release("v99.0")
    assert done.returncode == 1
    assert done.stdout.startswith("::error::99.0 is not the version in pyproject.toml")
    tag = f"v{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}"
    done = release(tag)
    assert done.returncode == 1
    assert f"::error::the files of {tag} name another branch" in done.stdout
    commit()  # what the command has changed
    done = release(tag)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_checksums_are_those_of_the_files(folder):
    (folder / "_build").mkdir()
    (folder / "_build" / "lbp.pdf").write_bytes(b"a book")
    (folder / "_build" / "lbp-notebooks.zip").write_bytes(b"notebooks")
    (folder / "dist" / "linear_backprop-1.0-py3-none-any.whl").write_bytes(b"a wheel")
    done = run(folder, ("release", "checksums"))
    assert done.returncode == 0, done.stderr
    checked = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(checked, cwd=folder / "dist", capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3
