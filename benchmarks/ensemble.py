"""How much faster `train_ensemble` is than one model after the other, step for step.

Run `python benchmarks/ensemble.py [--device cuda]`: milliseconds per step and model, of the plain
loop and of all models at once, interleaved, medians. On a CPU it is this process's own time on one
thread, so that a busy machine disturbs it less.
"""

import argparse
import os
import statistics
from itertools import islice
from time import perf_counter, process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread against one thread

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from flatlab import shuffled, stream
from flatlab.ensemble import ensemble_batches, train_ensemble
from flatlab.models import cnn_bn, mlp
from flatmin.optim import IAMD, SAM

BATCH, REST = 50, {"lr": 0.01, "momentum": 0.9}


def small_mlp() -> nn.Module:
    """The perceptron of the chapters."""
    return mlp([196, 64, 64, 10])


def now(images):
    """Seconds, on the clock of the device."""
    return process_time() if images.device.type == "cpu" else perf_counter()


def plain(build, method, images, labels, models, steps):
    """Seconds of the plain loop per model and step."""
    model = build().to(images.device)
    rest = REST | {"rho": 0.1, "module": model}
    optimizer = {
        "SGD": lambda: torch.optim.SGD(model.parameters(), **REST),
        "SAM": lambda: SAM(model.parameters(), torch.optim.SGD, **rest),
        "IAM-D": lambda: IAMD(model.parameters(), torch.optim.SGD, **rest),
    }[method]()
    start = now(images)
    for chosen in islice(shuffled(len(images), BATCH, 0), steps):
        x, y = images[chosen], labels[chosen]

        def closure(x=x, y=y):
            logits = model(x)
            return cross_entropy(logits, y), logits

        optimizer.zero_grad()
        if method == "SGD":
            closure()[0].backward()
            optimizer.step()
        else:
            optimizer.step(closure)
    float(next(model.parameters()).detach().sum())  # waits for the device
    return (now(images) - start) / steps


def at_once(build, method, images, labels, models, steps):
    """The same of the ensemble."""
    members = [build().to(images.device) for _ in range(models)]
    batches = ensemble_batches(images, labels, seeds=range(models), batch_size=BATCH)
    runs = train_ensemble(members, method, batches, seeds=range(models), steps=steps, **REST)
    start = now(images)
    *_, (_, trained) = runs
    float(trained.theta.sum())
    return (now(images) - start) / steps / models


def main():
    """Print one line per model and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    device = arguments.device
    images = torch.randn(1000, 1, 14, 14, generator=stream(0, device=device), device=device)
    labels = torch.randint(10, (1000,), generator=stream(1, device=device), device=device)
    sizes = arguments.models, arguments.steps
    print(f"{sizes[0]} models, batch {BATCH}, {device}: ms per step and model")
    for build in (small_mlp, cnn_bn):
        for method in ("SGD", "SAM", "IAM-D"):
            call = build, method, images, labels, *sizes
            pairs = [(plain(*call), at_once(*call)) for _ in range(6)][1:]
            alone, together = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = alone / together
            print(f"{build.__name__:9} {method:6} {alone:6.2f} {together:6.2f} {ratio:5.1f}×")


if __name__ == "__main__":
    main()
