"""What a record says, and what is taken for one."""

import json
import subprocess
from dataclasses import asdict

import pytest

from flatlab import record as module
from flatlab.record import read_record, recorded
from flatlab.sets import Place
from flatlab.settings import load_recipe


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


def test_records_of_a_recipe_are_those_with_its_settings(tmp_path):
    first, second, third, *_ = runs = load_recipe("demo")
    told = {name: asdict(settings) for name, settings in runs.items()}
    del told[second]["label_noise"]  # as in a record from before there was any
    told[third]["epochs"] += 1
    (tmp_path / "demo").mkdir()
    for name in (third, second, first):
        path = tmp_path / "demo" / f"{name}.json"
        path.write_text(json.dumps({"settings": told[name], "seconds": 1}))
    (tmp_path / "demo" / "other.json").write_text(json.dumps({"settings": told[first]}))
    found = recorded("demo", tmp_path)
    assert [*found] == [first, second]
    assert found[first] == {"settings": told[first], "seconds": 1}
