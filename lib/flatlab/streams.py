"""Randomness by name, so that a run can be repeated, paired with another, and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import torch
from torch import Generator, Tensor

from flatmin._check import check_count


def stream(*key: int | str, device: torch.device | str = "cpu") -> Generator:
    """The generator of one purpose of one run: ``stream(seed, "noise")``.

    Streams of different keys are independent, so two methods run with the same seed meet the same
    batches even where only one of them draws noise.

    Args:
        *key: the seed, the purpose, and what else tells the stream from others.
        device: where the generator draws.

    Returns:
        A generator, the same for the same key.

    Example:
        >>> a, b, c = (torch.rand(1, generator=stream(0, key)) for key in ("x", "x", "y"))
        >>> a == b, a == c
        (tensor([True]), tensor([False]))
    """
    digest = sha256(repr(key).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def shuffled(n: int, batch_size: int, *key: int | str, start: int = 0) -> Iterator[Tensor]:
    """Batches of indices without end, each epoch in a new order.

    A batch may run on into the next epoch: all have the same size, and n may be below it. The batch
    of a step depends on the key and the step alone, so a run is resumed with ``start``.

    Args:
        n: number of examples.
        batch_size: indices per batch.
        *key: names the order, as in :func:`stream`.
        start: step of the first batch.

    Yields:
        Indices in 0 … n − 1, (batch_size,), int64.

    Raises:
        ValueError: no example, an empty batch, or a step before the first.

    Example:
        >>> batches = shuffled(5, 2, 0)
        >>> epoch = torch.cat([next(batches), next(batches), next(batches)])[:5]
        >>> epoch.sort().values, bool((next(batches) == next(shuffled(5, 2, 0, start=3))).all())
        (tensor([0, 1, 2, 3, 4]), True)
    """
    n, batch_size = check_count("n", n), check_count("batch_size", batch_size)
    start = check_count("start", start, 0)
    epoch, skip = divmod(start * batch_size, n)
    ahead = torch.randperm(n, generator=stream(*key, "order", epoch))[skip:]
    while True:
        while len(ahead) < batch_size:
            epoch += 1
            order = torch.randperm(n, generator=stream(*key, "order", epoch))
            ahead = torch.cat([ahead, order])
        yield ahead[:batch_size]
        ahead = ahead[batch_size:]
