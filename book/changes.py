"""Name the pages that two built books show differently: `python book/changes.py OLD NEW`.

A page is what its reader sees: the text and the images of its article. Menus, file names and
markup do not count.
"""

import hashlib
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

UNSEEN = ("script", "style")


class _Article(HTMLParser):
    """Collects the words and the images of a page's article."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._folder = folder
        self._inside = False
        self._unseen = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside |= tag == "article"
        self._unseen |= tag in UNSEEN
        if self._inside and tag == "img":
            given = dict(attrs)
            self.seen += [self._image(given.get("src") or ""), given.get("alt") or ""]

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "article"
        self._unseen &= tag not in UNSEEN

    def handle_data(self, data: str) -> None:
        if self._inside and not self._unseen:
            self.seen += data.split()

    def _image(self, source: str) -> str:
        path = self._folder / unquote(source)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source


def pages(book: Path) -> dict[str, list[str]]:
    """Return what each page of a built book shows, by its name."""
    found = {}
    for path in sorted(book.rglob("*.html")):
        article = _Article(path.parent)
        article.feed(path.read_text())
        if article.seen:
            found[path.relative_to(book).as_posix()] = article.seen
    return found


def report(old: dict[str, list[str]], new: dict[str, list[str]]) -> str:
    """Return the pages that differ, in Markdown."""
    if not old:
        return "There is no published book to compare with."
    lines = [f"- `{name}` (new)" for name in new if name not in old]
    lines += [f"- `{name}`" for name in new if name in old and new[name] != old[name]]
    lines += [f"- `{name}` (removed)" for name in old if name not in new]
    return "\n".join(["Pages that change:", "", *lines]) if lines else "No page changes."


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python book/changes.py OLD NEW")
    print(report(*(pages(Path(folder)) for folder in sys.argv[1:])))
