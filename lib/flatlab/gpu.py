"""Everything that waits for a GPU, piece by piece: ``python -m flatlab.gpu``, or ``make gpu``.

In a checkout, on a machine with one GPU. A piece that is done is not done again, and one that is
cut off by the budget goes on, or starts again, at the next call; so it may be called as often as a
loan of the machine allows. What a piece printed lies in ``book/results/gpu``, measurements and
records where those of a CPU lie.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from flatlab.checkpoint import write_whole
from flatlab.record import provenance
from flatlab.sets import Place

ROOT = Path(__file__).parents[2]
LEAST = 20.0  # seconds that are worth starting a piece for


@dataclass(frozen=True)
class Piece:
    """One command, after ``python``.

    Attributes:
        name: of the file that says that it is done.
        command: at full size, on the GPU.
        rehearsal: the same at its smallest, on a CPU; it leaves no file in the checkout.
    """

    name: str
    command: tuple[str, ...]
    rehearsal: tuple[str, ...]


def pieces(data: Path, scratch: Path) -> list[Piece]:
    """What is to be done, the cheapest first.

    Args:
        data: folder of the data sets.
        scratch: folder of the records of a rehearsal.
    """
    step, loop = "benchmarks/step_cost.py", "benchmarks/published_loop.py"
    fast = ("--device", "cuda", "--bf16", "--channels-last", "--compile", "--json")
    slow = ("--bf16", "--channels-last")
    wide = ("--widen", "8", "--batch", "128")
    deep = ("--depth", "28", "--widen", "10", "--batch", "128")
    tiny = ("--depth", "10", "--widen", "1", "--batch", "4", "--rounds", "1")
    found = [
        Piece(
            "tests", ("-m", "pytest", "-q", "-m", "cuda", "tests"), ("-m", "pytest", "--version")
        ),
        Piece("step-cost-wrn-16-8", (step, *wide, *fast), (step, *tiny, *slow)),
        Piece("step-cost-wrn-16-8-eager", (step, *wide, "--device", "cuda"), (step, *tiny)),
        Piece("published-loop-wrn-16-8", (loop, *wide, *fast), (loop, *tiny, *slow)),
        Piece("step-cost-wrn-28-10", (step, *deep, *fast), (step, *tiny)),
        Piece(
            "overhead",
            ("benchmarks/overhead.py", "--device", "cuda", "--model", "wrn-16-8", "--json"),
            ("benchmarks/overhead.py", "--model", "wrn-10-1", "--steps", "2", "--rounds", "1"),
        ),
        Piece(
            "modes",
            ("benchmarks/modes.py", "--device", "cuda", "--many", "10000000", "--json"),
            ("benchmarks/modes.py", "--many", "100"),
        ),
        Piece(
            "curvature",
            ("benchmarks/curvature.py", "--device", "cuda", "--images", "1000"),
            ("benchmarks/curvature.py", "--images", "4", "--rounds", "1"),
        ),
        Piece(
            "resnet-50",
            ("benchmarks/resnet.py", "--device", "cuda"),
            ("benchmarks/resnet.py", "--depth", "18", "--size", "64", "--images", "8"),
        ),
    ]
    for recipe in ("gpu-supervised", "gpu-fixmatch", "gpu-simclr"):
        run = ("-m", "flatlab", recipe, "--data", str(data), "--out")
        full = (*run, "book/results", "--device", "cuda")
        found.append(
            Piece(recipe, full, (*run, str(scratch), "--device", "cpu", "--tier", "smoke"))
        )
    return found


def work(
    todo: Iterable[Piece], folder: Path, *, budget: float, rehearse: bool = False
) -> dict[str, str]:
    """Do what is not done yet, as long as the budget lasts.

    Args:
        todo: the pieces, in order.
        folder: where each says that it is done.
        budget: seconds.
        rehearse: run the rehearsals, of all pieces, and write nothing.

    Returns:
        By name of the piece ``"done"``, ``"was done"``, ``"failed"``, ``"cut off"`` or
        ``"not begun"``.
    """
    end, fate = perf_counter() + budget, {}
    if not rehearse:
        folder.mkdir(parents=True, exist_ok=True)  # before a minute of the machine is spent
    for piece in todo:
        told, left = folder / f"{piece.name}.json", end - perf_counter()
        if told.exists() and not rehearse:
            fate[piece.name] = "was done"
            continue
        if left < LEAST:
            fate[piece.name] = "not begun"
            continue
        print(f"== {piece.name}", flush=True)
        command = piece.rehearsal if rehearse else piece.command
        fate[piece.name], printed = _run(command, left)
        if fate[piece.name] == "done" and not rehearse:
            content = {
                "provenance": provenance(Place(device="cuda")),
                "command": ["python", *command],
                "seconds": round(left - (end - perf_counter()), 3),
                "printed": printed[-200:],
            }
            write_whole(told, (json.dumps(content, indent=1) + "\n").encode())
    return fate


def _run(command: Sequence[str], seconds: float) -> tuple[str, list[str]]:
    """What became of a command, and the lines that it printed, which are shown as they come."""
    printed = []
    with subprocess.Popen(
        ["timeout", "--kill-after=10", f"{seconds:.0f}", sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None  # it is a pipe
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line.rstrip("\n"))
    cut_off = process.returncode in (124, 137)  # what timeout gives, and after the kill
    return "cut off" if cut_off else "failed" if process.returncode else "done", printed


def _seconds(text: str) -> float:
    if not 0 < (found := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive and finite, got {text}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pieces and say what became of each; 1 if one failed, or cannot be written down."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m flatlab.gpu", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--budget", type=_seconds, default=2400.0, help="seconds (default: %(default)g)"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--rehearse", action="store_true", help="every piece, tiny, on a CPU")
    options = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as scratch:
            fate = work(
                pieces(options.data, Path(scratch)),
                ROOT / "book" / "results" / "gpu",
                budget=options.budget,
                rehearse=options.rehearse,
            )
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for name, what in fate.items():
        print(f"{what:10} {name}")
    return int("failed" in fate.values())


if __name__ == "__main__":
    sys.exit(main())
