"""The loops of the experiments: supervised, FixMatch, SimCLR, and the linear probe.

Each takes a :class:`flatlab.run.Run` from where it is to ``steps`` and yields a record at each
evaluation. The optimizer decides the method: give the run SGD, SAM, IAM-S or IAM-D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from flatlab.models import mlp
from flatlab.run import Batches, BatchSource, Evaluate, Record, Run, descend
from flatlab.streams import stream
from flatmin._check import require
from flatmin.optim import SAM, Climber

Augment: TypeAlias = Callable[[Tensor, Generator], Tensor]


def supervised(
    run: Run,
    labelled: BatchSource,
    *,
    steps: int,
    every: int,
    evaluate: Evaluate | None = None,
    augment: Augment | None = None,
    unlabelled: BatchSource | None = None,
    label_smoothing: float = 0.0,
    climb_on: int = 0,
) -> Iterator[Record]:
    """Minimises the cross-entropy of labelled batches.

    Args:
        run: what to train, from ``run.step`` on.
        labelled: batches (images, labels).
        steps: step to stop after.
        every: steps between two records.
        evaluate: model ↦ metrics for the record.
        augment: ``(images, generator) -> images``.
        unlabelled: batches (images, …) that join the pass: the loss ignores them, IAM's divergence
            does not.
        label_smoothing: as in ``cross_entropy``.
        climb_on: find the direction of SAM or IAM-S on the first so many labelled images of the
            batch, of this process's share; 0 means on the whole batch.

    Returns:
        An iterator of records ``{"step": …, "loss": …, **metrics}``.

    Example:
        >>> x, y = torch.randn(20, 3, generator=stream(0)), torch.arange(20) % 2
        >>> model = nn.Linear(3, 2)
        >>> run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), seed=0)
        >>> records = supervised(
        ...     run, Batches((x, y), size=5), steps=8, every=4,
        ...     evaluate=lambda model: {"error": error(model, x, y)},
        ... )
        >>> [(*record,) for record in records]
        [('step', 'loss', 'error'), ('step', 'loss', 'error')]
    """

    def updates() -> Iterator[Callable[[], Tensor]]:
        more = (
            repeat(())
            if unlabelled is None
            else (unlabelled.draw(run.seed, "unlabelled", start=run.step))
        )
        for (x, y), others in zip(labelled.draw(run.seed, start=run.step), more, strict=False):
            images = torch.cat([x, *others[:1]])
            if augment is not None:
                images = augment(images, run.generator)
            images, y = run.mine(images), run.mine(y)
            loss = partial(cross_entropy, label_smoothing=label_smoothing)
            if climb_on:
                yield partial(_climb_on, climb_on, run, images, y, loss)
                continue

            def closure(images: Tensor = images, y: Tensor = y) -> tuple[Tensor, Tensor]:
                logits = run.forward(images)
                own = logits[: len(y)]
                return cross_entropy(own, y, label_smoothing=label_smoothing), logits

            yield partial(descend, run.optimizer, closure)

    return run.train(updates(), steps=steps, every=every, evaluate=evaluate)


def _climb_on(
    count: int, run: Run, images: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """One step by hand; returns the loss at θ of the images that it climbs on."""
    optimizer, goes_by_loss = run.optimizer, isinstance(run.optimizer, SAM)
    assert isinstance(optimizer, Climber)  # as its settings were checked

    def few() -> Tensor:
        logits = run.forward(images[:count])
        return loss(logits, y[:count]) if goes_by_loss else logits

    with optimizer.perturbed(few) as reference:
        loss(run.forward(images)[: len(y)], y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return reference if goes_by_loss else loss(reference, y[:count])


def fixmatch(
    run: Run,
    labelled: BatchSource,
    unlabelled: BatchSource,
    *,
    weak: Augment,
    strong: Augment,
    steps: int,
    every: int,
    evaluate: Evaluate | None = None,
    threshold: float = 0.95,
    weight: float = 1.0,
) -> Iterator[Record]:
    """FixMatch (Sohn et al. 2020): what the weakly augmented image is, the strongly one must be.

    The loss is CE on labelled images plus λ_u times the mean over all unlabelled x of
    1[max p ≥ threshold] CE(strong x, arg max p), p the prediction for weak x. μ is the ratio of the
    two batch sizes. One pass holds all images, and IAM-D's penalty is on all their logits. Under
    SAM the labelled loss alone is taken at θ + δ (Kim et al. 2026, Appendix E.4).

    Args:
        run: what to train; the paper evaluates an average, ``ema=0.999``.
        labelled: batches (images, labels).
        unlabelled: batches (images, …).
        weak: augmentation of labelled and unlabelled images.
        strong: augmentation of unlabelled images.
        steps: step to stop after.
        every: steps between two records.
        evaluate: model ↦ metrics for the record.
        threshold: least confidence of a pseudo-label.
        weight: λ_u.

    Returns:
        An iterator of records ``{"step": …, "loss": …, **metrics}``.
    """

    def updates() -> Iterator[Callable[[], Tensor]]:
        pool = unlabelled.draw(run.seed, "unlabelled", start=run.step)
        for (x, y), (u, *_) in zip(labelled.draw(run.seed, start=run.step), pool, strict=False):
            draw = run.generator
            images = run.mine(torch.cat([weak(x, draw), weak(u, draw), strong(u, draw)]))
            y, unlabelled_share = run.mine(y), len(run.mine(u))
            parts = partial(_fixmatch_parts, run.forward, images, y, unlabelled_share, threshold)
            if isinstance(run.optimizer, SAM):
                yield partial(_climb_labelled, run.optimizer, parts, weight)
                continue

            def closure(parts: Parts = parts) -> tuple[Tensor, Tensor]:
                supervised_loss, unsupervised_loss, logits = parts()
                return supervised_loss + weight * unsupervised_loss, logits

            yield partial(descend, run.optimizer, closure)

    return run.train(updates(), steps=steps, every=every, evaluate=evaluate)


Parts: TypeAlias = Callable[[], tuple[Tensor, Tensor, Tensor]]


def _fixmatch_parts(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    y: Tensor,
    unlabelled: int,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both losses, and the logits of all images."""
    logits = forward(images)
    own, weak, strong = torch.split(logits, [len(y), unlabelled, unlabelled])
    confidence, guess = weak.detach().softmax(1).max(1)
    losses = cross_entropy(strong, guess, reduction="none")
    return cross_entropy(own, y), (losses * (confidence >= threshold)).mean(), logits


