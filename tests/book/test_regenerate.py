import base64
import io
import json
import re
import subprocess

import matplotlib.image
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from _tools import compare
from _tools.execute import COMMITTED_TIER, Run
from _tools.regenerate import changed_since, moved, regenerate
from flatbook.figures import use_style

pytestmark = pytest.mark.usefixtures("at_once")


def committed_run(chapter):
    """What is committed, as if it had been run again."""
    files = {path.stem: path.read_text() for path in chapter.data.glob("*.csv")}
    return Run(chapter.name, chapter.executed(), files)


def mirrored(picture):
    out = io.BytesIO()
    read = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)), format="png")
    matplotlib.image.imsave(out, np.ascontiguousarray(read[:, ::-1]), format="png")
    return base64.b64encode(out.getvalue()).decode()


def test_whatever_was_changed_by_hand_moves_back_in_a_new_run(tiny, capsys):
    chapter = tiny.chapter("part/01-one", tiny.plot, "print('one', 1)")
    assert tiny.execute() == 0
    folder = tiny.root / "_build" / "regenerate"
    assert regenerate(tiny.book, [], jobs=1) == 0
    assert "Nothing moved." in (folder / "report.html").read_text()
    assert not [*folder.glob("*.txt")]
    fresh = committed_run(chapter)
    again = nbformat.read(folder / "book" / "part" / "01-one.ipynb", as_version=4)
    assert again.cells == fresh.notebook.cells
    assert (folder / "book" / "part" / "01-one-data" / "fig-line.csv").exists()

    def damaged(change):
        good = chapter.twin.read_text()
        notebook = json.loads(good)
        change(notebook)
        chapter.twin.write_text(json.dumps(notebook))
        said = [f"{one.what}: {one.how}" for one in moved(chapter, fresh)]
        chapter.twin.write_text(good)
        return said

    def swap(notebook):
        (shown,) = (
            o["data"] for c in notebook["cells"] for o in c.get("outputs", []) if "data" in o
        )
        shown["image/png"] = mirrored(shown["image/png"])

    (said,) = damaged(swap)
    assert said.startswith("fig-line: its pixels changed by ")
    (said,) = damaged(
        lambda nb: nb["metadata"]["stamp"]["claims"]["B.2-sharpness"].update(
            verdict="not reproduced"
        )
    )
    assert said == "B.2-sharpness: was 'not reproduced', is 'reproduced'"
    (said,) = damaged(lambda nb: nb["cells"][-1]["outputs"][0].update(text="one 2\n"))
    assert said == "code cell 4: @@ -1 +1 @@\n-one 2\n+one 1"

    data = chapter.data / "fig-line.csv"
    data.write_text("x,y\n0,0\n1,2.5\n")
    text = chapter.twin.read_text().replace('"verdict": "reproduced"', '"verdict": "<b>"')
    chapter.twin.write_text(text)
    assert regenerate(tiny.book, ["part/01-one"], jobs=1) == 2
    shown = (folder / "report.html").read_text()
    assert "2 differences in 1 chapters" in shown
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert (folder / "moved.txt").read_text() == "part/01-one\n"
    assert (folder / "verdicts.txt").read_text().startswith("part/01-one: B.2-sharpness was '<b>'")
    assert data.read_text() == "x,y\n0,0\n1,2.5\n"  # nothing beside the chapter is touched
    assert COMMITTED_TIER == "ci"


def said(found):
    return [one.how for one in found]


def test_data_are_compared_column_by_column_with_a_tolerance():
    old = "x,y,name\n0,0.5,a\n1,nan,b\n"
    assert said(compare.data("fig-a", old, old.replace("0.5", "0.5004"))) == []
    assert said(compare.data("fig-a", old, old.replace("0.5", "0.501"))) == [
        "column y changed by 0.001 where it was 0.5"
    ]
    small = "y\n0.5\n1e-4\n1e-17\n"
    assert said(compare.data("fig-a", small, "y\n0.5\n1.004e-4\n1e-8\n")) == []
    assert said(compare.data("fig-a", small, "y\n0.5\n2e-4\n1e-17\n")) == [
        "column y changed by 0.0001 where it was 0.0001"
    ]
    assert said(compare.data("fig-a", old, old.replace("nan", "0.1"))) == [
        "column y is finite elsewhere"
    ]
    assert said(compare.data("fig-a", old, old.replace("0.5", "nan"))) != []
    assert said(compare.data("fig-a", old, old.replace(",b", ",c"))) == ["column name differs"]
    assert said(compare.data("fig-a", old, old.replace("1,", "2,"))) == ["column x differs"]
    assert "2 rows of x, y, name, now 1 of x" in said(compare.data("fig-a", old, "x\n1\n"))[0]
    assert said(compare.data("fig-a", "", old)) == ["its data are new"]
    assert said(compare.data("fig-a", old, "")) == ["its data are gone"]
    (chaotic,) = compare.LOOSE
    assert said(compare.data(chaotic, "y\n1e-17\n0.5\n", "y\n3e-17\n0.9\n")) == []
    assert said(compare.data(chaotic, "y\n1e-17\n0.5\n", "y\n1e-17\n9.9\n")) != []


