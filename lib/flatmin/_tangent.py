"""Vectors in parameter space, as lists of tensors shaped like the parameters: noise, Jᵀu, norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from flatmin._check import require

#: Size ‖δ₀‖ of the noise that a training step climbs from: near the limit of little noise, and as a
#: rule above the rounding of bfloat16, see the table at
#: :func:`flatmin.inconsistency.worst_case_perturbation`.
SIGMA = 1.0


def noise(params: Sequence[Tensor], sigma: float, generator: Generator) -> list[Tensor]:
    """δ₀ ~ N(0, (σ²/m) I), so ‖δ₀‖ ≈ σ, in the shapes of the parameters, at least in float32."""
    sizes = [p.numel() for p in params]
    dtype = torch.promote_types(params[0].dtype, torch.float32)
    draw = torch.randn(sum(sizes), generator=generator, device=params[0].device, dtype=dtype)
    pieces = draw.mul_(sigma / math.sqrt(sum(sizes))).split_with_sizes(sizes)
    return [d.view_as(p) for d, p in zip(pieces, params, strict=True)]


def pullback(outputs: Tensor, weights: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """Jᵀ times the cotangent, as new tensors, at least in float32; never touches ``.grad``.

    The backward pass runs on the cotangent scaled to 1, so that half precision does not underflow:
    scaled in place, as with a large vocabulary there is no room for another.
    """
    require(outputs.requires_grad, "the outputs do not depend on any trainable parameter")
    scale = torch.linalg.vector_norm(cotangent, torch.inf)
    scale = scale.clamp_min(torch.finfo(cotangent.dtype).tiny)
    gradient = torch.autograd.grad(
        outputs,
        weights,
        cotangent.div_(scale).to(outputs.dtype),
        allow_unused=True,
        materialize_grads=True,
    )
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradient]
    # Not in place: two weights that are added somewhere have one gradient tensor in common.
    return list(torch._foreach_mul(wide, scale.to(wide[0].dtype)))


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


def new_generator(params: Sequence[Tensor]) -> Generator:
    """A generator on the parameters' device, seeded with 0."""
    return Generator(params[0].device).manual_seed(0)
