"""What pages may ask for: a part's chapters, the scoreboard, a live figure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from _tools import paper
from _tools.cards import strip
from _tools.chapters import Book, Chapter
from _tools.scoreboard import PLANNED, SOURCES, VERDICTS, Row, by_source, rows, sign

WORDS_A_MINUTE = 200
PARTS = {"iam": "Part I", "pathways": "Part II", "beyond": "Part III"}


def label(claim: str) -> str:
    """Return the name by which pages refer to the card of a claim."""
    return f"check-{claim.lower()}"


def book_of(app: Sphinx) -> Book:
    """Return the book that Sphinx renders."""
    return Book(Path(app.srcdir).parent)


def minutes_to_read(chapter: Chapter) -> int:
    """Return the minutes that the words of a chapter take at 200 a minute, at least one."""
    words = sum(len(cell.source.split()) for cell in chapter.source().cells)
    return max(1, round(words / WORDS_A_MINUTE))


def facts(chapter: Chapter) -> str:
    """Return the time to read and the time to run, as measured, in one line."""
    reading = f"{minutes_to_read(chapter)} min to read"
    executed = chapter.executed()
    if executed is None:
        return reading
    stamp = executed.metadata["stamp"]
    scale = f"{stamp['device']}, tier {stamp['parameters']['tier']}"
    return f"{reading} · {stamp['seconds']:.0f} s to run ({scale})"


def title_of(chapter: Chapter) -> str:
    """Return the title of a chapter."""
    return str(chapter.source().cells[0].source.partition("\n")[0].lstrip("# "))


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


class Chapters(SphinxDirective):
    """``{chapters} part``: what each chapter of a part asks, and how long it takes."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Build one definition for each chapter."""
        terms = nodes.definition_list(classes=["chapters"])
        for chapter in book_of(self.env.app).chapters:
            if chapter.path.parent.name == self.arguments[0]:
                _, _, prose = chapter.source().cells[0].source.partition("\n")
                question = prose.strip().partition("\n\n")[0]
                name = _link(chapter.name, title_of(chapter), self.env.docname)
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
        """Build the counts and, unless short, a table for each chapter."""
        board = rows(book_of(self.env.app))
        counts = self._counts(board)
        if "short" in self.options:
            return [counts]
        titles = {c.name: title_of(c) for c in book_of(self.env.app).chapters}
        controls = nodes.raw("", '<div class="board-filters" hidden></div>', format="html")
        groups: list[nodes.Node] = []
        for name in dict.fromkeys(row.chapter for row in board):
            group = nodes.section(ids=[f"chapter-{nodes.make_id(name)}"], classes=["board-group"])
            group += nodes.title("", "", _link(name, titles.get(name, name), self.env.docname))
            lines = [self._line(row) for row in board if row.chapter == name]
            head = ["claim", "the paper", "ours", "scale", "verdict", "why"]
            group += nodes.raw("", r"\begingroup\footnotesize", format="latex")
            group += self._table(head, lines, "scoreboard", widths=(26, 10, 25, 8, 12, 19))
            group += nodes.raw("", r"\endgroup", format="latex")
            groups.append(group)
        return [counts, controls, *groups]

    def _counts(self, board: list[Row]) -> nodes.Node:
        counted = by_source(board)
        lines = [
            nodes.row(
                "",
                _cell(_said(source)),
                *(_cell(_said(str(counted[source][verdict]))) for verdict in VERDICTS),
            )
            for source in SOURCES.values()
        ]
        return self._table(["claims of", *VERDICTS], lines, "board-counts", widths=(1,) * 7)

    def _line(self, row: Row) -> nodes.row:
        entry = row.entry
        where = f"{SOURCES[entry['source']['paper']]}, {entry['source']['where']}"
        name = nodes.paragraph("", "", nodes.reference("", row.id, refid=row.id, internal=True))
        ours: list[nodes.Node] = [_said(row.ours)] if row.value is not None else []
        if drawn := strip(row):
            ours.insert(0, nodes.raw("", drawn, format="html"))
        # Never parsed: MyST would evaluate what stands in double braces, as code.
        why = [nodes.paragraph("", "", *paper.reason(row))] if row.why else []
        verdict = _said(row.verdict, "verdict", sign(row.verdict))
        found: list[nodes.Node] = [verdict]
        if row.verdict != PLANNED:
            check = addnodes.pending_xref(
                "",
                nodes.inline("", "the check"),
                refdomain="std",
                reftype="ref",
                refexplicit=True,
                reftarget=label(row.id),
                refdoc=self.env.docname,
            )
            found.append(nodes.paragraph("", "", check))
        return nodes.row(
            "",
            _cell(name, *self.parse_text_to_nodes(entry["statement"]), _said(where, "aside")),
            _cell(_said(entry["paper"], "of-paper") if "paper" in entry else nodes.paragraph()),
            _cell(*ours),
            _cell(_said(row.scale, "of-scale")),
            _cell(*found),
            _cell(*why),
            ids=[row.id],
            classes=[
                f"verdict-is-{sign(row.verdict)}",
                f"part-is-{row.part}",
                f"scale-is-{sign(row.scale)}",
            ],
        )

    @staticmethod
    def _table(
        head: list[str], lines: Iterable[nodes.row], name: str, *, widths: tuple[int, ...]
    ) -> nodes.table:
        columns = (nodes.colspec(colwidth=width) for width in widths)
        group = nodes.tgroup("", *columns, cols=len(head))
        group += nodes.thead("", nodes.row("", *(_cell(_said(word)) for word in head)))
        group += nodes.tbody("", *lines)
        return nodes.table("", group, classes=[name, "longtable", "colwidths-given"])


def _cell(*content: nodes.Node) -> nodes.entry:
    return nodes.entry("", *content)


def _said(text: str, *classes: str) -> nodes.paragraph:
    return nodes.paragraph("", text, classes=list(classes))


class Live(SphinxDirective):
    """``{live} name``: a figure computed in the reader's browser by ``_static/live/name.mjs``.

    The content describes the picture of it, which a page without script shows.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Build the frame that the module fills, around the picture."""
        above = "../" * self.env.docname.count("/")
        made = frame(self.arguments[0], " ".join(self.content), f"{above}_static/live")
        return [nodes.raw("", made, format="html")]


def frame(name: str, said: str, folder: str) -> str:
    """Return the place of a live figure as HTML: room for it, its picture, its module."""
    return (
        f'<div class="live" id="live-{name}"><div class="live-stage"></div>'
        f'<img class="live-still" src="{folder}/{name}.svg" alt="{escape(said)}"></div>'
        f'<script type="module" src="{folder}/{name}.mjs"></script>'
    )
