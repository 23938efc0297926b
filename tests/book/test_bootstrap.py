import subprocess
import sys

import pytest

from _tools.address import Repository, browsable, repository, source
from _tools.bootstrap import bootstrap, launch
from _tools.chapters import first_cell
from _tools.stamp import inputs


def test_the_first_cell_is_renewed_nothing_else_changes_and_no_chapter_is_stale(tiny):
    chapter = tiny.chapter("part/01-one", "x = 1")
    good, hashes = chapter.path.read_text(), inputs(chapter)
    chapter.path.write_text(good.replace("# On Colab", "# At Colab"))
    assert inputs(chapter) == hashes
    assert bootstrap(tiny.book) == ["part/01-one"]
    assert chapter.path.read_text() == good
    assert bootstrap(tiny.book) == []


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://github.com/a/b", "https://github.com/a/b"),
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("https://user:secret@github.com/a/b.git", "https://github.com/a/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@git.example.org/a/b.c/", "https://git.example.org/a/b.c"),
        ("/srv/git/a/b.git", None),
        ("file:///srv/a/b", None),
        ("../b", None),
        ("", None),
    ],
)
def test_what_git_calls_a_remote_becomes_an_address(remote, url):
    assert browsable(remote) == url


def test_a_workflow_s_word_counts_before_the_remote_s_and_nothing_gives_none(tiny, monkeypatch):
    assert repository(tiny.root) == Repository("https://github.com/a/b", "launch")
    tiny.remote("https://git.example.org/a/b")
    assert not repository(tiny.root).launches
    tiny.remote("/srv/a/b")
    assert repository(tiny.root) is None
    monkeypatch.setenv("GITHUB_REPOSITORY", "fork/b")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    assert repository(tiny.root).url == "https://github.com/fork/b"


def test_the_launched_notebook_installs_the_fork_s_own_commit_and_asks_where_none_is(tiny, at_once):
    chapter = tiny.chapter("part/01-one", "x = 1")
    assert tiny.execute() == 0
    tiny.track()
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, "commit", "-qm", "x"], cwd=tiny.root, check=True)
    tiny.remote("git@github.com:fork/b.git")
    address = source(tiny.root)
    assert address.startswith("git+https://github.com/fork/b@")
    assert len(address.rpartition("@")[2]) == 40
    assert launch(tiny.book) == ["part/01-one"]
    assert chapter.executed().cells[1].source == first_cell(address)
    assert chapter.source().cells[1].source == first_cell()  # the Markdown has no address
    tiny.remote("/srv/a/b")
    with pytest.raises(SystemExit, match="git remote add origin"):
        launch(tiny.book)


def test_without_library_and_address_the_cell_says_what_to_set(monkeypatch):
    monkeypatch.delenv("FLATMIN_SOURCE", raising=False)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", first_cell()],
        capture_output=True,
        text=True,
        check=False,
    )
    said = "ModuleNotFoundError: flatmin is missing: set FLATMIN_SOURCE to git+https://HOST/"
    assert done.stderr.splitlines()[-1].startswith(said)
