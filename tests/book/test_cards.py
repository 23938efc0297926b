"""Cards, the line with interval and limit, counts by source, and the board for machines."""

import json
import math

import pytest
from bs4 import BeautifulSoup

from _tools.cards import badge, card, formulas, overview, strip
from _tools.scoreboard import PLANNED, Row, as_json, by_source

ENTRY = {
    "statement": "A <b> claim on $x<1$",
    "source": {"paper": "kim2026iam", "where": "Figure 1"},
    "check": "a share of `runs`",
    "tolerance": {"above": 0.5},
    "tier": "ci",
}


def row(value=0.8, interval=(0.6, 0.9), verdict="reproduced", why="", **entry):
    return Row("X.1", {**ENTRY, **entry}, "iam/01-one", verdict, value, interval, why)


def drawn(*args, **entry):
    return BeautifulSoup(strip(row(*args, **entry)), "html.parser").svg


def test_the_card_says_all_and_escapes():
    (shown,) = BeautifulSoup(card(row(why="A & B."), "../scoreboard.html"), "html.parser").contents
    assert shown["id"] == "X.1"
    assert shown.a["href"] == "../scoreboard.html#X.1"
    text = shown.get_text(" ")
    for part in ("reproduced", "as stated", "A <b> claim", "IAM, Figure 1", "0.8 [0.6, 0.9]"):
        assert part in text
    assert "must be above 0.5" in text
    assert "A & B." in text
    assert shown.code.text == "runs"
    assert shown.select_one(".math").text == r"\(x<1\)"
    assert shown.b is None
    gated = BeautifulSoup(
        card(row(None, None, "not testable here", "No gate."), "x"), "html.parser"
    )
    assert gated.svg is None
    assert "No gate." in gated.get_text()
    assert "must be" not in gated.get_text()


def test_nothing_that_a_stamp_or_claim_says_becomes_markup():
    bad = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    entry = {"statement": bad, "source": {"paper": "ours", "where": bad}, "check": bad}
    evil = Row(bad, {**ENTRY, **entry}, bad, bad, 0.8, (0.6, 0.9), bad)
    allowed = {"div", "p", "span", "a", "strong", "svg", "rect", "line", "text", "circle"}
    for html in (card(evil, "x"), overview([evil], "x")):
        found = BeautifulSoup(html, "html.parser").find_all(True)
        assert {tag.name for tag in found} <= allowed | {"details", "summary"}
        assert not [tag for tag in found if any(key.startswith("on") for key in tag.attrs)]


def test_the_line_has_the_order_of_the_numbers():
    line = drawn(0.8, (0.6, 0.9))
    low, high = (float(line.select_one(".interval")[key]) for key in ("x1", "x2"))
    limit = float(line.select_one(".limit")["x1"])
    assert limit < low < float(line.circle["cx"]) < high
    allowed = line.select_one(".allowed")
    assert float(allowed["x"]) == limit
    assert float(allowed["width"]) > high - limit
    assert line["aria-label"] == "0.8 [0.6, 0.9]; must be above 0.5"


@pytest.mark.parametrize(
    ("value", "tolerance", "inside"),
    [
        (0.3, {"below": 0.5}, True),
        (0.7, {"below": 0.5}, False),
        (0.7, {"above": 0.5}, True),
        (0.95, {"between": [0.9, 1.1]}, True),
        (1.2, {"between": [0.9, 1.1]}, False),
        (1e-14, {"below": 1e-8}, True),
        (-0.1, {"above": 0}, False),
    ],
)
def test_the_point_lies_in_the_shade_if_it_passes(value, tolerance, inside):
    line = drawn(value, None, tolerance=tolerance)
    at, shade = float(line.circle["cx"]), line.select_one(".allowed")
    left = float(shade["x"])
    assert (left <= at <= left + float(shade["width"])) is inside
    assert 8 < at < 232
    assert line.select_one(".interval") is None


def test_no_line_without_a_finite_value():
    assert strip(row(None, None)) == strip(row(math.nan, None)) == strip(row(math.inf, None)) == ""


def test_counts_are_never_pooled():
    ours = row(source={"paper": "ours", "where": "here"}, verdict="not reproduced")
    counts = by_source([row(), ours])
    assert counts["IAM"]["reproduced"] == counts["Ours"]["not reproduced"] == 1
    assert sum(counts["IAM"].values()) == 1
    assert sum(counts["Pathways"].values()) == 0


def test_machines_read_the_board():
    told = json.loads(as_json([row(), row(math.inf, None, scale="reduced")]))
    first, second = told["claims"]
    assert (first["id"], first["value"], first["interval"]) == ("X.1", 0.8, [0.6, 0.9])
    assert (first["scale"], second["scale"], second["value"]) == ("as stated", "reduced", "inf")
    assert first["why"] is None
    assert told["counts"]["IAM"]["reproduced"] == 2


def test_a_badge_names_what_it_counts():
    svg = BeautifulSoup(badge("IAM claims", {"reproduced": 2, "not reproduced": 1}), "html.parser")
    assert svg.title.text == "IAM claims: 2 of 3 reproduced"


def test_a_line_says_the_verdict_and_opened_the_number_why_and_where():
    gated = row(None, None, "not testable here", "No gate.")
    planned = row(None, None, PLANNED, "Waits.")
    lines = BeautifulSoup(overview([row(), gated, planned], "../b.html"), "html.parser")
    first, second, third = lines.find_all("details")
    assert first.summary.get_text(" ").split()[0] == "reproduced"
    assert first.summary.select_one(".claimed").text.startswith("A <b> claim")
    assert first.summary.select_one(".number").text == "0.8"
    assert first.summary.svg.text == ""  # a bare line
    assert "0.8 [0.6, 0.9] (must be above 0.5): a share of runs" in first.text
    assert [a["href"] for a in first.find_all("a")] == ["#X.1", "../b.html#X.1"]
    assert second.svg is None
    assert "must be" not in second.text
    assert second.select_one(".why").text == "No gate."
    assert [a["href"] for a in third.find_all("a")] == ["../b.html#X.1"]  # no check ran


def test_formulas_keep_what_is_no_formula():
    assert formulas("5 % & `a_b`") == "5 % &amp; <code>a_b</code>"
