"""What a record says, and what is taken for one."""

import json
import re
import resource
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
        ({"settings": 3}, "'settings' is 3"),
        ({"settings": {"lr": [1]}}, "settings: 'lr' is [1]"),
        ({"settings": {"lr": None}}, "settings: 'lr' is None"),
        ({"settings": {"seed": 10**3999}}, "settings: 'seed' is 1000"),
        ({"settings": {"model": "x" * 9_000_000}}, "settings: 'model' is 'xxx"),
        *(
            ({part: {"model": f"a{bad}b"}}, f"{part}: 'model' is {f'a{bad}b'!r}")
            for part in ("settings", "provenance")
            for bad in ("\n", "\x1b[31m", "\u202e", "\0", "\ud800", "<b>")
        ),
        *(
            ({part: {bad: value}}, f"{part}: {bad!r:.80} is {value}")
            for part, value in {"settings": 1, "provenance": 1, "final": 1, "curve": [1]}.items()
            for bad in (f"{SCRIPT}\n|", "\x1b[31m", "", "|", "a" * 41, "\u202e")
        ),
        ({"provenance": "here"}, "'provenance' is 'here'"),
        ({"provenance": {"device": "x" * 201}}, "provenance: 'device' is 'xxx"),
        ({"provenance": {"device": {"a": 1}}}, "provenance: 'device' is {'a': 1}"),
        ({"seconds": "3"}, "'seconds' is '3'"),
        ({"seconds": True}, "'seconds' is True"),
        ({"seconds": 10**400}, "'seconds' is 1000"),
        ({"seconds": -1e9}, "'seconds' is -1000000000.0"),
        ({"images_per_second": -1}, "'images_per_second' is -1"),
        ({"peak_megabytes": -1}, "'peak_megabytes' is -1"),
        ({"final": [1]}, "'final' is [1]"),
        ({"final": {"error": SCRIPT}}, "final: 'error' is '<script>"),
        ({"curve": {"step": [1, 2], "error": [1]}}, "curve: columns of 1 and 2 numbers"),
        ({"curve": {"step": 3}}, "curve: 'step' is 3"),
        ({"curve": {"step": ["1"]}}, "curve: 'step' is ['1']"),
        ({"curve": None}, "'curve' is None"),
        ({"figures": {}}, "'figures' is {}"),
        ({"\x1b[31m\n": {}}, r"'\x1b[31m\n' is {}"),
    ],
)
def test_a_stranger_s_record_is_refused_with_what_is_wrong_in_it(change, said, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(WHOLE | change))
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read_record(path)
    line = str(caught.value)
    assert line.startswith(f"{path} is damaged or no record of flatmin")
    assert line.isprintable()
    assert len(line) < 1000


@pytest.mark.parametrize("part", ["settings", "final"])
def test_what_is_said_twice_is_refused(part, tmp_path):
    """A reader that takes the first, and one that takes the last, would see two records."""
    path = tmp_path / "run.json"
    for name in (part, next(iter(WHOLE[part]))):
        text = json.dumps(WHOLE)
        path.write_text(text.replace(f'"{name}":', f'"{name}": 1, "{name}":', 1))
        with pytest.raises(ValueError, match=f"no record of flatmin .'{name}' is there twice"):
            read_record(path)


@given(st.integers(0, 2000), st.integers(0, 9), st.binary(max_size=9) | st.just(b"9" * 400))
@settings(max_examples=300, deadline=None)
def test_a_record_with_other_bytes_is_read_or_refused_in_one_line(start, count, put):
    text = bytearray(json.dumps(WHOLE).encode())
    text[start : start + count] = put
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        path.write_bytes(text)
        said, refused = "", f"{path} is damaged or no record of flatmin"
        try:
            read_record(path)
        except ValueError as error:
            said = str(error)
        assert said == "" or (said.isprintable() and said.startswith(refused))


def test_few_of_many_strange_entries_are_told(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(WHOLE | {f"x{i}": [0] * 99 for i in range(1000)}))
    with pytest.raises(ValueError, match="x0") as caught:
        read_record(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000])
@pytest.mark.parametrize("place", ['"seconds": ', '"lr": ', '"S": ', '"processes": '])
def test_what_is_no_number_in_json_is_refused(place, number, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(re.sub(f"{place}[^,}}]+", place + number, json.dumps(WHOLE), count=1))
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
        with pytest.raises(
            ValueError, match=rf"seed0\.json.*({name} must be|settings: '{name}' is '<script>)"
        ):
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
