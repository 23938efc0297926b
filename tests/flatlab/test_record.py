"""What a record says, and what is taken for one."""

import json
import re
import resource
import subprocess
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from flatlab import record as module
from flatlab.record import peak_megabytes, read_record, recorded
from flatlab.sets import Place
from flatlab.settings import load_recipe

SCRIPT = "<script>alert(1)</script>"
WHOLE = {
    "settings": asdict(load_recipe("demo")["SGD-seed0"]),
    "provenance": {"date": "2026-11-24", "device": "x86_64", "processes": 1},
    **{"seconds": 3.5, "images_per_second": 60.0, "peak_megabytes": 9.5},
    "final": {"step": 2, "error": 0.5, "S": None},
    "curve": {"step": [1, 2], "error": [None, 0.5]},
}


def test_a_whole_record_is_read(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(WHOLE))
    assert read_record(path) == WHOLE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": 3}, "settings: 3"),
        ({"settings": {"lr": [1]}}, "settings: {'lr'"),
        ({"provenance": "here"}, "provenance: 'here'"),
        ({"provenance": {"device": "x" * 201}}, "provenance: {'device'"),
        ({"provenance": {"device": "a\nb"}}, "provenance: {'device'"),
        ({"provenance": {"device": {"a": 1}}}, "provenance: {'device'"),
        ({"seconds": "3"}, "seconds: '3'"),
        ({"seconds": True}, "seconds: True"),
        ({"seconds": 10**400}, "seconds: 1000"),
        ({"final": [1]}, "final: [1]"),
        ({"final": {"error": SCRIPT}}, "final: {'error': '<script>"),
        ({"curve": {"step": [1, 2], "error": [1]}}, "curve: {'step'"),
        ({"curve": {"step": 3}}, "curve: {'step': 3}"),
        ({"curve": {"step": ["1"]}}, "curve: {'step': ['1']}"),
        ({"curve": None}, "curve: None"),
        ({"figures": {}}, "figures: {}"),
    ],
)
def test_a_stranger_s_record_is_refused_with_what_is_wrong_in_it(change, said, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(WHOLE | change))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_record(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_what_is_no_number_in_json_is_refused(number, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(WHOLE).replace("3.5", number))
    with pytest.raises(ValueError, match="damaged or no record"):
        read_record(path)


def test_sizes_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="damaged or no record"):
        read_record(path)
    path.write_text(json.dumps(WHOLE))
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        read_record(path)


@pytest.mark.parametrize("name", ["data", "model", "method", "loop", "schedule", "base", "probe"])
def test_no_setting_of_a_record_can_hold_markup_or_a_path(name, tmp_path):
    (tmp_path / "demo").mkdir()
    path = tmp_path / "demo" / "SGD-seed0.json"
    for text in (SCRIPT, "../../evil"):
        path.write_text(json.dumps(WHOLE | {"settings": WHOLE["settings"] | {name: text}}))
        with pytest.raises(ValueError, match=f"{name} must be"):
            recorded("demo", tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "[5]", "null", '{"settings": '])
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
    first, second, third, *_, last = runs = load_recipe("demo")
    told = {name: asdict(settings) for name, settings in runs.items()}
    del told[second]["label_noise"]  # as in a record from before there was any
    told[third]["epochs"] += 1
    (tmp_path / "demo").mkdir()
    for name in (last, third, second, first):
        path = tmp_path / "demo" / f"{name}.json"
        path.write_text(json.dumps({"settings": told[name], "seconds": 1}))
    (tmp_path / "demo" / "other.json").write_text(json.dumps({"settings": told[first]}))
    found = recorded("demo", tmp_path)
    assert [*found] == [first, second, last]
    assert found[first] == {"settings": told[first], "seconds": 1}


def test_memory_is_that_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {"cuda:1": 5e6}[device])
    assert peak_megabytes(Place(device="cuda:1")) == 5
    kibibytes = SimpleNamespace(ru_maxrss=500_000)
    monkeypatch.setattr("resource.getrusage", {resource.RUSAGE_SELF: kibibytes}.get)
    assert peak_megabytes(Place()) == 512  # of this process
