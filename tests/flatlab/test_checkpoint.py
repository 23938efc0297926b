"""Whole or not at all: what happens to files when writing or reading goes wrong."""

import errno
import hashlib
import io
import os
import zipfile
from copy import deepcopy
from dataclasses import asdict, replace
from functools import reduce
from operator import getitem

import pytest
import torch
from runs import SMALL

from flatlab import checkpoint
from flatlab.checkpoint import load_checkpoint, save_checkpoint, write_whole
from flatlab.conduct import conduct
from flatlab.record import read_record
from flatlab.sets import Place
from flatlab.settings import load_recipe

SETTINGS = {"lr": 0.1, "method": "SGD"}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, SETTINGS, {"weights": torch.arange(3.0), "step": 7})
    return path


def test_what_was_saved_comes_back(saved):
    state = load_checkpoint(saved, SETTINGS)
    assert torch.equal(state["weights"], torch.arange(3.0))
    assert state["step"] == 7
    assert [*saved.parent.iterdir()] == [saved]


@pytest.mark.parametrize("where", [0, 100, -40, -1])
def test_one_changed_bit_is_found(saved, where):
    content = bytearray(saved.read_bytes())
    content[where] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        load_checkpoint(saved, SETTINGS)
    assert saved.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"hello", b"x" * 1000])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run.pt is damaged or no checkpoint of flatmin"):
        load_checkpoint(path, SETTINGS)


def test_half_a_file_is_found(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(saved, SETTINGS)


def test_other_settings_are_named(saved):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match=r"lr was 0.1, is 0.2; rho was None, is 0.5"):
        load_checkpoint(saved, SETTINGS | {"lr": 0.2, "rho": 0.5})
    assert saved.read_bytes() == before


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/harmed",)

    path = tmp_path / "run.pt"
    save_checkpoint(path, SETTINGS, {"evil": Evil()})
    with pytest.raises(ValueError, match=r"no checkpoint of flatmin.*weights_only"):
        load_checkpoint(path, SETTINGS)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("content", [[], {}, 3, {"settings": 3, "state": {}}, {"settings": {}}])
def test_something_else_with_a_right_hash_is_refused(content, tmp_path):
    path, buffer = tmp_path / "run.pt", io.BytesIO()
    torch.save(content, buffer)
    raw = buffer.getvalue()
    path.write_bytes(raw + hashlib.sha256(raw).digest())
    with pytest.raises(ValueError, match="no checkpoint of flatmin"):
        load_checkpoint(path, SETTINGS)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """What a run saves after two steps, by its method."""
    found = {}
    for settings in (SMALL, ADAM):
        record = tmp_path_factory.mktemp("run") / "run.json"
        next(conduct(settings, record, Place()))
        found[settings] = load_checkpoint(record.with_suffix(".pt"), asdict(settings))
    return found


def put(state, where, value):
    """A state with another value somewhere, or without it if that is LEFT_OUT."""
    state = deepcopy(state)
    *path, last = where
    inner = reduce(getitem, path, state)
    if value is LEFT_OUT:
        del inner[last]
    else:
        inner[last] = value
    return state


