"""The record of a run: what stands in its file besides the settings, and how it is read."""

from __future__ import annotations

import json
import math
import platform
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import flatmin
from flatlab.checkpoint import read_whole
from flatlab.run import Record
from flatlab.sets import Place
from flatlab.settings import Settings, load_recipe
from flatmin._check import require

MOST_BYTES = 10_000_000  # of a record


def read_record(path: Path) -> dict[str, Any]:
    """Read what :func:`flatlab.conduct.conduct` wrote, or somebody else says it did.

    Raises:
        ValueError: a file that is damaged or something else; the message, one printable line, says
            what is wrong in it.
    """
    wrong = f"{path} is damaged or no record of flatmin"
    raw = read_whole(path, MOST_BYTES)
    try:
        content: dict[str, Any] = json.loads(
            raw.decode(), parse_constant=_no_number, object_pairs_hook=_once
        )
        found = [*strange(content)]
        require(not found, "; ".join(found[:3]))
        Settings.of(content["settings"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{wrong} ({error}): move it away") from None
    return content


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose names stands there twice."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        require(name not in content, f"{name!r:.80} is there twice")
        content[name] = value
    return content


def strange(content: Any) -> Iterator[str]:
    """What in a record is not of its kind, each in a few printable words."""
    if not isinstance(content, dict) or "settings" not in content:
        yield "no settings"
        return
    for part, value in content.items():
        match part, value:
            case "seconds" | "images_per_second" | "peak_megabytes", _ if _amount(value):
                pass
            case "settings" | "provenance" | "final" | "curve", dict():
                for name, inner in value.items():
                    if not (_plain_name(name) and _KINDS[part](inner)):
                        yield f"{part}: {name!r:.80} is {inner!r:.80}"
            case _:
                yield f"{part!r:.80} is {value!r:.80}"
    curve = content.get("curve")
    columns = curve.values() if isinstance(curve, dict) else ()
    lengths = {len(column) for column in columns if isinstance(column, list)}
    if len(lengths) > 1:
        yield f"curve: columns of {min(lengths)} and {max(lengths)} numbers"


def _plain_name(name: Any) -> bool:
    """Whether it is one like "lambda_max(F)", which needs no escaping anywhere."""
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_.() ]{0,39}", name))


def _number(value: Any) -> bool:
    """Whether it is one that a float can be, or that there was none."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (known and abs(value) < 1e300)


def _amount(value: Any) -> bool:
    return _number(value) and (value is None or value >= 0)


def _plain(value: Any) -> bool:
    """Whether it is a number, or a short line of what can be printed and is no markup."""
    line = isinstance(value, str) and len(value) <= 200 and value.isprintable()
    return _number(value) or (line and not {*value} & {*"<>"})


_KINDS: dict[str, Callable[[Any], bool]] = {
    "settings": lambda value: isinstance(value, bool) or (value is not None and _plain(value)),
    "provenance": _plain,
    "final": _number,
    "curve": lambda column: isinstance(column, list) and all(map(_number, column)),
}


def recorded(recipe: str, folder: str | Path) -> dict[str, dict[str, Any]]:
    """Read the records of a recipe's runs, as many as there are.

    Args:
        recipe: the name of a recipe that ships with the package.
        folder: of the records of all recipes.

    Returns:
        Record by name of the run, in the recipe's order. A record counts where its settings are
        the recipe's to the last one; a setting that is younger than the record had its default.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: a file that is damaged, or names a setting that there is not.

    Example:
        >>> recorded("demo", "nowhere")
        {}
    """
    found = {}
    for name, settings in load_recipe(recipe).items():
        path = Path(folder) / recipe / f"{name}.json"
        if path.exists():
            record = read_record(path)
            if Settings.of(record["settings"]) == settings:
                found[name] = record
    return found


def provenance(place: Place) -> dict[str, Any]:
    """Where the figures of a record come from."""
    device = torch.device(place.device)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "flatmin": flatmin.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "processes": place.part[1],
    }


def _commit() -> str:
    """Of the repository that holds this file, if one does."""
    here = Path(__file__)

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", *command], cwd=here.parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--abbrev=40", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def peak_megabytes(place: Place) -> float:
    """Of the device's memory in this run, or of this process in all its runs."""
    if torch.device(place.device).type == "cuda":
        return torch.cuda.max_memory_allocated(place.device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # KiB on Linux


def columns(curve: list[Record]) -> dict[str, list[float | None]]:
    """One list per quantity, None where it was not looked at."""
    names = dict.fromkeys(name for record in curve for name in record)
    return {name: [record.get(name) for record in curve] for name in names}


def compact(value: Any) -> Any:
    """Six digits, and None for what is no number: JSON has no NaN."""
    match value:
        case dict():
            return {key: compact(v) for key, v in value.items()}
        case list():
            return [compact(v) for v in value]
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
