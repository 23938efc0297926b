"""Each benchmark of training at its smallest: it still fits the library, and its table is whole."""

import argparse
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from flatlab.models import WideResNet

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = {"device": "cpu", "depth": 10, "widen": 1, "batch": 4}
TINY |= dict.fromkeys(("bf16", "channels_last", "compile"), False)


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


@pytest.mark.parametrize(
    ("loop", "step"),
    [("SGD", "SGD"), ("IAM-S", "IAM-S"), ("IAM-D", "IAM-D penalty"), ("IAM-D", "IAM-D step")],
)
def test_the_published_loop_takes_the_steps_of_the_library(loop, step, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    published, library = map(importlib.import_module, ("published_loop", "step_cost"))
    models = []

    def built(*args, **kwargs):
        models.append(WideResNet(*args, **kwargs).double())
        return models[-1]

    for module in (published, library):
        monkeypatch.setattr(module, "WideResNet", built)
    monkeypatch.setattr(torch, "randn", functools.partial(torch.randn, dtype=torch.float64))
    options = argparse.Namespace(**TINY)
    for one in (published.loop(loop, options), library.steps(options, [step])[step]):
        one()
        one()
    theirs, ours = (parameters_to_vector(model.parameters()).detach() for model in models)
    assert theirs.dtype == torch.float64
    assert (theirs - ours).abs().max() < 1e-10
