"""What a run will take, before it is started: passes, time, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flatlab.build import build_model
from flatlab.experiment import LOOK_AT
from flatlab.sets import KINDS, kind_of
from flatlab.settings import Settings


@dataclass(frozen=True)
class Plan:
    """The size of a run.

    Attributes:
        steps: in all.
        images: in one pass, over all processes.
        forwards: passes of a step.
        backwards: passes of a step.
        parameters: of the network.
        gigaflops: of one image's forward pass, a multiplication and an addition counting as two.
        hours: of all passes, of training and evaluation, from a timing of one on the device. The
            curvature that some recipes measure in the end is not counted.
        gigabytes: of parameters, optimizer, one graph and the data.
    """

    steps: int
    images: int
    forwards: int
    backwards: int
    parameters: int
    gigaflops: float
    hours: float
    gigabytes: float


def plan(settings: Settings, device: str = "cpu") -> Plan:
    """Count and time what a run will do. The data need not be there.

    Args:
        settings: of the run.
        device: to time a pass on.

    Example:
        >>> given = {"data": "cifar-10", "model": "wrn-16-2", "method": "SAM", "rho": 0.1}
        >>> found = plan(Settings.of(given | {"seed": 0}))
        >>> found.steps, found.images, found.forwards, found.backwards, found.parameters
        (78000, 128, 2, 2, 691674)
    """
    labelled, unlabelled = settings.batch_size, settings.unlabelled_batch_size
    images = labelled + unlabelled
    if settings.loop == "fixmatch":
        images += unlabelled
    elif settings.loop == "simclr":
        images += labelled
    count = _counts(settings)[0]
    steps = settings.epochs * (settings.steps_per_epoch or max(1, count // labelled))
    forwards, backwards = passes(settings)
    seen, returned = looks(settings)
    at_once = images if torch.device(device).type == "cuda" else min(images, 4)
    network = replace(settings, method="SGD", rho=0.0, seed=0)
    forward, backward = _seconds(network, device, at_once)
    parameters, flops, activations = _sizes(network)
    kind = kind_of(settings)
    copies = 3 + (settings.method != "SGD") * 2 + (settings.ema > 0)  # θ, ∇, momentum; θ, δ; mean
    data = 0 if settings.data == "imagenet" else count * kind.channels * kind.size**2
    graph = activations * images // (2 if settings.bf16 and device != "cpu" else 1)
    seconds = (steps * images * forwards + seen) * forward
    seconds += (steps * images * backwards + returned) * backward
    return Plan(
        steps=steps,
        images=images,
        forwards=forwards,
        backwards=backwards,
        parameters=parameters,
        gigaflops=flops / 1e9,
        hours=seconds / 3600,
        gigabytes=4 * (copies * parameters + data + graph) / 1e9,
    )


def passes(settings: Settings) -> tuple[int, int]:
    """Forward and backward passes of one step, as :mod:`flatmin.optim` counts them."""
    climb = settings.climb
    own = {
        "SGD": (1, 1),
        "SAM": (2, 2),
        "ASAM": (2, 2),
        "IAM-S": (climb + 2, climb + 1),
        "IAM-D": (climb + 3, climb + 2),
        "random-S": (2, 1),
        "score-S": (2, 2),
        "random-D": (3, 2),
    }[settings.method]
    # Under SAM, FixMatch takes the unlabelled loss at θ in a pass of its own.
    more = settings.loop == "fixmatch" and settings.method in ("SAM", "ASAM")
    return own[0] + more, own[1] + more


def looks(settings: Settings) -> tuple[int, int]:
    """Images in forward and in backward passes of all evaluations of a run."""
    count, held_out = _counts(settings)
    times = -(-settings.epochs // settings.look)
    known = settings.labels or count
    if settings.loop == "simclr":  # the probe's features
        return times * (known + held_out), 0
    # The error; S by three steps, of which each divergence takes two passes; in the end, the fit.
    measured = min(LOOK_AT, held_out)
    wrong = round(settings.label_noise * known)
    return times * (held_out + 8 * measured + wrong) + known, times * 3 * measured


def _counts(settings: Settings) -> tuple[int, int]:
    """Images of training, and of evaluation."""
    kind = KINDS[settings.data]
    if settings.validate:
        return kind.count - kind.validation, kind.validation
    return kind.count, kind.test


@lru_cache
def _seconds(settings: Settings, device: str, images: int) -> tuple[float, float]:
    """Seconds per image of a forward and of a backward pass, not compiled: medians of three."""
    kind, model = kind_of(settings), build_model(settings).to(device)
    x = torch.zeros(images, kind.channels, kind.size, kind.size, device=device)
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        model.to(memory_format=torch.channels_last)
    wait: Callable[[], None] = torch.cuda.synchronize if on_gpu else lambda: None
    bf16 = settings.bf16 and on_gpu
    times = []
    for _ in range(4):  # the first one warms up
        start = perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            loss = model(x).float().logsumexp(1).mean()
        wait()
        middle = perf_counter()
        loss.backward()
        wait()
        times.append((middle - start, perf_counter() - middle))
    forward, backward = (median(part) / images for part in zip(*times[1:], strict=True))
    return forward, backward


@lru_cache
def _sizes(settings: Settings) -> tuple[int, int, int]:
    """Parameters; floating-point operations and numbers kept for backward, per image."""
    kind, model = kind_of(settings), build_model(settings).to("meta")
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes() // 4
        return tensor

    flops, numbers = [], []
    for images in (1, 2):  # what does not grow with the batch cancels in the difference
        x = torch.empty(images, kind.channels, kind.size, kind.size, device="meta")
        kept.clear()
        counter = FlopCounterMode(display=False)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
            outputs = model(x)
        flops.append(counter.get_total_flops())
        numbers.append(sum(kept.values()))
        del outputs
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, flops[1] - flops[0], numbers[1] - numbers[0]
