"""A table, as plain data, and its Markdown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text, row by row; the first cell of a row names it."""

    caption: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return the table in Markdown, without its caption."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(_escaped(c) for c in cells) + " |" for cells in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
