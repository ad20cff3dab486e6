"""No page of the book breaks a rule of axe-core, or is wider than a phone."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# A desktop and a phone, a light and a dark page, each at least once.
VIEWS = {"desktop, light": ((1280, 900), "light"), "phone, dark": ((360, 800), "dark")}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


def violations(page) -> list[str]:
    """Return each element that breaks a rule, with the rule."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium: on Debian, apt install chromium")
@pytest.mark.parametrize("view", VIEWS)
def test_no_page_breaks_a_rule(browser, book, view):
    assert book.returncode == 0, book.output
    (width, height), theme = VIEWS[view]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    found, wide = {}, []
    for name in PAGES:
        page.goto((book.root / "_build" / "html" / f"{name}.html").as_uri())
        if broken := violations(page):
            found[name] = broken
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
    page.close()
    assert not found, json.dumps(found, indent=1)
    assert not wide, "these pages scroll sideways"


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium: on Debian, apt install chromium")
def test_a_broken_page_is_noticed(browser):
    page = browser.new_page()
    page.set_content("<title>t</title><img src=x><p style='color:#ccc;background:#fff'>pale</p>")
    assert {line.split(":")[0] for line in violations(page)} >= {"image-alt", "color-contrast"}
