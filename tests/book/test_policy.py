"""The policy of a page lets its own scripts run and nothing else, in a real browser."""

import re

import pytest
from bs4 import BeautifulSoup

from _tools.policy import policy, with_policy

PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>x</title>
<script>window.early = true</script>
<script type="application/json">{"a": "<b>"}</script>
<script type="module" src="own.mjs"></script>
</head><body onload="window.loaded = &quot;yes&quot;"><p style="color: red">x</p>
<script>
  window.late = 1 < 2 && "é";
</script></body></html>
"""


def test_it_stands_before_every_script_and_once():
    page = with_policy(with_policy(PAGE))
    assert page == with_policy(PAGE)
    head = BeautifulSoup(page, "html.parser").head
    first = [tag.get("http-equiv") or tag.name for tag in head.find_all(["meta", "script"])]
    assert first[:3] == ["meta", "Content-Security-Policy", "script"]
    assert page.index("charset") < 1024
    said = policy(PAGE)
    assert len(re.findall("'sha256-", said)) == 3  # two scripts and a handler; data have none
    assert "'unsafe-inline'" not in said.partition("script-src")[2].partition(";")[0]
    assert "'unsafe-hashes'" not in policy("<p>x</p>")


def test_the_base_of_a_page_that_is_shown_at_any_address_is_allowed():
    assert "base-uri 'self' file: https://a.org/x/;" in policy(PAGE, "https://a.org/x/")
    evil = with_policy(PAGE, 'https://a.org/"><script>')
    assert evil.count("<script>") == PAGE.count("<script>")


@pytest.mark.browser
def test_its_own_scripts_run_and_no_others(browser, serve, tmp_path):
    (tmp_path / "own.mjs").write_text("window.own = true")
    hostile = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"
    hostile += '<script src="https://example.org/x.js"></script><a href="javascript:evil=3">x</a>'
    hostile += '<iframe src="https://example.org/"></iframe><base href="https://example.org/">'
    page = with_policy(PAGE).replace("<p style", f"{hostile}<p style")
    (tmp_path / "page.html").write_text(page)
    with browser.new_context() as context:
        tab = context.new_page()
        refused, asked, address = [], [], serve(tmp_path)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("requestfailed", lambda r: "csp" in r.failure and refused.append(r.url))
        tab.goto(f"{address}page.html", wait_until="load")
        tab.evaluate("document.querySelector('a').click()")
        tab.wait_for_timeout(200)
        seen = tab.evaluate("[window.early, window.loaded, window.own, window.late, window.evil]")
        colour = tab.evaluate("getComputedStyle(document.querySelector('p')).color")
    assert seen == [True, "yes", True, "é", None]
    assert colour == "rgb(255, 0, 0)"
    assert [url for url in asked if not url.startswith(address)] == refused
