"""Figures with a slider, in a real browser, from files on disk: no server, no kernel."""

import json

import pytest

from _tools.chapters import HERE
from flatbook.interactive import MIME

pytestmark = pytest.mark.browser

SITE = HERE.built / "html"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
FIGURES = [
    (chapter.name, cell.metadata["mystnb"]["figure"]["name"])
    for chapter in HERE.chapters
    if (executed := chapter.executed())
    for cell in executed.cells
    if any(MIME in output.get("data", {}) for output in cell.get("outputs", []))
]
everywhere = pytest.mark.parametrize(("page", "name"), FIGURES)


@pytest.fixture
def open_figure(browser):
    """Open a page at one of its figures."""
    contexts = []

    def opened(page, name, **options):
        file = SITE / f"{page}.html"
        if not file.exists() or f'id="{name}"' not in file.read_text("utf-8"):
            pytest.skip(f"the site is not rendered with {name}: run make html")
        contexts.append(browser.new_context(**{"viewport": DESK, **options}))
        tab = contexts[-1].new_page()
        tab.goto(file.as_uri())
        figure = tab.locator(f"#{name}")
        figure.scroll_into_view_if_needed()
        return figure

    yield opened
    for context in contexts:
        context.close()


def drag(figure, to):
    """Take the slider's thumb by the mouse to a share of its track."""
    slider = figure.locator("input[type=range]")
    box, mouse = slider.bounding_box(), figure.page.mouse
    thumb = 16
    at = int(slider.input_value()) / int(slider.get_attribute("max"))
    height = box["y"] + box["height"] / 2
    mouse.move(box["x"] + thumb / 2 + at * (box["width"] - thumb), height)
    mouse.down()
    mouse.move(box["x"] + to * box["width"], height, steps=4)
    mouse.up()


def curves(figure):
    figure.locator(".main-svg").first.wait_for()
    return figure.locator("path.js-line").evaluate_all("all => all.map(p => p.getAttribute('d'))")


@everywhere
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_dragging_the_slider_changes_the_picture(open_figure, page, name, viewport):
    figure = open_figure(page, name, viewport=viewport)
    before = curves(figure)
    said, shot = figure.locator("output").inner_text(), figure.screenshot()
    drag(figure, to=0.98)
    assert figure.locator("output").inner_text() != said
    assert curves(figure) != before
    assert figure.screenshot() != shot
    assert not figure.locator("img").is_visible(), "the picture has given way"
    assert figure.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


@everywhere
def test_keys_and_screen_readers_move_it_too(open_figure, page, name):
    figure = open_figure(page, name)
    curves(figure)
    slider = figure.locator("input[type=range]")
    slider.focus()
    before = slider.get_attribute("aria-valuetext")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != before
    assert figure.locator(".interactive [role=img]").get_attribute("aria-label")


@everywhere
def test_without_script_there_is_the_picture(open_figure, page, name):
    figure = open_figure(page, name, java_script_enabled=False)
    assert figure.locator("img").is_visible()
    assert figure.locator("input").count() == 0


@everywhere
def test_letters_follow_the_theme(open_figure, page, name):
    figure = open_figure(page, name, color_scheme="dark")
    curves(figure)
    colour = "e => getComputedStyle(e).fill.match(/\\d+/)[0]"
    letter = figure.locator(".xtick text").first
    assert int(letter.evaluate(colour)) > 128
    figure.page.evaluate("document.documentElement.dataset.theme = 'light'")
    figure.page.wait_for_function(
        f"({colour})(document.querySelector('#{name} .xtick text')) < 128"
    )


def test_plotly_comes_only_where_a_figure_needs_it(open_figure):
    page, name = FIGURES[0]
    figure = open_figure(page, name)
    curves(figure)
    assert figure.page.evaluate("typeof Plotly") == "object"
    figure.page.goto((SITE / "intro.html").as_uri())
    assert figure.page.evaluate("typeof Plotly") == "undefined"


@everywhere
def test_the_curves_are_small(page, name):
    (chapter,) = HERE.find([page])
    (curves,) = [
        output.data[MIME]
        for cell in chapter.executed().cells
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name
        for output in cell.outputs
    ]
    assert len(json.dumps(curves)) < 300_000
