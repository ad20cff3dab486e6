"""Print the whole book as one file, _build/lbp.pdf: `make pdf`.

The pages that `make book` built are joined into one, which headless Chromium prints twice: the
table of contents gets its page numbers from the first print. Sphinx's singlehtml builder is not
used, since it keeps names of sections that several chapters share, so that links lead astray.
"""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urldefrag, urljoin, urlsplit

import build
import yaml
from bs4 import BeautifulSoup, Tag
from pypdf import PdfReader

ROOT = build.ROOT
JOINED = build.BUILD / "lbp.html"
PDF = build.BUILD / "lbp.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What only a screen can use.
NO_PRINT = ".headerlink, .viewcode-link, script, summary, .no-print"
# Folded code, which only sets a notebook up.
FOLDED = "details.above-input"


def pages() -> list[str]:
    """Return the pages of the book, in their order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def parse(name: str) -> BeautifulSoup:
    """Return a built page."""
    return BeautifulSoup((build.HTML / f"{name}.html").read_text(), "html.parser")


def chapter(name: str, chapters: list[str]) -> Tag:
    """Return the content of a page, with names that no other page has and links that stay inside.

    Links to what is not printed, such as the source of a function, become plain text.
    """
    article = parse(name).find("article")
    for tag in article.select(f"{NO_PRINT}, {FOLDED}"):
        tag.decompose()
    for tag in article.select("details"):
        tag.unwrap()  # what else is folded is shown
    for tag in article.select("[id]"):
        tag["id"] = f"{name}:{tag['id']}"
    for tag in article.select("[src]"):
        tag["src"] = urljoin(f"{build.HTML.name}/{name}.html", tag["src"])
    for link in article.select("a[href]"):
        target, section = urldefrag(urljoin(f"{name}.html", link["href"]))
        page = target.removesuffix(".html")
        if page in chapters:
            link["href"] = f"#{page}:{section}" if section else f"#{page}"
        elif not urlsplit(target).scheme:
            link.unwrap()
    article.name = "section"
    article["id"] = name
    return article


def head(name: str) -> list[Tag]:
    """Return the style sheets of a page, and what draws its formulas."""
    found = parse(name).select('link[rel="stylesheet"], script[src*="mathjax"]')
    found += [tag for tag in parse(name).select("script") if "window.MathJax" in tag.text]
    for tag in found:
        for key in ("href", "src"):
            if key in tag.attrs:
                tag[key] = urljoin(f"{build.HTML.name}/{name}.html", tag[key])
    return found


def edition() -> str:
    """Return the version of the book, and the date of its newest recorded run."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    records = [json.loads(path.read_text()) for path in (ROOT / "data/results").glob("*.json")]
    dates = [s["origin"]["finished"] for record in records for s in record["stretches"]]
    if not dates:
        return f"Version {version}"
    newest = datetime.fromisoformat(max(dates))
    return f"Version {version}, with runs recorded up to {newest.day} {newest:%B %Y}"


def joined(numbers: Mapping[str, int]) -> str:
    """Return the book as one page. `numbers` has the number of the page that each title is on."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    names = pages()
    chapters = [chapter(name, names) for name in names]
    entries = []
    for name, content in zip(names, chapters, strict=True):
        title = content.h1.get_text()
        number = numbers.get(title, "")
        entries.append(f'<li><a href="#{name}">{title}<span>{number}</span></a></li>')
    return f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<title>{config["title"]}</title>
{"".join(map(str, head(names[0])))}
</head>
<body class="book">
<header>
<p class="title">{config["title"]}</p>
<p>{config["author"]}</p>
<p>{edition()}</p>
</header>
<nav>
<h1>Contents</h1>
<ol>{"".join(entries)}</ol>
</nav>
<main class="bd-content">{"".join(map(str, chapters))}</main>
</body>
</html>
"""


def browser() -> str:
    """Return the path of Chromium."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    sys.exit(f"make pdf needs one of {', '.join(BROWSERS)}; on Debian: apt install chromium")


def printed(numbers: Mapping[str, int]) -> dict[str, int]:
    """Print the book and return the number of the page that each chapter begins on."""
    JOINED.write_text(joined(numbers))
    PDF.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"),
            *("--generate-pdf-document-outline", "--virtual-time-budget=120000"),
            *(f"--print-to-pdf={PDF}", JOINED.as_uri()),
        ],
        capture_output=True,
        text=True,
    )
    if not PDF.is_file():
        sys.exit(f"Chromium printed nothing:\n{done.stderr[-2000:]}")
    reader = PdfReader(PDF)
    return {
        str(entry.title): reader.get_destination_page_number(entry) + 1
        for entry in reader.outline
        if not isinstance(entry, list)
    }


def main() -> None:
    """Build the book if anything has changed, and print it."""
    browser()  # missing, it is said before the minutes of a build
    build.main()
    numbers = printed(printed({}))
    JOINED.unlink()
    print(f"The book as one file: {PDF} ({len(numbers)} chapters)")


if __name__ == "__main__":
    main()
