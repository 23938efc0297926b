"""Many small networks of one architecture trained at once, each with its own seed and settings.

The weights of all networks are the rows of one matrix θ (models, m). One vmapped forward pass gives
all logits, and since no network sees another, the gradient of the sum of their losses holds each
one's own gradient in its row. What remains of SGD, SAM, ASAM, IAM-D and IAM-S is row arithmetic.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from flatlab.schedules import Schedule, cosine
from flatlab.streams import shuffled, stream
from flatmin._climb import DIVERGENCES, SIGMA, check_climb, noise, require

Method: TypeAlias = Literal[
    "SGD", "SAM", "ASAM", "IAM-D", "IAM-S", "random-D", "random-S", "score-S"
]
#: One number for all models or one for each.
PerModel: TypeAlias = "float | Sequence[float] | Tensor"
Augment: TypeAlias = Callable[[Tensor, Generator], Tensor]

_AT_ONCE = 2**14  # images times models in one pass of an evaluation: bounds the memory


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks of one architecture, their values stacked.

    Attributes:
        template: the architecture, without values (on the meta device).
        theta: the parameters, (models, m), each row in the order of ``template.parameters()``.
        buffers: name to stacked buffers, (models, …): batch norm's running statistics.
    """

    template: nn.Module
    theta: Tensor
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, models: Sequence[nn.Module]) -> Ensemble:
        """Stacks copies of the models' values.

        Raises:
            ValueError: no model, models of different shapes, or a frozen parameter.

        Example:
            >>> ensemble = Ensemble.of([nn.Linear(3, 2) for _ in range(4)])
            >>> ensemble.theta.shape, ensemble.logits(torch.zeros(5, 3)).shape
            (torch.Size([4, 8]), torch.Size([4, 5, 2]))
        """
        require(len(models) > 0, "models must hold at least one network")
        shapes = [{name: v.shape for name, v in model.state_dict().items()} for model in models]
        require(all(s == shapes[0] for s in shapes), "models must all have the same architecture")
        frozen = [name for name, p in models[0].named_parameters() if not p.requires_grad]
        require(not frozen, f"models must have no frozen parameter, got {frozen}")
        named = [dict(model.named_buffers()) for model in models]
        return cls(
            template=copy.deepcopy(models[0]).to("meta"),
            theta=torch.stack(
                [torch.cat([p.detach().reshape(-1) for p in m.parameters()]) for m in models]
            ),
            buffers={name: torch.stack([b[name] for b in named]) for name in named[0]},
        )

    def __len__(self) -> int:
        """The number of models."""
        return len(self.theta)

    def model(self, index: int) -> nn.Module:
        """One network by itself, a copy, in evaluation mode."""
        model = copy.deepcopy(self.template).to_empty(device=self.theta.device)
        values = {name: buffer[index] for name, buffer in self.buffers.items()}
        model.load_state_dict({**self._named(self.theta[index]), **values})
        return model.eval()

    def logits(self, images: Tensor) -> Tensor:
        """The logits (models, n, C) of images (n, …), in evaluation mode."""
        with torch.no_grad():
            return torch.cat([self._forward(self.theta, x)[0] for x in self._pieces(images)], 1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of each model, (models,)."""
        return _losses(self.logits(images), labels.expand(len(self), -1))

    def error(self, images: Tensor, labels: Tensor) -> Tensor:
        """The fraction that each model gets wrong, (models,)."""
        return (self.logits(images).argmax(2) != labels).double().mean(1)

    def inconsistency(
        self,
        images: Tensor,
        *,
        rho: float,
        steps: int = 3,
        sigma: float = SIGMA,
        generator: Generator | None = None,
    ) -> Tensor:
        """S_ρ of each model by Algorithm 1 of Kim et al. 2026, in evaluation mode.

        Like :func:`flatmin.inconsistency.local_inconsistency` with one start; all models climb from
        the same noise.

        Args:
            images: (n, …), labels not needed.
            rho: radius ρ > 0.
            steps: K ≥ 1.
            sigma: size σ > 0 of the noise.
            generator: source of the noise; by default one seeded with 0.

        Returns:
            S_ρ, (models,), float64.

        Raises:
            ValueError: an argument out of range.
        """
        check_climb(rho, steps, sigma, "categorical")
        generator = generator or Generator(self.theta.device).manual_seed(0)
        delta = noise([self.theta[0]], sigma, generator)[0].expand_as(self.theta)

        def value(x: Tensor, weights: Tensor) -> Tensor:
            with torch.no_grad():
                reference = self._forward(self.theta, x)[0]
            return _divergences(reference, self._forward(weights, x)[0]) * len(x) / len(images)

        for _ in range(steps):
            weights = (self.theta + delta).requires_grad_()
            slopes = (_slopes(value(x, weights), weights) for x in self._pieces(images))
            delta = _of_norm(rho, torch.stack([*slopes]).sum(0))
        with torch.no_grad():
            values = [value(x, self.theta + delta) for x in self._pieces(images)]
        return torch.stack(values).sum(0)

    def _named(self, vector: Tensor) -> dict[str, Tensor]:
        params = dict(self.template.named_parameters())
        pieces = torch.split(vector, [p.numel() for p in params.values()])
        return {name: v.view(p.shape) for (name, p), v in zip(params.items(), pieces, strict=True)}

    def _forward(
        self, theta: Tensor, images: Tensor, *, training: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and the buffers after the pass; images (models, n, …) if training, else (n, …)."""
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        self.template.train(training)

        def one(vector: Tensor, own: dict[str, Tensor], x: Tensor) -> Tensor:
            values = {**self._named(vector), **own}
            logits: Tensor = functional_call(self.template, values, (x,))
            return logits

        passed = vmap(one, in_dims=(0, 0, 0 if training else None))
        return passed(theta, buffers, images), buffers

    def _scales(self) -> Tensor:
        """ASAM's T: |w| + 0.01 for weights, 1 for biases, (models, m)."""
        params = self.template.parameters()
        is_weight = [torch.full((p.numel(),), p.ndim > 1) for p in params]
        mask = torch.cat(is_weight).to(self.theta.device)
        return torch.where(mask, self.theta.abs() + 0.01, 1)

    def _pieces(self, images: Tensor) -> Sequence[Tensor]:
        return torch.split(images, max(1, _AT_ONCE // len(self)))


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
        batches: what :func:`ensemble_batches` draws.
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
    require(len(seeds) == len(models), f"seeds must be one per model, got {len(seeds)}")
    check_climb(1.0, climb, sigma, "categorical")
    rate, inertia, decay, radius, weight = (
        _column(ensemble.theta, name, value)
        for name, value in {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "rho": rho,
            "beta": beta,
        }.items()
    )
    noises = [stream(seed, "noise", device=ensemble.theta.device) for seed in seeds]
    factor = cosine(steps) if schedule is None else schedule

    def draw_noise(like: Tensor) -> Tensor:
        return torch.stack([noise([row], sigma, g)[0] for row, g in zip(like, noises, strict=True)])

    def draw_score(logits: Tensor) -> Tensor:
        score, rows = DIVERGENCES["categorical"].score, zip(logits.detach(), noises, strict=True)
        return torch.stack([score(row, g) for row, g in rows]).to(logits)

    def descend(ensemble: Ensemble) -> Iterator[tuple[int, Ensemble]]:
        velocity = torch.zeros_like(ensemble.theta)
        if steps == 0 or 0 in record:
            yield 0, ensemble
        for step, (x, y) in zip(range(steps), batches, strict=False):
            losses = partial(_losses, labels=y, label_smoothing=label_smoothing)
            gradient, buffers = _gradients(
                ensemble, x, losses, method, radius, weight[:, 0], climb, draw_noise, draw_score
            )
            velocity = inertia * velocity + gradient + decay * ensemble.theta
            theta = ensemble.theta - factor(step) * rate * velocity
            ensemble = replace(ensemble, theta=theta, buffers=buffers)
            if step + 1 in record or step + 1 == steps:
                yield step + 1, ensemble

    return descend(ensemble)


def _gradients(
    ensemble: Ensemble,
    x: Tensor,
    losses: Callable[[Tensor], Tensor],
    method: Method,
    rho: Tensor,
    beta: Tensor,
    climb: int,
    draw_noise: Callable[[Tensor], Tensor],
    draw_score: Callable[[Tensor], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """What each model descends along, (models, m), and the buffers after the pass at θ."""

    def logits_at(weights: Tensor) -> Tensor:
        return ensemble._forward(weights, x, training=True)[0]

    theta = ensemble.theta.clone().requires_grad_()
    logits, buffers = ensemble._forward(theta, x, training=True)
    if method == "SGD":
        return _slopes(losses(logits), theta), buffers
    if method in ("SAM", "ASAM"):
        scale = ensemble._scales() if method == "ASAM" else torch.ones_like(ensemble.theta)
        delta = scale * _of_norm(rho, scale * _slopes(losses(logits), theta))
    elif method == "score-S":
        delta = _of_norm(rho, torch.autograd.grad(logits, theta, draw_score(logits))[0])
    elif method.startswith("random"):
        delta = _of_norm(rho, draw_noise(ensemble.theta))
    else:
        delta = draw_noise(ensemble.theta)
        for _ in range(climb):
            moved = (ensemble.theta + delta).requires_grad_()
            divergences = _divergences(logits.detach(), logits_at(moved))
            delta = _of_norm(rho, _slopes(divergences, moved))
    if method.endswith("D"):
        penalised = losses(logits) + beta * _divergences(logits, logits_at(theta + delta))
        return _slopes(penalised, theta), buffers
    moved = (ensemble.theta + delta).requires_grad_()
    return _slopes(losses(logits_at(moved)), moved), buffers


def _slopes(values: Tensor, weights: Tensor) -> Tensor:
    """The gradient of each model's value by its own weights, (models, m)."""
    return torch.autograd.grad(values.sum(), weights)[0]


def _losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy (models,) of the first logits, as many as there are labels (models, n)."""
    labelled = logits[:, : labels.shape[1]]
    losses: Tensor = vmap(partial(cross_entropy, label_smoothing=label_smoothing))(labelled, labels)
    return losses


def _divergences(logits: Tensor, moved: Tensor) -> Tensor:
    """E_x KL, (models,), float64."""
    return vmap(DIVERGENCES["categorical"].total)(logits, moved) / logits.shape[1]


def _of_norm(length: Tensor | float, rows: Tensor) -> Tensor:
    """Each row scaled to its length; a row of zeros stays one."""
    norm = rows.norm(dim=1, keepdim=True)
    return rows * (length / torch.where(norm > 0, norm, 1.0))


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
