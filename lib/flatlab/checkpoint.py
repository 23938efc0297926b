"""Files that are there as a whole or not at all: checkpoints of a run, and its record."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatmin._check import require

MOST_BYTES, MOST_VALUES = 4_000_000_000, 1_000_000  # of a checkpoint
_DIGEST = hashlib.sha256().digest_size


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, the old one or the whole new one is there.

    Raises:
        OSError: it cannot be written, on a full disk for instance; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_whole(path: Path, most: int) -> bytes:
    """Read a file that may be a stranger's.

    Raises:
        ValueError: no regular file, which may have no end, or larger than ``most`` bytes.
        OSError: it cannot be read.
    """
    found = path.stat()
    require(
        stat.S_ISREG(found.st_mode) and found.st_size <= most,
        f"{path} must be a regular file of at most {most:,} bytes",
    )
    with path.open("rb") as file:
        return file.read(found.st_size)


def save_checkpoint(path: Path, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a state beside the settings that it belongs to, and the SHA-256 of both.

    Args:
        path: the file, replaced as a whole.
        settings: plain values.
        state: tensors and plain values.

    Raises:
        OSError: as :func:`write_whole`.
    """
    buffer = io.BytesIO()
    torch.save({"settings": dict(settings), "state": dict(state)}, buffer)
    content = buffer.getvalue()
    write_whole(path, content + hashlib.sha256(content).digest())


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what :func:`save_checkpoint` wrote, on the CPU.

    Args:
        path: the file.
        settings: those that it must have been saved with.

    Returns:
        The state, or None if there is no file.

    Raises:
        ValueError: a file that is damaged or something else, or saved with other settings. It is
            left as it is.

    Example:
        >>> load_checkpoint(Path("nowhere.pt"), {"lr": 0.1}) is None
        True
    """
    if not path.exists():
        return None
    wrong = f"{path} is damaged or no checkpoint of flatmin: move it away to start afresh"
    content = read_whole(path, MOST_BYTES)
    content, digest = content[:-_DIGEST], content[-_DIGEST:]
    require(hashlib.sha256(content).digest() == digest, wrong)
    # In PyTorch's older format a number says how much to allocate.
    require(content.startswith(b"PK\x03\x04"), wrong)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            unpacked = sum(member.file_size for member in members.infolist())
        require(unpacked <= len(content), "it swells")
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's bytes are a program for the reader of pickles
        raise ValueError(f"{wrong} (weights_only: {type(error).__name__})") from error
    match saved:
        case {"settings": dict(then), "state": dict(state)} if _plain(saved):
            named = all(isinstance(name, str) and name.isidentifier() for name in then)
            values = all(
                isinstance(value, float | str) or (isinstance(value, int) and abs(value) < 2**63)
                for value in then.values()
            )
            require(named and values, wrong)
            check_same(path, then, settings)
            return state
    raise ValueError(wrong)


def _plain(saved: Any) -> bool:
    """Whether it holds tensors and plain values alone, and few enough to look at each.

    A small file can hold very many: a list that stands in itself, or at two places in another one.
    """
    ahead, seen = [saved], 0
    while ahead and seen + len(ahead) <= MOST_VALUES:
        seen += 1
        match ahead.pop():
            case dict() as inner:
                ahead += [*inner.keys(), *inner.values()]
            case list() | tuple() as inner:
                ahead += inner
            case None | bool() | int() | float() | str() | Tensor():
                pass
            case _:
                return False
    return not ahead


def check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError, naming them, if settings are not those that a file was written with."""
    changed = [
        f"{name:.80} was {then.get(name)!r:.80}, is {now.get(name)!r:.80}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    require(
        not changed,
        f"{path} belongs to a run with other settings ({'; '.join(changed):.400}): move it away, "
        "or write elsewhere",
    )
