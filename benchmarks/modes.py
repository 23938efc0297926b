"""How fast `simulate_modes` is: against the plain loop, and in trajectories per second.

Run `python benchmarks/modes.py [--device cuda] [--json]`. With --json the figures and where they
come from are written to book/results/.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread against one thread

import numpy as np
import torch

from flatlab.record import provenance
from flatlab.sets import Place
from flatmin.pathways import simulate_modes

ROOT = Path(__file__).parents[1]
DEPTHS, TARGET, INIT = [20, 20], 1.0, [0.011, 0.01]


def plain_loop(step_size: float, steps: int) -> np.ndarray:
    """The recursion as one would write it for a single run."""
    depths = np.array(DEPTHS)
    s = np.array(INIT) ** (1 / depths)
    for _ in range(steps):
        s = s - step_size * s ** (depths - 1) * (np.sum(s**depths) - TARGET)
    return s**depths


def batched(runs: int, steps: int, device: str, record_every: int) -> torch.Tensor:
    """The same for many step sizes at once."""
    init = torch.tensor(INIT, dtype=torch.float64, device=device)
    step_sizes = torch.linspace(0.05, 0.18, runs, dtype=torch.float64, device=device)
    history = simulate_modes(DEPTHS, TARGET, step_sizes, init, steps, record_every)
    if device == "cuda":
        torch.cuda.synchronize()
    return history.strengths[:, -1]


def seconds(call, repeats: int = 5) -> float:
    """Median wall time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return statistics.median(times)


def measure(device: str, many: int) -> dict[str, float]:
    """All figures, each per trajectory and step unless its name says otherwise."""
    steps, runs = 1000, 4096
    loop = seconds(lambda: plain_loop(0.05, steps)) / steps
    ends = seconds(lambda: batched(runs, steps, device, steps)) / (runs * steps)
    tenth = seconds(lambda: batched(runs, steps, device, 10)) / (runs * steps)
    at_once = seconds(lambda: batched(many, steps, device, steps), repeats=1)
    agreement = np.abs(batched(2, steps, device, steps)[0].cpu().numpy() - plain_loop(0.05, steps))
    return {
        "loop_ns": 1e9 * loop,
        "batched_ns": 1e9 * ends,
        "speed_up_4096": loop / ends,
        "speed_up_4096_recording_every_10th": loop / tenth,
        "trajectories_at_once": many,
        "trajectories_of_1000_steps_per_second": many / at_once,
        "largest_difference": float(agreement.max()),
    }


def told(device: str) -> dict[str, object]:
    """Where the figures come from."""
    return {
        "command": "python " + " ".join(["benchmarks/modes.py", *sys.argv[1:]]),
        **provenance(Place(device=device)),
        "threads": torch.get_num_threads(),
        "numpy": np.__version__,
    }


def main() -> None:
    """Measure, print, and with --json keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true", help="write book/results/modes-DEVICE.json")
    parser.add_argument("--many", type=int, default=10**6, help="trajectories at once")
    options = parser.parse_args()
    figures = measure(options.device, options.many)
    for name, value in figures.items():
        print(f"{name:40s} {value:.4g}")
    if options.json:
        path = ROOT / "book" / "results" / f"modes-{options.device}.json"
        path.parent.mkdir(exist_ok=True)
        record = {"provenance": told(options.device), "figures": figures}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
