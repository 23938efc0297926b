"""SGD for all models at once, with the gradients of SGD, SAM, ASAM, IAM-D and IAM-S."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from flatlab.ensemble.rows import Rows
from flatlab.ensemble.stacked import Ensemble, divergences, losses_of
from flatlab.schedules import Schedule, cosine
from flatlab.streams import stream
from flatmin._check import require
from flatmin._tangent import SIGMA
from flatmin.directions import Adaptive, Algorithm1, Direction, Loss, Random, Score

Method: TypeAlias = Literal[
    "SGD", "SAM", "ASAM", "IAM-D", "IAM-S", "random-D", "random-S", "score-S"
]
#: One number for all models or one for each.
PerModel: TypeAlias = "float | Sequence[float] | Tensor"
Losses: TypeAlias = Callable[[Tensor], Tensor]
Buffers: TypeAlias = dict[str, Tensor]


def train_ensemble(
    models: Sequence[nn.Module],
    method: Method,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    seeds: Sequence[int],
    steps: int,
    lr: PerModel,
    momentum: PerModel = 0.9,
    weight_decay: PerModel = 0.0,
    rho: PerModel = 0.1,
    beta: PerModel = 1.0,
    climb: int = 1,
    sigma: float = SIGMA,
    label_smoothing: float = 0.0,
    schedule: Schedule | None = None,
    record: Collection[int] = (),
) -> Iterator[tuple[int, Ensemble]]:
    """Trains all models by SGD, with the gradients of SGD, SAM, ASAM, IAM-D or IAM-S.

    Model i does, up to rounding, what ``torch.optim.SGD`` or :mod:`flatmin.optim`, given
    ``generator=stream(seeds[i], "noise")`` and ``module=model``, do with its batches. The controls
    ``"random-D"`` and ``"random-S"`` are IAM-D and IAM-S with a random δ of norm ρ in place of δ_K;
    ``"score-S"`` is IAM-S with ``direction="score"``.

    It pays for the smallest models. Speed-up over the plain loop on one CPU thread, batch 50 of
    14 × 14 images, ``mlp([196, 64, 64, 10])`` and :func:`~flatlab.models.cnn_bn`
    (``benchmarks/ensemble.py``):

    ==============  ===  ===  =====
    models          SGD  SAM  IAM-D
    ==============  ===  ===  =====
    20 perceptrons  1.8  2.5  3.1
    72 perceptrons  2.2  3.2  4.0
    20 CNNs         1.3  1.4  1.4
    72 CNNs         1.7  1.5  1.6
    ==============  ===  ===  =====

    Args:
        models: networks of one architecture, without dropout; they are copied.
        method: whose gradient.
        batches: what :func:`~flatlab.ensemble.ensemble_batches` draws.
        seeds: one per model, for the noise.
        steps: number T of steps.
        lr: initial learning rate.
        momentum: as in ``torch.optim.SGD``.
        weight_decay: as in ``torch.optim.SGD``.
        rho: radius ρ ≥ 0 of SAM, ASAM and IAM; at 0 they are SGD.
        beta: weight β ≥ 0 of IAM-D's penalty.
        climb: K ≥ 1 of IAM.
        sigma: size σ > 0 of IAM's noise.
        label_smoothing: of the cross-entropy.
        schedule: factor of the learning rate by step; by default cosine down to 0 at T.
        record: numbers of steps after which to yield; T is always among them.

    Returns:
        An iterator over (number of steps, the ensemble after them). An ensemble that was yielded
        stays as it is.

    Raises:
        ValueError: an argument out of range or of the wrong length.

    Example:
        >>> from flatlab.ensemble import ensemble_batches
        >>> x, y = torch.randn(20, 3, generator=stream(0)), torch.arange(20) % 2
        >>> models, seeds = [nn.Linear(3, 2) for _ in range(4)], [0, 0, 1, 1]
        >>> batches = ensemble_batches(x, y, seeds=seeds, batch_size=10)
        >>> for step, trained in train_ensemble(
        ...     models, "IAM-D", batches, seeds=seeds, steps=5, lr=[0.1, 0.2, 0.1, 0.2], record=[0]
        ... ):
        ...     print(step, trained.error(x, y).shape)
        0 torch.Size([4])
        5 torch.Size([4])
    """
    ensemble = Ensemble.of(models)
    require(method in get_args(Method), f"method must be one of {get_args(Method)}, got {method!r}")
    require(steps >= 0, f"steps must not be negative, got {steps}")
    require(len(seeds) == len(models), f"seeds must be one per model, got {len(seeds)}")
    given = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "rho": rho, "beta": beta}
    rate, inertia, decay, radius, weight = (
        _column(ensemble.theta, name, value) for name, value in given.items()
    )
    directions: dict[str, Direction] = {
        **{"SAM": Loss(), "ASAM": Adaptive(), "IAM": Algorithm1(climb, sigma)},
        **{"random": Random(), "score": Score()},
    }
    direction = directions.get(method.split("-")[0])
    generators = [stream(seed, "noise", device=ensemble.theta.device) for seed in seeds]
    is_weight, factor = ensemble.is_weight(), cosine(steps) if schedule is None else schedule

    def gradients(ensemble: Ensemble, x: Tensor, losses: Losses) -> tuple[Tensor, Buffers]:
        """What each model descends along, (models, m), and the buffers after the pass at θ."""

        def outputs(weights: Tensor) -> Tensor:
            return ensemble.forward(weights, x, training=True)[0]

        rows = Rows(ensemble.theta, outputs, rho=radius, generators=generators, weights=is_weight)
        logits, buffers = ensemble.forward(rows.theta, x, training=True)
        if direction is None:
            return _slopes(losses(logits), rows.theta), buffers
        (delta,) = direction(losses(logits) if direction.by_loss else logits, rows)
        if method.endswith("-D"):
            penalty = divergences(logits, outputs(rows.theta + delta))
            return _slopes(losses(logits) + weight[:, 0] * penalty, rows.theta), buffers
        moved = (ensemble.theta + delta).requires_grad_()
        return _slopes(losses(outputs(moved)), moved), buffers

    def descend(ensemble: Ensemble) -> Iterator[tuple[int, Ensemble]]:
        velocity = torch.zeros_like(ensemble.theta)
        if steps == 0 or 0 in record:
            yield 0, ensemble
        for step, (x, y) in zip(range(steps), batches, strict=False):
            losses = partial(losses_of, labels=y, label_smoothing=label_smoothing)
            gradient, buffers = gradients(ensemble, x, losses)
            velocity = inertia * velocity + gradient + decay * ensemble.theta
            theta = ensemble.theta - factor(step) * rate * velocity
            ensemble = replace(ensemble, theta=theta, buffers=buffers)
            if step + 1 in record or step + 1 == steps:
                yield step + 1, ensemble

    return descend(ensemble)


def _slopes(values: Tensor, weights: Tensor) -> Tensor:
    """The gradient of each model's value by its own weights, (models, m)."""
    return torch.autograd.grad(values.sum(), weights)[0]


def _column(theta: Tensor, name: str, value: PerModel) -> Tensor:
    """One non-negative number per model, (models, 1)."""
    column = torch.as_tensor(value, dtype=theta.dtype, device=theta.device)
    require(
        column.shape in ((), (len(theta),)),
        f"{name} must be one number or {len(theta)}, one per model, got shape {(*column.shape,)}",
    )
    good = (column >= 0) & column.isfinite()
    require(
        bool(good.all()), f"{name} must be finite and not negative, got {column[~good].flatten()}"
    )
    return column.expand(len(theta)).unsqueeze(1)
