"""Pages of two built books are compared by what a reader sees."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("changes", ROOT / "book" / "changes.py")
changes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(changes)

PAGE = (
    '<html><nav>Menu 1</nav><article class="bd-article"><h1>Title</h1>'
    '<p>The  error is\n0.25.</p><script>let a = 1</script><img src="a%20b.png" alt="A curve">'
    "</article><footer>Footer 1</footer></html>"
)


def book(folder: Path, page: str = PAGE, image: bytes = b"1", name: str = "a b.png") -> Path:
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "one.html").write_text(page)
    (folder / "notebooks" / name).write_bytes(image)
    (folder / "search.html").write_text("<html>no article</html>")
    return folder


def compare(old: Path, new: Path) -> str:
    return changes.report(changes.pages(old), changes.pages(new))


@pytest.mark.parametrize(
    "changed",
    [
        {"page": PAGE.replace("Menu 1", "Menu 2").replace("Footer 1", "Footer 2")},
        {"page": PAGE.replace("let a = 1", "let a = 2")},
        {"page": PAGE.replace("error is\n0.25", "error\n<em>is</em> 0.25")},
        {"page": PAGE.replace("a%20b.png", "c.png"), "name": "c.png"},
    ],
)
def test_what_no_reader_sees_changes_no_page(tmp_path, changed):
    old, new = book(tmp_path / "old"), book(tmp_path / "new", **changed)
    assert compare(old, new) == "No page changes."


@pytest.mark.parametrize(
    "changed",
    [
        {"page": PAGE.replace("0.25", "0.26")},
        {"page": PAGE.replace("A curve", "Two curves")},
        {"image": b"2"},
    ],
)
def test_a_changed_page_is_named(tmp_path, changed):
    old, new = book(tmp_path / "old"), book(tmp_path / "new", **changed)
    assert compare(old, new) == "Pages that change:\n\n- `notebooks/one.html`"


def test_new_and_removed_pages_are_named(tmp_path):
    old, new = book(tmp_path / "old"), book(tmp_path / "new")
    (new / "notebooks" / "one.html").rename(new / "notebooks" / "two.html")
    assert compare(old, new).splitlines()[2:] == [
        "- `notebooks/two.html` (new)",
        "- `notebooks/one.html` (removed)",
    ]


def test_where_nothing_is_published_it_says_so(tmp_path):
    (tmp_path / "old").mkdir()
    found = compare(tmp_path / "old", book(tmp_path / "new"))
    assert found == "There is no published book to compare with."
