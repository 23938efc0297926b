"""The network of two weights that live figures show, as ``toy.mjs`` has it, for the library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flatmin.optim import IAMD, IAMS, SAM

METHODS = ("SGD", "SAM", "IAM-S", "IAM-D")


def column(*values: float) -> Tensor:
    """Return numbers as a tensor in float64."""
    return torch.tensor(values, dtype=torch.float64)


class Toy(nn.Module):
    """One hidden unit, two weights θ = (a, b), logits (0, b tanh(a x))."""

    x = column(1, 1, -1, -1, 0.5, -0.5)
    yes = column(7 / 8, 7 / 8, 1 / 8, 1 / 8, 3 / 4, 1 / 4)  # how often the label is yes

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(column(a, b))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 2)."""
        z = self.theta[1] * (self.theta[0] * x).tanh()
        return torch.stack([torch.zeros_like(z), z], -1)

    def loss(self, x: Tensor, yes: Tensor) -> Tensor:
        """Cross-entropy with the shares of yes."""
        return cross_entropy(self(x), torch.stack([1 - yes, yes], -1))

    def walk(
        self,
        method: str,
        batches: Sequence[tuple[Tensor, Tensor]],
        steps: int,
        *,
        eta: float,
        rho: float,
        beta: float,
        sigma: float,
        seed: int,
    ) -> Tensor:
        """Take steps of a method through batches in turn; return θ₀ … θ_steps, (steps + 1, 2)."""
        noise = {"sigma": sigma, "generator": torch.Generator().manual_seed(seed)}
        climbs: dict[str, tuple[Any, dict[str, Any]]] = {
            "SAM": (SAM, {}),
            "IAM-S": (IAMS, noise),
            "IAM-D": (IAMD, {**noise, "beta": beta}),
        }
        optimizer: Any = torch.optim.SGD(self.parameters(), lr=eta)
        if method in climbs:
            kind, options = climbs[method]
            optimizer = kind(self.parameters(), torch.optim.SGD, rho=rho, lr=eta, **options)
        places = [self.theta.detach().clone()]
        for batch in islice(cycle(batches), steps):
            optimizer.zero_grad()
            if method in climbs:
                optimizer.step(lambda batch=batch: (self.loss(*batch), self(batch[0])))
            else:
                self.loss(*batch).backward()
                optimizer.step()
            places.append(self.theta.detach().clone())
        return torch.stack(places)
