"""Going to θ + δ and back, bitwise: weights, buffers, random state, cast cache, shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn

from flatmin._check import check_not_flattened, check_rho, require
from flatmin._function import same_randomness, steady_attention
from flatmin._tangent import (
    gradient,
    here,
    noise,
    over_ranks,
    points,
    pullback,
    sharded_noise,
    unit,
)
from flatmin.directions import Tangent
from flatmin.divergences import Divergence

Forward: TypeAlias = Callable[[], Tensor]

_FORWARD_ONLY = (
    "the closure must run the forward pass only, but it has changed .grad or run backward"
)


def targets(groups: Iterable[dict[str, Any]]) -> tuple[list[Tensor], list[float]]:
    """The parameters that move, and the radius of each.

    Raises:
        ValueError: a radius out of range, nothing to move, or a parameter twice.
        NotImplementedError: parameters of FullyShardedDataParallel.
    """
    groups = [*groups]
    for group in groups:
        check_rho(group["rho"])
        check_not_flattened(group["params"])
    pairs = [(p, g["rho"]) for g in groups for p in g["params"] if p.requires_grad]
    require(bool(pairs), "params holds no trainable parameter")
    params = [p for p, _ in pairs]
    require(len({*map(id, params)}) == len(params), "params must hold each parameter once")
    return params, [rho for _, rho in pairs]


class Visit:
    """One journey to θ + δ and home, by passes of one model: a :class:`flatmin.directions.Space`.

    Attributes:
        stayed: whether the last direction had no length, or none that is finite, so that δ = 0.

    Args:
        forward: one pass, of outputs or the loss.
        groups: parameter groups, each with its "rho".
        module: the model, whose buffers come home too.
        sync: ascend by the sum of the gradients of all ranks.
        generator: source of noise and labels.
    """

    def __init__(
        self,
        forward: Forward,
        groups: Iterable[dict[str, Any]],
        *,
        module: nn.Module | None = None,
        sync: bool = False,
        generator: Generator | None = None,
    ) -> None:
        self.params, self._radii = targets(groups)
        self._forward, self._module, self._sync = forward, module, sync
        self._generator = generator
        self._sharded = any(hasattr(p, "to_local") for p in self.params)
        require(
            not self._sharded or module is not None,
            "sharded parameters (fully_shard) move only together with their model: give module=...",
        )
        self._theta: list[Tensor] = []
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self.stayed: Tensor = torch.zeros((), dtype=torch.bool)

    # The journey

    def start(self, *, graph: bool) -> Tensor:
        """The pass at θ, the only one that moves batch-norm statistics."""
        before = [(p.grad, p.grad is not None and p.grad._version) for p in self.params]
        try:
            with torch.set_grad_enabled(graph), self._rehearsal():
                reference = self._forward()
        except RuntimeError as error:  # backward under no_grad
            if "does not require grad" in str(error):
                raise RuntimeError(_FORWARD_ONLY) from error
            raise
        for p, (grad, version) in zip(self.params, before, strict=True):
            if p.grad is not None and (p.grad is not grad or p.grad._version != version):
                raise RuntimeError(_FORWARD_ONLY)
        if self._module is not None:
            self._buffers = [(b, b.clone()) for b in self._module.buffers()]
        return reference

    def go(self, delta: Tangent | None = None) -> None:
        """Move to θ + δ, or without δ back to θ."""
        params = here(self.params)
        with torch.no_grad():
            if self._theta:
                torch._foreach_copy_(params, self._theta)
            if delta is None:
                self._theta = []
            else:
                self._theta = self._theta or [p.clone() for p in params]
                torch._foreach_add_(params, here(delta))
        torch.clear_autocast_cache()  # autocast would go on with the weights it has cast before
        self._reshard()

    def home(self) -> None:
        """Move to θ, with the buffers of the pass there."""
        if self._theta:
            self.go()
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        self._buffers = []

    def outputs(self) -> Tensor:
        """A pass with its graph where the parameters are."""
        with torch.enable_grad(), self._rehearsal():
            return self._forward()

    def gradients(self, value: Tensor) -> list[Tensor | None]:
        """The gradient of a value there; None for parameters that it does not depend on."""
        if self._sharded:
            return self._left_in_grad(value)
        return gradient(value, self.params)

    @contextmanager
    def _rehearsal(self) -> Iterator[None]:
        """A pass that the next can repeat: same dropout mask, no reduction over ranks."""
        no_sync: Callable[[], AbstractContextManager[None]]
        no_sync = getattr(self._module, "no_sync", nullcontext)
        with same_randomness(self.params), steady_attention(), no_sync():
            yield

    def _reshard(self) -> None:
        """Have fully_shard gather the weights anew; it keeps those of its root."""
        if self._sharded and self._module is not None:
            for module in self._module.modules():
                reshard: Callable[[], None] | None = getattr(module, "reshard", None)
                if reshard is not None:
                    reshard()

    # The space that a direction sees

    def noise(self, sigma: float) -> Tangent:
        """δ₀ ~ N(0, (σ²/m) I)."""
        assert self._generator is not None
        if self._sharded:
            return sharded_noise(self.params, sigma, self._generator)
        return noise(self.params, sigma, self._generator)

    def outputs_at(self, delta: Tangent) -> Tensor:
        """f(x, θ + δ) with its graph; the parameters stay there."""
        self.go(delta)
        return self.outputs()

    def pullback(self, outputs: Tensor, cotangent: Tensor) -> Tangent:
        """Jᵀ times the cotangent where the parameters are."""
        if not self._sharded:
            return pullback(outputs, self.params, cotangent)
        # Not scaled, as pullback does: the ranks would differ, and their gradients are averaged.
        found = self._left_in_grad(outputs, cotangent.to(outputs.dtype))
        pairs = zip(found, self.params, strict=True)
        return [torch.zeros_like(p) if g is None else g for g, p in pairs]

    def _left_in_grad(self, outputs: Tensor, seed: Tensor | None = None) -> list[Tensor | None]:
        """The mean gradient of all ranks, by way of ``.grad``: autograd knows nothing of shards."""
        kept = [p.grad for p in self.params]
        try:
            for p in self.params:
                p.grad = None
            outputs.backward(seed)  # type: ignore[no-untyped-call]
            found = [p.grad for p in self.params]
        finally:
            for p, grad in zip(self.params, kept, strict=True):
                p.grad = grad
        if all(g is None for g in found):
            raise RuntimeError(
                "the climb met no gradient: fully_shard has to see the tensors that the model"
                " returns, and needs set_requires_gradient_sync(True)"
            )
        return found

    def onto_ball(self, gradient: Tangent) -> Tangent:
        """δ = ρ g/‖g‖, in place; each parameter's part by its own ρ."""
        if self._sync and not self._sharded:  # of shards, gradients are the mean of all ranks
            gradient = over_ranks(gradient)
        self.stayed = ~points(unit(gradient))
        torch._foreach_mul_(here(gradient), self._radii)
        return gradient

    def score(self, divergence: Divergence, outputs: Tensor) -> Tensor:
        """∂ log p(y | f)/∂f for labels y drawn from the outputs."""
        assert self._generator is not None
        return divergence.score(outputs, self._generator)

    def scales(self) -> Tangent:
        """T = |w| + 0.01 of weights and 1 of biases, which are what has one dimension."""
        weights: Sequence[Tensor] = [p.detach() for p in self.params]
        return [p.abs() + 0.01 if p.dim() > 1 else torch.ones_like(p) for p in weights]
