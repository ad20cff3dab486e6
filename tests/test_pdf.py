"""The book as one PDF: complete, nothing cut, and links that lead where they say."""

import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]


@pytest.fixture
def pdf(monkeypatch):
    """The script book/pdf.py."""
    monkeypatch.syspath_prepend(ROOT / "book")
    import pdf

    return pdf


# --- the pages, joined


@pytest.fixture
def built(pdf, monkeypatch, tmp_path):
    """Two built pages that use the same names."""
    page = """<head><link rel="stylesheet" href="../_static/a.css"></head>
        <nav>menu</nav><article><h1>{title}<a class="headerlink" href="#same">#</a></h1>
        <p id="same">{title}</p><img src="../_images/a.png" alt="a">
        <details><summary>Show</summary><pre>folded = 1</pre></details>{links}</article>"""
    links = """<a href="#same">own</a> <a href="../notebooks/b.html#same">other</a>
        <a href="../notebooks/b.html">page</a> <a href="https://example.org/x.html">outside</a>
        <a href="../_modules/lbp.html">source</a>"""
    for name, title, more in (("book/a", "A", links), ("notebooks/b", "B", "")):
        path = tmp_path / "html" / f"{name}.html"
        path.parent.mkdir(parents=True)
        path.write_text(page.format(title=title, links=more))
    monkeypatch.setattr(pdf.build, "HTML", tmp_path / "html")
    monkeypatch.setattr(pdf, "pages", lambda: ["book/a", "notebooks/b"])
    return BeautifulSoup(pdf.joined({"A": 3, "B": 5}), "html.parser")


def test_links_lead_to_the_chapter_that_they_name(built):
    links = {a.get_text(): a["href"] for a in built.select("main a")}
    assert links == {
        "own": "#book/a:same",
        "other": "#notebooks/b:same",
        "page": "#notebooks/b",
        "outside": "https://example.org/x.html",
    }
    assert "source" in built.main.get_text()  # its link would lead nowhere
    ids = [tag["id"] for tag in built.select("[id]")]
    assert len(set(ids)) == len(ids)
    assert {link["href"][1:] for link in built.select("nav a")} < set(ids)


def test_menus_are_left_out_and_folded_code_is_shown(built):
    assert "menu" not in built.get_text()
    assert "Show" not in built.get_text()
    assert built.main.get_text().count("folded = 1") == 2
    assert not built.select("details, .headerlink")


def test_the_contents_have_titles_and_page_numbers(built):
    assert [entry.get_text() for entry in built.select("nav li")] == ["A3", "B5"]
    assert [title.get_text() for title in built.select("main h1")] == ["A", "B"]


def test_files_are_found_from_the_joined_page(built):
    assert {tag["src"] for tag in built.select("img")} == {"html/_images/a.png"}
    assert [tag["href"] for tag in built.select("link")] == ["html/_static/a.css"]


def test_without_a_browser_one_line_says_what_to_install(pdf, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as stop:
        pdf.main()
    message = str(stop.value)
    assert "apt install chromium" in message
    assert "\n" not in message


# --- the whole book, printed


@pytest.fixture(scope="module")
def printed(book):
    """The PDF of the book that all tests share."""
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium to print with")
    assert book.returncode == 0, book.output
    return book.root / "_build" / "lbp.pdf"


@pytest.fixture(scope="module")
def reader(printed, book, python) -> PdfReader:
    done = python(book.root, "book/pdf.py")
    assert done.returncode == 0, done.output
    assert done.output.startswith("Nothing has changed")  # no notebook ran again
    assert f"{printed}" in done.output.splitlines()[-1]
    return PdfReader(printed)


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.fixture(scope="module")
def text(reader) -> str:
    return squeezed("".join(page.extract_text() for page in reader.pages))


@pytest.mark.slow
def test_the_outline_has_every_chapter_on_its_page(reader, book):
    html = book.root / "_build" / "html"
    titles = []
    for name in PAGES:
        heading = BeautifulSoup((html / f"{name}.html").read_text(), "html.parser").article.h1
        heading.find("a", "headerlink").decompose()
        titles.append(heading.get_text())
    chapters = [entry for entry in reader.outline if not isinstance(entry, list)]
    assert [entry.title for entry in chapters] == ["Contents", *titles]
    contents = squeezed(reader.pages[1].extract_text())
    for entry in chapters[1:]:
        number = reader.get_destination_page_number(entry) + 1
        assert squeezed(f"{entry.title}{number}") in contents
        assert squeezed(entry.title) in squeezed(reader.pages[number - 1].extract_text())


@pytest.mark.slow
def test_no_line_of_code_is_cut(text):
    lines = []
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            folded = {"hide-input", "remove-cell"} & set(cell.metadata.get("tags", []))
            if cell.cell_type == "code" and not folded:
                lines += cell.source.splitlines()
    longest = sorted(lines, key=len)[-20:]
    assert len(longest[-1]) > 80  # longer than a printed line
    assert [line for line in longest if squeezed(line) not in text] == []


@pytest.mark.slow
def test_the_last_chapter_is_there(text):
    (last,) = (ROOT / f"{PAGES[-1]}.md").read_text().splitlines()[:1]
    paper = squeezed("Linear backprop in non-linear networks. In NIPS 2018 Workshop")
    end = text[text.rindex(squeezed(last.strip("# "))) :]
    assert paper.lower() in end.lower()


@pytest.mark.slow
def test_formulas_are_drawn(reader):
    (method,) = [e for e in reader.outline if not isinstance(e, list) and e.title == "Method"]
    page = reader.pages[reader.get_destination_page_number(method)]
    assert "\\" not in page.extract_text()
    # Chromium draws MathJax's fonts glyph by glyph, and no other font of the book.
    assert "/Type3" in {font["/Subtype"] for font in fonts(page)}


def fonts(page):
    return [font.get_object() for font in page["/Resources"].get("/Font", {}).values()]


@pytest.mark.slow
def test_fonts_are_embedded_and_the_file_is_tagged(reader):
    root = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"].startswith("en")
    for font in (font for page in reader.pages for font in fonts(page)):
        if font["/Subtype"] != "/Type3":  # whose glyphs are in the file by nature
            (descendant,) = font.get("/DescendantFonts", [font])
            descriptor = descendant.get_object()["/FontDescriptor"]
            assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(descriptor), font["/BaseFont"]
