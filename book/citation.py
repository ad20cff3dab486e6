"""How to cite the book and its paper: CITATION.cff in APA's form and as BibTeX."""

from typing import Any

import yaml
from build import ROOT

SOURCE = ROOT / "CITATION.cff"

CITE = """\
:::{{admonition}} How to cite
:class: note
This book and its library:

> {ours}

```bibtex
{our_bibtex}
```

The paper that it reproduces:

> {papers}

```bibtex
{papers_bibtex}
```

Code and text are free to use under the {license} License.
:::
"""


def load() -> dict[str, Any]:
    """Return what CITATION.cff says."""
    found: dict[str, Any] = yaml.safe_load(SOURCE.read_text())
    return found


def people(authors: list[dict[str, str]]) -> tuple[str, str]:
    """Return authors as APA and as BibTeX write them."""
    apa, entries = [], []
    for author in authors:
        if "name" in author:  # a group
            apa.append(author["name"])
            entries.append(f"{{{author['name']}}}")
        else:
            family, given = author["family-names"], author["given-names"]
            apa.append(f"{family}, {' '.join(f'{name[0]}.' for name in given.split())}")
            entries.append(f"{family}, {given}")
    return ", & ".join(apa), " and ".join(entries)


def bibtex(kind: str, key: str, fields: dict[str, Any]) -> str:
    """Return a BibTeX entry of the fields that have a value."""
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def box(cff: dict[str, Any], year: str) -> str:
    """Return the box in Markdown, for a book of that year."""
    (paper,) = cff["references"]
    apa, entry = people(cff["authors"])
    paper_apa, paper_entry = people(paper["authors"])
    url = cff.get("repository-code", "")
    link = f" <{url}>" if url else ""
    software = f"*{cff['title']}* (Version {cff['version']}) [Computer software]"
    papers = (
        f"{paper_apa} ({paper['year']}). {paper['title']}. In *{paper['collection-title']}*. "
        f"<{paper['url']}>"
    )
    return CITE.format(
        ours=f"{apa}. ({year}). {software}.{link}",
        our_bibtex=bibtex(
            "software",
            "lbp",
            {
                "author": entry,
                "title": f"{{{cff['title']}}}",
                "version": cff["version"],
                "year": year,
                "url": url,
            },
        ),
        papers=papers,
        papers_bibtex=bibtex(
            "inproceedings",
            f"{paper['authors'][0]['family-names'].lower()}{paper['year']}",
            {
                "author": paper_entry,
                "title": f"{{{paper['title']}}}",
                "booktitle": paper["collection-title"],
                "year": paper["year"],
                "url": paper["url"],
            },
        ),
        license=cff["license"],
    )
