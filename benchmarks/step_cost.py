"""What a step costs: SGD, SAM, IAM-S and both forms of IAM-D on one WRN, steps interleaved.

"IAM-S, quarter" finds its direction on a quarter of the batch.

Run `python benchmarks/step_cost.py`, or on a GPU

    python benchmarks/step_cost.py --device cuda --widen 8 --bf16 --channels-last --compile

With --json the figures and where they come from are written to book/results/.

By default glibc gives the memory of a freed graph back to the system, and the next graph pays for
it page by page: how much depends on what else lies on the heap that all methods here share. So it
is told to keep its memory. With --alone it is not, and each method has a process, and so a heap, of
its own in every round: the control.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for all

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from flatlab.models import WideResNet
from flatlab.record import provenance
from flatlab.sets import Place
from flatmin.optim import IAMD, IAMS, SAM
from flatmin.penalty import InconsistencyPenalty

ROOT = Path(__file__).parents[1]
GLIBC = platform.libc_ver()[0] == "glibc"
COUNTED = {  # a forward pass 1, a backward pass 2
    "SGD": 3,
    "SAM": 6,
    "IAM-S": 7,
    "IAM-S, quarter": 4,
    "IAM-D penalty": 9,
    "IAM-D step": 10,
}


def keep_freed_memory() -> None:
    """Have glibc hand out freed memory again instead of returning it to the system."""
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, -1)  # never
    libc.mallopt(mmap_max, 0)


def steps(
    options: argparse.Namespace, names: Iterable[str] = COUNTED
) -> dict[str, Callable[[], object]]:
    """One training step per method, each on a model of its own with the same weights and batch."""
    device = torch.device(options.device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(options.batch, 3, 32, 32, generator=draw).to(device, memory_format=layout)
    y = torch.randint(10, (options.batch,), generator=draw).to(device)

    def make(name: str) -> Callable[[], object]:
        model = WideResNet(options.depth, options.widen, generator=torch.Generator().manual_seed(0))
        inner = model.to(device, memory_format=layout)
        model = torch.compile(inner) if options.compile else inner
        settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
        generator = torch.Generator(device).manual_seed(0)
        climb = {"rho": 0.1, "generator": generator}
        penalty = InconsistencyPenalty(model, **climb)
        optimizer = {
            "SAM": lambda: SAM(model.parameters(), SGD, rho=0.1, module=model, **settings),
            "IAM-S": lambda: IAMS(model.parameters(), SGD, module=model, **climb, **settings),
            "IAM-S, quarter": lambda: IAMS(
                model.parameters(), SGD, module=model, **climb, **settings
            ),
            "IAM-D step": lambda: IAMD(model.parameters(), SGD, module=model, **climb, **settings),
        }.get(name, lambda: SGD(model.parameters(), **settings))()

        def closure() -> tuple[Tensor, Tensor]:
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                logits = model(x)
                return cross_entropy(logits, y), logits

        def seen() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                return model(x[: max(1, len(x) // 4)])

        def step() -> object:
            optimizer.zero_grad()
            if name == "IAM-S, quarter":
                with optimizer.perturbed(seen):
                    closure()[0].backward()
                return optimizer.step()
            if name not in ("SGD", "IAM-D penalty"):
                return optimizer.step(closure)
            loss, logits = closure()
            if name == "IAM-D penalty":
                with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                    loss = loss + penalty(x, logits)
            loss.backward()
            return optimizer.step()

        return step

    return {name: make(name) for name in names}


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """The largest number of bytes that autograd held for backward passes at one time."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        meter = self

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor, self.size = tensor, tensor.nbytes
                meter.now += self.size
                meter.peak = max(meter.peak, meter.now)

            def __del__(self) -> None:
                meter.now -= self.size

        super().__init__(Held, lambda held: held.tensor)


def peak_memory(step: Callable[[], object], options: argparse.Namespace) -> int:
    """Bytes at the peak of a step: all that was allocated (GPU), or held by autograd (CPU)."""
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    meter = SavedBytes()
    with meter if not options.compile else nullcontext():
        step()
    return meter.peak


