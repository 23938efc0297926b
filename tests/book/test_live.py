"""Live figures in a real browser: their controls, their sentences, their pictures."""

import gzip
import re

import pytest

from _tools import boundary, stills
from _tools.chapters import HERE
from _tools.directives import frame

pytestmark = pytest.mark.browser

SITE = HERE.built / "html"
STATIC = HERE.pages / "_static"
NAMES = sorted(
    path.stem
    for path in (STATIC / "live").glob("*.mjs")
    if re.search(r"^(figure|cobweb)\(", path.read_text("utf-8"), re.M)
)
WIDTHS = (1280, 390)


class Seen:
    """A live figure alone on a page."""

    def __init__(self, page, name):
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(error))
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        html = (
            '<!doctype html><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f'<link rel="stylesheet" href="/live.css"><body>{frame(name, "A picture.", "/live")}'
        )
        page.route("**/page.html", lambda route: route.fulfill(body=html, content_type="text/html"))
        data = {"body": boundary.as_module(), "content_type": "text/javascript"}
        page.route("**/boundary-data.mjs", lambda route: route.fulfill(**data))
        page.route(re.compile(r"\.svg$|favicon"), lambda route: route.fulfill(body="<svg/>"))

    @property
    def said(self):
        return self.page.locator(".live-said").inner_text()

    def slider(self, label):
        return self.page.locator(".live-slider", has_text=label).locator("input")

    def set(self, label, value):
        slide = (
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }"
        )
        self.slider(label).evaluate(slide, value)

    def point(self, number=0):
        return self.page.locator(".handle").nth(number)

    def drag(self, across, up, number=0):
        """Take a point by the mouse from where it is."""
        box, mouse = self.point(number).bounding_box(), self.page.mouse
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + across, y - up, steps=4)
        mouse.up()

    def where(self, number=0):
        return self.point(number).get_attribute("aria-valuetext")


@pytest.fixture
def live(browser, serve):
    """Open the figure of a name."""
    contexts = []
    address = serve(STATIC)

    def opened(name, width=1280, **options):
        viewport = {"width": width, "height": 1000}
        options = {"viewport": viewport, "reduced_motion": "reduce", **options}
        contexts.append(browser.new_context(**options))
        seen = Seen(contexts[-1].new_page(), name)
        seen.page.goto(f"{address}page.html")
        seen.page.wait_for_selector(".live.is-live .live-said:not(:empty)")
        return seen

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_every_control_moves_the_figure(live, name, width):
    seen = live(name, width, has_touch=width < 500, is_mobile=width < 500)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    plot = seen.page.locator(".live-stage .plot")
    controls = [*seen.page.locator(".live input").all(), *seen.page.locator(".handle").all()]
    for control in controls:
        assert control.bounding_box()["height"] >= 44
        before, value = plot.inner_html(), control.get_attribute("aria-valuetext")
        control.focus()
        control.press("ArrowLeft")
        if control.get_attribute("aria-valuetext") == value:  # it stood at its end
            control.press("ArrowRight")
        assert control.get_attribute("aria-valuetext") != value
        assert plot.inner_html() != before
    for number in range(seen.page.locator(".handle").count()):
        style = "node => getComputedStyle(node).touchAction"
        assert seen.point(number).evaluate(style) == "none"  # a finger drags it, not the page
        before, value = plot.inner_html(), seen.where(number)
        seen.drag(-9, 7, number)
        if seen.where(number) == value:
            seen.drag(9, -7, number)
        assert seen.where(number) != value
        assert plot.inner_html() != before
    for button in seen.page.locator(".live button").all():
        before = plot.inner_html()
        button.click()
        assert plot.inner_html() != before
    assert "NaN" not in plot.inner_html()
    assert "NaN" not in seen.said
    assert seen.errors == []


def test_every_live_figure_has_a_picture():
    assert sorted(stills.STILLS) == NAMES


def test_small_steps_pick_and_large_steps_share(live):
    seen = live("pathways")
    slider = seen.slider("step size")
    assert "One path wins" in seen.said
    slider.focus()
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "0.052"
    seen.page.locator(".live button").click()  # without motion: at once to the other end
    assert "They share" in seen.said
    assert not seen.page.locator(".live-still").is_visible()


def test_a_run_stops_on_the_segment_that_is_flat_enough(live):
    seen = live("plane")
    assert "too sharp for this step" in seen.said
    seen.set("step size", 0.8)
    assert "Gradient flow ends there too" in seen.said
    seen.set("step size", 2)
    assert "even the equal split is too sharp" in seen.said
    start = seen.where()
    seen.drag(40, 60)
    assert seen.where() != start
    assert len(seen.page.locator(".dots").get_attribute("d").split("M")) > 3000  # every step


def test_one_step_of_algorithm_1_finds_most_and_more_steps_more(live):
    seen = live("ball")
    share = [float(re.search(r"(\d+) % of the most", seen.said)[1])]
    for steps in (2, 4):
        seen.set("steps K", steps)
        assert f"K = {steps} steps" in seen.said
        share.append(float(re.search(r"(\d+) % of the most", seen.said)[1]))
    assert 50 < share[0] < share[1] <= share[2] <= 100
    radius = seen.where(1)
    seen.drag(-25, 0, number=1)  # the circle by its edge
    assert float(seen.where(1).split()[-1]) < float(radius.split()[-1])
    assert seen.where(0) == "a = 0.90, b = 2.40"


