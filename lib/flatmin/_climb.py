"""What measuring, penalty and optimizers share: divergences, and one step of Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

DivergenceName: TypeAlias = Literal["categorical", "gaussian"]

#: Size ‖δ₀‖ of the noise that a training step climbs from: near the limit of little noise, and as a
#: rule above the rounding of bfloat16, see the table at
#: :func:`flatmin.inconsistency.worst_case_perturbation`.
SIGMA = 1.0


@dataclass(frozen=True)
class Divergence:
    """A divergence D(f ‖ f′) between reference outputs f and moved outputs f′, both (n, ...).

    Computed in float64 (float32 where the device has none): D is of second order in f′ − f, so
    float32 would cancel to nothing long before the outputs do.

    Attributes:
        total: ``(f, f') -> Σ_i D(f_i ‖ f'_i)``, a scalar.
        slope: ``(f, f') -> ∂ total / ∂f'``, shaped as f′.
        curvature: ``(f, u) -> (∂² total / ∂f'²) u`` at f′ = f, shaped as f.
        score: ``(f, generator) -> ∂ log p(y | f) / ∂f`` for y drawn from f, shaped as f. Its
            covariance is that curvature.
    """

    total: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, torch.Generator], Tensor]


def _wide(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.device.type == "mps" else outputs.double()


def _kl(z: Tensor, z_moved: Tensor) -> Tensor:
    log_p, log_q = _wide(z).log_softmax(1), _wide(z_moved).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum()


def _softmax_covariance(z: Tensor, u: Tensor) -> Tensor:
    p, u = _wide(z).softmax(1), _wide(u)
    return p * (u - (p * u).sum(1, keepdim=True))


def _categorical_score(z: Tensor, generator: torch.Generator) -> Tensor:
    p = _wide(z).softmax(1)
    # As torch.multinomial draws, which would stop at a NaN, and on a GPU wait for the answer.
    race = p / torch.empty_like(p).exponential_(generator=generator)
    return torch.zeros_like(p).scatter_(1, race.argmax(1, keepdim=True), 1.0) - p


def _gaussian_score(f: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(_wide(f)).normal_(generator=generator)


DIVERGENCES = {
    # KL between softmax distributions of logits (n, C).
    "categorical": Divergence(
        total=_kl,
        slope=lambda z, z_moved: _wide(z_moved).softmax(1) - _wide(z).softmax(1),
        curvature=_softmax_covariance,
        score=_categorical_score,
    ),
    # KL between unit-variance Gaussians, for regression: ½‖f − f′‖².
    "gaussian": Divergence(
        total=lambda f, f_moved: 0.5 * (_wide(f_moved) - _wide(f)).square().sum(),
        slope=lambda f, f_moved: _wide(f_moved) - _wide(f),
        curvature=lambda f, u: _wide(u),
        score=_gaussian_score,
    ),
}


def noise(params: Sequence[Tensor], sigma: float, generator: torch.Generator) -> list[Tensor]:
    """δ₀ ~ N(0, (σ²/m) I), so ‖δ₀‖ ≈ σ, in the shapes of the parameters, at least in float32."""
    sizes = [p.numel() for p in params]
    dtype = torch.promote_types(params[0].dtype, torch.float32)
    draw = torch.randn(sum(sizes), generator=generator, device=params[0].device, dtype=dtype)
    pieces = draw.mul_(sigma / math.sqrt(sum(sizes))).split_with_sizes(sizes)
    return [d.view_as(p) for d, p in zip(pieces, params, strict=True)]


def pullback(outputs: Tensor, weights: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """Jᵀ times the cotangent, at least in float32; never touches ``.grad``.

    The backward pass runs on a cotangent scaled to 1, so that half precision does not underflow.
    """
    require(outputs.requires_grad, "the outputs do not depend on any trainable parameter")
    scale = cotangent.abs().amax().clamp_min(torch.finfo(cotangent.dtype).tiny)
    seed = (cotangent / scale).to(outputs.dtype)
    gradient = torch.autograd.grad(
        outputs, weights, seed, allow_unused=True, materialize_grads=True
    )
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradient]
    torch._foreach_mul_(wide, scale.to(wide[0].dtype))
    return wide


def unit(tensors: list[Tensor]) -> list[Tensor]:
    """Scale the tensors in place to joint norm 1; to 0 if their norm is 0 or not finite."""
    norm = clear_unless_finite(tensors)
    torch._foreach_div_(tensors, torch.where(norm > 0, norm, 1.0))
    return tensors


def clear_unless_finite(tensors: list[Tensor]) -> Tensor:
    """Fill the tensors with 0 if one entry is not finite; return their joint norm, then 0 too."""
    if not tensors:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    broken = ~norm.isfinite()
    for tensor in tensors:
        tensor.masked_fill_(broken, 0)
    return norm.masked_fill(broken, 0)


def same_randomness(params: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Put the global random state back on leaving: the next pass draws the same dropout mask."""
    device = params[0].device
    devices = [] if device.type in ("cpu", "mps") else [device]
    context: AbstractContextManager[None] = torch.random.fork_rng(devices, device_type=device.type)
    return context


def new_generator(params: Sequence[Tensor]) -> torch.Generator:
    """A generator on the parameters' device, seeded with 0."""
    return torch.Generator(params[0].device).manual_seed(0)


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_rho(rho: float) -> None:
    """Check a radius."""
    require(0 < rho < math.inf, f"rho must be positive and finite, got {rho}")


def check_climb(rho: float, steps: int, sigma: float, divergence: str) -> None:
    """Check what Algorithm 1 is run with."""
    check_rho(rho)
    require(isinstance(steps, int) and steps >= 1, f"steps must be an integer >= 1, got {steps}")
    require(0 < sigma < math.inf, f"sigma must be positive and finite, got {sigma}")
    require(
        divergence in DIVERGENCES, f"divergence must be one of {[*DIVERGENCES]}, got {divergence!r}"
    )


def check_beta(beta: float) -> None:
    """Check the weight of a penalty."""
    require(0 <= beta < math.inf, f"beta must be non-negative and finite, got {beta}")


def check_outputs(outputs: Tensor, divergence: str) -> Tensor:
    """Check that outputs have the shape that the divergence is defined for."""
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the model must return a tensor, got {type(outputs).__name__}")
    shape = tuple(outputs.shape)
    require(len(shape) >= 1 and shape[0] > 0, f"the batch must not be empty, got outputs {shape}")
    require(
        divergence != "categorical" or len(shape) == 2,
        f'logits must be (n, C) for divergence="categorical", got {shape}',
    )
    return outputs
