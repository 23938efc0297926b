from _tools.scoreboard import count, rows


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
        "not attempted": 1,
    }
