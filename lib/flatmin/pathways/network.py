"""Parallel deep pathways as a torch module, trained by plain gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from flatmin.pathways._check import non_negative, valid_depths


class MultiPathway(nn.Module):
    """H parallel pathways of square layers, f(x) = Σ_h W_{h,L_h} ⋯ W_{h,1} x (Kim & Lee 2026).

    With an activation it acts after every layer but the last of a pathway. Weights are float64 and
    start as identities; choose a start with one of the ``start_`` methods.

    Args:
        depths: Layers L_h ≥ 1 of each pathway; they may differ.
        width: d ≥ 1, of the input, the output and every layer.
        activation: An elementwise function such as ``torch.tanh``, or None for a linear network.

    Attributes:
        weights: One parameter per pathway, shape ``(L_h, d, d)``, from input to output.

    Raises:
        ValueError: If a depth or the width is below 1, or there is no pathway.

    Example:
        >>> network = MultiPathway([2, 3], width=2).start_balanced([0.25, 0.125])
        >>> network(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
        tensor([[0.3750, 0.7500]], dtype=torch.float64, grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        depths: Sequence[int],
        width: int,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.depths: tuple[int, ...] = tuple(valid_depths(list(depths)).tolist())
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = width
        self.activation = activation
        eye = torch.eye(width, dtype=torch.float64)
        self.weights = nn.ParameterList(eye.repeat(depth, 1, 1) for depth in self.depths)

    @torch.no_grad()
    def start_balanced(self, init: ArrayLike | Tensor) -> MultiPathway:
        """Depth-balanced start W_{hℓ} = α_h^{1/L_h} I: on the SVS set of a symmetric target.

        Args:
            init: End-to-end strengths α_h ≥ 0, shape ``(pathways,)``.

        Returns:
            The network itself.

        Raises:
            ValueError: If a strength is negative or NaN, or there is not one for each pathway.
        """
        alphas = non_negative("init", init)
        if alphas.shape != (len(self.depths),):
            raise ValueError(
                f"init needs one entry for each of {len(self.depths)} pathways, got {init!r}"
            )
        for weight, depth, alpha in zip(self.weights, self.depths, alphas, strict=True):
            weight.copy_(alpha ** (1 / depth) * torch.eye(self.width).to(weight))
        return self

    @torch.no_grad()
    def start_aligned(
        self, target: Tensor, strengths: ArrayLike | Tensor, generator: torch.Generator
    ) -> MultiPathway:
        """Depth-balanced point of the singular-vector-stationary set with given strengths.

        W_{hℓ} = Q_{h,ℓ+1} Σ_h^{1/L_h} Q_{hℓ}ᵀ, random orthogonal Q in between, V⋆ at the input and
        U⋆ at the output (Kim & Lee 2026, Section 3).

        Args:
            target: M⋆, shape ``(d, d)``; its singular vectors are those ``torch.linalg.svd`` gives.
            strengths: End-to-end strengths σ_{ih} ≥ 0, shape ``(d, pathways)``.
            generator: Draws the orthogonal matrices.

        Returns:
            The network itself.

        Raises:
            ValueError: If a strength is negative or NaN, or a shape does not fit.
        """
        left, _, right = self._modes(target)
        values = torch.from_numpy(non_negative("strengths", strengths)).to(left)
        if values.shape != (self.width, len(self.depths)):
            raise ValueError(
                f"strengths must have shape (width, pathways) = {(self.width, len(self.depths))}, "
                f"got {tuple(values.shape)}"
            )
        for weight, depth, value in zip(self.weights, self.depths, values.T, strict=True):
            noise = torch.randn(
                depth - 1,
                *left.shape,
                generator=generator,
                dtype=left.dtype,
                device=generator.device,
            )
            inner = torch.linalg.qr(noise.to(left.device)).Q
            frames = torch.cat((right[None], inner, left[None]))
            weight.copy_(frames[1:] * value ** (1 / depth) @ frames[:-1].mT)
        return self

    @torch.no_grad()
    def start_random(self, scale: float, generator: torch.Generator) -> MultiPathway:
        """Independent Gaussian weights of standard deviation ``scale``/√d: off the SVS set.

        Args:
            scale: At 1 a layer keeps the length of a vector on average.
            generator: Draws the weights.

        Returns:
            The network itself.
        """
        for weight in self.weights:
            noise = torch.randn(
                weight.shape, generator=generator, dtype=weight.dtype, device=generator.device
            )
            weight.copy_(noise * scale / self.width**0.5)
        return self

    def pathway_outputs(self, inputs: Tensor) -> Tensor:
        """What each pathway adds to the output, f_h(x), from ``(n, d)`` to ``(pathways, n, d)``."""
        if self.activation is None:
            return inputs @ self.path_maps().mT
        outputs = []
        for weight in self.weights:
            first, *rest = weight
            signal = inputs @ first.mT
            for layer in rest:
                signal = self.activation(signal) @ layer.mT
            outputs.append(signal)
        return torch.stack(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Σ_h f_h(x) for ``inputs`` of shape ``(n, d)``."""
        return self.pathway_outputs(inputs).sum(0)

    def path_maps(self, inputs: Tensor | None = None) -> Tensor:
        """The linear map Ω_h of every pathway, shape ``(pathways, d, d)``.

        Without ``inputs`` the product W_{h,L_h} ⋯ W_{h,1}: all there is to know of a linear
        pathway, and the Jacobian at 0 of one with tanh. With ``inputs``, shape ``(n, d)``, the
        linear map that fits f_h on them best in least squares, E[f_h(x) xᵀ] for white inputs: what
        a pathway that saturates really passes on.
        """
        if inputs is None:
            return torch.stack([reduce(lambda out, w: w @ out, weight) for weight in self.weights])
        outputs = self.pathway_outputs(inputs)
        fit: Tensor = torch.linalg.pinv(inputs) @ outputs  # lstsq refuses what a NaN reached
        return fit.mT

    def strengths(self, target: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Mode strengths σ_{ih} = u_iᵀ Ω_h v_i in the singular vectors of ``target``.

        Args:
            target: M⋆, shape ``(d, d)``. Equal singular values leave the choice of vectors to
                ``torch.linalg.svd``.
            inputs: As in :meth:`path_maps`; the paper's K_{hi} of a tanh network.

        Returns:
            Shape ``(d, pathways)``, modes by falling singular value.
        """
        left, _, right = self._modes(target)
        return torch.einsum("ai,hab,bi->ih", left, self.path_maps(inputs), right)

    def loss(self, target: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Half the mean squared error to M⋆x over ``inputs``.

        Args:
            target: M⋆, shape ``(d, d)``.
            inputs: Shape ``(n, d)``. Without them the n = d inputs √d e_i are used, whose second
                moment is the identity: for a linear network that is ½‖Σ_h Ω_h − M⋆‖_F².

        Returns:
            The loss, a scalar.

        Raises:
            ValueError: If the target has another shape.
        """
        self._fits(target)
        if self.activation is None and inputs is None:
            return torch.sum((self.path_maps().sum(0) - target).square()) / 2
        if inputs is None:
            inputs = self.width**0.5 * torch.eye(self.width).to(target)
        return torch.sum((self(inputs) - inputs @ target.mT).square()) / (2 * len(inputs))

    def sharpness(self, target: Tensor, inputs: Tensor | None = None) -> float:
        """Largest eigenvalue of the Hessian of :meth:`loss` in all weights, by Lanczos iteration.

        Args:
            target: M⋆, shape ``(d, d)``.
            inputs: As in :meth:`loss`.

        Returns:
            The eigenvalue, to a relative 1e-10.
        """
        weights = list(self.weights)
        slopes = torch.autograd.grad(self.loss(target, inputs), weights, create_graph=True)
        slope = torch.cat([s.reshape(-1) for s in slopes])

        def product(vector: np.ndarray) -> np.ndarray:
            along = torch.from_numpy(vector.reshape(-1)).to(slope)
            curves = torch.autograd.grad(slope, weights, along, retain_graph=True)
            return torch.cat([c.reshape(-1) for c in curves]).double().cpu().numpy()

        size = slope.numel()
        start = np.random.default_rng(0).standard_normal(size)  # overlaps every eigenvector
        image = product(start)
        if size == 1 or not image.any():  # too small for Lanczos, or flat in every direction
            return float(image[0] / start[0])
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        return float(
            eigsh(operator, k=1, which="LA", v0=start, tol=1e-10, return_eigenvectors=False)[0]
        )

    def _modes(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U⋆, σ⋆ and V⋆ of the target."""
        self._fits(target)
        left, values, right = torch.linalg.svd(target)
        return left, values, right.mT

    def _fits(self, target: Tensor) -> None:
        if target.shape != (self.width, self.width):
            raise ValueError(
                f"target must have shape {(self.width, self.width)}, got {tuple(target.shape)}"
            )


@dataclass(frozen=True)
class TrainingHistory:
    """What :func:`train` recorded.

    Attributes:
        steps: The steps recorded, shape ``(times,)``.
        step_size: η in force at each, shape ``(times,)``.
        loss: Shape ``(times,)``.
        strengths: σ_{ih}, shape ``(times, d, pathways)``.
        sharpness: Top Hessian eigenvalue, shape ``(times,)``; empty if it was not asked for.
    """

    steps: Tensor
    step_size: Tensor
    loss: Tensor
    strengths: Tensor
    sharpness: Tensor


def train(
    network: MultiPathway,
    target: Tensor,
    step_size: float | Callable[[int], float],
    steps: int,
    *,
    inputs: Tensor | None = None,
    record_every: int = 1,
    sharpness: bool = True,
) -> TrainingHistory:
    """Plain full-batch gradient descent, W ← W − η ∇ℒ, in place.

    Args:
        network: Trained from where it stands.
        target: M⋆, shape ``(d, d)``.
        step_size: η ≥ 0, or a function from the step (0, 1, …) to η, such as a warm-up.
        steps: Gradient steps, at least 0.
        inputs: As in :meth:`MultiPathway.loss`, and for the recorded strengths.
        record_every: Record every n-th step; the first and the last are always recorded.
        sharpness: Whether to record it: it costs some dozens of gradient steps each time.

    Returns:
        The history, on the CPU. A run that diverged stops at the next record.

    Raises:
        ValueError: If a count or step size is outside its range, or the target has another shape.

    Example:
        >>> network = MultiPathway([3, 3], width=1).start_balanced([0.3, 0.2])
        >>> history = train(network, torch.ones(1, 1).double(), 0.1, 200, record_every=200)
        >>> history.loss[-1] < 1e-12
        tensor(True)
    """
    if steps < 0 or record_every < 1:
        raise ValueError(
            f"need steps >= 0 and record_every >= 1, got steps={steps}, record_every={record_every}"
        )
    schedule = step_size if callable(step_size) else lambda _: step_size
    weights = list(network.weights)
    records: list[tuple[int, float, float, Tensor, float]] = []
    for step in range(steps + 1):
        rate = float(non_negative("step_size", schedule(step)))
        loss = network.loss(target, inputs)
        if step % record_every == 0 or step == steps:
            finite = bool(loss.isfinite())
            with torch.no_grad():
                strengths = network.strengths(target, inputs).cpu()
            top = network.sharpness(target, inputs) if sharpness and finite else float("nan")
            records.append((step, rate, loss.item(), strengths, top))
            if not finite:
                break
        if step < steps:
            slopes = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, slopes, alpha=-rate)
    at, rates, losses, modes, tops = zip(*records, strict=True)
    return TrainingHistory(
        steps=torch.tensor(at),
        step_size=torch.tensor(rates, dtype=torch.float64),
        loss=torch.tensor(losses, dtype=torch.float64),
        strengths=torch.stack(modes),
        sharpness=torch.tensor(tops if sharpness else [], dtype=torch.float64),
    )
