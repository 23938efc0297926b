"""The rendered site in a real browser: no error, no other server, legible on a phone."""

import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

from _tools.address import repository
from _tools.chapters import HERE

pytestmark = pytest.mark.browser

SITE = HERE.built / "html"
AXE = HERE.root / "tests" / "node_modules" / "axe-core" / "axe.min.js"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def listed_pages():
    toc = yaml.safe_load((HERE.root / "_toc.yml").read_text())

    def files(node):
        if isinstance(node, dict):
            yield from [node["file"]] if "file" in node else []
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from files(child)

    names = [toc["root"], *files(toc)]
    return [f"{name.rpartition('.')[0]}.html" for name in names]


@pytest.fixture(scope="module")
def address(serve):
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not rendered: run make html")
    return serve(SITE)


@pytest.fixture
def tab(browser):
    with browser.new_context(viewport=DESK) as context:
        yield context.new_page()


def typeset(page):
    page.evaluate("window.typeset")  # a promise


def cut(page, viewport):
    """All code, output, tables, figures and equations that reach beyond their frame or the page."""
    page.set_viewport_size(viewport)
    page.wait_for_selector("html[data-fitted]", state="attached")
    page.wait_for_timeout(100)  # for the observer of widths
    return page.eval_on_selector_all(
        "article :is(pre, table, figure, .output, .cell_input, .verdict-card, div.math,"
        " mjx-container[display=true], .pst-scrollable-table-container)",
        """all => all.filter(e => e.checkVisibility() && (e.scrollWidth > e.clientWidth + 1
             || e.getBoundingClientRect().right > document.documentElement.clientWidth + 1))
           .map(e => `${e.tagName} ${e.className}: ${e.textContent.trim().slice(0, 60)}`)""",
    )


@pytest.mark.parametrize("name", listed_pages())
def test_a_page_is_whole(tab, address, name):
    wrong = []
    tab.on("console", lambda line: line.type == "error" and wrong.append(line.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    tab.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:", "blob:"))
            or wrong.append(f"asks another server: {request.url}")
        ),
    )
    tab.goto(address + name, wait_until="load")
    typeset(tab)
    assert wrong == []

    formulas = tab.locator(".math").count()
    assert tab.locator(".math mjx-container").count() >= formulas
    assert tab.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert tab.eval_on_selector_all("img:not([alt]), img[alt='']", "all => all.length") == 0
    assert tab.locator("article h1").count() == 1

    assert cut(tab, DESK) == []
    assert cut(tab, PHONE) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = tab.eval_on_selector_all(
        "article p, article li, article h1, article h2, article figure",
        "all => all.filter(e => e.getBoundingClientRect().right > 391"
        " && !e.closest('pre, .output, .cell_output, .pst-scrollable-table-container'))"
        ".map(e => e.outerHTML.slice(0, 120))",
    )
    assert wide == []


# Kept when no colour is on its way to another, however slow the machine.
FADED = """() => Promise.all(document.getAnimations()
  .filter((one) => one instanceof CSSTransition).map((one) => one.finished.catch(() => {})))"""


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core: run npm ci --prefix tests")
@pytest.mark.parametrize("name", listed_pages())
def test_a_page_is_accessible_in_light_and_in_the_dark(tab, address, name):
    tab.goto(address + name, wait_until="load")
    typeset(tab)
    tab.evaluate(AXE.read_text("utf-8"))  # no script tag: the policy of the pages forbids it
    found = []
    # Structure is looked at once: the dark page differs in its colours.
    rules = {"light": {}, "dark": {"runOnly": ["color-contrast", "link-in-text-block"]}}
    for theme, only in rules.items():
        tab.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        tab.evaluate(FADED)
        options = {"resultTypes": ["violations"], **only}
        report = tab.evaluate("options => axe.run(document, options)", options)
        found += [
            f"{theme}: {fault['id']} ({fault['impact']}): {node['html'][:120]}"
            for fault in report["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
    assert found == []


MOVED = """new Promise((told) => { let moved = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((shift) => { moved += shift.value; }))
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => told(moved), 200); })"""


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("name", ["intro.html", "scoreboard.html", "pathways/04-large-steps.html"])
def test_nothing_moves_while_a_page_loads(tab, address, name, viewport):
    tab.set_viewport_size(viewport)
    tab.goto(address + name, wait_until="load")
    typeset(tab)
    assert tab.evaluate(MOVED) < 0.1  # what the web calls good


def test_a_page_without_formulas_does_not_ask_for_mathjax(tab, address):
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"{address}genindex.html", wait_until="load")
    typeset(tab)
    assert asked
    assert not [url for url in asked if "mathjax" in url]


def test_every_internal_link_resolves(address):
    pages, broken = {}, []

    def parsed(path):
        if path not in pages:
            pages[path] = BeautifulSoup(path.read_bytes(), "html.parser")
        return pages[path]

    for page in map(SITE.joinpath, listed_pages()):
        for link in parsed(page).select("main a[href], nav a[href]"):
            url, fragment = urldefrag(urljoin(page.as_uri(), link["href"]))
            if urlsplit(url).scheme != "file":
                continue
            target = Path(unquote(urlsplit(url).path))
            if not target.exists():
                broken.append(f"{page.name}: {link['href']}")
            elif fragment and target.suffix == ".html" and not parsed(target).find(id=fragment):
                broken.append(f"{page.name}: {link['href']} (no such anchor)")
    assert broken == []


def test_dark_is_dark_and_search_finds(tab, address):
    tab.emulate_media(color_scheme="dark")
    tab.goto(f"{address}intro.html")
    assert tab.get_attribute("html", "data-theme") == "dark"
    red, green, blue = map(
        int,
        tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"),
    )
    assert red + green + blue < 200
    tab.goto(f"{address}search.html?q=pathways")
    tab.wait_for_selector("#search-results li")


@pytest.mark.parametrize("chapter", HERE.chapters, ids=lambda chapter: chapter.name)
def test_a_chapter_offers_colab_binder_its_notebook_and_its_data(address, chapter):
    page = SITE / f"{chapter.name}.html"
    found = BeautifulSoup(page.read_bytes(), "html.parser").select("a[href]")
    links = [urljoin(page.as_uri(), link["href"]) for link in found]
    path = chapter.twin.relative_to(HERE.root).as_posix()
    here = repository(HERE.root)
    launched = [link for link in links if re.match(r"https://(colab\.|mybinder\.)", link)]
    if here is None or not here.launches:
        assert launched == []
    else:
        owner = here.url.removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{owner}/blob/{here.branch}/{path}"
        assert colab in launched
        assert any(link.startswith("https://mybinder.org/v2/gh/") for link in launched)
    assert any(link.endswith(chapter.twin.name) and "_sources" in link for link in links)
    for name in chapter.executed().metadata["stamp"]["figures"]:
        (link,) = {link for link in links if link.endswith(f"{name}.csv")}
        offered = Path(unquote(urlsplit(link).path))
        assert offered.read_text() == (chapter.data / f"{name}.csv").read_text()
