"""Divergences of a network's moved outputs f′ = f(x, θ + δ) from its outputs f = f(x, θ).

========================  ==================  =============================  ==============
name                      outputs             D of one example               ∂²D/∂f′² at f
========================  ==================  =============================  ==============
``"categorical"``         logits (…, C)       Σ_c p_c log(p_c / p′_c)        diag p − p pᵀ
``"bernoulli"``           logits (n, …)       the same for each logit alone  diag p(1 − p)
``"gaussian"``            means (n, …)        ½‖f′ − f‖²                     1
========================  ==================  =============================  ==============

The last column makes the Fisher matrix F = E_x Jᵀ (∂²D/∂f′²) J of Kim et al. 2026, Section 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from flatmin._check import require

DivergenceName: TypeAlias = Literal["categorical", "bernoulli", "gaussian"]

_AT_ONCE = 2**18  # numbers widened to float64 at a time: with a large vocabulary all would not fit


class Divergence(ABC):
    """D(f ‖ f′) and its derivatives, over all examples of a batch.

    Computed in float64 (float32 where the device has none), some rows at a time: D is of second
    order in f′ − f, so float32 would cancel to nothing long before the outputs do.
    """

    @abstractmethod
    def between(self, f: Tensor, moved: Tensor) -> Tensor:
        """D of each example, (…,), of outputs (…, c); differentiable in both."""

    @abstractmethod
    def rows(self, outputs: Tensor) -> Tensor:
        """The outputs as a matrix, a row for each example.

        Raises:
            ValueError: no example, complex outputs, or a shape that D is not defined for.
        """

    def count(self, outputs: Tensor) -> int:
        """The number n of examples."""
        return len(self.rows(outputs))

    def total(self, f: Tensor, moved: Tensor) -> Tensor:
        """Σ_i D(f_i ‖ f′_i), a scalar, differentiable in both."""
        pairs = [*zip(self._pieces(f), self._pieces(moved), strict=True)]
        if len(pairs) == 1:
            return self._sum(*pairs[0])
        total: Tensor = _Total.apply(f, moved, self)
        return total

    def slope(self, f: Tensor, moved: Tensor) -> Tensor:
        """∂ total / ∂f′, shaped as f′; float32 instead of float16, which it would underflow."""
        return self._by_rows(self._slope, f, moved)

    def curvature(self, f: Tensor, u: Tensor) -> Tensor:
        """(∂² total / ∂f′²) u at f′ = f, shaped as f; float32 instead of float16."""
        return self._by_rows(self._curvature, f, u)

    def quadratic(self, f: Tensor, u: Tensor) -> Tensor:
        """Σ_i uᵢᵀ (∂²D/∂f′²) uᵢ at f′ = f, a scalar."""
        pairs = zip(self._pieces(f), self._pieces(u), strict=True)
        forms = [(_wide(v) * self._curvature(_wide(rows), _wide(v))).sum() for rows, v in pairs]
        return torch.stack(forms).sum()

    def score(self, f: Tensor, generator: Generator) -> Tensor:
        """∂ log p(y | f) / ∂f for y drawn from f, shaped as f; its covariance is that curvature."""
        return self._by_rows(lambda rows: self._score(rows, generator), f)

    @abstractmethod
    def _slope(self, f: Tensor, moved: Tensor) -> Tensor: ...

    @abstractmethod
    def _curvature(self, f: Tensor, u: Tensor) -> Tensor: ...

    @abstractmethod
    def _score(self, f: Tensor, generator: Generator) -> Tensor: ...

    def _sum(self, f: Tensor, moved: Tensor) -> Tensor:
        return self.between(f, moved).sum()

    def _pieces(self, outputs: Tensor) -> tuple[Tensor, ...]:
        rows = self.rows(outputs)
        return torch.split(rows, max(1, _AT_ONCE // rows.shape[1]))

    def _by_rows(self, formula: Callable[..., Tensor], *outputs: Tensor) -> Tensor:
        dtype = torch.float32 if outputs[0].dtype == torch.float16 else outputs[0].dtype
        result = torch.empty_like(outputs[0], dtype=dtype, memory_format=torch.contiguous_format)
        with torch.no_grad():
            pieces = map(self._pieces, outputs)
            for target, *wide in zip(self._pieces(result), *pieces, strict=True):
                target.copy_(formula(*map(_wide, wide)))
        return result


class _Total(torch.autograd.Function):
    """Σ_i D(f_i ‖ f′_i) some rows at a time, forwards as well as backwards."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, moved: Tensor, divergence: Divergence) -> Tensor:
        ctx.save_for_backward(f, moved)
        ctx.divergence = divergence
        pairs = zip(divergence._pieces(f), divergence._pieces(moved), strict=True)
        return torch.stack([divergence._sum(*pair) for pair in pairs]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sides, pieces = ctx.saved_tensors, ctx.divergence._pieces
        grads = [
            torch.empty_like(side, memory_format=torch.contiguous_format) if needed else None
            for side, needed in zip(sides, ctx.needs_input_grad, strict=False)
        ]
        for row, pair in enumerate(zip(*map(pieces, sides), strict=True)):
            leaves = [rows.detach().requires_grad_() for rows in pair]
            with torch.enable_grad():
                total = ctx.divergence._sum(*leaves)
            slopes = torch.autograd.grad(total, leaves, grad)
            for target, slope in zip(grads, slopes, strict=True):
                if target is not None:
                    pieces(target)[row].copy_(slope)
        return *grads, None


class _Categorical(Divergence):
    def between(self, f: Tensor, moved: Tensor) -> Tensor:
        log_p, log_q = _wide(f).log_softmax(-1), _wide(moved).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def rows(self, outputs: Tensor) -> Tensor:
        shape = tuple(outputs.shape)
        require(
            len(shape) >= 2 and shape[-1] != 1,
            f'logits must be (..., C) with C >= 2 for divergence="categorical", got {shape};'
            ' for one logit per example there is divergence="bernoulli"',
        )
        _check(outputs)
        return outputs.flatten(0, -2)

    def _slope(self, f: Tensor, moved: Tensor) -> Tensor:
        return moved.softmax(-1) - f.softmax(-1)

    def _curvature(self, f: Tensor, u: Tensor) -> Tensor:
        p = f.softmax(-1)
        return p * (u - (p * u).sum(-1, keepdim=True))

    def _score(self, f: Tensor, generator: Generator) -> Tensor:
        p = f.softmax(-1)
        # A race of exponential times, as in torch.multinomial, which would stop at a NaN, and on a
        # GPU wait for the answer. Their logarithm is taken here: exponential_ is another number in
        # another version of torch, uniform_ is not.
        race = p / -torch.empty_like(p).uniform_(generator=generator).log()
        return torch.zeros_like(p).scatter_(-1, race.argmax(-1, keepdim=True), 1.0) - p


class _ByExample(Divergence):
    """Outputs (n, …), whose entries are independent given x."""

    def rows(self, outputs: Tensor) -> Tensor:
        shape = tuple(outputs.shape)
        require(len(shape) >= 1, "outputs must be (n, ...), got a scalar")
        _check(outputs)
        return outputs.reshape(len(outputs), -1)


class _Bernoulli(_ByExample):
    def between(self, f: Tensor, moved: Tensor) -> Tensor:
        f, moved = _wide(f), _wide(moved)
        yes = f.sigmoid() * (logsigmoid(f) - logsigmoid(moved))
        no = (-f).sigmoid() * (logsigmoid(-f) - logsigmoid(-moved))
        return (yes + no).sum(-1)

    def _slope(self, f: Tensor, moved: Tensor) -> Tensor:
        return moved.sigmoid() - f.sigmoid()

    def _curvature(self, f: Tensor, u: Tensor) -> Tensor:
        return f.sigmoid() * (-f).sigmoid() * u

    def _score(self, f: Tensor, generator: Generator) -> Tensor:
        p = f.sigmoid()
        return (torch.empty_like(p).uniform_(generator=generator) < p).to(p) - p


class _Gaussian(_ByExample):
    def between(self, f: Tensor, moved: Tensor) -> Tensor:
        return 0.5 * (_wide(moved) - _wide(f)).square().sum(-1)

    def _slope(self, f: Tensor, moved: Tensor) -> Tensor:
        return moved - f

    def _curvature(self, f: Tensor, u: Tensor) -> Tensor:
        return u

    def _score(self, f: Tensor, generator: Generator) -> Tensor:
        return torch.empty_like(f).normal_(generator=generator)


_DIVERGENCES: dict[DivergenceName, Divergence] = {
    "categorical": _Categorical(),
    "bernoulli": _Bernoulli(),
    "gaussian": _Gaussian(),
}


def divergence_named(name: DivergenceName) -> Divergence:
    """Look up a divergence.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> logits, moved = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> divergence_named("categorical").total(logits, moved)
        tensor(0.1201, dtype=torch.float64)
        >>> divergence_named("categorical").slope(logits, moved)
        tensor([[-0.2311,  0.2311]])
    """
    known = [*_DIVERGENCES]
    require(name in known, f"divergence must be one of {known}, got {name!r}")
    return _DIVERGENCES[name]


def _check(outputs: Tensor) -> None:
    shape = tuple(outputs.shape)
    require(outputs.numel() > 0, f"the batch must not be empty, got outputs {shape}")
    require(not outputs.is_complex(), f"the outputs must be real, got {outputs.dtype}")


def _wide(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.device.type == "mps" else outputs.double()
