"""The Sphinx extension: facts, data and sliders for chapters, the scoreboard, shipped scripts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from _tools.address import repository
from _tools.chapters import Book, Chapter
from _tools.scoreboard import PLANNED, SOURCES, Row, count, rows
from flatbook.interactive import MIME

WORDS_A_MINUTE = 200


def _book(app: Sphinx) -> Book:
    return Book(Path(app.srcdir).parent)


def _chapter(app: Sphinx, docname: str) -> Chapter | None:
    return next((c for c in _book(app).chapters if c.name == docname), None)


def minutes_to_read(chapter: Chapter) -> int:
    """Return the minutes that the words of a chapter take at 200 a minute, at least one."""
    words = sum(len(cell.source.split()) for cell in chapter.source().cells)
    return max(1, round(words / WORDS_A_MINUTE))


def provenance(chapter: Chapter, stamp: dict[str, Any]) -> str:
    """Return where the numbers of a chapter come from, in one line."""
    parameters = ", ".join(f"{key} {value}" for key, value in stamp["parameters"].items())
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    seconds = f"{stamp['seconds']:.0f} s"
    return f"{chapter.name}: {parameters}; {versions}; {stamp['device']}, {seconds}"


def facts(chapter: Chapter) -> str:
    """Return the time to read and the time to run, as measured, in one line."""
    reading = f"{minutes_to_read(chapter)} min to read"
    executed = chapter.executed()
    if executed is None:
        return reading
    stamp = executed.metadata["stamp"]
    scale = f"{stamp['device']}, tier {stamp['parameters']['tier']}"
    return f"{reading} · {stamp['seconds']:.0f} s to run ({scale})"


def _link(page: str, text: str, here: str) -> addnodes.pending_xref:
    return addnodes.pending_xref(
        "",
        nodes.inline("", text),
        refdomain="std",
        reftype="doc",
        refexplicit=True,
        refwarn=True,
        reftarget=f"/{page}",
        refdoc=here,
    )


def add_facts(app: Sphinx, doctree: nodes.document) -> None:
    """Put the time to read and to run under a chapter's title, and data under its figures."""
    chapter = _chapter(app, app.env.docname)
    executed = chapter.executed() if chapter else None
    if chapter is None or executed is None:
        return
    stamp = executed.metadata["stamp"]
    title = next(doctree.findall(nodes.title))
    below = nodes.paragraph("", facts(chapter), classes=["chapter-facts"])
    title.parent.insert(title.parent.index(title) + 1, below)
    for figure in doctree.findall(nodes.figure):
        for name in set(figure["names"]) & set(stamp["figures"]):
            file = chapter.data / f"{name}.csv"
            link = addnodes.download_reference(
                "",
                "",
                nodes.inline("", f"Data of this figure ({file.name})"),
                reftarget=file.relative_to(chapter.path.parent).as_posix(),
                refdoc=chapter.name,
            )
            said = nodes.Text(f" · {provenance(chapter, stamp)}")
            figure += nodes.legend("", nodes.paragraph("", "", link, said), classes=["figure-data"])


def add_sliders(app: Sphinx, doctree: nodes.document) -> None:
    """Put the curves of a figure with a slider beside its picture, for ``interactive.js``."""
    chapter = _chapter(app, app.env.docname)
    executed = chapter.executed() if chapter else None
    sliders = dict(_sliders(executed)) if executed else {}
    for figure in doctree.findall(nodes.figure):
        for name in set(figure["names"]) & set(sliders):
            curves = json.dumps(sliders[name], ensure_ascii=False, separators=(",", ":"))
            inert = curves.replace("</", "<\\/")
            script = f'<script class="interactive" type="application/json">{inert}</script>'
            figure.insert(1, nodes.raw("", script, format="html"))


def _sliders(executed: NotebookNode) -> Iterator[tuple[str, Any]]:
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if MIME in output.get("data", {}):
                yield cell.metadata["mystnb"]["figure"]["name"], output["data"][MIME]


class Chapters(SphinxDirective):
    """``{chapters} part``: what each chapter of a part asks, and how long it takes."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Build one definition for each chapter."""
        terms = nodes.definition_list(classes=["chapters"])
        for chapter in _book(self.env.app).chapters:
            if chapter.path.parent.name == self.arguments[0]:
                title, _, prose = chapter.source().cells[0].source.partition("\n")
                question = prose.strip().partition("\n\n")[0]
                name = _link(chapter.name, title.lstrip("# "), self.env.docname)
                terms += nodes.definition_list_item(
                    "",
                    nodes.term("", "", name),
                    nodes.definition(
                        "",
                        *self.parse_text_to_nodes(question),
                        nodes.paragraph("", facts(chapter), classes=["chapter-facts"]),
                    ),
                )
        return [terms]


