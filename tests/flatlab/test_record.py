"""What a record says, and what is taken for one."""

import subprocess

import pytest

from flatlab import record as module
from flatlab.record import read_record
from flatlab.sets import Place


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"settings": '])
def test_a_file_that_is_no_record_is_refused(content, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged or no record of flatmin"):
        read_record(path)
    assert path.read_text() == content


def test_a_commit_is_that_of_the_repository_that_holds_the_code(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert module.provenance(Place())["commit"] == "unknown"
    monkeypatch.undo()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "record.py").touch()  # in a repository that does not hold it
    monkeypatch.setattr(module, "__file__", str(tmp_path / "record.py"))
    assert module.provenance(Place())["commit"] == "unknown"
