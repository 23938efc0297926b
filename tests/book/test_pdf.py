"""The book on paper: what is missing, what fails, and what stands where a browser is needed."""

from base64 import b64decode
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document

from _tools import pdf
from _tools.directives import frame
from _tools.paper import adapt, formulas, set_up, verdict
from _tools.scoreboard import Row
from _tools.stills import STILLS

ENTRY = {
    "statement": "$x<1$ in `runs`",
    "source": {"paper": "kim2026iam", "where": "Figure 1"},
    "check": "a share of $n$",
    "tolerance": {"above": 0.5},
    "tier": "ci",
}
LATEX = SimpleNamespace(builder=SimpleNamespace(format="latex"))


def test_it_names_what_has_to_be_installed(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None if name == "xelatex" else name)
    monkeypatch.setattr(pdf, "write_latex", lambda book: pytest.fail("nothing to begin with"))
    monkeypatch.setattr("sys.argv", ["pdf"])
    with pytest.raises(SystemExit, match=r"^xelatex not found: apt-get install .*texlive-xetex"):
        pdf.main()


@pytest.mark.parametrize(("status", "made"), [(0, True), (12, False)])
def test_only_a_whole_pdf_gets_its_name(tiny, monkeypatch, status, made):
    book, tools = tiny.book, tiny.root / "bin"
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    stale = tiny.write("_build/flat-minima.pdf", "old")
    script = f"#!/bin/sh\nfor name; do :; done\necho new > flat-minima.pdf\nexit {status}\n"
    tiny.write("bin/latexmk", script).chmod(0o755)
    monkeypatch.setattr(pdf.sys, "executable", str(tools / "python"))
    folder = tiny.root / "_build" / "pdf" / "_build" / "latex"
    tiny.write("bin/jupyter-book", f"#!/bin/sh\nmkdir -p {folder}\n").chmod(0o755)
    assert pdf.write_latex(book) == 0
    assert not stale.exists()
    assert pdf.typeset(book) == status
    assert stale.exists() is made


def test_figures_are_redrawn_as_vectors_in_a_copy(tiny, at_once):
    chapter = tiny.chapter("part/01-one", tiny.plot)
    tiny.execute()
    committed = chapter.twin.read_bytes()
    copy = pdf.redraw(tiny.book)
    assert chapter.twin.read_bytes() == committed
    assert b"application/pdf" not in committed
    assert (copy.pages / "claims.yml").read_bytes() == (tiny.book.pages / "claims.yml").read_bytes()
    (figure,) = (
        output["data"]
        for cell in copy.find(["part/01-one"])[0].executed().cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    )
    assert b64decode(figure["application/pdf"]).startswith(b"%PDF")


def test_a_chapter_that_fails_stops_the_vectors(tiny, at_once):
    tiny.chapter("part/01-one", "1 / 0")
    with pytest.raises(SystemExit, match=r"part/01-one: FAILED in cell .*ZeroDivisionError"):
        pdf.redraw(tiny.book)


def test_a_verdict_says_on_paper_what_its_card_says():
    row = Row("X.1", ENTRY, "iam/01-one", "inconclusive", 0.8, (0.4, 0.9), "Few $n$.")
    said = verdict(row)
    told = "X.1: inconclusive (as stated). x<1 in runs 0.8 [0.4, 0.9], must be above 0.5: "
    assert said.astext() == f"{told}a share of n. Why: Few n."
    assert [node.astext() for node in said.findall(nodes.math)] == ["x<1", "n", "n"]
    assert next(iter(said.findall(nodes.target)))["ids"] == ["X.1"]
    bare = verdict(Row("X.1", ENTRY, "iam/01-one", "not testable here", None, None, "No gate."))
    assert bare.astext() == "X.1: not testable here (as stated). x<1 in runs Why: No gate."
    assert "must be" not in bare.astext()
    assert [node.astext() for node in formulas("5 % of `a_b`")] == ["5 % of ", "a_b"]


def test_a_live_figure_leaves_its_picture_and_its_description():
    page = new_document("page")
    page += nodes.raw("", frame("plane", 'A "map" & more.', "../_static/live"), format="html")
    page += nodes.raw("", "<b>other</b>", format="html")
    adapt(LATEX, page)
    picture, said, other = page.children
    assert picture["format"] == "latex"
    assert r"\includegraphics[width=\linewidth]{live-plane.pdf}" in picture.astext()
    assert said.astext() == 'A "map" & more.'
    assert other["format"] == "html"
    assert "plane" in STILLS


def test_folded_code_stays_on_the_screen():
    page = new_document("page")
    for tags in (["tag_hide-input"], []):
        page += nodes.container(
            "", nodes.container(classes=["cell_input"]), classes=["cell", *tags]
        )
    adapt(LATEX, page)
    folded, shown = page.children
    assert len(folded) == 0
    assert len(shown) == 1


def test_a_browser_s_page_stays_as_it_is():
    page = new_document("page")
    page += nodes.raw("", frame("plane", "A map.", "_static/live"), format="html")
    adapt(SimpleNamespace(builder=SimpleNamespace(format="html")), page)
    assert page.children[0]["format"] == "html"


def test_what_other_extensions_set_for_latex_is_kept():
    config = {"latex_theme": "other", "latex_elements": {"preamble": "% theirs", "fontpkg": "x"}}
    set_up(None, config)
    assert config["latex_theme"] == "manual"
    assert config["latex_elements"]["preamble"].startswith("% theirs")
    assert "sphinxVerbatimInput" in config["latex_elements"]["preamble"]
    assert config["latex_elements"]["fontpkg"] == "x"
