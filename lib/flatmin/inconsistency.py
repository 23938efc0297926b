"""Local inconsistency S_ρ: how far a small step in parameter space can move a model's outputs.

::

    S_ρ(θ) = max_{‖δ‖₂ ≤ ρ} E_x D( f(x, θ) ‖ f(x, θ + δ) )  ≈  ½ ρ² λ_max(F(θ))

(Kim et al. 2026.) It needs one model and no label. :func:`local_inconsistency` measures it,
:func:`worst_case_perturbation` finds its δ, :class:`InconsistencyPenalty` adds it to a loss.

Everywhere here a *batch* is what the model is called with: a tensor ``x`` for ``model(x)``, a tuple
for ``model(*batch)``, a dict for ``model(**batch)``. The model returns its outputs as a tensor, or
an object that holds them as ``.logits``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector

from flatmin._climb import (
    DIVERGENCES,
    SIGMA,
    Divergence,
    DivergenceName,
    check_beta,
    check_climb,
    check_outputs,
    check_rho,
    new_generator,
    noise,
    pullback,
    require,
    same_randomness,
    unit,
)

T = TypeVar("T")
Batch: TypeAlias = "Tensor | tuple[Any, ...] | Mapping[str, Any]"


@dataclass(frozen=True)
class LocalInconsistency:
    """What :func:`local_inconsistency` found.

    Attributes:
        value: S_ρ, the largest over the restarts.
        delta: its perturbation, (m,), in the order of the model's trainable parameters; ‖δ‖₂ = ρ.
        history: the divergence at δ₁ … δ_K, (restarts, steps).
        converged: whether the last step of the best restart changed the value by 1 % or less;
            False with a single step, which cannot tell.
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
    generator: torch.Generator | None = None,
) -> LocalInconsistency:
    """Measure S_ρ(θ) by Algorithm 1 of Kim et al. 2026.

    From noise δ₀, each step sets δ ← ρ g/‖g‖ with g = ∇_δ E_x D( f(x, θ) ‖ f(x, θ + δ) ): near θ,
    where g = Fδ, one step of power iteration on the Fisher matrix. The model is left as it was:
    weights, ``.grad``, buffers, training flags, and the global random state.

    Args:
        model: the network f(·, θ); its trainable parameters are the m coordinates of θ.
        inputs: one batch, or a re-iterable stream of batches (a list, a ``DataLoader``), over which
            E_x is averaged with every example weighted alike. A batch of a stream that is a *list*,
            as a ``DataLoader`` makes of labelled examples, counts as ``[x, labels, ...]``: the
            model gets its first element. Batches are moved to the model's device.
        rho: radius ρ > 0 of the ball around θ.
        steps: K ≥ 1. One finds 0.7–0.8 of the maximum, three 0.9, ten 0.99 (small nets).
        restarts: independent noises, of which the best counts.
        sigma: None for the exact first step, the limit of little noise, by a Jacobian–vector
            product (see :func:`worst_case_perturbation`), or the size of δ₀ ~ N(0, (σ²/m) I).
        divergence: "categorical" for logits (n, C), "gaussian" for regression outputs (n, ...).
        training: measure in training mode (batch statistics; dropout with the same mask for
            θ and θ + δ) instead of evaluation mode.
        generator: source of the noise, on the model's device; by default seeded alike every call.

    Returns:
        The value, its δ, and the value after every step. With non-finite outputs the value is NaN;
        where the outputs do not move, δ and the value are 0.

    Raises:
        ValueError: an argument out of range, no trainable parameter, an empty batch, logits that
            are not (n, C), or a stream that can be read only once.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])        # JᵀJ/n = diag(4.5, 0.5)
        >>> S = local_inconsistency(model, x, rho=0.2, steps=20, divergence="gaussian")
        >>> f"{S.value:.4f} = {0.5 * 0.2**2 * 4.5:.4f}, converged: {S.converged}"
        '0.0900 = 0.0900, converged: True'
        >>> [round(abs(d), 4) for d in S.delta.tolist()]
        [0.2, 0.0]
    """
    require(
        isinstance(restarts, int) and restarts >= 1,
        f"restarts must be an integer >= 1, got {restarts}",
    )
    objective = _Objective(model, inputs, divergence)
    generator = generator or new_generator(objective.network.params)
    deltas, history = [], []
    with _undisturbed(model, objective.network.params, training):
        for _ in range(restarts):
            delta, values = _climb(objective, rho, steps, sigma, generator)
            final, _unused = objective.sweep(delta, climb=False)
            deltas.append(delta)
            history.append(torch.stack([*values, final]))
    curves = torch.stack(history)
    best = int(curves[:, -1].argmax())
    last = curves[best, -2:]
    return LocalInconsistency(
        value=float(last[-1]),
        delta=parameters_to_vector(deltas[best]),
        history=curves,
        converged=steps > 1 and bool((last[1] - last[0]).abs() <= 0.01 * last[1].abs()),
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

    Measuring switches autocast off; the middle column is for σ in :class:`InconsistencyPenalty`
    and :mod:`flatmin.optim`. At σ = 1 the median of the twelve was 0.98 or more everywhere.

    A layer that forward-mode differentiation does not know (a compiled model, a custom
    ``autograd.Function``) raises PyTorch's error: give such models a ``sigma``.

    Args:
        model: see :func:`local_inconsistency`, as for the other arguments.
        inputs: one batch or a re-iterable stream of batches.
        rho: radius ρ > 0.
        steps: K ≥ 1.
        sigma: None, or the size σ > 0 of the noise.
        divergence: "categorical" or "gaussian".
        training: training instead of evaluation mode.
        generator: source of the noise.

    Returns:
        δ, (m,), in the order of the model's trainable parameters, at least in float32; zero where
        the gradient vanishes or is not finite. :func:`outputs_at` applies it.

    Raises:
        ValueError: as :func:`local_inconsistency`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, x = torch.nn.Linear(4, 3), torch.randn(16, 4)
        >>> delta = worst_case_perturbation(model, x, rho=0.1)
        >>> delta.shape, round(delta.norm().item(), 6)
        (torch.Size([15]), 0.1)
    """
    objective = _Objective(model, inputs, divergence)
    generator = generator or new_generator(objective.network.params)
    with _undisturbed(model, objective.network.params, training):
        delta, _values = _climb(objective, rho, steps, sigma, generator)
    return parameters_to_vector(delta)


def outputs_at(model: nn.Module, inputs: Batch, delta: Tensor) -> Tensor:
    """Compute f(x, θ + δ) without touching the model.

    Args:
        model: the network, called in its present mode.
        inputs: one batch.
        delta: δ, (m,), in the order of the model's trainable parameters.

    Returns:
        The outputs (n, ...), differentiable in δ and θ (but not through checkpointed layers).

    Raises:
        ValueError: δ is not (m,).

    Example:
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
        >>> moved = outputs_at(model, x, torch.tensor([0.5, 0.0]))
        >>> (moved - model(x)).detach().squeeze()
        tensor([0.5000, 0.0000])
    """
    network = _Network(model)
    sizes = [p.numel() for p in network.params]
    require(delta.shape == (sum(sizes),), f"delta must be ({sum(sizes)},), got {(*delta.shape,)}")
    pieces = zip(delta.split_with_sizes(sizes), network.params, strict=True)
    weights = [(p + d.view_as(p)).to(p.dtype) for d, p in pieces]
    return network.at(weights, inputs, _itself)


class InconsistencyPenalty:
    """β S_ρ(θ) of a batch, to add to any loss under any optimizer: IAM-D of Kim et al. 2026.

    The penalty is β E_x KL( f(x, θ) ‖ f(x, θ + δ_K) ), differentiable through both sides, with δ_K
    of Algorithm 1 held fixed. Given the logits that the loss was computed from, a training step
    takes (K + 2) forward and as many backward passes, all but one of these in the call, and holds
    two graphs; :class:`flatmin.optim.IAMD` gives the same update with one graph at a time and one
    forward more.

    The loop around it stays as it is: autocast and ``GradScaler`` (its own backward passes scale
    themselves, so that half precision does not underflow), accumulation, clipping, any closure.
    Where dropout is active, leave ``logits`` out: the penalty then computes f(x, θ) itself, and one
    mask serves all its passes. Batch-norm statistics move only in the pass that yields the logits.
    For a model wrapped in ``DistributedDataParallel`` give the inner module to the penalty and the
    wrapper's logits to the call: every rank climbs on its own examples.

    Attributes:
        rho: ρ, may be changed between steps.
        beta: β, may be changed between steps.

    Args:
        model: the network f(·, θ), in the mode that training puts it in.
        rho: radius ρ > 0.
        beta: weight β ≥ 0.
        steps: K ≥ 1.
        sigma: size σ > 0 of the noise δ₀ ~ N(0, (σ²/m) I); how well it does in bfloat16 shows the
            table at :func:`worst_case_perturbation`.
        divergence: "categorical" for logits (n, C), "gaussian" for regression outputs (n, ...).
        generator: source of the noise, on the model's device; by default one seeded with 0.

    Raises:
        ValueError: an argument out of range, no trainable parameter; when called, an empty batch
            or logits that are not (n, C).

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> penalty = InconsistencyPenalty(model, rho=0.1, beta=1.0)
        >>> x, y = torch.ones(8, 4), torch.zeros(8, dtype=torch.long)
        >>> logits = model(x)
        >>> loss = torch.nn.functional.cross_entropy(logits, y) + penalty(x, logits)
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rho: float,
        beta: float = 1.0,
        steps: int = 1,
        sigma: float = SIGMA,
        divergence: DivergenceName = "categorical",
        generator: torch.Generator | None = None,
    ) -> None:
        check_climb(rho, steps, sigma, divergence)
        check_beta(beta)
        self.model = model
        self.rho, self.beta = rho, beta
        self.steps, self.sigma, self.divergence = steps, sigma, divergence
        self.generator = generator or new_generator(_Network(model).params)

    def __call__(self, inputs: Batch, logits: Tensor | None = None) -> Tensor:
        """Compute β S_ρ of one batch.

        Args:
            inputs: one batch, labels not needed: it may hold unlabelled examples.
            logits: f(x, θ) of these inputs with its graph, (n, C); computed here if left out.

        Returns:
            A scalar, at least in float32; like a loss, NaN if outputs are not finite.
        """
        check_rho(self.rho)
        check_beta(self.beta)
        network = _Network(self.model)
        params, divergence = network.params, DIVERGENCES[self.divergence]
        # Every pass but the last repeats its randomness; with logits given, that one was the last.
        last: AbstractContextManager[None] = nullcontext()
        if logits is None:
            with same_randomness(params):
                logits = network(inputs, _itself)
        else:
            last = same_randomness(params)
        reference = check_outputs(logits, self.divergence).detach()
        delta = noise(params, self.sigma, self.generator)
        for step in range(self.steps + 1):
            randomness = last if step == self.steps else same_randomness(params)
            with torch.inference_mode(False), randomness:  # this is grad mode, wherever called
                weights = network.moved(delta)
                outputs, slope = network.at(weights, inputs, _slope(divergence, reference, weights))
            if step < self.steps:
                delta = unit(slope)
                torch._foreach_mul_(delta, self.rho)
        total: Tensor = _KnownGradient.apply(divergence.total(logits, outputs), slope, *params)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return self.beta * (total / len(logits)).to(dtype)


