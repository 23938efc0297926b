"""What pages show on paper in place of what needs a browser: verdicts as text, pictures."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import matplotlib.pyplot as plt
from docutils import nodes
from sphinx.application import Sphinx

from _tools.scoreboard import Row
from _tools.stills import STILLS
from flatbook.claims import required
from flatbook.figures import use_style


def formulas(text: str) -> list[nodes.Node]:
    """Return a claim's text as nodes: ``$…$`` as formulas, backticks as code.

    Examples:
        >>> [type(node).__name__ for node in formulas("a `b` at $x$")]
        ['Text', 'literal', 'Text', 'math']
    """
    made: list[nodes.Node] = []
    for plain, formula, code in re.findall(r"([^$`]+)|\$([^$]+)\$|`([^`]+)`", text):
        if plain:
            made.append(nodes.Text(plain))
        else:
            made.append(nodes.math("", formula) if formula else nodes.literal("", code))
    return made


def verdict(row: Row) -> nodes.Element:
    """Return a verdict as a paragraph: what a card says, without its drawing."""
    head = nodes.strong("", f"{row.id}: {row.verdict}")
    said = nodes.paragraph("", "", nodes.target("", "", ids=[row.id]), head)
    said += [nodes.Text(f" ({row.scale}). "), *formulas(row.entry["statement"])]
    if row.value is not None:
        said += nodes.Text(f" {row.number}, {required(row.entry['tolerance'])}: ")
        said += [*formulas(row.entry["check"]), nodes.Text(".")]
    if row.why:
        said += [nodes.emphasis("", " Why: "), *formulas(row.why)]
    return nodes.block_quote("", said)


def add_stills(app: Sphinx, doctree: nodes.document) -> None:
    """Put the picture of each live figure, with its description, in the figure's place."""
    if app.builder.format != "latex":
        return
    for live in list(doctree.findall(nodes.raw)):
        found = re.search(r'live-still" src="[^"]*?(\w+)\.svg" alt="([^"]*)"', live.astext())
        if found:
            picture = rf"\noindent\includegraphics[width=\linewidth]{{live-{found[1]}.pdf}}"
            said = nodes.paragraph("", "", nodes.emphasis("", unescape(found[2])))
            live.replace_self([nodes.raw("", picture, format="latex"), said])


def draw_stills(app: Sphinx, error: Exception | None) -> None:
    """Draw those pictures beside the LaTeX, as vector graphics."""
    if error is None and app.builder.format == "latex":
        use_style()
        for name, draw in STILLS.items():
            draw().savefig(Path(app.outdir, f"live-{name}.pdf"))
            plt.close()
