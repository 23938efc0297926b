import base64
import json
import re
import shutil

import pytest
import yaml
from nbval.plugin import comment_markers, metadata_tags

from _tools.chapters import HERE, Book, Refused
from _tools.check import problems
from _tools.designs import design_problems, no_history
from _tools.figures import figures
from _tools.render import render
from _tools.scoreboard import rows

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
    other = tiny.write("book/part/other.ipynb", chapter.twin.read_text())
    assert "part/other.ipynb has no .md" in found(
        "_toc.yml", ".ipynb", ".ipynb\nchapters:\n- file: part/other.ipynb"
    )
    other.unlink()
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


def stamp_of(notebook):
    return notebook["metadata"]["stamp"]


def claim_of(notebook):
    return stamp_of(notebook)["claims"]["B.2-sharpness"]


def shows(**data):
    """Put an output of these kinds into the last cell."""
    named = {name.replace("_", "/", 1): value for name, value in data.items()}
    shown = {"output_type": "display_data", "metadata": {}, "data": named}
    return lambda nb: nb["cells"][-1].update(outputs=[shown])


def picture(width, height):
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\0\0\0\0"
    return base64.b64encode(head + bytes(300)).decode()


def plot_cell(notebook):
    return next(cell for cell in notebook["cells"] if "mystnb" in cell["metadata"])


REFUSED = {
    "no JSON": lambda nb: "{",
    "a list": lambda nb: "[]",
    "deep": lambda nb: "[" * 100_000 + "]" * 100_000,
    "no cells": lambda nb: nb.pop("cells"),
    "no stamp": lambda nb: nb["metadata"].pop("stamp"),
    "a stamp that is text": lambda nb: nb["metadata"].update(stamp="x"),
    "claims in a list": lambda nb: stamp_of(nb).update(claims=["B.2-sharpness"]),
    "figures in a list": lambda nb: stamp_of(nb).update(figures=["fig-line"]),
    "figures of numbers": lambda nb: stamp_of(nb).update(figures={"fig-line": 1}),
    "a figure elsewhere": lambda nb: stamp_of(nb).update(figures={"../../fig-line": "x"}),
    "data elsewhere": lambda nb: stamp_of(nb).update(data={"../../a.json": "x"}),
    "seconds": lambda nb: stamp_of(nb).update(seconds="x"),
    "no device": lambda nb: stamp_of(nb).pop("device"),
    "no tier": lambda nb: stamp_of(nb)["parameters"].pop("tier"),
    "what no stamp says": lambda nb: stamp_of(nb).update(reviewed=True),
    "no verdict": lambda nb: claim_of(nb).pop("verdict"),
    "a value in words": lambda nb: claim_of(nb).update(value="x"),
    "a large value": lambda nb: claim_of(nb).update(value=10**400),
    "no value": lambda nb: claim_of(nb).pop("value"),
    "one end": lambda nb: claim_of(nb).update(interval=[1]),
    "an interval elsewhere": lambda nb: claim_of(nb).update(interval=[1, 2]),
    "a why that is a number": lambda nb: claim_of(nb).update(why=1),
    "metadata that Sphinx obeys": lambda nb: nb["metadata"].update(
        mystnb={"execution_mode": "force"}
    ),
    "mystnb that is text": lambda nb: plot_cell(nb)["metadata"].update(mystnb="x"),
    "figure that is text": lambda nb: plot_cell(nb)["metadata"]["mystnb"].update(figure="x"),
    "a picture's file elsewhere": lambda nb: plot_cell(nb)["metadata"]["mystnb"]["figure"].update(
        name="../../../fig-line"
    ),
    "an attachment": lambda nb: nb["cells"][0].update(attachments={"a.png": {"image/png": "x"}}),
    "an output's metadata": lambda nb: plot_cell(nb)["outputs"][0].update(metadata={"a": 1}),
    "a garbled picture": shows(image_png="x"),
    "a picture of 81 megapixels": shows(image_png=picture(9000, 9000)),
    "Markdown": shows(text_markdown="![](https://example.org/x.png)"),
    "LaTeX": shows(text_latex="$x$"),
    "JavaScript": shows(application_javascript="alert(1)"),
    "SVG": shows(**{"image_svg+xml": "<svg/>"}),
    "a script": shows(text_html="<script>alert(1)</script>"),
    "a script in capitals, never closed": shows(text_html="<SCRIPT src=x"),
    "a handler": shows(text_html="<img src=x onerror='alert(1)'>"),
    "a handler of a table": shows(text_html='<table class="dataframe" onclick="a()"></table>'),
    "a frame": shows(text_html='<iframe src="x"></iframe>'),
    "a link": shows(text_html='<a href="javascript:alert(1)">x</a>'),
    "a style that asks": shows(text_html="<style scoped> .dataframe { color: url(x) }</style>"),
    "a style of the page": shows(text_html="<style scoped>body { display: none; }</style>"),
    "a comment": shows(text_html="<!-- x"),
}