def warm_up(step: Callable[[], object]) -> None:
    """Compile, choose kernels, fill caches."""
    for _ in range(3):
        step()


def time(step: Callable[[], object], options: argparse.Namespace) -> float:
    """Seconds of one step."""
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    # On one thread the time of the processor is that of the clock, less what others took from it.
    now = perf_counter if options.device == "cuda" else process_time
    wait()
    start = now()
    step()
    wait()
    return now() - start


def time_alone(options: argparse.Namespace, name: str) -> float:
    """Seconds of a step, the median of five, in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_median, options, name).result()


def _median(options: argparse.Namespace, name: str) -> float:
    torch.set_num_threads(1)
    step = steps(options, [name])[name]
    warm_up(step)
    return statistics.median(time(step, options) for _ in range(5))


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median seconds of a step, its ratio to SGD, and the ratio of the peak memories."""
    methods = steps(options)
    if not options.alone:
        for step in methods.values():
            warm_up(step)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for done in range(options.rounds):
        for name, step in methods.items():
            once = time_alone(options, name) if options.alone else time(step, options)
            seconds[name].append(once)
        if sys.stderr.isatty():
            print(f"\rround {done + 1} of {options.rounds}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    peaks = {name: peak_memory(step, options) for name, step in methods.items()}
    # Steps of one round share whatever else the machine does: compare within rounds.
    ratios = {
        name: [t / base for t, base in zip(times, seconds["SGD"], strict=True)]
        for name, times in seconds.items()
    }
    return {
        name: {
            "counted": COUNTED[name] / COUNTED["SGD"],
            "ratio": statistics.median(ratios[name]),
            "milliseconds": 1e3 * statistics.median(seconds[name]),
            "images_per_second": options.batch / statistics.median(seconds[name]),
            "peak_megabytes": peaks[name] / 1e6,
            "peak_ratio": peaks[name] / peaks["SGD"] if peaks["SGD"] else float("nan"),
        }
        for name in methods
    }


def told(options: argparse.Namespace) -> dict[str, object]:
    """Where the figures come from."""
    cuda = options.device == "cuda"
    return {
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        **provenance(Place(device=options.device)),
        "threads": torch.get_num_threads(),
        "clock": "wall" if cuda else "processor time of the one thread",
        "model": f"WRN-{options.depth}-{options.widen}",
        "batch": options.batch,
        "precision": "bfloat16 autocast" if options.bf16 else "TF32" if cuda else "float32",
        "allocator": "system default" if options.alone or not GLIBC else "glibc, keeps its memory",
        "memory": "allocated during the step" if cuda else "held by autograd",
    }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What to measure, and on what."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--widen", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true", help="write a record into book/results")
    parser.set_defaults(alone=False)


def prepare(*, keep: bool = True) -> None:
    """One thread, the fast kernels of a GPU, and, to ``keep``, freed memory for the next graph."""
    if GLIBC and keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def suffix(options: argparse.Namespace) -> str:
    """What the name of a record says of its options."""
    flags = ["bf16"] * options.bf16 + ["channels-last"] * options.channels_last
    flags += ["compiled"] * options.compile + ["alone"] * options.alone
    return "-".join([f"wrn-{options.depth}-{options.widen}", options.device, *flags])


def main() -> None:
    """Measure, print, and with --json keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    parser.add_argument("--alone", action="store_true", help="a process each, allocator as it is")
    options = parser.parse_args()
    prepare(keep=not options.alone)

    figures = measure(options)
    columns = ["counted", "ratio", "milliseconds", "images_per_second", "peak_ratio"]
    print(f"{'':14s}" + "".join(f"{column:>19s}" for column in columns))
    for name, row in figures.items():
        print(f"{name:14s}" + "".join(f"{row[column]:19.3g}" for column in columns))
    if options.json:
        path = ROOT / "book" / "results" / f"step-cost-{suffix(options)}.json"
        path.parent.mkdir(exist_ok=True)
        record = {"provenance": told(options), "figures": figures}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
