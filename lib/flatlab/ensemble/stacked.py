"""Networks of one architecture as the rows of a matrix, and what is measured of all at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from flatlab.ensemble.rows import Rows
from flatmin._check import check_rho, require
from flatmin._tangent import SIGMA
from flatmin.directions import Algorithm1
from flatmin.divergences import divergence_named

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
            return torch.cat([self.forward(self.theta, x)[0] for x in self._pieces(images)], 1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of each model, (models,)."""
        return losses_of(self.logits(images), labels.expand(len(self), -1))

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
        check_rho(rho)
        direction = Algorithm1(steps, sigma)
        pieces = self._pieces(images)

        def outputs(weights: Tensor) -> Tensor:
            if len(pieces) == 1:
                return self.forward(weights, images)[0]
            # One graph of all would not fit: each piece is computed again on the way back.
            passed = [partial(self._evaluated, x) for x in pieces]
            return torch.cat([checkpoint(f, weights, use_reentrant=False) for f in passed], 1)

        rows = Rows(
            self.theta,
            outputs,
            rho=torch.full_like(self.theta[:, :1], rho),
            generators=[generator or Generator(self.theta.device).manual_seed(0)],
        )
        with torch.no_grad():
            reference = outputs(self.theta)
        (delta,) = direction(reference, rows)
        with torch.no_grad():
            return divergences(reference, outputs(self.theta + delta))

    def _named(self, vector: Tensor) -> dict[str, Tensor]:
        params = dict(self.template.named_parameters())
        pieces = torch.split(vector, [p.numel() for p in params.values()])
        return {name: v.view(p.shape) for (name, p), v in zip(params.items(), pieces, strict=True)}

    def forward(
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

    def _evaluated(self, images: Tensor, theta: Tensor) -> Tensor:
        return self.forward(theta, images)[0]

    def is_weight(self) -> Tensor:
        """Which of the m numbers ASAM scales: weights, not biases."""
        params = self.template.parameters()
        flags = [torch.full((p.numel(),), p.ndim > 1) for p in params]
        return torch.cat(flags).to(self.theta.device)

    def _pieces(self, images: Tensor) -> Sequence[Tensor]:
        return torch.split(images, max(1, _AT_ONCE // len(self)))


def losses_of(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy (models,) of the first logits, as many as there are labels (models, n)."""
    labelled = logits[:, : labels.shape[1]]
    losses: Tensor = vmap(partial(cross_entropy, label_smoothing=label_smoothing))(labelled, labels)
    return losses


def divergences(logits: Tensor, moved: Tensor) -> Tensor:
    """E_x KL, (models,), float64."""
    return divergence_named("categorical").between(logits, moved).mean(1)
