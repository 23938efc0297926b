"""How much faster `train_ensemble` is than one model after the other, step for step.

Run `python benchmarks/ensemble.py [--device cuda]`: milliseconds per step and model, of the plain
loop and of all models at once, interleaved, medians.
"""

import argparse
import os
import statistics
from itertools import islice
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread against one thread

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from flatmin.models import mlp
from flatmin.optim import IAMD, SAM
from flatmin.training import ensemble_batches, shuffled, stream, train_ensemble

BATCH, REST = 50, {"lr": 0.01, "momentum": 0.9}


def small_mlp() -> nn.Module:
    """The perceptron of the chapters."""
    return mlp([196, 64, 64, 10])


def small_cnn() -> nn.Module:
    """The CNN with batch norm of the chapters."""
    layers: list[nn.Module] = []
    for channels, width, stride in ((1, 8, 1), (8, 16, 2), (16, 16, 2)):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def plain(build, method, images, labels, models, steps):
    """Seconds of the plain loop per model and step."""
    model = build().to(images.device)
    rest = REST | {"rho": 0.1, "module": model}
    optimizer = {
        "SGD": lambda: torch.optim.SGD(model.parameters(), **REST),
        "SAM": lambda: SAM(model.parameters(), torch.optim.SGD, **rest),
        "IAM-D": lambda: IAMD(model.parameters(), torch.optim.SGD, **rest),
    }[method]()
    start = perf_counter()
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
    return (perf_counter() - start) / steps


def at_once(build, method, images, labels, models, steps):
    """The same of the ensemble."""
    members = [build().to(images.device) for _ in range(models)]
    batches = ensemble_batches(images, labels, seeds=range(models), batch_size=BATCH)
    runs = train_ensemble(members, method, batches, seeds=range(models), steps=steps, **REST)
    start = perf_counter()
    *_, (_, trained) = runs
    float(trained.theta.sum())
    return (perf_counter() - start) / steps / models


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
    for build in (small_mlp, small_cnn):
        for method in ("SGD", "SAM", "IAM-D"):
            call = build, method, images, labels, *sizes
            pairs = [(plain(*call), at_once(*call)) for _ in range(6)][1:]
            alone, together = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
            print(
                f"{build.__name__} {method:6} {alone:6.2f} {together:6.2f} {alone / together:5.1f}×"
            )


if __name__ == "__main__":
    main()
