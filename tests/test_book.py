"""`make book` builds without a warning, and nothing stale or unfinished can be published."""

import importlib.util
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]


def load(name: str):
    """Import one of the scripts in book/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the whole book, built once


@pytest.fixture(scope="session")
def html(book) -> Path:
    assert book.returncode == 0, book.output
    return book.root / "_build" / "html"


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


class Loads(HTMLParser):
    """Collects the images of a page and every address in it that a browser follows by itself."""

    def __init__(self):
        super().__init__()
        self.images, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("a", "meta"):
            self.addresses += [value for _, value in attrs if value and "//" in value]


@pytest.mark.slow
def test_every_page_of_the_contents_is_built(html):
    for name in PAGES:
        assert (html / f"{name}.html").is_file()
    assert "book/intro.html" in (html / "index.html").read_text()


@pytest.mark.slow
def test_no_warning_and_the_path_is_told(html, book):
    assert "WARNING" not in book.output
    assert book.output.strip().endswith("_build/html/index.html")
    assert not (html / "reports").exists()


@pytest.mark.slow
def test_every_image_has_alt_text_and_no_page_asks_another_host(html):
    pages = sorted(html.rglob("*.html"))
    assert len(pages) > 8
    images = 0
    for path in pages:
        page = Loads()
        page.feed(path.read_text())
        images += len(page.images)
        assert all(image.get("alt", "").strip() for image in page.images), path
        outside = [a for a in page.addresses if not a.startswith("data:")]
        assert outside == [], path
    assert images > 0


@pytest.mark.slow
def test_formulas_are_drawn_by_the_vendored_mathjax(html):
    page = (html / "book" / "method.html").read_text()
    assert 'src="../_static/mathjax/tex-mml-chtml.js' in page
    assert (html / "_static" / "mathjax" / "tex-mml-chtml.js").is_file()
    assert list((html / "_static" / "mathjax").rglob("*.woff"))


@pytest.mark.slow
def test_every_equation_links_to_its_source(html):
    page = (html / "book" / "method.html").read_text()
    assert "api.html#lbp.rules.Rule" in page
    assert "api.html#lbp.linearization.linearize" in page
    assert "_Ruled" in (html / "_modules" / "lbp" / "autograd.html").read_text()


@pytest.mark.slow
def test_the_verdicts_are_a_table(html):
    page = (html / "notebooks" / "claims.html").read_text()
    assert "<th" in page
    assert "|---" not in page
    assert "|—" not in page


@pytest.mark.slow
def test_one_search_bar(html):
    page = (html / "book" / "intro.html").read_text()
    assert page.count('id="search-input"') <= 1


@pytest.mark.slow
def test_a_second_build_does_nothing(html, book, python):
    page = html / "book" / "intro.html"
    before = page.stat().st_mtime_ns
    again = python(book.root, "book/build.py")
    assert again.returncode == 0
    assert again.output.startswith("Nothing has changed")
    assert page.stat().st_mtime_ns == before


@pytest.mark.slow
def test_every_page_is_described_and_named_once(html):
    descriptions = []
    for name in PAGES:
        page = soup(html / f"{name}.html")
        (description,) = page.select('meta[name="description"]')
        (shared,) = page.select('meta[property="og:description"]')
        assert description["content"] == shared["content"]
        descriptions.append(description["content"])
        title = " ".join(page.title.get_text().split())
        assert title.count("Linear Backprop") == 1
        assert title.startswith(page.select_one('meta[property="og:title"]')["content"])
    assert all(len(text) > 10 for text in descriptions)
    assert not [text for text in descriptions if "\\" in text]  # no formulas
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.slow
def test_the_root_leads_to_the_first_page_and_is_shared_like_it(html):
    root, first = soup(html / "index.html"), soup(html / "book/intro.html")
    assert root.title.get_text() == "Linear Backprop"
    assert [a["href"] for a in root.select("a")] == ["book/intro.html"]
    assert "url=book/intro.html" in root.select_one("meta[http-equiv]")["content"]
    tags = [[str(tag) for tag in page.select("meta[property]")] for page in (root, first)]
    assert tags[0] == tags[1] != []


@pytest.mark.slow
def test_every_page_has_the_icon_in_both_forms(html):
    for name in PAGES:
        path = html / f"{name}.html"
        icons = [link["href"] for link in soup(path).select('link[rel~="icon"]')]
        assert {Path(icon).suffix for icon in icons} == {".svg", ".png"}
        assert all((path.parent / icon).is_file() for icon in icons)


@pytest.mark.slow
def test_no_link_of_the_first_page_is_dead(html):
    first = soup(html / "book/intro.html").find("article")
    links = [link["href"] for link in first.select("a[href]")]
    inside = [link.partition("#")[0] for link in links if "//" not in link]
    assert "../lbp-notebooks.zip" in inside
    assert all((html / "book" / link).exists() for link in inside)
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    releases = [link for link in links if link.endswith("/releases")]
    assert releases == ([f"{repository}/releases"] if repository else [])


@pytest.mark.slow
def test_the_first_page_says_how_to_cite(html):
    first = soup(html / "book/intro.html")
    (box,) = [b for b in first.select(".admonition") if "How to cite" in b.get_text()]
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    blocks = [block.get_text() for block in box.select(".highlight pre")]  # with a copy button
    assert [block.partition("{")[0] for block in blocks] == ["@software", "@inproceedings"]
    for title in (cff["title"], cff["references"][0]["title"]):
        assert box.get_text().count(title) == 2  # APA and BibTeX


# --- a small book, to see it fail


NOTEBOOK = """\
import json
from pathlib import Path
from lbp import NUMBER
from myst_nb import glue
glue("number", f"library {NUMBER}", display=False)
print("store", json.loads(Path("../data/results/run.json").read_text()))
"""


@pytest.fixture
def small(tmp_path):
    """A book of one page and one notebook, with the project's own settings and build script."""
    for folder in ("data/results", "lbp", "notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy2(ROOT / "_config.yml", tmp_path)
    other = shutil.ignore_patterns("*.md", "mathjax", "images", "__pycache__")
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=other)
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/one\n"
    )
    (tmp_path / "book/intro.md").write_text(
        "# A\n\n{glue:text}`../notebooks/one.ipynb::number:s`\n"
    )
    (tmp_path / "data/results/run.json").write_text("11")
    (tmp_path / "lbp/__init__.py").write_text("NUMBER = 21\n")
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell(NOTEBOOK)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "notebooks/one.ipynb")
    for name in (".venv/lib/a.md", ".pytest_cache/README.md", "README.md"):  # no pages
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# No page\n")
    return tmp_path


