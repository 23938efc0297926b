"""The first screen of a chapter: below the question its verdicts, then the figure.

What has to run before that figure is drawn, from imports to data, stands in one fold above it.
"""

from __future__ import annotations

from docutils import nodes

FOLD = '<details class="preparation"><summary>Preparation</summary>'


def _prepares(node: nodes.Node) -> bool:
    """Say whether a cell shows nothing: its code is folded or its parameters are set."""
    return (
        isinstance(node, nodes.Element)
        and node.get("nb_element") == "cell_code"
        and bool({"tag_hide-input", "tag_parameters"} & {*node["classes"]})
        and not any(node.findall(lambda n: isinstance(n, nodes.image | nodes.raw)))
    )


def open_chapter(doctree: nodes.document, verdicts: str) -> None:
    """Put a chapter's verdicts below its question, and fold the cells that follow as one.

    Args:
        doctree: The chapter, with a card wherever a check ran.
        verdicts: All its verdicts, as HTML.
    """
    top = next(doctree.findall(nodes.section))
    prose = (nodes.title, nodes.paragraph, nodes.target, nodes.comment)
    first = next((i for i, n in enumerate(top) if not isinstance(n, prose)), len(top))
    last = next((i for i, n in enumerate(top) if i >= first and not _prepares(n)), len(top))
    cells = top[first:last]
    for cell in cells:
        assert isinstance(cell, nodes.Element), "all of them prepare"
        cell.attributes.pop("hide_mode", None)  # one fold is enough
    opening: list[nodes.Node] = [_html(verdicts)] if verdicts else []
    if cells:
        opening += [_html(FOLD), *cells, _html("</details>")]
    top[first:last] = opening


def _html(tag: str) -> nodes.raw:
    return nodes.raw("", tag, format="html")
