"""Where networks start: initial values from a generator, and convolutions by He's rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, nn


@contextmanager
def drawing_from(generator: Generator | None) -> Iterator[None]:
    """Let modules built here start from ``generator``; leave torch's global generator untouched."""
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), device=generator.device, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield


def convolution(channels: int, width: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image's size but for ``stride``."""
    conv = nn.Conv2d(channels, width, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
