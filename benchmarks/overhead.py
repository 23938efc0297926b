"""How much of a run's time is not the model's own passes: order, augmentation, climbs, checkpoints.

Run `python benchmarks/overhead.py`, or on a GPU

    python benchmarks/overhead.py --device cuda --model wrn-16-8 --steps 390

Each run is `flatlab.conduct.conduct`, with a checkpoint at the end of each epoch of
--steps steps; the first epoch warms up and is not counted. A pass is a call of the model, or of
autograd's backward; on a GPU it lasts from its first kernel to its last, the gaps between them
included. With --json the figures and where they come from go to book/results/.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for all

import torch
from torch import Tensor

from flatlab.conduct import conduct
from flatlab.record import provenance
from flatlab.run import Run
from flatlab.sets import Place
from flatlab.settings import Settings

ROOT = Path(__file__).parents[1]
METHODS = {"SGD": {}, "SAM": {"rho": 0.05}, "IAM-S": {"rho": 0.1}, "IAM-D": {"rho": 0.1}}


class Clock:
    """Adds up the time of what it wraps; on a GPU the GPU's time, without waiting for it."""

    def __init__(self, device: str) -> None:
        self.on_gpu = torch.device(device).type == "cuda"
        self.spans: list[tuple[Any, Any]] = []

    def now(self) -> Any:
        """A moment."""
        if not self.on_gpu:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.spans.append((start, self.now()))

        return timed

    def read(self) -> float:
        """Seconds since the last reading."""
        if self.on_gpu:
            torch.cuda.synchronize()
            total = sum(start.elapsed_time(end) for start, end in self.spans) / 1e3
        else:
            total = sum(end - start for start, end in self.spans)
        self.spans = []
        return total


def outside(method: str, options: argparse.Namespace) -> tuple[float, float]:
    """The median over epochs of the fraction outside the passes, and of the seconds of a step."""
    clock = Clock(options.device)

    class Timed(Run):
        def __init__(self, *args: Any, forward: Callable[[Tensor], Tensor], **rest: Any) -> None:
            super().__init__(*args, forward=clock.wrap(forward), **rest)

    settings = Settings.of(
        {"data": "fashion-mnist-part", "model": options.model, "method": method, "seed": 0}
        | {"epochs": options.rounds + 2, "steps_per_epoch": options.steps, "look": 10**6}
        | METHODS[method]
    )
    fractions, times = [], []
    with (
        TemporaryDirectory() as folder,
        patch("flatlab.experiment.Run", Timed),
        patch("torch.autograd.grad", clock.wrap(torch.autograd.grad)),
        patch("torch.Tensor.backward", clock.wrap(Tensor.backward)),
    ):
        run = conduct(settings, Path(folder, "run.json"), Place(device=options.device))
        next(run)
        clock.read()
        start = perf_counter()
        for _ in range(options.rounds):
            next(run)
            passes = clock.read()
            end = perf_counter()
            fractions.append(1 - passes / (end - start))
            times.append((end - start) / options.steps)
            start = end
        run.close()
    return statistics.median(fractions), statistics.median(times)


def main() -> None:
    """Measure, print, and with --json keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="wrn-16-2")
    parser.add_argument("--steps", type=int, default=20, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3, help="epochs that count")
    parser.add_argument("--json", action="store_true", help="write book/results/overhead-….json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True

    figures = {}
    print(f"{'':8}{'outside the passes':>20}{'milliseconds a step':>22}")
    for method in METHODS:
        fraction, seconds = outside(method, options)
        figures[method] = {"outside": fraction, "milliseconds": 1e3 * seconds}
        print(f"{method:8}{fraction:20.2%}{1e3 * seconds:22.1f}", flush=True)
    if options.json:
        told = {
            "command": "python " + " ".join(["benchmarks/overhead.py", *sys.argv[1:]]),
            **provenance(Place(device=options.device)),
            "model": options.model,
            "batch_size": Settings.batch_size,
        }
        path = ROOT / "book" / "results" / f"overhead-{options.model}-{options.device}.json"
        path.write_text(json.dumps({"provenance": told, "figures": figures}, indent=2) + "\n")
        print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
