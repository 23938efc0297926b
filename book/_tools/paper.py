"""What pages show on paper in place of what needs a browser: verdicts as text, pictures."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import matplotlib.pyplot as plt
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

from _tools.scoreboard import Row
from _tools.stills import STILLS
from flatbook.claims import UNTESTABLE, required
from flatbook.figures import use_style

PREAMBLE = r"""
\newenvironment{sphinxVerbatimInput}{}{}
\newenvironment{sphinxVerbatimOutput}{}{}
\definecolor{VerbatimColor}{RGB}{247,247,247}
\definecolor{VerbatimBorderColor}{RGB}{225,225,225}
\setmonofont{DejaVu Sans Mono}[Scale=0.82]
"""


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


def reason(row: Row) -> list[nodes.Node]:
    """Return why a claim did not pass, as nodes.

    What a run said itself is plain text: it may hold words of a stranger's record, and in a formula
    TeX reads files.
    """
    return [nodes.Text(row.why)] if row.verdict == UNTESTABLE else formulas(row.why)


def verdict(row: Row) -> nodes.Element:
    """Return a verdict as a paragraph: what a card says, without its drawing."""
    head = nodes.strong("", f"{row.id}: {row.verdict}")
    said = nodes.paragraph("", "", nodes.target("", "", ids=[row.id]), head)
    said += [nodes.Text(f" ({row.scale}). "), *formulas(row.entry["statement"])]
    if row.value is not None:
        said += nodes.Text(f" {row.number}, {required(row.entry['tolerance'])}: ")
        said += [*formulas(row.entry["check"]), nodes.Text(".")]
    if row.why:
        said += [nodes.emphasis("", " Why: "), *reason(row)]
    return nodes.block_quote("", said)


def set_up(app: Sphinx, config: Config) -> None:
    """Choose the plain class of Sphinx: that of Jupyter Book wants fonts of a gigabyte."""
    config["latex_theme"] = "manual"
    elements = config["latex_elements"]
    elements["preamble"] = elements.get("preamble", "") + PREAMBLE
    elements |= {"papersize": "a4paper", "extraclassoptions": "openany", "figure_align": "H"}
    elements["sphinxsetup"] = "hmargin=2.2cm, vmargin=2.4cm"


def adapt(app: Sphinx, doctree: nodes.document) -> None:
    """Leave out folded code, and put pictures in the place of live figures."""
    if app.builder.format != "latex":
        return
    for cell in list(doctree.findall(nodes.container)):
        if {"cell_input", "tag_hide-input"} <= {*cell["classes"], *cell.parent["classes"]}:
            cell.parent.remove(cell)
    for live in list(doctree.findall(nodes.raw)):
        found = re.search(r'live-still" src="[^"]*?(\w+)\.svg" alt="([^"]*)"', live.astext())
        if found:
            picture = rf"\noindent\includegraphics[width=\linewidth]{{live-{found[1]}.pdf}}"
            said = nodes.paragraph("", "", nodes.emphasis("", unescape(found[2])))
            live.parent.replace(live, [nodes.raw("", picture, format="latex"), said])


def draw_stills(app: Sphinx, error: Exception | None) -> None:
    """Draw those pictures beside the LaTeX, as vector graphics."""
    if error is None and app.builder.format == "latex":
        use_style()
        for name, draw in STILLS.items():
            draw().savefig(Path(app.outdir, f"live-{name}.pdf"))
            plt.close()
