import ast
import multiprocessing
import os
import re
import threading

import pytest

from _tools.chapters import HERE, alone, write_whole


def test_the_source_has_the_same_ids_every_time_and_no_outputs(tiny):
    chapter = tiny.chapter("part/01-one", "x = 1", "y = 2")
    first, second = chapter.source(), chapter.source()
    assert first == second
    assert [cell.id for cell in first.cells] == ["cell-00", "cell-01", "cell-02", "cell-03"]
    assert set(first.metadata) == {"kernelspec", "language_info"}


def test_parameters_are_read_without_running(tiny):
    cell = (
        "\n```{code-cell} ipython3\n:tags: [parameters]\n\ntier = 'ci'  # or smoke\nseed = 7\n```\n"
    )
    assert tiny.chapter("part/01-one", cell).parameters() == {"tier": "ci", "seed": 7}


def test_magics_are_no_code(tiny):
    assert "%" not in tiny.chapter("part/01-one", "%matplotlib inline\nx = 1").code()


@pytest.mark.parametrize("name", ["part/01-one", "book/part/01-one.md", "./book/part/01-one.ipynb"])
def test_a_chapter_answers_to_its_page_and_its_files(tiny, name):
    chapter = tiny.chapter("part/01-one", "x = 1")
    assert tiny.book.find([name]) == [chapter]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "x.txt"
    assert write_whole(file, "one")
    assert not write_whole(file, "one")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(file, "two")
    assert file.read_text() == "one"
    assert [path.name for path in file.parent.iterdir()] == ["x.txt"]


def test_what_a_killed_writer_left_is_taken_away_and_what_a_living_one_writes_is_not(tmp_path):
    dead = multiprocessing.get_context("spawn").Process()
    dead.start()
    dead.join()
    left, under_way = (tmp_path / f".x.txt.{pid}.part" for pid in (dead.pid, os.getppid()))
    for path in (left, under_way, tmp_path / f".y.txt.{dead.pid}.part"):
        path.touch()
    assert write_whole(tmp_path / "x.txt", "one")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"x.txt", under_way.name, f".y.txt.{dead.pid}.part"}


def test_the_second_command_waits_for_the_first(tiny):
    order = []

    def second():
        with alone(tiny.book, "render"):
            order.append("second")

    with alone(tiny.book, "render"):
        with alone(tiny.book, "execute"):  # another work
            thread = threading.Thread(target=second)
            thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


HIDDEN = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
# Calls that draw, on axes or figures; lines that only compute what is drawn do not count.
DRAWING = """
    annotate axhline axhspan axline axvline axvspan bar barh clabel colorbar contour contourf
    errorbar figure fill_between grid heatmap hist imshow invert_yaxis legend loglog margins
    pcolormesh plot plot_surface quiver savefig scatter semilogx semilogy set set_axis_off
    set_title set_visible set_xlabel set_xlim set_xscale set_xticks set_ylabel set_ylim
    set_yscale set_yticks show step streamplot subplots suptitle text tick_params vlines
"""


def drawn_lines(source):
    """The lines of the simple statements that draw."""
    drawn = set()
    for node in ast.walk(ast.parse(source)):
        called = {
            call.func.attr
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        }
        if isinstance(node, ast.Expr | ast.Assign) and called & {*DRAWING.split()}:
            drawn |= {*range(node.lineno, node.end_lineno + 1)}
    return drawn


def faults(chapter):
    """What a chapter lacks of the form that all chapters have, in a few words each."""
    cells = chapter.source().cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    prose = "\n".join(cell.source for cell in cells)

    def section(*titles):
        found = re.search(rf"(?ms)^## (?:{'|'.join(titles)})$(.*?)(?=^## |\Z)", prose)
        return found[1] if found else ""

    for cell in code:
        if HIDDEN & {*cell.metadata.get("tags", [])}:
            continue
        first, *_ = lines = cell.source.splitlines()
        if len(lines) > 20:
            yield f"a visible cell of {len(lines)} lines: {first}"
        if (width := max(map(len, lines))) > 72:
            yield f"a visible cell {width} columns wide: {first}"
        if re.search(r"(?m)^(import|from) |\bplt\.", cell.source):
            yield f"imports or plotting in sight: {first}"
    if (plotting := sum(len(drawn_lines(cell.source)) for cell in code)) > 40:
        yield f"{plotting} lines of plotting"
    if not re.search(r"(?m)^\*Prerequisites:\*", cells[0].source):
        yield "no prerequisites below the question"
    summary = section("Summary", "In short")
    sentences = re.findall(r"\S.*?[.?!](?=\s|\Z)", summary, re.S)
    if not 1 <= sum("{doc}" not in said for said in sentences) <= 3:
        yield "its summary is not of one to three sentences, links aside"
    if "{doc}" not in summary:
        yield "its summary leads nowhere"
    if not re.search("Solution|:::{dropdown}", section("Try this")):
        yield "no exercises with solutions"


@pytest.mark.parametrize("chapter", HERE.chapters, ids=lambda chapter: chapter.name)
def test_a_chapter_has_the_form_of_all_chapters(chapter):
    assert [*faults(chapter)] == []


FORM = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Title

A question?

*Prerequisites:* none.

```{code-cell} ipython3
:tags: [remove-cell]

BOOTSTRAP
```

```{code-cell} ipython3
:tags: [hide-input]

import matplotlib.pyplot as plt

fig, ax = plt.subplots()
for x in range(3):
    ax.plot(
        [x],
    )
x = sorted([1])
```

```{code-cell} ipython3
x = 1
```

## Try this

1. What if?

```{code-cell} ipython3
:tags: [hide-input]

# Solution
x
```

## Summary

One. Two? Three! {doc}`02-two` goes on.
"""


def test_the_form_is_checked(tiny):
    def found(old="x = 1\n", new="x = 1\n"):
        assert old in FORM
        chapter = tiny.chapter("part/01-one", header=FORM.replace(old, new))
        return [*faults(chapter)]

    assert found() == []
    assert found(new="x = 1\n" * 21) == ["a visible cell of 21 lines: x = 1"]
    assert found(new="x = 1\n" * 20) == []
    assert found(new=f"x = '{'a' * 67}'\n") == [f"a visible cell 73 columns wide: x = '{'a' * 67}'"]
    assert found(new="import os\n") == ["imports or plotting in sight: import os"]
    assert found(new="plt.plot(x)\n") == ["imports or plotting in sight: plt.plot(x)"]
    assert found("*Prerequisites:*", "*Before:*") == ["no prerequisites below the question"]
    assert found("Three!", "Three! Four.") == [
        "its summary is not of one to three sentences, links aside"
    ]
    assert found("{doc}`02-two` goes on.", "") == ["its summary leads nowhere"]
    assert found("# Solution", "# Answer") == ["no exercises with solutions"]
    assert found("## Try this", "## Try that") == ["no exercises with solutions"]
    # Four lines draw already: the frame and the three of the statement in the loop.
    assert found("x = sorted([1])\n", "ax.set(\n    title='a',\n)\n" * 12) == []
    assert found("x = sorted([1])\n", "ax.plot(x)\n" * 37) == ["41 lines of plotting"]
