import pytest

from _tools.check import problems
from _tools.scoreboard import count, rows

pytestmark = pytest.mark.usefixtures("at_once")


def test_a_verdict_joins_its_claim(tiny):
    tiny.chapter("part/01-one", tiny.plot)
    claims = tiny.root / "book" / "claims.yml"
    claims.write_text(claims.read_text() + "B.9: {statement: x, planned: no GPU}\n")
    before, planned = rows(tiny.book)
    assert (before.verdict, before.ours) == ("not attempted", "its chapter was not executed")
    assert (planned.verdict, planned.ours) == ("not attempted", "no GPU")
    tiny.execute()
    row, _ = board = rows(tiny.book)
    assert (row.chapter, row.verdict, row.value) == ("part/01-one", "reproduced", 0.0)
    assert row.ours.startswith("0 (must be below")
    assert count(board) == {
        "reproduced": 1,
        "reproduced at reduced scale": 0,
        "not reproduced": 0,
        "inconclusive": 0,
        "not testable here": 0,
        "not attempted": 1,
    }


def test_an_interval_and_a_failed_gate_reach_the_board(tiny):
    tiny.chapter(
        "part/01-one",
        'from flatbook import claim\nclaim("B.2-sharpness").check(0.0, interval=(-1.0, 1.0))',
    )
    tiny.execute()
    (row,) = rows(tiny.book)
    assert (row.verdict, row.interval) == ("inconclusive", (-1.0, 1.0))
    assert row.ours.startswith("0 [-1, 1] (must be below")
    tiny.chapter(
        "part/01-one", 'from flatbook import claim\nclaim("B.2-sharpness").untestable("No gate.")'
    )
    tiny.execute()
    (row,) = rows(tiny.book)
    assert (row.verdict, row.value, row.ours) == ("not testable here", None, "No gate.")


def test_what_waits_for_records_moves_when_they_come(tiny):
    """The record makes the chapter stale, its run makes the verdict; claims.yml stays."""
    claims = tiny.root / "book" / "claims.yml"
    claims.write_text(
        claims.read_text().replace("'tier': 'ci'", "'tier': 'paper', 'planned': 'no'")
    )
    tiny.chapter(
        "part/01-one",
        "from pathlib import Path\nfrom flatbook import claim\n"
        "for path in Path('../results').glob('*/*.json'):\n"
        '    claim("B.2-sharpness").check(float(path.read_text()))',
    )
    tiny.execute()
    (row,) = rows(tiny.book)
    assert (row.verdict, row.ours) == ("not attempted", "no")
    tiny.write("book/results/table/run.json", "0.0")
    assert any("table/run.json changed" in problem for problem in problems(tiny.book))
    tiny.execute()
    (row,) = rows(tiny.book)
    assert (row.verdict, row.value) == ("reproduced", 0.0)
    tiny.track()
    assert problems(tiny.book) == []