def page(root: Path, name: str) -> str:
    return (root / "_build" / "html" / f"{name}.html").read_text()


@pytest.mark.slow
def test_a_stale_output_is_never_shown(small, python):
    assert python(small, "book/build.py").returncode == 0
    assert "library 21" in page(small, "book/intro")
    assert "store 11" in page(small, "notebooks/one")

    (small / "lbp/__init__.py").write_text("NUMBER = 22\n")
    (small / "data/results/run.json").write_text("12")
    assert python(small, "book/build.py").returncode == 0
    assert "library 22" in page(small, "book/intro")
    assert "store 12" in page(small, "notebooks/one")

    built = small / "_build/html/book/intro.html"
    built.write_text(built.read_text().replace("library 22", "library 99"))
    assert python(small, "book/build.py").returncode == 0
    assert "library 22" in page(small, "book/intro")

    # A number that the notebook no longer gives stops the build, and no book is left.
    (small / "lbp/__init__.py").write_text("NUMBRE = 22\n")
    done = python(small, "book/build.py")
    assert done.returncode == 1
    assert "one.ipynb: An error occurred" in done.output
    assert "ImportError: cannot import name 'NUMBER'" in done.output
    assert len(done.output.splitlines()) < 40
    assert not (small / "_build/html").exists()
    assert python(small, "book/build.py").returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{glue:text}`../notebooks/one.ipynb::nothing:s`", "nothing"),
        ("{py:func}`lbp.rules.no_such_function`", "no_such_function"),
        ("![](https://example.org/a.png)", "requests https://example.org/a.png"),
    ],
)
def test_a_broken_page_is_no_book(small, python, text, message):
    (small / "book/intro.md").write_text(f"# A\n\n{text}\n")
    done = python(small, "book/build.py")
    assert done.returncode == 1
    assert message in done.output
    assert not (small / "_build/html").exists()


