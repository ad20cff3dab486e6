"""A table, as plain data, its Markdown and its HTML."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_LONG = 32  # characters of a cell from which on a narrow screen shows its row as a list


@dataclass(frozen=True)
class Badge:
    """A cell with a verdict: the word decides how it looks, the text says what holds where."""

    word: str
    text: str


Cell = str | Badge  # a text is inline Markdown

# A verdict is told apart by its sign and its text, not by its colour alone.
_SIGNS = {
    "reproduced": "✓",
    "not reproduced": "✗",
    "cannot be told": "?",
    "not yet decided": "…",
    "not yet run": "○",
}


@dataclass(frozen=True)
class Table:
    """Cells row by row; the first cell of a row names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @classmethod
    def of_markdown(cls, caption: str, text: str) -> "Table":
        """Return a table that is written in Markdown, whose cells hold no vertical bar."""
        columns, _, *rows = (
            [cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines()
        )
        return cls(caption, columns, [[cell or "-" for cell in row] for row in rows])

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing in it but the names of its rows."""
        return all(cell in ("-", "0") for row in self.rows for cell in row[1:])

    def markdown(self) -> str:
        """Return the table in Markdown, without its caption."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(_markdown(c) for c in cells) + " |" for cells in lines)

    def html(self) -> str:
        """Return the table in HTML, with caption and headers of columns and rows.

        On a narrow screen a table of numbers scrolls sideways, and one with sentences shows each
        row as a list. The roles say that it still is a table where the style sheet lays it out so.
        """
        texts = [c.text if isinstance(c, Badge) else c for row in self.rows for c in row[1:]]
        kind = "as-list" if any(len(text) > _LONG for text in texts) else "scrolls"
        focus = f' role="region" aria-label="{escape(_plain(self.caption))}" tabindex="0"'
        head = "".join(
            f'<th scope="col" role="columnheader">{inline(c)}</th>' for c in self.columns
        )
        return (
            f'<div class="lbp-table {kind}"{focus if kind == "scrolls" else ""}>'
            f'<table role="table"><caption>{inline(self.caption)}</caption>'
            f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
            f'<tbody role="rowgroup">{"".join(map(self._row, self.rows))}</tbody></table></div>'
        )

    def _row(self, cells: Sequence[Cell]) -> str:
        first, *others = cells
        shown = [f'<th scope="row" role="rowheader">{html(first)}</th>']
        for column, cell in zip(self.columns[1:], others, strict=True):
            label = escape(_plain(column))
            shown.append(f'<td role="cell" data-label="{label}">{html(cell)}</td>')
        return f'<tr role="row">{"".join(shown)}</tr>'


def html(cell: Cell) -> str:
    """Return a cell in HTML."""
    if isinstance(cell, str):
        return inline(cell)
    name = cell.word.replace(" ", "-")
    sign = f'<span aria-hidden="true">{_SIGNS[cell.word]}</span>'
    return f'<span class="verdict {name}">{sign} {escape(cell.text)}</span>'


@functools.cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # who trains and draws nothing need not have it

    return MarkdownIt()


def inline(text: str) -> str:
    """Return a line of Markdown in HTML, in which no number such as 1e-3 is broken in two."""
    return re.sub(r"(\de)-(\d)", "\\1\N{NON-BREAKING HYPHEN}\\2", _parser().renderInline(text))


def _markdown(cell: Cell) -> str:
    text = cell if isinstance(cell, str) else f"**{cell.text}**"
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    return text.replace("`", "").replace("**", "")
