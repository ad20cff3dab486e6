"""A Sphinx extension: what the built book says of itself, its address and its files.

The address comes from `repository: url` in _config.yml. Where that is empty, nothing points there.
"""

import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import accessible
import bundle
import citation
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import docname_join
from sphinx.util.docutils import SphinxDirective

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


def repository(config: Config) -> str:
    """Return the address of the repository, or nothing."""
    return str(config.html_theme_options.get("repository_url") or "").rstrip("/")


def pages(repository: str) -> str:
    """Return the address that GitHub publishes a repository's book at, or nothing."""
    if urlsplit(repository).netloc != "github.com":
        return ""
    owner, name = urlsplit(repository).path.strip("/").split("/")
    return f"https://{owner}.github.io/{name}/"


class CitationDirective(SphinxDirective):
    """Shows how to cite the book and the paper."""

    def run(self) -> list[nodes.Node]:
        """Return the box."""
        self.env.note_dependency(str(citation.SOURCE))
        return self.parse_text_to_nodes(citation.box(citation.load(), self.config.copyright))


class DownloadsDirective(SphinxDirective):
    """Links to the book as files: what the build makes, and what a release has."""

    def run(self) -> list[nodes.Node]:
        """Return one paragraph, which is not printed."""
        root = "../" * self.env.docname.count("/")
        text = f'<a href="{root}{bundle.NAME}.zip">the notebooks with their data</a> (zip)'
        url = repository(self.config)
        if pages(url):  # GitHub's repositories have a page of releases
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
    accessible.mend_all(out)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this with Sphinx."""
    app.add_directive("citation", CitationDirective)
    app.add_directive("downloads", DownloadsDirective)
    app.connect("config-inited", address)
    app.connect("html-page-context", describe, priority=100)  # before sphinxext.opengraph
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}
