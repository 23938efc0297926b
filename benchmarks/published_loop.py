r"""Images per second: steps of the library against a training loop as research code writes it.

Run `python benchmarks/published_loop.py`, or on a GPU

    python benchmarks/published_loop.py --device cuda --widen 8 --batch 128 \
        --bf16 --channels-last --compile

The loop is eager and in float32, moves a deep copy of the network, builds graphs of whatever it
calls, and knows no flag of this benchmark; the library's steps take all of them. With --json the
figures and where they come from are written to book/results/.
"""

import argparse
import copy
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for all

import torch
from step_cost import add_flags, prepare, steps, suffix, time, told, warm_up
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from torch.optim import SGD, Optimizer

from flatlab.models import WideResNet

ROOT = Path(__file__).parents[1]
RHO, BETA, SIGMA = 0.1, 1.0, 1.0
LIBRARY = {"SGD": ("SGD",), "IAM-S": ("IAM-S",), "IAM-D": ("IAM-D penalty", "IAM-D step")}


def moved(model: nn.Module, by: Sequence[Tensor]) -> nn.Module:
    """A copy of the network at θ + δ."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, delta in zip(other.parameters(), by, strict=True):
            parameter.add_(delta)
    return other


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL( f(x, θ) ‖ f(x, θ + δ) ), averaged over the batch."""
    logs = others.log_softmax(1), logits.log_softmax(1)
    return kl_div(*logs, reduction="batchmean", log_target=True)


def climb(model: nn.Module, x: Tensor, logits: Tensor, generator: Generator) -> list[Tensor]:
    """δ₁ of Algorithm 1."""
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    draw = torch.randn(sum(sizes), generator=generator, device=x.device, dtype=x.dtype)
    pieces = (draw * SIGMA / math.sqrt(sum(sizes))).split(sizes)
    other = moved(model, [d.view_as(p) for d, p in zip(pieces, parameters, strict=True)])
    slopes = torch.autograd.grad(divergence(logits.detach(), other(x)), list(other.parameters()))
    norm = torch.cat([slope.flatten() for slope in slopes]).norm()
    return [RHO * slope / norm for slope in slopes]


def train_sgd(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, _: Generator) -> None:
    """One step of SGD."""
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()


def train_iam_s(
    model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, generator: Generator
) -> None:
    """One step of IAM-S: the gradient of the loss at θ + δ₁."""
    optimizer.zero_grad()
    other = moved(model, climb(model, x, model(x), generator))
    cross_entropy(other(x), y).backward()
    for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
        parameter.grad = twin.grad
    optimizer.step()


def train_iam_d(
    model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, generator: Generator
) -> None:
    """One step of IAM-D: the gradient of loss + β KL, through both networks."""
    optimizer.zero_grad()
    logits = model(x)
    other = moved(model, climb(model, x, logits, generator))
    (cross_entropy(logits, y) + BETA * divergence(logits, other(x))).backward()
    for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None, "the loss went through it"
        parameter.grad += twin.grad
    optimizer.step()


LOOPS = {"SGD": train_sgd, "IAM-S": train_iam_s, "IAM-D": train_iam_d}


def loop(name: str, options: argparse.Namespace) -> Callable[[], object]:
    """A step of the loop, on the network and the batch that the library's steps have."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(options.batch, 3, 32, 32, generator=draw).to(options.device)
    y = torch.randint(10, (options.batch,), generator=draw).to(options.device)
    model = WideResNet(options.depth, options.widen, generator=torch.Generator().manual_seed(0))
    model.to(options.device)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator(options.device).manual_seed(0)
    return lambda: LOOPS[name](model, optimizer, x, y, generator)


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median images per second of loop and library, and how many times faster the library is."""
    figures = {}
    for name, theirs in LIBRARY.items():
        both = {"loop": loop(name, options), **steps(options, theirs)}
        for step in both.values():
            warm_up(step)
        seconds: dict[str, list[float]] = {which: [] for which in both}
        for _ in range(options.rounds):  # interleaved: a round shares whatever else goes on
            for which, step in both.items():
                seconds[which].append(time(step, options))
        for which in theirs:
            ratios = [a / b for a, b in zip(seconds["loop"], seconds[which], strict=True)]
            figures[which] = {
                "loop": options.batch / statistics.median(seconds["loop"]),
                "library": options.batch / statistics.median(seconds[which]),
                "times_faster": statistics.median(ratios),
            }
    return figures


def main() -> None:
    """Measure, print, and with --json keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    options = parser.parse_args()
    prepare()
    figures = measure(options)
    print(f"{'images/s':14}{'loop':>10}{'library':>10}{'times faster':>14}")
    for name, row in figures.items():
        print(f"{name:14}{row['loop']:10.0f}{row['library']:10.0f}{row['times_faster']:14.2f}")
    if options.json:
        path = ROOT / "book" / "results" / f"published-loop-{suffix(options)}.json"
        record = {"provenance": told(options), "figures": figures}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
