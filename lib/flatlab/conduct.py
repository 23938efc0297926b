"""One run from its settings to its record, safe to be stopped at any moment.

``python -m flatlab`` is this module at the command line.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from flatlab.checkpoint import check_same, load_checkpoint, save_checkpoint, write_whole
from flatlab.experiment import Experiment
from flatlab.record import columns, compact, peak_megabytes, provenance, read_record, strange
from flatlab.run import Record
from flatlab.sets import Place
from flatlab.settings import Settings
from flatmin._check import require

MOST_COLUMNS = 20  # of a curve


def conduct(settings: Settings, record: Path, place: Place) -> Iterator[Record]:
    """Train from the last checkpoint on, and write the record in the end.

    The checkpoint lies beside the record and goes when the record comes; it is written while the
    next steps are taken. A run that is stopped, in whatever way, loses the steps since the last
    whole checkpoint; resumed, it ends, on a CPU bitwise, like one that was not. The number of
    processes may have changed.

    Args:
        settings: of the run.
        record: the JSON file to write. If it is there, nothing is done.
        place: where.

    Yields:
        What the loop yields, ``{"step": …, "loss": …}``, with "steps" to be taken in all,
        "images_per_second" and, at a look, "error", "error_top5", "S" and,
        with label noise, "memorised": the fraction of wrong labels that the network gives.

    Raises:
        ValueError: settings that do not fit together; a record or checkpoint that is damaged, has
            other settings, or was written on another kind of device; another process is at this
            run, or not all of this run's processes see its files.
        FileNotFoundError: the data are not there.
        OSError: a file cannot be written; the last checkpoint is as it was.
    """
    checkpoint, first = record.with_suffix(".pt"), place.part[0] == 0
    if _common(record.exists(), place, record):
        then = Settings.of(read_record(record)["settings"])
        check_same(record, asdict(then), asdict(settings))
        return
    with _alone(record.with_suffix(".lock")) if first else nullcontext():
        yield from _conduct(settings, record, checkpoint, place)


def _conduct(settings: Settings, record: Path, checkpoint: Path, place: Place) -> Iterator[Record]:
    values, writes = asdict(settings), place.part[0] == 0
    told = {"provenance": provenance(place), "device": torch.device(place.device).type}
    if told["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)
    experiment = Experiment(settings, place)
    curve: list[Record] = []
    seconds = peak = 0.0
    if (saved := load_checkpoint(checkpoint, values)) is not None:
        try:
            _check(saved, told)
            experiment.resume(saved["run"])
        except ValueError as error:
            said = " ".join(str(error).split())  # one line, where a tensor is printed in several
            raise ValueError(
                f"{checkpoint} is no checkpoint of this run ({said}): move it away"
            ) from error
        curve, seconds, peak = saved["curve"], saved["seconds"], saved["peak"]
        told["provenance"] = saved["provenance"]
    _common(experiment.run.step, place, checkpoint)
    started = perf_counter() - seconds
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        ended = bool(curve) and experiment.reached(curve[-1])  # before it could be recorded
        for point in () if ended else experiment.train():
            seconds = perf_counter() - started
            curve.append(point)
            if writes:
                if written:
                    written.result()  # raises what went wrong
                peak = max(peak, peak_megabytes(place))
                state = {"run": experiment.run.state_dict(), "curve": curve, **told}
                # A copy, since the next steps change what the writer reads.
                state = tree_map_only(Tensor, lambda t: t.to("cpu", copy=True), state)
                state |= {"seconds": seconds, "peak": peak}
                written = writer.submit(save_checkpoint, checkpoint, values, state)
            rate = point["step"] * experiment.images_per_step / seconds
            yield point | {"steps": experiment.steps, "images_per_second": rate}
        if written:
            written.result()
    if writes:
        content = {
            "provenance": told["provenance"],
            "seconds": seconds,
            "images_per_second": experiment.run.step * experiment.images_per_step / seconds,
            "peak_megabytes": peak,
            "final": curve[-1] | experiment.measure(),
            "curve": columns(curve),
        }
        content = {"settings": values, **compact(content)}
        write_whole(record, (json.dumps(content) + "\n").encode())
        checkpoint.unlink(missing_ok=True)


def _check(saved: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Raise ValueError, with what is wrong, unless a record of this state could be read."""
    names = {"run", "curve", "seconds", "peak", *told}
    require(saved.keys() == names, f"it holds {sorted(map(str, saved))!s:.200}")
    require(
        saved["device"] == told["device"],
        f"it was written on {saved['device']!r:.80}, this is {told['device']!r}: go on there",
    )
    curve, numbers = saved["curve"], (int, float)
    points = curve if isinstance(curve, list) and all(isinstance(p, dict) for p in curve) else []
    good = bool(points) and all(type(v) in numbers for point in points for v in point.values())
    few = len({name for point in points for name in point}) <= MOST_COLUMNS
    require(good and few, f"curve is {curve!r:.80}")
    steps = [point.get("step") for point in points]
    rising = all(type(step) is int for step in steps) and steps == sorted({*steps})
    require(rising, f"the steps of the curve are {steps!s:.80}")
    last = saved["run"].get("step") if isinstance(saved["run"], dict) else None
    require(type(last) is int and last == steps[-1], f"its step is {last!r:.80}, not {steps[-1]}")
    for name in ("seconds", "peak"):
        value = saved[name]
        # Else the record would hold a time, or a rate, that its reader refuses.
        require(isinstance(value, float) and 1e-9 < value < 1e99, f"{name} is {value!r:.80}")
    content = {"settings": {}, "provenance": saved["provenance"], "curve": columns(points)}
    found = [*strange(compact(content))]
    require(not found, "; ".join(found[:3]))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Only one command at a time works on a run; a lock ends with its process."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{lock} is held: another process trains this run") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _common(value: int, place: Place, path: Path) -> int:
    """What all processes found, or ValueError where they differ."""
    world = place.part[1]
    found = [value] * world
    if world > 1:
        dist.all_gather_object(found, value)
    require(
        len({*found}) == 1,
        f"all processes must see the same folder, but not all see the same {path}",
    )
    return value