@pytest.fixture(scope="module")
def executed(make_tiny):
    """A book of two chapters and the notebook of the first, which is to be changed."""
    tiny = make_tiny()
    tiny.write("_toc.yml", "root: part/01-one.ipynb\nchapters:\n- file: part/02-two.ipynb\n")
    tiny.chapter("part/01-one", tiny.plot, "import pandas\npandas.DataFrame({'a': ['<b>']})")
    tiny.chapter("part/02-two", "1")
    assert tiny.execute() == 0
    tiny.track()
    assert problems(tiny.book) == []
    return tiny, tiny.book.chapters[0].twin.read_text()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_notebook_as_no_run_writes_it_is_one_line_and_nowhere_shown(executed, kind):
    tiny, good = executed
    first, second = tiny.book.chapters
    notebook = json.loads(good)
    changed = REFUSED[kind](notebook)
    first.twin.write_text(changed if isinstance(changed, str) else json.dumps(notebook))
    second.twin.rename(second.twin.with_suffix(".gone"))
    one, *others = problems(tiny.book)
    second.twin.with_suffix(".gone").rename(second.twin)
    assert re.match(r"part/01-one: its \.ipynb is refused: [^\n]+; run make execute$", one)
    assert others[0] == "part/02-two: it was never executed; run make execute"
    assert not [line for line in others if "part/01-one" in line]
    for show in (rows, lambda book: [*figures(book)]):
        with pytest.raises(Refused, match=r"part/01-one: its \.ipynb is refused"):
            show(tiny.book)
    with pytest.raises(SystemExit, match=r"part/01-one: its \.ipynb is refused"):
        render(tiny.book, ["false"])
    first.twin.write_text(good)


def test_the_limit_of_a_claim_that_its_page_decides_is_the_first_with_its_words(tiny):
    def said(**changes):
        entry = {"statement": "s", "check": "c", "tolerance": {"below": 1}, "scale": "reduced"}
        claims = {"B.1": entry | changes, "B.2": entry}
        tiny.write("book/claims.yml", json.dumps(claims))
        return "\n".join(design_problems(tiny.book))

    assert said() == ""  # nothing is committed yet
    tiny.commit()
    began = tiny.git("rev-parse", "--short=8", "HEAD")
    assert said() == ""
    moved = said(tolerance={"below": 2})
    assert moved.startswith(f"B.1: its limit is {{'below': 2}}, but was {{'below': 1}} at {began}")
    tiny.commit()
    assert said(tolerance={"below": 2}) == moved  # committing it does not help
    assert "B.1: its scale is None, but was reduced" in said(scale=None)
    assert said(tolerance={"below": 2}, check="another") == ""


def test_a_clone_without_the_history_says_that_it_cannot_compare_limits(tiny, tmp_path_factory):
    tiny.write("_toc.yml", "root: intro\n")
    tiny.write("book/intro", "x")
    tiny.write("book/claims.yml", "{}")
    tiny.commit()
    tiny.write("README.md", "x")
    tiny.commit()
    folder = tmp_path_factory.mktemp("clone")
    assert problems(tiny.book) == []
    tiny.git("clone", "-q", "--depth", "1", f"file://{tiny.root}", str(folder))
    assert no_history(tiny.book) == ""
    assert "git fetch --unshallow" in no_history(Book(folder))
    assert problems(Book(folder)) == []
    shutil.rmtree(folder / ".git")
    assert no_history(Book(folder)) == "there is no history here"


def test_the_workflows_that_check_have_the_history():
    checking = []
    for path in sorted((HERE.root / ".github" / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text("utf-8"))["jobs"].values():
            if any(re.match(r"\.ci/run|make (test|check)", s.get("run", "")) for s in job["steps"]):
                first, *_ = job["steps"]
                assert first["with"]["fetch-depth"] == 0
                checking.append(path.stem)
    assert checking == ["release", "test"]


@pytest.mark.parametrize("marker", [*comment_markers, *metadata_tags])
def test_whatever_makes_nbval_look_away_is_named(executed, marker):
    tiny, good = executed
    chapter, notebook = tiny.book.chapters[0], json.loads(good)
    if marker in comment_markers:
        notebook["cells"][-1]["source"] += f"\n#{marker}"
    else:
        notebook["cells"][-1]["metadata"]["tags"] = [marker]
    chapter.twin.write_text(json.dumps(notebook))
    said = [line for line in problems(tiny.book) if "asks nbval to look away" in line]
    chapter.twin.write_text(good)
    assert len(said) == 1
    assert f"({marker})" in said[0]


def test_a_figure_for_paper_is_not_committed(executed):
    tiny, good = executed
    chapter, notebook = tiny.book.chapters[0], json.loads(good)
    shows(application_pdf="JVBERi0=")(notebook)
    chapter.twin.write_text(json.dumps(notebook))
    said = [line for line in problems(tiny.book) if "put out a PDF" in line]
    chapter.twin.write_text(good)
    assert len(said) == 1


def test_a_refused_notebook_is_written_anew(tiny):
    chapter = tiny.chapter("part/01-one", "1")
    chapter.twin.write_text("{")
    assert tiny.execute() == 0
    assert chapter.executed() is not None
