"""What the theme lacks for readers without a mouse or a screen, mended in the built pages."""

import re
from pathlib import Path

MENDED = (
    # The book's title in the sidebar stands in no landmark.
    (
        r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand)',
        '<div class="sidebar-primary-item" role="navigation" aria-label="Home">',
    ),
    # What scrolls sideways on a phone can be reached by keyboard.
    (r'<div class="pst-scrollable-table-container"(?=>)', r'\g<0> tabindex="0"'),
    (r'<figure class="align-default"(?= id=)', r'\g<0> tabindex="0"'),
    # A role that is deprecated, and a list whose children are no items.
    (r' role="doc-biblioentry"', ""),
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
)


def mend(page: str) -> str:
    """Return a built page with what it lacks."""
    for pattern, replacement in MENDED:
        page = re.sub(pattern, replacement, page)
    return page


def mend_all(html: Path) -> None:
    """Mend every page of a built book."""
    for path in html.rglob("*.html"):
        path.write_text(mend(path.read_text()))
