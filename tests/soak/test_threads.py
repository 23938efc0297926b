"""The rule by which digits of a printed number are given up."""

import math
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from soak import threads
from soak.threads import digits, printed


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (0.5, 0.5, math.inf),
        (5.0, 5.005, 2),  # a twentieth of 0.1
        (5.0, 5.006, 1),
        (0.0123456, 0.0123457, 4),
        (-123.4, -123.9, 2),  # to tens
        (1e-17, -1e-17, 0),  # a rounding error has none
    ],
)
def test_the_change_is_a_twentieth_of_the_last_digit(one, other, told):
    assert digits(one, other) == told


def said(text):
    return new_notebook(cells=[new_code_cell(outputs=[new_output("stream", text=text)])])


def test_only_numbers_are_told_digits():
    differ = printed(said("S = 0.12345 of 3\n"), said("S = 0.12351 of 3\n"))
    assert [*differ] == ["code cell 1: 0.12345, then 0.12351; print 2 digits"]
    assert [*printed(said("−1e-05"), said("−1e-05"))] == []
    (words,) = printed(said("found 3"), said("none of 3"))
    assert words.startswith("code cell 1 says")


@pytest.mark.parametrize(("text", "failed"), [("S = 0.12345\n", 0), ("S = 0.12351\n", 1)])
def test_a_run_is_compared_with_the_committed_notebook(tmp_path, monkeypatch, capsys, text, failed):
    chapter = SimpleNamespace(name="part/01-one", twin=tmp_path / "01-one.ipynb")
    committed, now = said("S = 0.12345\n"), said(text)
    for notebook in (committed, now):
        notebook.metadata["stamp"] = {"claims": {}}
    nbformat.write(committed, chapter.twin)
    monkeypatch.setattr(threads, "HERE", SimpleNamespace(find=lambda _: [chapter]))
    monkeypatch.setattr(threads, "with_threads", lambda *_: now)
    monkeypatch.setattr("sys.argv", ["threads.py", "--committed", "--threads", "4"])
    assert threads.main() == failed
    assert f"as committed and 4 threads, {failed} differences" in capsys.readouterr().out
