"""Live figures in a real browser: their numbers against Python, their controls, their picture."""

import gzip

import numpy as np
import pytest
import torch

from _tools.chapters import HERE
from flatmin.pathways import flow_landing, simulate_modes, theory

pytestmark = pytest.mark.browser

SITE = HERE.built / "html"


@pytest.fixture(scope="module")
def modes(browser, serve):
    """Call a function of ``modes.mjs`` in the browser."""
    page = browser.new_page()
    page.goto(serve(HERE.pages / "_static" / "live") + "modes.mjs")

    def call(name, *args):
        code = "([name, args]) => import('/modes.mjs').then(all => all[name](...args))"
        return np.array(page.evaluate(code, [name, args]))

    return call


def settings(count, seed):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        depths = draw.integers(2, 12, size=draw.integers(1, 5)).tolist()
        target = float(draw.uniform(0.5, 2))
        init = (draw.uniform(0.02, 0.3, size=len(depths)) * target / len(depths)).tolist()
        yield depths, target, init, draw


def test_descent_is_the_library_s(modes):
    for depths, target, init, draw in settings(25, seed=3):
        step = float(draw.uniform(0.1, 0.9)) / theory.single_path_sharpness(max(depths), target)
        here = modes("descend", depths, target, float(step), init, 300)
        there = simulate_modes(depths, target, step, init, 300).strengths.numpy()
        assert np.abs(here - there).max() < 1e-10, (depths, target, step, init)


def test_the_edge_of_stability_too(modes):
    depths, init = [4, 4], [0.06, 0.05]
    low, high = theory.stability_window(4, 2, 1.0)
    for step in np.linspace(float(low), float(high), 5):
        here = modes("descend", depths, 1.0, float(step), init, 100)
        there = simulate_modes(depths, 1.0, step, init, 100).strengths.numpy()
        assert np.abs(here - there).max() < 1e-10


def test_the_flow_lands_where_the_library_s_does(modes):
    for depths, target, init, _ in settings(25, seed=4):
        there = np.asarray(flow_landing(depths, target, init))
        assert np.abs(modes("flowLanding", depths, target, init) - there).max() < 1e-10


def test_sharpness_is_the_theory_s(modes):
    for depths, target, init, _ in settings(25, seed=5):
        there = theory.mode_sharpness(depths, torch.tensor(init, dtype=torch.float64))
        assert abs(modes("sharpness", depths, init) - float(there)) < 1e-10
        there = theory.balanced_sharpness(depths[0], len(depths), target)
        here = modes("balancedSharpness", depths[0], len(depths), target)
        assert abs(here - float(there)) < 1e-10


@pytest.fixture
def intro(browser, serve):
    """Open the introduction of the rendered site."""
    if "live-pathways" not in (SITE / "intro.html").read_text("utf-8", errors="ignore"):
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


@pytest.mark.parametrize("width", [1280, 390])
def test_small_steps_pick_and_large_steps_share(intro, width):
    page = intro(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    slider, said = page.locator(".live input"), page.locator(".live-said")
    page.wait_for_selector(".live.is-live")
    assert "One path wins" in said.inner_text()
    before = page.locator(".live .line").first.get_attribute("d")
    slider.focus()
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "η = 0.055"
    assert page.locator(".live .line").first.get_attribute("d") != before
    page.locator(".live button").click()  # without motion: at once to the other end
    assert "They share" in said.inner_text()
    assert not page.locator(".live-still").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_script_there_is_the_picture(intro):
    page = intro(java_script_enabled=False)
    assert page.locator(".live-still").is_visible()
    assert page.locator(".live input").count() == 0


def test_the_introduction_is_light(browser, serve):
    """Without MathJax; as a server sends it that compresses, GitHub Pages for one."""
    if not (SITE / "intro.html").exists():
        pytest.skip("the site is not rendered: run make html")
    page, answers = browser.new_page(), []
    page.on("response", answers.append)
    page.goto(serve(SITE) + "intro.html", wait_until="load")
    page.wait_for_selector(".live.is-live")
    bodies = [answer.body() for answer in answers if "mathjax" not in answer.url]
    sent = sum(min(len(body), len(gzip.compress(body))) for body in bodies)
    assert 0 < sent <= 500_000
    assert sum(map(len, bodies)) <= 1_300_000
