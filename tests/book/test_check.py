import json

import pytest

from _tools.check import problems

pytestmark = pytest.mark.usefixtures("at_once")


def test_what_check_finds_after_each_kind_of_damage(tiny):
    chapter = tiny.chapter("part/01-one", tiny.plot)
    assert any("never executed; run make execute" in problem for problem in problems(tiny.book))
    assert tiny.execute() == 0
    assert problems(tiny.book) == [
        "book/part/01-one.ipynb: Colab's button would open nothing, git does not track it; "
        "git add it"
    ]
    tiny.track()
    assert problems(tiny.book) == []

    def found(path, old, new):
        file = tiny.root / path
        good = file.read_text("utf-8")
        assert old in good
        file.write_text(good.replace(old, new), "utf-8")
        said = problems(tiny.book)
        file.write_text(good, "utf-8")
        assert problems(tiny.book) == []
        return "\n".join(said)

    md, twin = "book/part/01-one.md", "book/part/01-one.ipynb"
    colab = "https://colab.research.google.com/github/a/b/blob/launch/book/part/"
    assert "tiny.rule changed; run make execute" in found("lib/tiny/rule.py", "2", "2.5")
    assert "its code changed; run make execute" in found(md, "[0, SLOPE])", "[1, SLOPE])")
    assert "out of step; run make execute" in found(md, "What does", "What would")
    tiny.remote("git@github.com:somebody/else.git")  # a fork
    assert problems(tiny.book) == []
    assert "run make bootstrap" in found(md, "# On Colab", "# At Colab")
    assert "changed by hand; run make execute --all" in found(twin, "B.2-sharpness: rep", "x rep")
    assert "was not executed; run make execute" in found(
        twin, '"execution_count": 2', '"execution_count": null'
    )
    assert "has no alt text" in found(twin, '"alt": "A rising line."', '"alt": ""')
    assert "keeps no data" in found(twin, '"figures": {\n    "fig-line"', '"figures": {"fig-x"')
    assert "points to no tracked file" in found("README.md", "# Tiny", f"{colab}02-two.ipynb")
    assert "to no tracked" not in "\n".join(problems(tiny.book))
    assert "02-two.ipynb does not exist" in found("_toc.yml", "01-one", "02-two")
    data = chapter.data / "fig-line.csv"
    data.rename(data.with_suffix(".gone"))
    assert "the data of fig-line are missing" in "\n".join(problems(tiny.book))
    data.with_suffix(".gone").rename(data)
    assert "the data of fig-line were changed by hand" in found(data, "1,2", "1,3")
    flipped = found(twin, '"verdict": "reproduced"', '"verdict": "not reproduced"')
    assert "printed is 'reproduced', stamped 'not reproduced'" in flipped
    assert "its stamp gives 'B.2-sharpness: reproduced. 5e-09" in found(twin, ": 0.0,", ": 5e-9,")
    assert "in the stamp or in the printed" in found(twin, '"B.2-sharpness": {', '"B.2-flat": {')

    claims = "book/claims.yml"
    tightened = found(claims, "'tolerance': {", "'tolerance': {'below': -1.0}, 'was': {")
    assert "the stored verdict is 'reproduced', but 0 under {'below': -1.0}" in tightened
    assert (
        "its claims says, compares or allows changed in book/claims.yml; run make execute"
        in tightened
    )
    assert "yet it is planned" in found(claims, "'tier':", "'planned': 'later', 'tier':")
    # What only a GPU can decide is planned until a chapter reports it.
    assert found(claims, "'tier': 'ci'", "'planned': 'later', 'tier': 'paper'") == ""
    assert "claims.yml names part/02-two" in found(claims, "part/01-one", "part/02-two")
    unused = found(claims, "B.2-sharpness:", "B.9: {chapter: part/01-one}\nB.2-sharpness:")
    assert "B.9: no chapter reports it" in unused
    assert "has no such claim" in found(claims, "B.2-sharpness:", "B.9: {planned: x}\nB.8:")


def test_the_verdict_lines_of_intervals_and_of_what_cannot_be_tested_are_compared_too(tiny):
    entry = tiny.book.claims["B.2-sharpness"] | {"tolerance": {"below": 1.0}}
    claims = {"B.1": entry, "B.2": entry | {"why": "Few seeds."}, "B.3": entry}
    tiny.write("book/claims.yml", json.dumps(claims))
    tiny.write("lib/tiny/claims.py", f"CLAIMS = {claims!r}\n")
    chapter = tiny.chapter(
        "part/01-one",
        "from flatbook.claims import Claim\nfrom tiny.claims import CLAIMS\n"
        "Claim('B.1', CLAIMS['B.1']).check(0.5, interval=(0.4, 0.6))\n"
        "Claim('B.2', CLAIMS['B.2']).check(0.5, interval=(0.4, 1.6))\n"
        "Claim('B.3', CLAIMS['B.3']).untestable('No difference.')",
    )
    assert tiny.execute() == 0
    tiny.track()
    assert problems(tiny.book) == []
    good = chapter.twin.read_text()
    assert "0.6" in good
    chapter.twin.write_text(good.replace("     0.6\n", "     0.7\n"))
    (said,) = problems(tiny.book)
    assert "printed is 'B.1: reproduced. 0.5 [0.4, 0.6]" in said
    assert "its stamp gives 'B.1: reproduced. 0.5 [0.4, 0.7]" in said


def test_a_hand_made_error_or_warning_in_an_output_is_found(tiny):
    chapter = tiny.chapter("part/01-one", "import warnings\nwarnings.warn('careful')")
    assert tiny.execute() == 0
    assert any("wrote to stderr" in problem for problem in problems(tiny.book))
    notebook = json.loads(chapter.twin.read_text())
    notebook["cells"][-1]["outputs"] = [
        {"output_type": "error", "ename": "ValueError", "evalue": "x", "traceback": []}
    ]
    chapter.twin.write_text(json.dumps(notebook))
    assert any("holds the error ValueError; mend it" in problem for problem in problems(tiny.book))


@pytest.mark.parametrize(
    ("call", "verdict", "wants"),
    [
        ("check(0.0)", "reproduced", False),
        ("check(1.0)", "not reproduced", True),
        ("check(0.0, interval=(-1.0, 1.0))", "inconclusive", True),
        ("untestable('No gate.')", "not testable here", None),  # it says why itself
    ],
)
def test_a_verdict_that_is_no_pass_and_only_such_a_one_needs_a_why(tiny, call, verdict, wants):
    tiny.chapter("part/01-one", f'from flatbook import claim\nclaim("B.2-sharpness").{call}')
    assert tiny.execute() == 0
    tiny.track()
    bare = problems(tiny.book)
    claims = tiny.root / "book" / "claims.yml"
    claims.write_text(claims.read_text().replace("'tier'", "'why': 'Because.', 'tier'"))
    explained = problems(tiny.book)
    asked = f"B.2-sharpness: its verdict is {verdict!r}; give it a why, one sentence, in claims.yml"
    surplus = f"B.2-sharpness: its verdict is {verdict!r}; delete its why in claims.yml"
    assert bare == ([asked] if wants else [])
    assert explained == ([surplus] if wants is False else [])
