"""Build the book into _build/html: `make book`.

Outputs are never stale. A digest of everything that they depend on is kept beside the cache of
executed notebooks and beside the finished book; where it differs, the cache or the book is thrown
away and made anew. A build that fails leaves no book behind, only _build/failed.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.metadata import distributions
from pathlib import Path

from jupyter_cache import get_cache

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
CACHE = BUILD / ".jupyter_cache"
MARKER = CACHE / "inputs.sha256"  # of what the outputs in the cache were computed from
HTML = BUILD / "html"
STAMP = BUILD / "book.json"

# Under data/, what is fetched or half-finished is no input of the book.
NO_INPUT = ("data/cifar-10", "data/checkpoints")
# What a browser loads by itself, and what points to another host.
LOADS = {("link", "href"), ("object", "data"), ("video", "poster"), ("image", "href")}
OUTSIDE = re.compile(r"(?:^|[\s,])(?:https?:)?//\w")


def digest(items: Iterator[tuple[str, bytes]]) -> str:
    """Return one hash of named contents."""
    lines = sorted(f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def files(folder: str, pattern: str = "*") -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file below a folder of the project."""
    for path in sorted((ROOT / folder).rglob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and not name.startswith(NO_INPUT) and "/." not in f"/{name}":
            yield name, path.read_bytes()


def output_inputs() -> Iterator[tuple[str, bytes]]:
    """Yield everything that a notebook's output depends on."""
    yield from files("lbp", "*.py")
    yield from files("data")
    for name, content in files("notebooks", "*.ipynb"):
        code = [c["source"] for c in json.loads(content)["cells"] if c["cell_type"] == "code"]
        yield name, json.dumps(code).encode()
    yield "_config.yml", (ROOT / "_config.yml").read_bytes()  # it names the repository of links
    packages = sorted(f"{d.name} {d.version}" for d in distributions())
    yield "environment", repr((sys.version, os.environ.get("LBP_DATA"), packages)).encode()


def page_inputs() -> Iterator[tuple[str, bytes]]:
    """Yield everything else that a page depends on."""
    yield from files("notebooks", "*.ipynb")
    for name, content in files("book"):
        if "__pycache__" not in name:
            yield name, content
    for name in ("_config.yml", "_toc.yml", "CITATION.cff", "CONTRIBUTING.md"):
        if (ROOT / name).is_file():
            yield name, (ROOT / name).read_bytes()


def state() -> dict[str, str]:
    """Return what the book is made from, and what it is."""
    return {
        "outputs": digest(output_inputs()),
        "pages": digest(page_inputs()),
        "html": digest(files("_build/html")),
    }


def fill_cache() -> None:
    """Take the notebooks' committed outputs for those of a run with the present code and data."""
    shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(CACHE)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cache.cache_notebook_file(path, check_validity=False)
    MARKER.write_text(digest(output_inputs()))


class _Page(HTMLParser):
    """Collects what is wrong with a page: images without alt text, requests to other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" and not (given.get("alt") or "").strip():
            self.problems.append(f"an image without alt text: {str(given.get('src'))[:60]}")
        for name, value in given.items():
            loads = name in ("src", "srcset") or (tag, name) in LOADS
            if loads and OUTSIDE.search(value or ""):
                self.problems.append(f"<{tag}> requests {value}")
            if name == "style":
                self.problems += outside_in_css(value or "")


def outside_in_css(css: str) -> list[str]:
    """Return the requests to other hosts in a style sheet."""
    found = re.findall(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s;]+)""", css)
    return [f"a style sheet requests {url}" for url in found]


def problems(html: Path) -> list[str]:
    """Return what is wrong with the built pages: missing alt text, requests to other hosts."""
    found = []
    for path in sorted(html.rglob("*.html")):
        page = _Page()
        page.feed(path.read_text())
        found += [f"{path.relative_to(html)}: {problem}" for problem in page.problems]
    for path in sorted(html.rglob("*.css")):
        found += [f"{path.relative_to(html)}: {p}" for p in outside_in_css(path.read_text())]
    return found


def uncoloured(text: str) -> str:
    """Return text without the codes that colour it in a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def explain(output: str) -> str:
    """Return what is wrong, out of Jupyter Book's output and the reports of failed notebooks."""
    output = uncoloured(output)
    lines = [line for line in output.splitlines() if re.search(r"(WARNING|ERROR|CRITICAL):", line)]
    lines = [line for line in lines if "traceback saved" not in line]  # it follows
    for report in sorted((HTML / "reports").rglob("*.err.log")):
        name = report.name.removesuffix(".err.log")
        error = uncoloured(report.read_text()).split("CellExecutionError: ")[-1].strip()
        lines += ["", f"{name}.ipynb: {error}"]
    return "\n".join(lines or output.splitlines()[-15:])


def fail(message: str) -> None:
    """Put the pages aside, so that nobody takes them for the book, and stop."""
    failed = BUILD / "failed"
    shutil.rmtree(failed, ignore_errors=True)
    if HTML.is_dir():
        HTML.rename(failed)
    sys.exit(f"{message}\n\nThe book was not built; unfinished pages are in {failed}")


def main() -> None:
    """Build the book if anything has changed."""
    start = time.time()
    before = state()
    if STAMP.is_file() and STAMP.read_text() == json.dumps(before):
        print(f"Nothing has changed. The book: {HTML / 'index.html'}")
        return

    STAMP.unlink(missing_ok=True)
    for name in ("html", ".doctrees", "jupyter_execute", "failed"):
        shutil.rmtree(BUILD / name, ignore_errors=True)
    if not MARKER.is_file() or MARKER.read_text() != before["outputs"]:
        print("Code or data has changed: running every notebook ...", flush=True)
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        MARKER.write_text(before["outputs"])
    print("Building the pages ...", flush=True)

    # The kernels and the library reference import this tree's lbp, whatever else is installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    building = subprocess.Popen(
        [jupyter_book, "build", ROOT, "-W", "-n", "--keep-going"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = ""
    for line in building.stdout or ():
        output += line
        if found := re.search(r"(\S+\.ipynb): Executing notebook", uncoloured(line)):
            print(f"  {Path(found.group(1)).name} ({time.time() - start:.0f} s)", flush=True)
    if building.wait():
        fail(explain(output))
    if found := problems(HTML):
        fail("\n".join(found))
    # The download button gives the notebooks as they ran for these pages, not as committed.
    for path in (BUILD / "jupyter_execute").rglob("*.ipynb"):
        shutil.copy2(path, HTML / "_sources" / path.parent.name)
    after = state()
    if (before["outputs"], before["pages"]) != (after["outputs"], after["pages"]):
        MARKER.unlink()
        fail("The sources changed while the book was being built: run it again.")
    STAMP.write_text(json.dumps(after))
    print(f"Done in {time.time() - start:.0f} s. The book: {HTML / 'index.html'}")


if __name__ == "__main__":
    main()