def _climb_labelled(optimizer: SAM, parts: Parts, weight: float) -> Tensor:
    with optimizer.perturbed(lambda: parts()[0]) as loss:
        parts()[0].backward()  # type: ignore[no-untyped-call]
    unsupervised_loss = weight * parts()[1]
    unsupervised_loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss + unsupervised_loss.detach()


def simclr(
    run: Run,
    batches: BatchSource,
    *,
    view: Augment,
    steps: int,
    every: int,
    evaluate: Evaluate | None = None,
    temperature: float = 0.5,
) -> Iterator[Record]:
    """SimCLR (Chen et al. 2020): tell from all other images the second view of one's own.

    The loss is NT-Xent, the cross-entropy of :func:`similarities`. These are the logits that IAM
    sees: its divergence is between softmax distributions over the batch (Kim et al. 2026).

    Args:
        run: its model maps images to projections (n, d): ``nn.Sequential(encoder, projector)``.
        batches: batches (images, …).
        view: a random augmentation; two are drawn per image.
        steps: step to stop after.
        every: steps between two records.
        evaluate: model ↦ metrics for the record, such as :func:`linear_probe` of its encoder.
        temperature: τ.

    Returns:
        An iterator of records ``{"step": …, "loss": …, **metrics}``.

    Raises:
        ValueError: τ ≤ 0, or a run divided among processes: each image is told from all others.
    """
    require(temperature > 0, f"temperature must be positive, got {temperature}")
    require(run.part[1] == 1, f"simclr runs in one process, got part={run.part}")

    def updates() -> Iterator[Callable[[], Tensor]]:
        for x, *_ in batches.draw(run.seed, start=run.step):
            images = torch.cat([view(x, run.generator), view(x, run.generator)])

            def closure(images: Tensor = images) -> tuple[Tensor, Tensor]:
                logits = similarities(run.forward(images), temperature)
                n = len(logits) // 2
                partner = torch.arange(n, device=logits.device)  # of the second views
                return cross_entropy(logits, torch.cat([partner + n - 1, partner])), logits

            yield partial(descend, run.optimizer, closure)

    return run.train(updates(), steps=steps, every=every, evaluate=evaluate)


def similarities(projections: Tensor, temperature: float) -> Tensor:
    """Cosines of each projection with all others but itself, over τ.

    Args:
        projections: (m, d).
        temperature: τ > 0.

    Returns:
        (m, m − 1), row i without its column i.

    Example:
        >>> similarities(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), 0.5)
        tensor([[2., 0.],
                [2., 0.],
                [0., 0.]])
    """
    z, m = normalize(projections), len(projections)
    cosines = z @ z.T / temperature
    # Written in one row without its first number, the diagonal ends each of m − 1 rows of m + 1.
    return cosines.flatten()[1:].view(m - 1, m + 1)[:, :-1].reshape(m, m - 1)


def linear_probe(
    encoder: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    epochs: int = 20,
    batch_size: int = 256,
    lr: float = 1e-3,
) -> float:
    """The test error of a linear classifier on frozen features, trained by AdamW.

    Args:
        encoder: images (n, …) to features (n, …); not changed.
        train: images and labels of the classifier's training.
        test: images and labels of the error.
        seed: of the classifier's start and the order of its examples.
        epochs: passes over ``train``.
        batch_size: examples per step.
        lr: learning rate.

    Returns:
        The fraction of ``test`` classified wrong.
    """
    features, labels = outputs(encoder, train[0]).flatten(1), train[1]
    widths = [features.shape[1], int(labels.max()) + 1]
    probe = mlp(widths, generator=stream(seed, "probe")).to(features)
    run = Run(probe, torch.optim.AdamW(probe.parameters(), lr=lr), seed=seed)
    steps = max(1, epochs * len(labels) // batch_size)
    for _ in supervised(run, Batches((features, labels), batch_size), steps=steps, every=steps):
        pass
    return error(nn.Sequential(encoder, probe), *test)


def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of images that the model, in evaluation mode, gets wrong."""
    wrong = outputs(model, images).argmax(1) != labels
    return float(wrong.double().mean())


def outputs(model: nn.Module, images: Tensor, at_once: int = 1000) -> Tensor:
    """What the model, in evaluation mode, returns, without gradients, so many images at once."""
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(x) for x in torch.split(images, at_once)])
    model.train(training)
    return outputs
