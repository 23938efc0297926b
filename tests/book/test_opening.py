"""The first screen of a chapter: question, verdicts, one fold, figure."""

import re

import nbformat
import pytest
from docutils import nodes
from docutils.utils import new_document

from _tools.chapters import HERE
from _tools.opening import open_chapter


def cell(*tags, shows=None):
    made = nodes.container(classes=["cell", *tags], nb_element="cell_code", hide_mode="input")
    made += [shows] if shows else []
    return made


def opened(*parts, verdicts="VERDICTS"):
    document, top = new_document("x"), nodes.section()
    document += top
    top += [nodes.title("", "T"), nodes.paragraph("", "A question?"), *parts]
    open_chapter(document, verdicts)
    return list(top)[2:]


def test_verdicts_stand_below_the_question_and_what_prepares_in_one_fold():
    setup, numbers = cell("tag_parameters"), cell("tag_hide-input")
    figure = cell("tag_hide-input", shows=nodes.image())
    later = cell("tag_hide-input")
    said, begin, *kept, end, shown, last = opened(setup, numbers, figure, later)
    assert [said.astext(), end.astext()] == ["VERDICTS", "</details>"]
    assert begin.astext().startswith("<details")
    assert kept == [setup, numbers]
    assert [shown, last] == [figure, later]
    assert not {"hide_mode"} & {*setup.attributes, *numbers.attributes}
    assert figure["hide_mode"] == "input"


@pytest.mark.parametrize(
    "first",
    [
        cell(),  # code to read
        cell("tag_hide-input", shows=nodes.raw("", "<div>", format="html")),  # a card
        nodes.raw("", "<div>", format="html"),  # a live figure
        nodes.section(),
    ],
)
def test_what_is_to_be_seen_is_not_folded(first):
    said, shown = opened(first)
    assert (said.astext(), shown) == ("VERDICTS", first)
    assert opened(first, verdicts="") == [first]


@pytest.mark.parametrize("chapter", HERE.chapters, ids=lambda chapter: chapter.name)
def test_a_figure_stands_before_the_first_section(chapter):
    cells = chapter.source().cells
    first = next(i for i, c in enumerate(cells) if re.search(r"(?m)^## ", c.source))
    above = [*cells[:first], nbformat.v4.new_markdown_cell(cells[first].source.split("\n## ")[0])]
    assert any("figure" in c.metadata.get("mystnb", {}) or ":::{live}" in c.source for c in above)
