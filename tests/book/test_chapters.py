import multiprocessing
import os
import threading

import pytest

from _tools.chapters import alone, write_whole


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