ADAM, LEFT_OUT = replace(SMALL, method="IAM-S", base="AdamW"), ...
POINT, GROUP, KEPT = (
    ("curve", 0),
    ("run", "optimizer", "param_groups", 0),
    ("run", "optimizer", "state", 0),
)
WEIGHT = ("run", "model", "0.weight")
BAD = [
    *(
        (("run", "step"), v)
        for v in ("2", None, -5, 0, True, 2.0, 10**18, torch.tensor(2), LEFT_OUT)
    ),
    *((("curve",), v) for v in ([], "x", [1], {}, None, [{}], torch.zeros(3, 3))),
    *(((*POINT, "step"), v) for v in (1, 2.0, "2", None, -2)),
    *(((*POINT, "loss"), v) for v in ("<b>", None, True, [1], torch.zeros(2), 10**400)),
    *(((*POINT, v), 1.0) for v in ("<script>", 5, "a\nb")),
    (("curve",), [{"step": i, **{f"a{i}-{j}": 1.0 for j in range(9)}} for i in (1, 2)]),
    (("curve",), [{"step": i, **{f"a{i}{j}": 1.0 for j in range(15)}} for i in (1, 2)]),
    (("curve",), [{"step": 2, "loss": 1.0}, {"step": 2, "loss": 1.0}]),
    *(((name,), v) for name in ("seconds", "peak") for v in ("x", -1e9, None, 1, float("nan"))),
    *(
        (("seconds",), v) for v in (0.0, 1e-300, 1e300)
    ),  # a rate, or a time, that no record may hold
    *(
        (("provenance",), v)
        for v in (None, {"device": "<script>"}, {"a": {"b": 1}}, {"<b>": 1}, {5: 1})
    ),
    *((("device",), v) for v in ("<b>\n", None, 5)),
    *((("run",), v) for v in (None, {}, 5, [])),
    *((("run", "model"), v) for v in (None, {}, 5)),
    *((WEIGHT, v) for v in (5, None, [1.0], torch.zeros(2), LEFT_OUT)),
    (WEIGHT, torch.zeros(8, 3, 3, 3, dtype=torch.float64)),
    (WEIGHT, torch.zeros(8, 3, 3, 3).to_sparse()),
    (("run", "average"), {}),
    *((("run", "generator"), v) for v in (None, 5, torch.zeros(3), torch.zeros(5056).byte())),
    *((("run", "optimizer"), v) for v in ({}, None, 5, {"state": {}, "param_groups": []})),
    *((("run", "optimizer", "param_groups"), v) for v in (5, [5], [{}, {}])),
    *(((*GROUP, "generator"), v) for v in (LEFT_OUT, 5, torch.zeros(5056).byte())),
    *(((*GROUP, "rho"), v) for v in (0.2, "x", None, torch.tensor(0.1), torch.zeros(2))),
    *(((*GROUP, "weight_decay"), v) for v in (0.5, "x", [5e-4])),
    *(((*GROUP, "initial_lr"), v) for v in (5.0, "x")),
    *(((*GROUP, "momentum"), v) for v in (0.5,)),
    *(((*GROUP, "beta"), v) for v in (3.0,)),
    *(((*GROUP, "params"), v) for v in ([], [0], [torch.zeros(2)] * 11)),
    *((("run", "optimizer", "state"), v) for v in (5, {"0": {}}, {99: {}}, {-1: {}}, {0: 5})),
    *(((*KEPT, "momentum_buffer"), v) for v in (None, 5, torch.zeros(3), LEFT_OUT)),
    ((*KEPT, "more"), torch.zeros(3)),
]
BAD_ADAM = [
    ((*KEPT, "exp_avg"), LEFT_OUT),
    *(((*KEPT, "step"), torch.tensor(v)) for v in (-1.0, 0.0, float("nan"), 1e9)),
    ((*GROUP, "betas"), (0.9, 0.5)),
    ((*GROUP, "betas"), (torch.zeros(2), 0.5)),
    ((*GROUP, "generator"), LEFT_OUT),
]


@pytest.mark.parametrize(
    ("settings", "where", "value"),
    [(SMALL, *case) for case in BAD] + [(ADAM, *case) for case in BAD_ADAM],
    ids=lambda value: f"{value!r:.40}",
)
def test_a_state_that_is_no_run_s_is_refused_before_anything_changes(
    settings, where, value, states, tmp_path
):
    record = tmp_path / "run.json"
    checkpoint = record.with_suffix(".pt")
    save_checkpoint(checkpoint, asdict(settings), put(states[settings], where, value))
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"run\.pt is no checkpoint of this run") as caught:
        next(conduct(settings, record, Place()))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert checkpoint.read_bytes() == before
    assert [*tmp_path.iterdir()] == [checkpoint]


def test_nothing_of_a_learning_rate_is_taken_from_a_state(states, tmp_path):
    """It follows the schedule."""
    record, expected = tmp_path / "run.json", tmp_path / "expected.json"
    for path, state in (
        (record, put(states[SMALL], (*GROUP, "lr"), "x")),
        (expected, states[SMALL]),
    ):
        save_checkpoint(path.with_suffix(".pt"), asdict(SMALL), state)
        assert [*conduct(SMALL, path, Place())]
    assert read_record(record)["curve"] == read_record(expected)["curve"]


def test_moments_that_share_their_memory_are_taken_apart(states, tmp_path):
    kept = states[SMALL]["run"]["optimizer"]["state"][0]["momentum_buffer"]
    state = put(states[SMALL], (*KEPT, "momentum_buffer"), torch.zeros(1).expand_as(kept))
    save_checkpoint(tmp_path / "run.pt", asdict(SMALL), state)
    assert len([*conduct(SMALL, tmp_path / "run.json", Place())]) == 2