def test_a_picture_that_cannot_be_drawn_is_a_difference_and_is_never_unpacked_if_it_is_large():
    def png(width, rest):
        head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 2 * width.to_bytes(4, "big") + rest
        return base64.b64encode(head).decode()

    out = io.BytesIO()
    matplotlib.image.imsave(out, np.zeros((9, 9)), format="png")
    good = base64.b64encode(out.getvalue()).decode()
    assert said(compare.picture("fig-a", "x", good)) == ["its picture is no PNG"]
    large = png(9000, b"\x08\0\0\0\0" + bytes(99))
    assert said(compare.picture("fig-a", large, good)) == [
        "its picture is one of 9000 × 9000 pixels"
    ]
    for bad in (png(9, b"\x08\0\0\0\0" + bytes(99)), good[:-40], good[:100] + "A" * 40):
        assert "its picture cannot be read" in said(compare.picture("fig-a", bad, good))[0]


@pytest.mark.parametrize("names", [("SGD", "IAM-D"), ("L = 2", "L = 3"), ("a", "b")])
def test_two_names_exchanged_in_a_legend_are_a_difference_and_a_line_a_thousandth_off_is_none(
    names,
):
    def drawn(names, scale=1.0):
        fig, ax = plt.subplots()
        x = np.linspace(0, 6, 80)
        for name, y in zip(names, (np.sin(x), np.cos(x)), strict=True):
            ax.plot(x, scale * y, label=name)
        ax.set_ylim(-1.2, 1.2)
        ax.legend()
        out = io.BytesIO()
        fig.savefig(out, format="png")
        plt.close(fig)
        return base64.b64encode(out.getvalue()).decode()

    use_style()
    good = drawn(names)
    assert drawn(names) == good
    assert said(compare.picture("fig-a", good, drawn(names, 1.001))) == []
    (how,) = said(compare.picture("fig-a", good, drawn(names[::-1])))
    assert float(re.search(r"of 255, by (\d+) in one place", how)[1]) > 60


def test_a_table_says_the_same_as_text_first_or_as_html_first():
    def table(*kinds):
        shown = nbformat.v4.new_output("display_data", dict.fromkeys(kinds, "1"))
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[shown])])

    kernel_s, file_s = table("text/plain", "text/html"), table("text/html", "text/plain")
    kernel_s.cells[0].outputs[0].data["text/plain"] = "2"
    file_s.cells[0].outputs[0].data["text/plain"] = "2"
    assert said(compare.text(file_s, kernel_s)) == []


def test_a_claim_moves_with_its_number_but_not_with_a_rounding_error():
    entries = {"A": {"tolerance": {"below": 1e-8}}, "B": {"tolerance": {"above": 0.0}}}

    def change(id_, old, new):
        stamps = ({id_: {"value": value, "verdict": "reproduced"}} for value in (old, new))
        return said(compare.claims(*stamps, entries))

    assert change("A", 1e-15, 9e-15) == []
    assert change("A", 1e-15, 9e-9) == ["measured 1e-15, now 9e-09"]
    assert change("B", 1.0, 1.009) == []
    assert change("B", 1.0, 1.02) == ["measured 1, now 1.02"]
    assert change("B", "nan", "nan") == []
    gone = list(compare.claims({"B": {"value": 1.0, "verdict": "reproduced"}}, {}, entries))
    assert gone[0].verdict
    assert gone[0].how == "was 'reproduced', is 'nothing'"


def test_a_failed_run_and_a_missing_notebook_are_differences(tiny):
    chapter = tiny.chapter("part/01-one", "x = 1")
    (failed,) = moved(chapter, Run(chapter.name, error="cell 1"))
    assert failed.verdict
    (never,) = moved(chapter, Run(chapter.name, chapter.source()))
    assert never.how == "was never executed before"


def test_only_chapters_of_which_a_file_changed_count(tiny):
    for name in ("part/01-one", "part/02-two", "part/03-three"):
        tiny.chapter(name, "x = 1")
    tiny.track()
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, "commit", "-qm", "x"], cwd=tiny.root, check=True)
    assert changed_since(tiny.book, "HEAD") == []
    tiny.chapter("part/02-two", "x = 2")
    tiny.write("book/part/03-three-data/fig-a.csv", "x\n1\n")
    tiny.track()
    assert changed_since(tiny.book, "HEAD") == ["part/02-two", "part/03-three"]
    assert len(changed_since(tiny.book, "0" * 40)) == 3
    assert len(changed_since(tiny.book, "--output=harm")) == 3  # no option of Git's
    assert not (tiny.root / "harm").exists()
