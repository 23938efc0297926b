"""Each benchmark of training at its smallest: it still fits the library, and its table is whole."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    "command",
    [
        "overhead.py --model cnn-bn --steps 2 --rounds 1",
        "step_cost.py --depth 10 --widen 1 --batch 2 --rounds 1",
    ],
)
def test_it_runs(command):
    name, *options = command.split()
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for method in ("SGD", "SAM", "IAM-S", "IAM-D"):
        assert any(line.startswith(method) for line in lines), method
    if name == "overhead.py":
        fractions = [float(line.split()[1].rstrip("%")) for line in lines[1:]]
        assert all(0 < fraction < 100 for fraction in fractions)
