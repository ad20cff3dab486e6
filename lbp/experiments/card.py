"""What stands at the top of a page, and under its figures: the answer, and where it comes from."""

import platform
from collections.abc import Mapping, Sequence
from html import escape

import torch
import yaml

from lbp.experiments.claims import Verdict
from lbp.experiments.results import Results
from lbp.experiments.table import Badge, Table, html, inline
from lbp.lab import paths
from lbp.lab.provenance import Origin


def card(question: str, answers: Sequence[str], verdicts: Sequence[Verdict], notes: str) -> str:
    """Return the result card of a page, in HTML.

    Args:
        question: What the page asks.
        answers: What was found, a paragraph each, in inline Markdown.
        verdicts: Those on the claims that the page tests.
        notes: At which scale this holds.
    """
    parts = [f'<p class="question">{inline(question)}</p>']
    parts += [f"<p>{inline(answer)}</p>" for answer in answers if answer]
    if verdicts:
        items = (
            f"<li>{html(badge(verdict))} {inline(verdict.claim.statement)}</li>"
            for verdict in verdicts
        )
        parts.append(f"<ul>{''.join(items)}</ul>")
    if notes:
        parts.append(f'<p class="notes">{inline(notes)}</p>')
    return f'<div class="result-card">{"".join(parts)}</div>'


def badge(verdict: Verdict) -> Badge:
    """Return a verdict as a cell of a table."""
    return Badge(verdict.word, verdict.text)


def provenance(stem: str, found: Sequence[Results]) -> Table | None:
    """Return where an experiment's records come from, a row for each scale; None without records.

    Commits and folders are links where `_config.yml` names the repository.

    Args:
        stem: The experiment.
        found: Its results.
    """
    rows = []
    for results in found:
        records = list(results.records.values())
        if not records:
            continue
        number = _link(str(len(records)), "tree", "data/results")
        seeds = ", ".join(map(str, sorted({record.config.seed for record in records})))
        origins = [stretch.origin for record in records for stretch in record.stretches]
        rows.append([results.scale.title, number, seeds, *_origins(stem, origins)])
    columns = ["scale", "records", "seeds", "time", "device", "versions", "code"]
    return Table("Where the figure's records come from.", columns, rows) if rows else None


def measured(stem: str, found: Mapping[str, Sequence[Origin]]) -> Table:
    """Return where measurements come from, a row for each kind of device that has some."""
    rows = [
        [name, _link(str(len(origins)), "tree", f"data/{stem}"), *_origins(stem, origins)]
        for name, origins in found.items()
        if origins
    ]
    columns = ["measured on a", "cases", "time", "device", "versions", "code"]
    return Table("Where the measurements come from.", columns, rows)


def computed(stem: str, seeds: str) -> Table:
    """Return where a figure comes from that is computed while the book is built.

    Args:
        stem: The experiment.
        seeds: The seeds that it uses, in words.
    """
    versions = f"PyTorch {torch.__version__}, Python {platform.python_version()}"
    code = _link(f"lbp/experiments/{stem}.py", "blob", f"lbp/experiments/{stem}.py")
    columns = ["what", "seeds", "versions", "code"]
    return Table(
        "Where the figure comes from.", columns, [["computed with the book", seeds, versions, code]]
    )


def _origins(stem: str, origins: Sequence[Origin]) -> list[str]:
    """Return the days and hours, the devices, the versions and the code."""
    days = sorted({origin.finished[:10] for origin in origins})
    hours = sum(origin.seconds for origin in origins) / 3600
    commits = {origin.commit: origin.finished for origin in origins if origin.commit}
    code = [
        _link(commit[:7], "blob", f"lbp/experiments/{stem}.py", commit)
        for commit in sorted(commits, key=lambda commit: commits[commit], reverse=True)
    ]
    return [
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, {hours:.1f} h",
        "; ".join(sorted({origin.device for origin in origins})),
        "; ".join(sorted({f"PyTorch {o.torch}, Python {o.python}" for o in origins})),
        ", ".join(code) or "not from a checkout",
    ]


def _link(text: str, kind: str, place: str, commit: str = "") -> str:
    """Return a link to a file ("blob") or folder ("tree"), at the book's branch or a commit."""
    config = paths.project() / "_config.yml"
    settings = yaml.safe_load(config.read_text()) if config.is_file() else {}
    repository = settings.get("repository", {})
    if not repository.get("url"):
        return text
    return f"[{text}]({repository['url']}/{kind}/{commit or repository['branch']}/{place})"


def folded(summary: str, table: Table) -> str:
    """Return a table that a reader unfolds, in HTML."""
    return f"<details><summary>{escape(summary)}</summary>{table.html()}</details>"
