"""Whole or not at all: what happens to files when writing or reading goes wrong."""

import errno
import hashlib
import io
import os
import zipfile
from dataclasses import asdict

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


def test_a_state_that_is_not_a_run_s_is_refused_before_anything_is_trained(tmp_path):
    record = tmp_path / "run.json"
    save_checkpoint(record.with_suffix(".pt"), asdict(SMALL), {"step": 7})
    with pytest.raises(ValueError, match=r"is no checkpoint of a run, it holds \['step'\]"):
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
        with pytest.raises(ValueError, match=r"no checkpoint.* unpacked"):
            load_checkpoint(signed(saved, content.getvalue()), SETTINGS)


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