def test_a_state_of_something_else_is_refused(tmp_path):
    record = tmp_path / "run.json"
    save_checkpoint(record.with_suffix(".pt"), asdict(SMALL), {"step": 7})
    with pytest.raises(ValueError, match=r"no checkpoint of this run \(it holds \['step'\]\)"):
        list(conduct(SMALL, record, Place()))
    assert not record.exists()


def test_a_file_that_is_too_large_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        load_checkpoint(saved, SETTINGS)


@pytest.mark.parametrize("kind", ["endless", "pipe", "folder"])
@pytest.mark.parametrize(
    "reader", [read_record, lambda path: load_checkpoint(path, {}), load_recipe]
)
def test_what_is_no_regular_file_is_not_opened(reader, kind, tmp_path):
    path = tmp_path / "run.toml"
    match kind:
        case "endless":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    with pytest.raises(ValueError, match=r"run\.toml must be a regular file of at most"):
        reader(path)


def signed(path, raw):
    path.write_bytes(raw + hashlib.sha256(raw).digest())
    return path


def test_a_checkpoint_that_swells_is_refused(saved):
    """Compressed, or one member under several names: more than the file's own size."""
    save_checkpoint(saved, SETTINGS, {"weights": torch.zeros(10_000)})
    raw = saved.read_bytes()[:-32]
    whole = zipfile.ZipFile(io.BytesIO(raw))
    packed, twice = io.BytesIO(), io.BytesIO(raw)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name in whole.namelist():
            file.writestr(name, whole.read(name))
    with zipfile.ZipFile(twice, "a") as file:
        file.filelist += 9 * [max(file.filelist, key=lambda member: member.file_size)]
        file.writestr("more", b"")
    for content in (packed, twice):
        with pytest.raises(ValueError, match="no checkpoint"):
            load_checkpoint(signed(saved, content.getvalue()), SETTINGS)


def with_pickle(raw, pickle):
    """A checkpoint whose pickle is another."""
    whole, other = zipfile.ZipFile(io.BytesIO(raw)), io.BytesIO()
    with zipfile.ZipFile(other, "w") as file:
        for name in whole.namelist():
            file.writestr(name, pickle if name.endswith("data.pkl") else whole.read(name))
    return other.getvalue()


@pytest.mark.parametrize(
    "pickle",
    [
        b"",
        b"\x80\x09.",
        b"\x80\x02.",
        b"\x80\x02h\x05.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02X\x02\0\0\0\xff\xff.",
        b"\x80\x02]q\0h\0b.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02X",
        b"\x80\x02" + b"(" * 5000 + b"t" * 5000 + b".",
    ],
)
def test_a_pickle_that_is_none_is_refused_in_one_line(pickle, saved):
    signed(saved, with_pickle(saved.read_bytes()[:-32], pickle))
    with pytest.raises(
        ValueError, match=r"run\.pt is damaged or no checkpoint of flatmin"
    ) as caught:
        load_checkpoint(saved, SETTINGS)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": torch.zeros(3)},
        {"lr": torch.tensor(0.1)},
        {"lr": [0.1]},
        {"lr": None},
        {5: 0.1},
        {("a",): 0.1},
        {"a\n\x1b[31m": 0.1},
    ],
)
def test_settings_that_are_no_plain_values_are_refused(settings, tmp_path):
    save_checkpoint(tmp_path / "run.pt", settings, {})
    with pytest.raises(ValueError, match="no checkpoint of flatmin") as caught:
        load_checkpoint(tmp_path / "run.pt", SETTINGS)
    assert str(caught.value).isprintable()


def test_values_without_end_are_refused(tmp_path):
    """A list of two lists of two lists …: a small file, and 2**60 values to look at."""
    many, itself = [0], []
    for _ in range(60):
        many = [many, many]
    itself.append(itself)
    for value in (many, itself, [[0] * 1000] * 2000):
        save_checkpoint(tmp_path / "run.pt", SETTINGS, {"step": value})
        with pytest.raises(ValueError, match="no checkpoint of flatmin"):
            load_checkpoint(tmp_path / "run.pt", SETTINGS)


def test_the_pickles_of_old_are_refused(tmp_path):
    """PyTorch's format before zip allocates what a number in it says."""
    buffer = io.BytesIO()
    content = {"settings": SETTINGS, "state": {}}
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="no checkpoint"):
        load_checkpoint(signed(tmp_path / "run.pt", buffer.getvalue()), SETTINGS)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    part = saved.with_name(".run.pt.part")
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(saved, b"x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert saved.read_bytes() == before
    assert not part.is_symlink()
