"""Optimizers that climb before they descend: SAM, ASAM, IAM-S and IAM-D.

Each wraps a base optimizer, moves the parameters θ to θ + δ and back, bit for bit, and lets the
base optimizer step with the gradient it met. δ has norm ρ and ascends

- the loss in :class:`SAM` (Foret et al. 2021) and ASAM (Kwon et al. 2021),
- the divergence of the outputs from f(x, θ) in :class:`IAMS` and :class:`IAMD` (Kim et al. 2026,
  Algorithm 2), which needs no label: the logits may cover more examples than the loss.

**In the loop you have**: attach the model, and change nothing else::

    optimizer = IAMS(model.parameters(), torch.optim.AdamW, rho=0.1, lr=1e-3)
    optimizer.attach(model)

    logits = model(x)                            # climbs; then a pass at θ + δ
    cross_entropy(logits, y).backward()          # θ is back
    optimizer.step()

So with Hugging Face's ``Trainer(model, args, optimizers=(optimizer, scheduler))``, with Lightning
(attach the network, not the LightningModule, in ``configure_optimizers``), accelerate and timm, and
with accumulation, clipping, schedulers, mixed precision, checkpointing (``use_reentrant=False``),
``torch.compile``. The loop sees the loss at θ + δ; evaluation and ``no_grad`` are plain passes. SAM
climbs by the loss that the model returns, or ``attach(model, loss=...)``, IAM-S by its logits or
``attach(model, outputs=...)``; IAM-D adds β S_ρ to the loss that it returns.

**With a closure** that runs the forward pass and no backward::

    def closure():
        logits = model(x)                        # autocast, if at all: in here
        return cross_entropy(logits[: len(y)], y), logits

    loss = optimizer.step(closure)               # the loss at θ

Give ``module=model`` too, so that batch-norm statistics move once per step. Clip by a hook:
``optimizer.base_optimizer.register_step_pre_hook``.

**By hand** (SAM, IAM-S)::

    with optimizer.perturbed(lambda: model(x)):  # SAM: the loss instead
        cross_entropy(model(x), y).backward()
    optimizer.step()

For IAM-D add :class:`flatmin.penalty.InconsistencyPenalty` to the loss, under any optimizer.

**Many processes.** ``DistributedDataParallel``: attach it, or give it as ``module``; one backward
pass is reduced, each rank climbs on its own examples, with ``sync=True`` all by their common
gradient. After ``fully_shard`` make the optimizer, with ``module=model`` or attached; all ranks
climb together, and their generators must agree (by default they do).

**Dropout** draws one mask for all passes of a step. A climb by a gradient that is zero or not
finite stays at θ, a step by one that is not finite counts as one of zero: ``optimizer.stayed`` and
``optimizer.skipped`` count them. Nothing waits for the device. Settings and noise are saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from flatmin._attach import Attachment, Penalised, read
from flatmin._check import check_beta, require
from flatmin._climber import Climber, Passes
from flatmin._function import Outputs, logits_of
from flatmin._tangent import SIGMA, generator_of
from flatmin._visit import Visit, targets
from flatmin._wrapper import Base, Setting
from flatmin.directions import Adaptive, Algorithm1, Loss, Random, Score
from flatmin.directions import Direction as _Direction
from flatmin.divergences import DivergenceName, divergence_named

__all__ = ["IAMD", "IAMS", "SAM", "Climber", "Direction"]

Direction: TypeAlias = Literal["gradient", "score", "random"]


class SAM(Climber):
    """Sharpness-aware minimization, and with ``adaptive=True`` its scale-invariant form ASAM.

    SAM steps by ∇L(θ + δ) with δ = ρ g/‖g‖, g = ∇L(θ) (Foret et al. 2021, equation 2). ASAM
    measures δ relative to the weights: δ = ρ T² g/‖T g‖ with T = |w| + 0.01 on weights and 1 on
    biases (Kwon et al. 2021, equation 9); what has one dimension counts as a bias. Its radii are
    about ten times SAM's. A step takes two forward and two backward passes.

    Args:
        params: parameters or groups of them, as for any optimizer.
        base_optimizer: what steps: a class such as ``torch.optim.SGD``, another callable that makes
            an optimizer of ``params``, or a list of ready optimizers that share them out.
        rho: radius ρ > 0, also per group.
        adaptive: ASAM instead of SAM.
        module: the model, so that its batch-norm statistics move once per step.
        sync: ascend by the gradient summed over all ranks of the process group.
        **base_kwargs: passed to the base optimizer.

    Raises:
        ValueError: ρ out of range, nothing to train, a parameter twice, ``params`` without some of
            ``module``'s, or a base optimizer of other parameters or one that needs a closure.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([3.0]))
        >>> optimizer = SAM([w], torch.optim.SGD, rho=0.5, lr=0.1)
        >>> optimizer.step(lambda: 0.5 * w.square().sum())      # L = w²/2; steps by w + ρ
        tensor(4.5000)
        >>> w.data
        tensor([2.6500])
    """

    _settings: ClassVar[tuple[str, ...]] = ("rho", "adaptive")
    adaptive = Setting()

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Base,
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        module: nn.Module | None = None,
        sync: bool = False,
        **base_kwargs: Any,
    ) -> None:
        base_kwargs |= {"rho": rho, "adaptive": adaptive}
        super().__init__(params, base_optimizer, module=module, sync=sync, **base_kwargs)

    def _direction(self, group: dict[str, Any]) -> _Direction:
        return Adaptive() if group["adaptive"] else Loss()

    def _objective(self, outputs: Any) -> Tensor:
        return outputs if isinstance(outputs, Tensor) else read(outputs, "loss")

    def _check_reference(self, reference: Tensor) -> None:
        shape = tuple(reference.shape)
        require(
            reference.numel() == 1,
            f"SAM climbs by the loss, a scalar, got {shape}; attach() takes loss=..., from outputs",
        )

    def attach(
        self, model: nn.Module, *, loss: Callable[[Any], Tensor] | None = None
    ) -> Attachment:
        """Climb in the model's forward, see :meth:`Climber.attach`.

        Args:
            model: the model that the loop calls.
            loss: from what the model returns to the loss, up to a factor; left out, the model has
                to return the loss, or something with ``.loss``.
        """
        by: Outputs | None = None if loss is None else lambda returned, _batch: loss(returned)
        return self._attach(model, Attachment, by)


class IAMS(Climber):
    """IAM-S: steps by ∇L(θ + δ), δ the perturbation that moves the outputs most.

    δ_K is that of Algorithm 1 of Kim et al. 2026 on the logits of the step, K = ``steps``; the rest
    is as in SAM (Algorithm 2). It takes (K + 2) forward and (K + 1) backward passes.

    With ``direction="score"`` δ points along the mean score, the gradient of log f(x, θ)_y averaged
    over the batch, under labels y drawn from f(x, θ) itself. Its covariance is F/n: as a direction
    it is half a step of Algorithm 1, for two forward and two backward passes in all, as in SAM.
    Once a network is right and so sure (a loss well below 1/n) that the labels drawn are the true
    ones, the score is −∇L at every draw, and the climb is SAM's with its sign turned.

    With ``direction="random"`` δ points anywhere: the control that a claim for a direction needs.

    Args:
        params, base_optimizer, rho: as for :class:`SAM`.
        sigma: size σ > 0 of the noise δ₀ ~ N(0, (σ²/m) I).
        steps: K ≥ 1.
        divergence: "categorical" for logits (..., C), "bernoulli" for one logit per example (n,
            ...), "gaussian" for regression outputs (n, ...).
        direction: "gradient" for Algorithm 1; "score" for the mean score, without noise; "random"
            for the noise itself, made as long as ρ. K = 1 for both.
        generator: source of the noise or the labels, on the parameters' device; default seed 0.
        module, sync: as for :class:`SAM`.
        **base_kwargs: passed to the base optimizer.

    Raises:
        ValueError: as for :class:`SAM`, or another argument out of range.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
        >>> x, y = torch.ones(8, 4), torch.zeros(6, dtype=torch.long)   # two without a label
        >>> def closure():
        ...     logits = model(x)
        ...     return torch.nn.functional.cross_entropy(logits[:6], y), logits
        >>> first = optimizer.step(closure)
        >>> optimizer.zero_grad()
        >>> bool(optimizer.step(closure) < first)
        True
    """

    _settings: ClassVar[tuple[str, ...]] = ("rho", "sigma", "steps", "divergence", "direction")
    sigma, steps, divergence, direction = Setting(), Setting(), Setting(), Setting()
    _attachment: ClassVar[type[Attachment]] = Attachment

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Base,
        *,
        rho: float,
        sigma: float = SIGMA,
        steps: int = 1,
        divergence: DivergenceName = "categorical",
        direction: Direction = "gradient",
        generator: torch.Generator | None = None,
        module: nn.Module | None = None,
        sync: bool = False,
        **base_kwargs: Any,
    ) -> None:
        settings: dict[str, Any] = {"rho": rho, "sigma": sigma, "steps": steps}
        settings |= {"divergence": divergence, "direction": direction}
        rest: dict[str, Any] = {"module": module, "sync": sync, **base_kwargs}
        super().__init__(params, base_optimizer, **settings, **rest)
        self.generator = generator_of(targets(self.param_groups)[0], generator)

    def _direction(self, group: dict[str, Any]) -> _Direction:
        known, direction, steps = get_args(Direction), group["direction"], group["steps"]
        require(direction in known, f"direction must be one of {known}, got {direction!r}")
        algorithm = Algorithm1(steps, group["sigma"], group["divergence"])
        if direction == "gradient":
            return algorithm
        require(steps == 1, f'steps must be 1 for direction="{direction}", got {steps}')
        return Random() if direction == "random" else Score(algorithm.divergence)

    def _objective(self, outputs: Any) -> Tensor:
        return logits_of(outputs)

    def _check_reference(self, reference: Tensor) -> None:
        divergence_named(self.divergence).rows(reference)

    def attach(self, model: nn.Module, *, outputs: Outputs | None = None) -> Attachment:
        """Climb in the model's forward, see :meth:`Climber.attach`.

        Args:
            model: the model that the loop calls. For IAM-D, which adds β S_ρ to its loss, it has to
                return that, as ``.loss`` or ``["loss"]`` beside its logits.
            outputs: ``(what the model returns, batch) -> tensor`` to climb by, such as the logits
                of tokens with a label; by default the model's tensor or logits. The batch is the
                dict of keyword arguments, or without any the one argument or the tuple of them.
        """
        return self._attach(model, self._attachment, outputs)


class IAMD(IAMS):
    """IAM-D: minimises L(θ) + β S_ρ(θ) (Kim et al. 2026, Algorithm 2).

    S_ρ is the divergence of f(x, θ + δ_K) from f(x, θ), differentiated through both of its sides
    with δ_K fixed. :meth:`Climber.step` holds one graph at a time: memory is that of SGD, for
    (K + 3) forward and (K + 2) backward passes; with ``direction="score"`` three of each, with
    "random" three and two. :class:`flatmin.penalty.InconsistencyPenalty` gives the same update with
    one forward less and two graphs. A step by gradients of :meth:`Climber.perturbed` is refused, as
    they lack that of S_ρ. The loss of an attached model has β S_ρ in it, and is scaled with it.

    Args:
        params, base_optimizer, rho: as for :class:`SAM`.
        beta: weight β ≥ 0.
        **kwargs: as for :class:`IAMS`.

    Raises:
        ValueError: as for :class:`IAMS`, or β < 0.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = IAMD(model.parameters(), torch.optim.SGD, rho=0.1, beta=1.0, lr=0.1)
        >>> x, y = torch.ones(8, 4), torch.zeros(8, dtype=torch.long)
        >>> def closure():
        ...     logits = model(x)
        ...     return torch.nn.functional.cross_entropy(logits, y), logits
        >>> loss = optimizer.step(closure)
    """

    _settings: ClassVar[tuple[str, ...]] = (*IAMS._settings, "beta")
    beta = Setting()
    _attachment = Penalised
    _steps_by_there = False
    _needs = (
        "IAMD steps by a closure, or after a training forward of a model given to attach():"
        " gradients taken inside perturbed() lack that of beta S_rho. Or add"
        " InconsistencyPenalty to the loss under any optimizer"
    )

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Base,
        *,
        rho: float,
        beta: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(params, base_optimizer, rho=rho, **{"beta": beta, **kwargs})

    def _direction(self, group: dict[str, Any]) -> _Direction:
        check_beta(group["beta"])
        return super()._direction(group)

    def _backward(self, closure: Callable[[], Any]) -> Tensor | None:
        passes = Passes(closure, by_loss=False)
        visit, reference = self._depart(passes.objective, self._module)
        try:
            moved, there = self._far_side(visit, reference)
            del reference  # as large as the logits, and not needed any more
            loss, logits = passes.run()
            # After the forward, which may zero .grad; before backward, which reduces over ranks.
            for p, g in zip(visit.params, there, strict=True):
                if g is not None:  # a copy: weights that are added somewhere have one in common
                    p.grad = g.clone() if p.grad is None else p.grad.add_(g)
            total = loss + self._penalty(logits, moved)
            del loss, logits, moved
            total.backward()  # type: ignore[no-untyped-call]
        finally:
            visit.home()
        self._climbed = True
        return passes.loss

    def _far_side(self, visit: Visit, reference: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """f(x, θ + δ), and the gradient of β S_ρ through it; then back to θ."""
        outputs = visit.outputs()
        there = visit.gradients(self._penalty(reference, outputs))
        visit.go()
        return outputs.detach(), there

    def _penalty(self, outputs: Tensor, moved: Tensor) -> Tensor:
        divergence, beta = divergence_named(self.divergence), float(self.beta)
        return divergence.total(outputs, moved) * beta / divergence.count(outputs)
