"""What the built book says of itself: its address, its files, and how to cite it. For Sphinx.

The address comes from `repository: url` in _config.yml. Where that is empty, nothing points there.
"""

import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bundle
import yaml
from build import ROOT
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import docname_join
from sphinx.util.docutils import SphinxDirective

CITATION = ROOT / "CITATION.cff"
SHARED = "_static/share.png"  # the picture that other sites show beside a link to the book

# The root of the book leads to its first page, and tells other sites the same about it.
INDEX = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
{tags}
<meta http-equiv="refresh" content="0; url={page}">
</head>
<body>
<p>The book begins here: <a href="{page}">{title}</a></p>
</body>
</html>
"""

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


def repository(config: Config) -> str:
    """Return the address of the repository, or nothing."""
    return str(config.html_theme_options.get("repository_url") or "").rstrip("/")


def pages(repository: str) -> str:
    """Return the address that GitHub publishes a repository's book at, or nothing."""
    if urlsplit(repository).netloc != "github.com":
        return ""
    owner, name = urlsplit(repository).path.strip("/").split("/")
    return f"https://{owner}.github.io/{name}/"


def people(authors: list[dict[str, str]]) -> tuple[str, str]:
    """Return authors as APA and as BibTeX write them."""
    apa, bibtex = [], []
    for author in authors:
        if "name" in author:  # a group
            apa.append(author["name"])
            bibtex.append(f"{{{author['name']}}}")
        else:
            family, given = author["family-names"], author["given-names"]
            apa.append(f"{family}, {' '.join(f'{name[0]}.' for name in given.split())}")
            bibtex.append(f"{family}, {given}")
    return ", & ".join(apa), " and ".join(bibtex)


def bibtex(kind: str, key: str, fields: dict[str, Any]) -> str:
    """Return a BibTeX entry of the fields that have a value."""
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def citation(cff: dict[str, Any], year: str) -> str:
    """Return the box of citations, made of CITATION.cff."""
    (paper,) = cff["references"]
    apa, entry = people(cff["authors"])
    paper_apa, paper_entry = people(paper["authors"])
    url = cff.get("repository-code", "")
    ours = (
        f"{apa}. ({year}). *{cff['title']}* (Version {cff['version']}) [Computer software]. {url}"
    )
    papers = (
        f"{paper_apa} ({paper['year']}). {paper['title']}. In *{paper['collection-title']}*. "
        f"<{paper['url']}>"
    )
    return CITE.format(
        ours=ours.strip(),
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


class CitationDirective(SphinxDirective):
    """Shows how to cite the book and the paper."""

    def run(self) -> list[nodes.Node]:
        """Return the box."""
        self.env.note_dependency(str(CITATION))
        cff = yaml.safe_load(CITATION.read_text())
        return self.parse_text_to_nodes(citation(cff, self.config.copyright))


class DownloadsDirective(SphinxDirective):
    """Links to the book as files: what the build makes, and what a release has."""

    def run(self) -> list[nodes.Node]:
        """Return one paragraph, which is not printed."""
        root = "../" * self.env.docname.count("/")
        text = f'<a href="{root}{bundle.NAME}.zip">the notebooks with their data</a> (zip)'
        if url := repository(self.config):
            text += f', and with each <a href="{url}/releases">release</a> the whole book (PDF)'
        html = f'<p class="no-print"><strong>As files:</strong> {text}.</p>'
        return [nodes.raw("", html, format="html")]


def descriptions(env: BuildEnvironment) -> dict[str, str]:
    """Return what the first page says about each of the others."""
    found = {}
    root = env.config.root_doc
    for item in env.get_doctree(root).findall(nodes.definition_list_item):
        for link in item[0].findall(pending_xref):
            found[docname_join(root, link["reftarget"])] = item[-1].astext()
    return found


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Describe a page to those who link to it, and name the book once in the first page's title."""
    if doctree is None:
        return
    first = doctree.next_node(nodes.paragraph)
    text = descriptions(app.env).get(page) or (first.astext() if first else "")
    text = " ".join(re.sub(r"\s*\[.*?\]", "", text).split()) or context["title"]  # no citations
    icon = context["pathto"]("_static/favicon.png", 1)
    context["metatags"] += f'<meta name="description" content="{escape(text)}" />'
    context["metatags"] += f'<link rel="alternate icon" type="image/png" href="{icon}" />'
    context["meta"] = {**(context["meta"] or {}), "og:description": text}
    if context["title"] == context["docstitle"]:
        context["docstitle"] = ""


def address(app: Sphinx, config: Config) -> None:
    """Set the addresses that other sites show the book by."""
    config.ogp_site_url = pages(repository(config))
    config.ogp_image = config.ogp_site_url and config.ogp_site_url + SHARED


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Put the notebooks' zip file and the root's index.html beside the pages."""
    if exception is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    bundle.write(out / f"{bundle.NAME}.zip")
    page = f"{app.config.root_doc}.html"
    tags = re.findall(r'<meta (?:property="og:|name="description")[^>]*>', (out / page).read_text())
    index = INDEX.format(title=app.config.html_title, page=page, tags="\n".join(tags))
    (out / "index.html").write_text(index)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this with Sphinx."""
    app.add_directive("citation", CitationDirective)
    app.add_directive("downloads", DownloadsDirective)
    app.connect("config-inited", address)
    app.connect("html-page-context", describe, priority=100)  # before sphinxext.opengraph
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}
