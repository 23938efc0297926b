import sys

import pytest

from _tools.chapters import HERE, Book
from _tools.render import machinery, render, shown

BUILD = """\
import pathlib, sys
site = pathlib.Path("_build/html")
site.mkdir(parents=True, exist_ok=True)
count = pathlib.Path("runs")
count.write_text(count.read_text() + "x" if count.exists() else "x")
(site / "index.html").write_text("x")
if pathlib.Path("stop").exists():
    sys.exit(9)
(site / "picture.png").write_text("x")
"""


@pytest.fixture
def builds(tiny):
    tiny.write("build.py", BUILD)

    def build():
        status = render(tiny.book, [sys.executable, "build.py"])
        return status, (tiny.root / "runs").read_text()

    return build


def test_an_unchanged_site_is_not_rendered_again_and_a_changed_one_is(tiny, builds):
    assert builds() == (0, "x")
    assert builds() == (0, "x")
    tiny.write("book/page.md", "# New\n")
    assert builds() == (0, "xx")
    tiny.remote("https://github.com/fork/b")
    assert builds() == (0, "xxx")
    (tiny.root / "_build" / "html" / "index.html").unlink()
    assert builds() == (0, "xxxx")


def test_an_unfinished_site_is_never_called_good_and_made_from_nothing(tiny, builds):
    stop, site = tiny.write("stop", ""), tiny.root / "_build" / "html"
    assert builds() == (9, "x")
    (site / "left-over.html").touch()
    assert builds() == (9, "xx")  # not taken for whole
    assert not (site / "left-over.html").exists()
    stop.unlink()
    assert builds() == (0, "xxx")
    # Interrupted while a whole site is renewed: the next run begins from nothing as well.
    tiny.write("book/page.md", "# New\n")
    stop.touch()
    assert builds() == (9, "xxxx")
    (site / "picture.png").unlink()
    stop.unlink()
    assert builds() == (0, "xxxxx")
    assert (site / "picture.png").exists()


@pytest.mark.parametrize("path", ["book/a.csv", "lib/tiny/rule.py", "_config.yml", "examples/a.py"])
def test_whatever_the_site_shows_counts(tiny, path):
    tiny.write("_config.yml", "")
    before = shown(tiny.book)
    tiny.write(path, "X = 1\n")
    assert shown(tiny.book) != before
    tiny.write("lib/__pycache__/x.pyc", "x")
    assert shown(Book(tiny.root)) == shown(tiny.book)
    assert shown(HERE)


@pytest.mark.parametrize(
    ("path", "all_pages"),
    [("book/claims.yml", True), ("book/_tools/a.py", True), ("book/iam/01-a.ipynb", False)],
)
def test_no_page_is_kept_when_what_makes_all_of_them_changes(tiny, path, all_pages):
    before = machinery(tiny.book)
    tiny.write(path, "{}\n")
    assert (machinery(tiny.book) != before) is all_pages
    tiny.write("book/_tools/__pycache__/x.pyc", "x")
    assert machinery(Book(tiny.root)) == machinery(tiny.book)