class _KnownGradient(torch.autograd.Function):
    """Adds a gradient that has been computed already to that of a value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: list[Tensor], *params: Tensor) -> Tensor:
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradient = ctx.gradient
        return grad, None, *torch._foreach_mul(gradient, grad.to(gradient[0].dtype))


def _itself(outputs: Tensor) -> Tensor:
    return outputs


class _Network(nn.Module):
    """A model as a function of its trainable parameters, which itself is left alone.

    What is to be differentiated has to be while the weights are in place, by ``then``: a
    checkpointed layer recomputes itself with the weights it finds.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        require(bool(named), f"{type(model).__name__} has no trainable parameter")
        self.names = [name for name, _ in named]
        self.params: list[Tensor] = [p for _, p in named]

    def forward(self, batch: Batch, then: Callable[[Tensor], T]) -> T:
        args, kwargs = _arguments(batch, self.params[0].device)
        outputs = self.model(*args, **kwargs)
        return then(getattr(outputs, "logits", outputs))

    def at(self, weights: Sequence[Tensor], batch: Batch, then: Callable[[Tensor], T]) -> T:
        """What ``then`` makes of the outputs at the weights; buffers are copies."""
        state = {name: buffer.clone() for name, buffer in self.named_buffers()}
        state.update(zip(self.names, weights, strict=True))
        return functional_call(self, state, (batch, then))  # type: ignore[no-any-return]

    def moved(self, delta: Sequence[Tensor]) -> list[Tensor]:
        """θ + δ as new leaves, to differentiate by."""
        with torch.no_grad():
            return [w.requires_grad_() for w in _add(self.params, delta)]


