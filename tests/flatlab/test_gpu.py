"""The pieces that wait for a GPU: done once, in the time there is, and rehearsed without one."""

import json

import pytest

from flatlab import gpu
from flatlab.gpu import Piece, main, pieces, work


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Pieces write here; their provenance asks for no GPU."""
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "provenance", lambda place: {"device": place.device})
    return tmp_path


def piece(name, full="print('full')", tiny="print('tiny')"):
    return Piece(name, ("-c", full), ("-c", tiny))


def test_a_piece_is_done_once(place, capsys):
    todo, folder = [piece("one"), piece("two")], place / "gpu"
    assert work(todo, folder, budget=100) == {"one": "done", "two": "done"}
    told = json.loads((folder / "one.json").read_text())
    assert told["printed"] == ["full"]
    assert told["command"] == ["python", "-c", "print('full')"]
    assert told["provenance"] == {"device": "cuda"}
    assert 0 < told["seconds"] < 60
    assert capsys.readouterr().out.splitlines() == ["== one", "full", "== two", "full"]
    (folder / "two.json").unlink()
    assert work(todo, folder, budget=100) == {"one": "was done", "two": "done"}


def test_one_that_fails_is_not_done_and_the_others_go_on(place, capsys):
    todo = [piece("one", "raise SystemExit('why')"), piece("two")]
    assert work(todo, place, budget=100) == {"one": "failed", "two": "done"}
    assert "why" in capsys.readouterr().out
    assert [path.name for path in place.glob("*.json")] == ["two.json"]


def test_the_budget_cuts_off_and_lets_no_further_piece_begin(place, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 0.5)
    todo = [piece("one", "import time; time.sleep(60)"), piece("two")]
    assert work(todo, place, budget=1) == {"one": "cut off", "two": "not begun"}
    killed = piece("one", "raise SystemExit(137)")  # what timeout gives after the kill
    assert work([killed], place, budget=100) == {"one": "cut off"}
    assert not [*place.glob("*.json")]


def test_a_rehearsal_runs_all_and_leaves_nothing(place, capsys):
    (place / "one.json").write_text("{}")
    todo = [piece("one"), piece("two")]
    assert work(todo, place, budget=100, rehearse=True) == {"one": "done", "two": "done"}
    assert capsys.readouterr().out.splitlines()[1::2] == ["tiny", "tiny"]
    assert [path.name for path in place.iterdir()] == ["one.json"]


def test_the_command_line(place, monkeypatch, capsys):
    seen = {}

    def some(data, scratch):
        seen["data"] = str(data)
        return [piece("one", tiny="raise SystemExit(1)"), piece("two")]

    monkeypatch.setattr(gpu, "pieces", some)
    assert main(["--rehearse", "--data", "there"]) == 1
    assert seen == {"data": "there"}
    assert capsys.readouterr().out.splitlines()[-2:] == ["failed     one", "done       two"]
    assert main([]) == 0
    assert (place / "book" / "results" / "gpu" / "two.json").exists()


def test_where_nothing_can_be_written_no_piece_begins(place, monkeypatch, capsys):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(gpu, "pieces", lambda data, scratch: [piece("one")])
    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    assert main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"PermissionError: [Errno 13] Permission denied: '{place}'\n"


def test_what_the_pieces_name_is_there(tmp_path):
    todo = pieces(tmp_path / "data", tmp_path / "scratch")
    files = (gpu.ROOT / "benchmarks").glob("*.py")
    benchmarks = "".join(path.read_text("utf-8") for path in files)
    assert len({p.name for p in todo}) == len(todo)
    for p in todo:
        for command in (p.command, p.rehearsal):
            if command[0] == "-m":
                assert command[1] in ("pytest", "flatlab")
            else:
                assert (gpu.ROOT / command[0]).is_file()
                options = [word for word in command if word.startswith("--")]
                assert [word for word in options if f'("{word}"' not in benchmarks] == []
        assert "--json" not in p.rehearsal  # a rehearsal leaves no file in the checkout
        assert "cuda" in p.command
    recipes = [p for p in todo if p.command[:2] == ("-m", "flatlab")]
    assert all(str(tmp_path / "scratch") in p.rehearsal for p in recipes)
    assert all(str(tmp_path / "data") in p.command for p in recipes)
