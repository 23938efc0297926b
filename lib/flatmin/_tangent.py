"""Vectors in parameter space, as lists of tensors shaped like the parameters: noise, Jᵀu, norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from flatmin._check import require

#: Size ‖δ₀‖ of the noise that a training step climbs from: near the limit of little noise, and as a
#: rule above the rounding of bfloat16, see the table at
#: :func:`flatmin.inconsistency.worst_case_perturbation`.
SIGMA = 1.0


def noise(params: Sequence[Tensor], sigma: float, generator: Generator) -> list[Tensor]:
    """δ₀ ~ N(0, (σ²/m) I), so ‖δ₀‖ ≈ σ, in the shapes of the parameters, at least in float32."""
    sizes = [p.numel() for p in params]
    require(sum(sizes) > 0, "params hold no number to move")
    dtype = torch.promote_types(params[0].dtype, torch.float32)
    draw = torch.randn(sum(sizes), generator=generator, device=params[0].device, dtype=dtype)
    pieces = draw.mul_(sigma / math.sqrt(sum(sizes))).split_with_sizes(sizes)
    return [d.view_as(p) for d, p in zip(pieces, params, strict=True)]


def sharded_noise(params: Sequence[Tensor], sigma: float, generator: Generator) -> list[Tensor]:
    """The same for DTensors: each drawn whole, one after the other, of which a rank keeps its part.

    All ranks draw the same, so their generators have to be in the same state.
    """
    from torch.distributed.tensor import distribute_tensor  # only where it can be

    scale = sigma / math.sqrt(sum(p.numel() for p in params))
    pieces: list[Tensor] = []
    p: Any  # a DTensor
    for p in params:
        draw = torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype) * scale
        pieces.append(distribute_tensor(draw, p.device_mesh, p.placements, src_data_rank=None))
    return pieces


def pullback(outputs: Tensor, weights: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """Jᵀ times the cotangent, as new tensors, at least in float32; never touches ``.grad``.

    The backward pass runs on the cotangent scaled to 1, so that half precision does not underflow:
    scaled in place, as with a large vocabulary there is no room for another.
    """
    require(outputs.requires_grad, "the outputs do not depend on any trainable parameter")
    scale = torch.linalg.vector_norm(cotangent, torch.inf)
    scale = scale.clamp_min(torch.finfo(cotangent.dtype).tiny)
    seed = cotangent.div_(scale).to(outputs.dtype)
    pairs = zip(gradient(outputs, weights, seed), weights, strict=True)
    found = [torch.zeros_like(w) if g is None else g for g, w in pairs]
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in found]
    # Not in place: two weights that are added somewhere have one gradient tensor in common.
    return list(torch._foreach_mul(wide, scale.to(wide[0].dtype)))


def gradient(
    outputs: Tensor, weights: Sequence[Tensor], seed: Tensor | None = None
) -> list[Tensor | None]:
    """The gradient of outputs · seed; None for weights that they do not depend on.

    Raises:
        RuntimeError: a reentrant checkpoint, which hides weights from autograd.
        ValueError: a sparse gradient.
    """
    found = torch.autograd.grad(outputs, weights, seed, allow_unused=True)
    require(
        not any(g is not None and g.is_sparse for g in found),
        "sparse gradients have no place in a climb: make the embedding with sparse=False",
    )
    if any(g is None for g in found) and _is_reentrant(outputs):
        raise RuntimeError(
            "a reentrant checkpoint hides its weights from the climb: checkpoint with"
            " use_reentrant=False, as in Hugging Face's"
            ' gradient_checkpointing_kwargs={"use_reentrant": False}'
        )
    return [*found]


def _is_reentrant(outputs: Tensor) -> bool:
    seen, nodes = set(), [outputs.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name().startswith("CheckpointFunction"):
            return True
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return False


def unit(tensors: list[Tensor]) -> Tensor:
    """Scale the tensors in place to joint norm 1, to 0 if the norm they had is 0 or not finite.

    Returns that norm.
    """
    norm = clear_unless_finite(tensors)
    torch._foreach_div_(here(tensors), torch.where(norm > 0, norm, 1.0))
    return norm


def points(norm: Tensor) -> Tensor:
    """Whether a vector of that norm has a direction: a norm that is finite, and not 0."""
    return norm.isfinite() & (norm > 0)


def clear_unless_finite(tensors: list[Tensor]) -> Tensor:
    """Fill the tensors with 0 if one entry is not finite; return the joint norm they had."""
    if not tensors:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    broken = ~norm.isfinite()
    for tensor in here(tensors):
        tensor.masked_fill_(broken, 0)
    return norm


def over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each over all processes, by one reduction."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    pieces = flat.split_with_sizes([t.numel() for t in tensors])
    return [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)]


def mean(total: Tensor, n: int, sync: bool) -> Tensor:
    """A sum over n examples by their number; with ``sync`` over those of all processes."""
    if not sync:
        return total / n
    total, count = over_ranks([total, total.new_full((), n)])
    return total / count


def here(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each, sharing memory: the tensor, or the shard of a DTensor."""
    with torch.no_grad():
        return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


def generator_of(params: Sequence[Tensor], given: Generator | None) -> Generator:
    """The generator that was given, or one on the parameters' device, seeded with 0."""
    if given is None:
        return Generator(params[0].device).manual_seed(0)
    if not isinstance(given, Generator):
        raise TypeError(f"generator must be a torch.Generator, got {given!r:.80}")
    return given


class KnownGradient(torch.autograd.Function):
    """Adds a gradient that has been computed already to that of a value."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradient: Sequence[Tensor | None], *params: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.saved_tensors
        return grad, None, *(None if g is None else g * grad.to(g.dtype) for g in known)
