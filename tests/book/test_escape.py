"""Text of a stranger's record or stamp on a rendered page: shown, never markup, never a file."""

import json
from dataclasses import replace

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from nbformat.v4 import new_output
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from _tools import paper
from _tools.chapters import HERE
from _tools.scoreboard import Row

BAD = "<script>alert(1)</script><img src=x onerror=alert(2)>"
WHY = f"{BAD} [go](javascript:alert(3)) and\n\n```{{include}} secret.txt\n```\n"
# What MyST would evaluate, copy into the site, or ask another server for.
RUNS = "{{ cycler.__init__.__globals__.os.popen('touch %s').read() }}"
WHY += " ![x](https://example.org/x.png) ![x](secret.svg) {download}`x <secret.txt>` {{ 6 * 7 }} "
WHY += "<https://example.org/y> www.example.org `z` $\\input{secret.txt}$"
EXTENSIONS = yaml.safe_load((HERE.root / "_config.yml").read_text())["parse"]
PAGES = ("scoreboard", "part/01-one")


@pytest.fixture
def pages(tiny):
    """The scoreboard and a chapter whose stamp and outputs are hostile in every string."""
    chapter = tiny.chapter("part/01-one", "1")
    notebook = chapter.source()
    notebook.cells[-1].outputs = [
        new_output("stream", text=f"B.2-sharpness: not testable here. {BAD}\ndevice {BAD}\n"),
        new_output("execute_result", {"text/plain": BAD}),
    ]
    evaluated = tiny.root / "evaluated"
    told = {"verdict": "not testable here", "why": WHY + RUNS % evaluated}
    notebook.metadata["stamp"] = {
        "claims": {"B.2-sharpness": told},
        **{"figures": {}, "device": BAD, "seconds": 1.0, "versions": {"torch": BAD}},
        "parameters": {"tier": BAD},
    }
    nbformat.write(notebook, chapter.twin)
    chapter.path.rename(chapter.path.with_suffix(".source"))
    entry = HERE.claims["B.2-sharpness"] | {"chapter": "part/01-one"}
    tiny.write("book/claims.yml", json.dumps({"B.2-sharpness": entry}))
    tiny.write("book/secret.txt", "the content of a file\n")
    tiny.write("book/secret.svg", "<svg/>")
    tiny.write(
        "book/scoreboard.md",
        "# Board\n\n```{scoreboard}\n```\n\n```{toctree}\n\npart/01-one\n```\n",
    )
    chapter.path.with_suffix(".source").rename(chapter.path)
    source, out = tiny.root / "book", tiny.root / "out"
    settings = {
        "extensions": ["myst_nb", "sphinx.ext.autodoc", "_tools.sphinx_ext"],
        "root_doc": "scoreboard",
        "nb_execution_mode": "off",
        "exclude_patterns": ["part/01-one.md"],
        "html_theme": "basic",
        "html_theme_options": {},
        "suppress_warnings": ["*"],
        **EXTENSIONS,
    }
    return source, out, settings


def test_every_string_of_a_stamp_is_text(pages, monkeypatch):
    source, out, settings = pages
    for name in ("copy_scripts", "lead_on", "tell_counts", "set_address"):
        monkeypatch.setattr(f"_tools.sphinx_ext.{name}", lambda *_: None)
    monkeypatch.setattr("_tools.share.describe", lambda *_: None)
    app = Sphinx(source, None, out, out / "trees", "html", settings, status=None, warning=None)
    app.build()
    assert not (source.parent / "evaluated").exists()
    for page in PAGES:
        html = (out / f"{page}.html").read_text()
        body = BeautifulSoup(html, "html.parser")
        assert "alert(1)" in body.get_text(), page  # it is shown
        assert not [tag for tag in body.find_all("script") if "alert" in tag.text]
        assert not [
            tag for tag in body.find_all(True) if any(k.startswith("on") for k in tag.attrs)
        ]
        assert not [tag for tag in body.find_all("a") if "javascript" in tag.get("href", "")]
        assert "the content of a file" not in html
        assert not body.find_all("img")
        assert not [tag for tag in body.find_all("a") if "example" in tag.get("href", "")]
        assert "{{ 6 * 7 }}" in body.get_text()
    assert not [*(out / "_downloads").rglob("*.txt"), *(out / "_images").glob("*")]


@pytest.mark.parametrize(
    ("page", "said"),
    [("part/01-one", r"part/01-one: its \.ipynb is refused"), ("part/other", "without its .md")],
)
def test_a_script_in_an_output_reaches_no_page_whose_policy_would_allow_it(
    pages, page, said, monkeypatch
):
    source, out, settings = pages
    monkeypatch.setattr("_tools.sphinx_ext.set_address", lambda *_: None)
    notebook = nbformat.read(source / "part/01-one.ipynb", as_version=4)
    notebook.cells[-1].outputs = [new_output("display_data", {"text/html": BAD})]
    nbformat.write(notebook, source / f"{page}.ipynb")
    with pytest.raises(ExtensionError, match=said):
        Sphinx(
            source, None, out, out / "trees", "html", settings, status=None, warning=None
        ).build()
    assert not [*out.rglob("*.html")]


def test_a_run_s_words_are_no_formula_on_paper(tiny):
    """TeX's formulas can read files."""
    entry = HERE.claims["B.2-sharpness"] | {"why": "As $x$ says."}
    ours = Row("B.2", entry, "part/01-one", "not reproduced", 1.0, why=entry["why"])
    theirs = replace(ours, verdict="not testable here", value=None, why=WHY)
    assert len([*paper.verdict(ours).findall(nodes.math)]) == 1 + entry["statement"].count("$") // 2
    assert not [n for n in paper.verdict(theirs).findall(nodes.math) if "input" in n.astext()]