def _slope(
    divergence: Divergence, reference: Tensor, weights: Sequence[Tensor]
) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
    """For ``then``: the outputs, and in grad mode the gradient of their total divergence."""

    def then(outputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        values = outputs.detach()
        if not torch.is_grad_enabled():
            return values, []
        return values, pullback(outputs, weights, divergence.slope(reference, values))

    return then


def _add(params: Sequence[Tensor], delta: Sequence[Tensor]) -> list[Tensor]:
    return [(p + d).to(p.dtype) for p, d in zip(params, delta, strict=True)]


class _Objective:
    """E_x D( f(x, θ) ‖ f(x, θ + δ) ) as a function of δ, over one batch or a stream of them."""

    def __init__(self, model: nn.Module, inputs: Any, divergence: DivergenceName) -> None:
        self.network = _Network(model)
        self.divergence = divergence
        if isinstance(inputs, Tensor | tuple | Mapping):
            inputs = [inputs]
        require(
            not isinstance(inputs, Iterator),
            "inputs can be read only once: give a list, a DataLoader or another re-iterable",
        )
        self.inputs = inputs

    def batches(self) -> Iterator[Batch]:
        empty = True
        for batch in self.inputs:
            yield batch[0] if isinstance(batch, list) else batch
            empty = False
        require(not empty, "inputs must hold at least one batch, got none")

    def sweep(self, delta: list[Tensor], *, climb: bool = True) -> tuple[Tensor, list[Tensor]]:
        """The value at δ and, if climbing, n times the gradient."""
        divergence, params = DIVERGENCES[self.divergence], self.network.params
        gradient = [torch.zeros_like(d) for d in delta]
        weights = self.network.moved(delta)
        total, examples = torch.zeros((), device=params[0].device), 0
        with same_randomness(params):
            for batch in self.batches():
                with torch.no_grad(), same_randomness(params):
                    reference = self.network.at(params, batch, _itself)
                check_outputs(reference, self.divergence)
                with torch.set_grad_enabled(climb):
                    then = _slope(divergence, reference, weights)
                    outputs, slope = self.network.at(weights, batch, then)
                total = total + divergence.total(reference, outputs)
                examples += len(outputs)
                if climb:
                    torch._foreach_add_(gradient, slope)
        return total / examples, gradient

    def fisher_product(self, delta: list[Tensor]) -> list[Tensor]:
        """The product n Fδ, the gradient's limit for small δ."""
        curvature, params = DIVERGENCES[self.divergence].curvature, self.network.params
        product = [torch.zeros_like(d) for d in delta]
        weights = self.network.moved([torch.zeros_like(d) for d in delta])
        with same_randomness(params), torch.enable_grad():
            for batch in self.batches():
                # The fused attention kernels have no forward-mode derivative.
                with same_randomness(params), sdpa_kernel(SDPBackend.MATH), dual_level():
                    pairs = zip(weights, delta, strict=True)
                    duals = [make_dual(w, d.to(w.dtype)) for w, d in pairs]  # type: ignore[no-untyped-call]
                    outputs = self.network.at(duals, batch, _itself)
                    check_outputs(outputs, self.divergence)
                    tangent = unpack_dual(outputs).tangent  # type: ignore[no-untyped-call]
                require(tangent is not None, "the outputs do not depend on any trainable parameter")
                u = tangent.detach()

                def then(outputs: Tensor, u: Tensor = u) -> list[Tensor]:
                    return pullback(outputs, weights, curvature(outputs.detach(), u))

                torch._foreach_add_(product, self.network.at(weights, batch, then))
        return product


def _climb(
    objective: _Objective, rho: float, steps: int, sigma: float | None, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """δ_K, and the values at δ₁ … δ_{K−1} met on the way."""
    check_climb(rho, steps, 1.0 if sigma is None else sigma, objective.divergence)
    delta = noise(objective.network.params, 1.0 if sigma is None else sigma, generator)
    values = []
    for step in range(steps):
        if step == 0 and sigma is None:
            gradient = objective.fisher_product(delta)
        else:
            value, gradient = objective.sweep(delta)
            values += [value] if step > 0 else []
        delta = unit(gradient)
        torch._foreach_mul_(delta, rho)
    return delta, values


@contextmanager
def _undisturbed(model: nn.Module, params: Sequence[Tensor], training: bool) -> Iterator[None]:
    """The model in one mode and its own precision; then flags and random state as before."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        autocast = torch.autocast(params[0].device.type, enabled=False)
        with same_randomness(params), autocast, torch.inference_mode(False):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def _arguments(batch: Batch, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        moved = value.to(device, non_blocking=True)
        return moved.clone() if moved.is_inference() else moved  # else autograd refuses it

    if isinstance(batch, Mapping):
        return (), {key: move(value) for key, value in batch.items()}
    return tuple(move(v) for v in (batch if isinstance(batch, tuple) else (batch,))), {}