@pytest.mark.parametrize(
    "markup",
    [
        '<img src="a.png">',
        '<img src="a.png" alt=" ">',
        '<img src="https://example.org/a.png" alt="a">',
        '<script src="//example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<img src="a.png" alt="a" srcset="a.png 1x, https://example.org/b.png 2x">',
        '<p style="background: url(https://example.org/a.png)">',
    ],
)
def test_a_page_that_breaks_a_rule_is_named(tmp_path, markup):
    (tmp_path / "a.html").write_text(markup)
    (found,) = load("build").problems(tmp_path)
    assert found.startswith("a.html: ")


def test_a_style_sheet_that_asks_another_host_is_named(tmp_path):
    (tmp_path / "a.css").write_text("@import 'https://example.org/a.css';")
    assert load("build").problems(tmp_path) == [
        "a.css: a style sheet requests https://example.org/a.css"
    ]


def test_links_and_own_files_break_no_rule(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="https://example.org">x</a><img src="a.png" alt="a"><script src="b.js"></script>'
        '<img src="data:image/png;base64,ab//cd" alt="a">'
    )
    assert load("build").problems(tmp_path) == []


# --- the text


# Numbers in prose that are no results of ours. The paper's own may stand only where the paper is
# named in the same paragraph.
NO_RESULTS = {"3.11", "2.0"}  # Python, Apache License
PAPERS = {"0.1", "28.11", "18.43"}
PHRASES = (  # settings, definitions, a version and a constant
    "momentum 0.9",
    "95 % confidence interval",
    "PyTorch 2.11 or newer",
    "PyTorch up to version 1.1",
    "about 0.8 if nothing but chance is at work",  # the mean of |N(0, 1)|
)


def prose(text: str) -> str:
    """Return Markdown without code, formulas, roles, link targets, comments and section numbers."""
    text = re.sub(r"<!-- begin (claims|gpu) -->.*?<!-- end \1 -->", "", text, flags=re.S)
    text = re.sub(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", "", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.S)
    text = re.sub(r"\{[\w:]+\}`[^`]*`|`[^`]*`", "", text)
    text = re.sub(r"\]\([^)]*\)|<!--.*?-->", "", text, flags=re.S)
    return re.sub(r"\b[Ss]ections? \d+\.\d+", "", text)


def typed_results(text: str) -> list[str]:
    """Return the numbers in prose that look like results typed by hand."""
    found = []
    text = prose(text)
    for phrase in PHRASES:
        text = text.replace(phrase, "")
    for paragraph in re.split(r"\n\s*\n", text):
        allowed = NO_RESULTS | (PAPERS if re.search(r"\bpaper\b", paragraph, re.I) else set())
        numbers = re.findall(r"\d+\.\d+|\d+(?=\s*(?:%|per ?cent))", paragraph)
        found += [number for number in numbers if number not in allowed]
    return found


CHAPTERS = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
TEXTS = [*CHAPTERS, *sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_result_is_typed_by_hand(path):
    if path.suffix == ".md":
        texts = [path.read_text()]
    else:
        cells = nbformat.read(path, as_version=4).cells
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert [n for text in texts for n in typed_results(text)] == []


@pytest.mark.parametrize(
    "text", ["It reaches 88.7 %.", "an MSE of 0.12", "82 percent", "The paper has 0.12."]
)
def test_a_typed_result_is_noticed(text):
    assert typed_results(text)


@pytest.mark.parametrize(
    "text",
    ["{glue:text}`../a.ipynb::acc:.1f` %", "$0.1$", "```\n88.7\n```", "The paper reports 28.11 %."],
)
def test_glued_quoted_and_coded_numbers_are_fine(text):
    assert typed_results(text) == []


def test_readme_shows_the_current_figure_and_tables():
    refresh = load("refresh")
    text = (ROOT / "README.md").read_text()
    png, alt = refresh.figure(ROOT / "notebooks" / refresh.SOURCE[0], refresh.SOURCE[1])
    assert (ROOT / "book" / "images" / "fig1.png").read_bytes() == png
    assert alt
    assert refresh.refreshed(text, alt) == text
    rerun = refresh.RERUN.read_text()
    assert refresh.with_times(rerun) == rerun
