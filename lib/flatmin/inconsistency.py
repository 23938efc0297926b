"""Local inconsistency S_ρ: how far a small step in parameter space can move a model's outputs.

::

    S_ρ(θ) = max_{‖δ‖₂ ≤ ρ} E_x D( f(x, θ) ‖ f(x, θ + δ) )  ≈  ½ ρ² λ_max(F(θ))

(Kim et al. 2026.) It needs one model and no label. :func:`local_inconsistency` measures it,
:func:`worst_case_perturbation` finds its δ, :class:`flatmin.penalty.InconsistencyPenalty` adds it
to a loss.

Everywhere here a *batch* is what the model is called with: a tensor ``x`` for ``model(x)``, a tuple
for ``model(*batch)``, a dict for ``model(**batch)``. The model returns its outputs as a tensor, or
in an object or dict that holds them as ``logits``; else ``outputs`` says where they are. With a
causal language model, whose every token is an example::

    local_inconsistency(
        model, loader, rho=0.1, outputs=lambda out, batch: out.logits[batch["labels"] != -100])
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from flatmin._check import check_count
from flatmin._function import (
    Batch,
    Function,
    Outputs,
    Progress,
    on_device,
    steady_attention,
)
from flatmin._objective import Objective
from flatmin._tangent import generator_of
from flatmin.divergences import DivergenceName
from flatmin.fisher import FisherOperator

__all__ = ["LocalInconsistency", "local_inconsistency", "outputs_at", "worst_case_perturbation"]


@dataclass(frozen=True)
class LocalInconsistency:
    """What :func:`local_inconsistency` found.

    Attributes:
        value: S_ρ, the largest over the restarts; of each it is that at δ_K, the last iterate,
            which at a large ρ may be below an earlier one in ``history``.
        delta: its perturbation, (m,), in the order of the model's trainable parameters; ‖δ‖₂ = ρ.
        history: the divergence at δ₁ … δ_K, (restarts, steps).
        converged: whether the last step of the best restart changed the value by 1 % or less;
            False with a single step, which cannot tell, where the last gradient had no direction,
            and at 0: perhaps the weights are too coarse for this ρ or σ (float16, bfloat16), and
            rounding has swallowed δ.
    """

    value: float
    delta: Tensor
    history: Tensor
    converged: bool


def local_inconsistency(
    model: nn.Module,
    inputs: Batch | Iterable[Any],
    *,
    rho: float,
    steps: int = 3,
    restarts: int = 1,
    sigma: float | None = None,
    divergence: DivergenceName = "categorical",
    training: bool = False,
    params: Iterable[Tensor] | None = None,
    outputs: Outputs | None = None,
    progress: Progress | None = None,
    sync: bool = False,
    generator: torch.Generator | None = None,
) -> LocalInconsistency:
    """Measure S_ρ(θ) by Algorithm 1 of Kim et al. 2026.

    From noise δ₀, each step sets δ ← ρ g/‖g‖ with g = ∇_δ E_x D( f(x, θ) ‖ f(x, θ + δ) ): near θ,
    where g = Fδ, one step of power iteration on the Fisher matrix. It takes K + 2 forward passes
    over one batch, 2K + 1 over a stream. The model is left as it was: weights, ``.grad``, buffers,
    training flags, and the global random state.

    Args:
        model: the network f(·, θ); of one in ``DistributedDataParallel`` the inner module counts.
        inputs: one batch, or a re-iterable stream of batches (a list, a ``DataLoader``), over which
            E_x is averaged with every example weighted alike. A batch of a stream that is a *list*,
            as a ``DataLoader`` makes of labelled examples, counts as ``[x, labels, ...]``: the
            model gets its first element. Batches are moved to the model's device.
        rho: radius ρ > 0 of the ball around θ.
        steps: K ≥ 1. One finds 0.7–0.8 of the maximum, three 0.9, ten 0.99 (small nets).
        restarts: independent noises, of which the best counts.
        sigma: None for the exact first step, the limit of little noise, by a Jacobian–vector
            product (see :func:`worst_case_perturbation`), or the size of δ₀ ~ N(0, (σ²/m) I).
        divergence: "categorical" for logits (…, C), every row an example; "bernoulli" for logits of
            yes or no (n, …); "gaussian" for regression outputs (n, …).
        training: measure in training mode (batch statistics; dropout with the same mask for
            θ and θ + δ) instead of evaluation mode.
        params: the m coordinates of θ, in this order, such as ``model.head.parameters()``; by
            default all trainable parameters of the model.
        outputs: ``(what the model returns, batch) -> tensor``: the outputs to compare, by default
            the model's tensor or logits. The batch is as in ``inputs``, on the model's device.
        progress: wraps a stream in each pass over it, of which there are K + 1 for every restart,
            such as ``tqdm.tqdm``.
        sync: measure the inputs of all processes together: each calls this with its own, their sums
            meet, and all return the same. Generators, if given, must agree. Without it each process
            has a δ of its own, and the mean of their values is at least that of all inputs.
        generator: source of the noise, on the model's device; by default seeded alike every call.

    Returns:
        The value, its δ, and the value after every step. With non-finite outputs, or a first
        gradient that is not finite, the value is NaN; where the outputs do not move, δ and the
        value are 0. A later gradient that vanishes or overflows, at a very large ρ, leaves δ as it
        is.

    Raises:
        ValueError: an argument out of range, no trainable parameter, an empty batch, outputs of a
            shape that the divergence is not defined for, or complex, a stream that can be read only
            once, or ``sync`` without a process group.
        TypeError: no tensor among the model's outputs.
        NotImplementedError: parameters sharded over processes.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])        # JᵀJ/n = diag(4.5, 0.5)
        >>> S = local_inconsistency(model, x, rho=0.2, steps=20, divergence="gaussian")
        >>> f"{S.value:.4f} = {0.5 * 0.2**2 * 4.5:.4f}, converged: {S.converged}"
        '0.0900 = 0.0900, converged: True'
        >>> [round(abs(d), 4) for d in S.delta.tolist()]
        [0.2, 0.0]
    """
    check_count("restarts", restarts)
    fisher = FisherOperator(
        model,
        inputs,
        divergence=divergence,
        training=training,
        params=params,
        outputs=outputs,
        progress=progress,
        sync=sync,
    )
    objective = Objective(
        fisher, rho, steps, sigma, generator_of(fisher.function.params, generator)
    )
    deltas, history, lengths = [], [], []
    with fisher.function.measured(training):
        for _ in range(restarts):
            delta, values, norms = objective.climb()
            final, _unused = objective.sweep(delta, climb=False)
            deltas.append(delta)
            # Where the first gradient is not finite, δ = 0 is no finding, and D = 0 there neither.
            history.append(torch.stack([*values, final]) + 0 * norms[0])
            lengths.append(norms[-1])
    curves = torch.stack(history)
    best = int(curves[:, -1].argmax())
    *before, value, norm = torch.stack([*curves[best, -2:], lengths[best].to(curves)]).tolist()
    return LocalInconsistency(
        value=value,
        delta=parameters_to_vector(deltas[best]),
        history=curves,
        converged=bool(before)
        and 0 < norm < math.inf
        and value > 0
        and abs(value - before[0]) <= 0.01 * value,
    )


def worst_case_perturbation(
    model: nn.Module,
    inputs: Batch | Iterable[Any],
    *,
    rho: float,
    steps: int = 3,
    sigma: float | None = None,
    divergence: DivergenceName = "categorical",
    training: bool = False,
    params: Iterable[Tensor] | None = None,
    outputs: Outputs | None = None,
    progress: Progress | None = None,
    sync: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find δ_K of Algorithm 1, the perturbation of size ρ that moves the outputs most.

    The first step has two forms. With ``sigma``, the paper's: the gradient at noise
    δ₀ ~ N(0, (σ²/m) I). With ``sigma=None``, its limit for little noise, ::

        g₀ = Fδ₀ = (1/n) Σ_x Jᵀ (diag p − p pᵀ) J δ₀,

    by one forward-mode and one reverse-mode product: no scale to choose, nothing that cancels. It
    is the default because it held its direction in bfloat16 too, where a small step is lost in
    rounding. Cosine of g₀ with the exact form in float64, the worst of twelve: the 6-layer CNN and
    WRN-16-2 on 64 Fashion-MNIST images, each at initialisation and after 100 steps of SGD (rate
    0.05, momentum 0.9), three noises each:

    ========  =======  =============  ================
    σ         float32  bf16 autocast  bfloat16 weights
    ========  =======  =============  ================
    None      1.00     –              1.00
    0.01      1.00     −0.86          −0.86
    0.1       1.00     −0.48          −0.73
    1         0.99     0.56           0.67
    3         0.94     0.94           0.94
    ========  =======  =============  ================

    Measuring switches autocast off; the middle column is for σ in :mod:`flatmin.penalty` and
    :mod:`flatmin.optim`. At σ = 1 the median of the twelve was 0.98 or more everywhere.

    A layer that forward-mode differentiation does not know (a compiled model, a custom
    ``autograd.Function``, in PyTorch 2.6 a checkpointed layer) raises PyTorch's error: give such
    models a ``sigma``.

    Args:
        model: see :func:`local_inconsistency`, as for the other arguments.
        inputs: one batch or a re-iterable stream of batches.
        rho: radius ρ > 0.
        steps: K ≥ 1.
        sigma: None, or the size σ > 0 of the noise.
        divergence: names D.
        training: training instead of evaluation mode.
        params: the coordinates of θ.
        outputs: picks the outputs.
        progress: wraps a stream.
        sync: by the inputs of all processes.
        generator: source of the noise.

    Returns:
        δ, (m,), in the order of the parameters, at least in float32; zero where the first gradient
        vanishes or is not finite, while a later one of that kind leaves δ as it is.
        :func:`outputs_at` applies it.

    Raises:
        ValueError: as :func:`local_inconsistency`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, x = torch.nn.Linear(4, 3), torch.randn(16, 4)
        >>> delta = worst_case_perturbation(model, x, rho=0.1)
        >>> delta.shape, round(delta.norm().item(), 6)
        (torch.Size([15]), 0.1)
    """
    fisher = FisherOperator(
        model,
        inputs,
        divergence=divergence,
        training=training,
        params=params,
        outputs=outputs,
        progress=progress,
        sync=sync,
    )
    objective = Objective(
        fisher, rho, steps, sigma, generator_of(fisher.function.params, generator)
    )
    with fisher.function.measured(training):
        delta, *_unused = objective.climb()
    return parameters_to_vector(delta)


def outputs_at(
    model: nn.Module,
    inputs: Batch,
    delta: Tensor,
    *,
    params: Iterable[Tensor] | None = None,
    outputs: Outputs | None = None,
) -> Tensor:
    """Compute f(x, θ + δ) without touching the model.

    Args:
        model: the network, called in its present mode.
        inputs: one batch.
        delta: δ, (m,), in the order of the model's trainable parameters, or of ``params``.
        params: see :func:`local_inconsistency`, as for ``outputs``.
        outputs: what of the model's return.

    Returns:
        The outputs (n, ...), differentiable in δ and θ (but not through checkpointed layers).

    Raises:
        ValueError: δ is not (m,), or complex where no parameter is.

    Example:
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
        >>> moved = outputs_at(model, x, torch.tensor([0.5, 0.0]))
        >>> (moved - model(x)).detach().squeeze()
        tensor([0.5000, 0.0000])
    """
    function = Function(model, params, outputs)
    pieces = function.split(delta, "delta")
    pairs = zip(function.params, pieces, strict=True)
    with steady_attention(), function.at([(p + d).to(p.dtype) for p, d in pairs]):
        return function(on_device(inputs, function.params[0].device))
