"""Each model's own batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from flatlab.streams import shuffled, stream
from flatmin._check import require

Augment: TypeAlias = Callable[[Tensor, Generator], Tensor]


def ensemble_batches(
    images: Tensor,
    labels: Tensor,
    *,
    seeds: Sequence[int],
    batch_size: int,
    subsets: Tensor | None = None,
    unlabelled: Tensor | None = None,
    unlabelled_batch_size: int = 0,
    augment: Augment | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws for each model its own batches, those of ``shuffled(n, batch_size, seed)``, for ever.

    Args:
        images: (n, …), on the models' device.
        labels: (n,).
        seeds: one per model: equal seeds, equal batches.
        batch_size: labelled examples per step and model.
        subsets: indices (models, k) of the labelled examples that each model may see.
        unlabelled: further images (u, …).
        unlabelled_batch_size: how many of them per step and model.
        augment: ``(images, generator) -> images`` for all images of one model's batch.

    Returns:
        An iterator over images (models, batch_size + unlabelled_batch_size, …), labelled ones
        first, and labels (models, batch_size).

    Raises:
        ValueError: an argument out of range or of the wrong shape.
    """
    models = len(seeds)
    require(
        len(images) == len(labels),
        f"images and labels must pair, got {len(images)} and {len(labels)}",
    )
    require(
        subsets is None or (subsets.ndim == 2 and len(subsets) == models),
        f"subsets must be ({models}, k), a row per seed",
    )
    require(
        (unlabelled is None) == (unlabelled_batch_size == 0),
        f"unlabelled and unlabelled_batch_size go together, got size {unlabelled_batch_size}",
    )
    n = len(labels) if subsets is None else subsets.shape[1]
    orders = [shuffled(n, batch_size, seed) for seed in seeds]
    pools = (
        []
        if unlabelled is None
        else [
            shuffled(len(unlabelled), unlabelled_batch_size, seed, "unlabelled") for seed in seeds
        ]
    )
    streams = [stream(seed, "augmentation", device=images.device) for seed in seeds]

    def draw() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            chosen = torch.stack([next(order) for order in orders]).to(images.device)
            if subsets is not None:
                chosen = subsets.gather(1, chosen)
            x = images[chosen]
            if unlabelled is not None:
                others = torch.stack([next(pool) for pool in pools]).to(images.device)
                x = torch.cat([x, unlabelled[others]], 1)
            if augment is not None:
                x = torch.stack([augment(*pair) for pair in zip(x, streams, strict=True)])
            yield x, labels[chosen]

    return draw()