class Scoreboard(SphinxDirective):
    """``{scoreboard}``: every claim with its verdict; with ``:short:`` only how many of each."""

    option_spec: ClassVar[dict[str, Any]] = {"short": lambda _: True}

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        board = rows(_book(self.env.app))
        if "short" in self.options:
            lines = [
                [[_said(verdict, "verdict", verdict.replace(" ", "-"))], [_said(str(number))]]
                for verdict, number in count(board).items()
            ]
            return [self._table(["verdict", "claims"], lines)]
        return [self._table(["id", "claim", "measured", "verdict"], map(self._line, board))]

    def _line(self, row: Row) -> list[list[nodes.Node]]:
        entry = row.entry
        page = row.chapter
        name = _link(page, row.id, self.env.docname) if page else nodes.Text(row.id)
        source = f"{SOURCES[entry['source']['paper']]}, {entry['source']['where']}"
        sign = row.verdict.replace(" ", "-")
        paper = [_said(f"The paper: {entry['paper']}", "aside")] if "paper" in entry else []
        tier = [] if row.verdict == PLANNED else [_said(f"tier {entry['tier']}", "aside")]
        return [
            [nodes.paragraph("", "", name)],
            [*self.parse_text_to_nodes(entry["statement"]), _said(source, "aside")],
            [_said(row.ours), *paper],
            [_said(row.verdict, "verdict", sign), *tier],
        ]

    @staticmethod
    def _table(head: list[str], lines: Iterable[list[list[nodes.Node]]]) -> nodes.table:
        def row(cells: list[list[nodes.Node]]) -> nodes.row:
            return nodes.row("", *(nodes.entry("", *cell) for cell in cells))

        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
        group += nodes.thead("", row([[_said(word)] for word in head]))
        group += nodes.tbody("", *map(row, lines))
        return nodes.table("", group, classes=["scoreboard"])


def _said(text: str, *classes: str) -> nodes.Node:
    return nodes.paragraph("", text, classes=list(classes))


def _mathjax() -> Path:
    files = metadata.files("sphinx-mathjax-offline") or []
    script = next(file for file in files if file.name == "tex-mml-chtml.js")
    return Path(str(script.locate()))


def copy_scripts(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax with its fonts, and plotly, into the site, so that it needs no other server."""
    if error is None and app.builder.format == "html":
        script, site = _mathjax(), Path(app.outdir, "mathjax")
        fonts = Path("output", "chtml", "fonts", "woff-v2")
        site.mkdir(exist_ok=True)
        shutil.copy(script, site)
        shutil.copytree(script.parent / fonts, site / fonts, dirs_exist_ok=True)
        plotly = Path(app.outdir, "plotly")
        plotly.mkdir(exist_ok=True)
        (plotly / "plotly.min.js").write_text(get_plotlyjs(), "utf-8")


def escape_bars(*event: Any) -> None:
    """Let ``|w|`` in a docstring be an absolute value, not a substitution."""
    lines: list[str] = event[-1]
    lines[:] = [re.sub(r"(?<!`)\|(\w)\|", r"\\|\1\\|", line) for line in lines]


def load_once(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Drop scripts that an extension added twice: thebe's constants cannot be declared again."""
    scripts = {(s.filename or "", s.attributes.get("body")): s for s in context["script_files"]}
    context["script_files"] = list(scripts.values())


def read_again(app: Sphinx, *_: Any) -> list[str]:
    """Have the pages that tell of other pages read again in every build."""
    telling = ("intro", "scoreboard", *(f"{part}/index" for part in ("iam", "pathways", "beyond")))
    return [page for page in telling if page in app.env.found_docs]


def set_address(app: Sphinx, *_: Any) -> None:
    """Link to the repository that this copy of the book lives in; to none if none is known."""
    here, theme = repository(Path(app.srcdir).parent), app.config["html_theme_options"]
    theme["use_repository_button"] = theme["use_issues_button"] = here is not None
    if here is not None:
        theme.update(repository_url=here.url, repository_branch=here.branch, path_to_docs="book")
    if here is None or not here.launches:
        theme["launch_buttons"] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of it."""
    app.add_directive("chapters", Chapters)
    app.add_directive("scoreboard", Scoreboard)
    app.connect("config-inited", set_address, priority=100)
    # Before Sphinx collects the files to download, which it does at priority 500.
    app.connect("doctree-read", add_facts, priority=400)
    app.connect("doctree-read", add_sliders)
    app.connect("env-get-outdated", read_again)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("html-page-context", load_once, priority=900)
    app.connect("build-finished", copy_scripts)
    app.config["mathjax_path"] = "../mathjax/tex-mml-chtml.js"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