def test_only_sgd_stays_at_the_sharp_end(live):
    seen = live("walk")
    final = dict(re.findall(r"(SGD|SAM|IAM-S|IAM-D) at loss [\d.]+, S ([\d.]+\d)", seen.said))
    assert all(float(final[m]) < float(final["SGD"]) / 3 for m in ("SAM", "IAM-S", "IAM-D"))
    seen.set("steps taken", 0)
    assert len({*re.findall(r"loss [\d.]+", seen.said)}) == 1  # all at the start
    seen.page.locator(".live button").click()
    assert "After 400 steps" in seen.said


@pytest.mark.parametrize(("name", "letter"), [("overshoot", "x"), ("chain", "y")])
def test_the_end_of_a_run_is_told_by_its_step(live, name, letter):
    seen = live(name)
    for gamma, end in ((1.5, f"settles at {letter} = 1.00"), (2.2, "a cycle of period 2")):
        seen.set("step size", gamma)
        assert f"γ = {gamma:.2f}" in seen.said
        assert end in seen.said
    seen.set("layers", 0)
    seen.set("step size", 7)
    assert "changes sign at step" in seen.said
    assert "γ_WCR = 3.661, below γ" in seen.said
    seen.drag(-60, 0, number=1)  # γ by its line
    assert "γ = 7.00" not in seen.said


def test_the_flattest_split_is_equal_for_equal_depths_only(live):
    seen = live("split")
    assert "(0.33, 0.33, 0.33)" in seen.said
    for path in "₁₂₃":
        seen.set(f"layers L{path}", 2)
    assert "every split is equally sharp" in seen.said
    seen.set("layers L₃", 12)
    assert "the least is" in seen.said
    seen.page.locator(".live button").click()
    assert "This is the flattest" in seen.said
    seen.drag(0, 60)
    assert "times the least" in seen.said


def test_one_step_moves_the_decisions_and_a_random_direction_does_not(live):
    seen = live("boundary")

    def changed():
        return [float(share) for share in re.findall(r"([\d.]+) % of the plane", seen.said)]

    climbed, random = changed()
    assert climbed > 4 * random
    seen.page.get_by_role("button", name="New noise").click()
    assert changed() != [climbed, random]
    seen.set("distance", 0)
    assert changed() == [0, 0]


def test_the_step_says_which_modes_share(live):
    seen = live("ladder")
    assert "too sharp for modes 1, 2; spread over both paths: modes 1, 2" in seen.said
    seen.set("step size", 0.06)
    assert (
        "flat enough for every mode; as gradient flow would leave it: modes 1, 2, 3, 4" in seen.said
    )
    seen.set("step size", 0.2)
    assert "not at rest: mode 1" in seen.said
    level, value = seen.where(0), seen.where(4)
    seen.drag(0, -30, number=0)  # 2/η by its line
    assert seen.where(0) != level
    seen.drag(0, 30, number=4)  # the fourth singular value
    assert float(seen.where(4).split()[-1]) > float(value.split()[-1])


def test_inconsistency_restores_what_a_small_step_breaks(live):
    seen = live("restore")
    assert "plain descent ends at (0.95, 0.05), IAM-D at (0.48, 0.48)" in seen.said
    seen.set("weight", 0)
    assert "IAM-D at (0.95, 0.05)" in seen.said


@pytest.fixture
def intro(browser, serve):
    """Open the introduction of the rendered site."""
    if not (SITE / "intro.html").exists():
        pytest.skip("the site is not rendered: run make html")
    contexts = []

    def opened(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.goto(serve(SITE) + "intro.html")
        return page

    yield opened
    for context in contexts:
        context.close()


def test_the_introduction_is_alive(intro):
    page = intro(viewport={"width": 390, "height": 900})
    page.wait_for_selector(".live.is-live")
    assert "One path wins" in page.locator(".live-said").inner_text()


def test_without_script_there_is_the_picture(intro):
    page = intro(java_script_enabled=False)
    assert page.locator(".live-still").is_visible()
    assert page.locator(".live-still").evaluate("image => image.naturalWidth") > 0
    assert page.locator(".live input").count() == 0


def test_the_introduction_is_light(browser, serve):
    """Without MathJax; as a server sends it that compresses, GitHub Pages for one."""
    if not (SITE / "intro.html").exists():
        pytest.skip("the site is not rendered: run make html")
    page, answers = browser.new_page(), []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(serve(SITE) + "intro.html", wait_until="load")
    page.wait_for_selector(".live.is-live")
    bodies = [answer.body() for answer in answers if "mathjax" not in answer.url]
    sent = sum(min(len(body), len(gzip.compress(body))) for body in bodies)
    assert 0 < sent <= 450_000
    assert sum(map(len, bodies)) <= 1_000_000
