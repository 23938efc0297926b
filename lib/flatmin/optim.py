"""Optimizers that climb before they descend: SAM, ASAM, IAM-S and IAM-D.

Each wraps a base optimizer, moves the parameters θ to θ + δ and back, bit for bit, and lets the
base optimizer step with the gradient it met. δ has norm ρ and ascends

- the loss in :class:`SAM` (Foret et al. 2021) and ASAM (Kwon et al. 2021),
- the divergence of the outputs from f(x, θ) in :class:`IAMS` and :class:`IAMD` (Kim et al. 2026,
  Algorithm 2), which needs no label: the logits may cover more examples than the loss.

**With a closure** that runs the forward pass and no backward::

    optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, module=model)

    def closure():
        with torch.autocast("cuda", torch.bfloat16):            # if at all: inside
            logits = model(x)
            return cross_entropy(logits[: len(y)], y), logits

    optimizer.zero_grad()
    loss = optimizer.step(closure)                              # the loss at θ
    scheduler.step()                                            # any of torch.optim

Gradients are clipped by a hook on the base optimizer::

    def clip(*_):
        clip_grad_norm_(model.parameters(), 1.0)

    optimizer.base_optimizer.register_step_pre_hook(clip)

**In a loop of your own** (SAM, IAM-S) :meth:`Climber.perturbed` is the whole change. With
accumulation, fp16 and clipping::

    for x, y in micro_batches:
        with optimizer.perturbed(lambda: model(x)):             # SAM: the scaled loss instead
            scaler.scale(cross_entropy(model(x), y) / len(micro_batches)).backward()
    scaler.unscale_(optimizer)
    clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()

For IAM-D add :class:`flatmin.inconsistency.InconsistencyPenalty` to the loss there, under any
optimizer.

**DistributedDataParallel**: give the wrapper as ``module``; the climb is then silent, and only the
last backward pass is reduced. Each rank climbs on its own examples, or with ``sync=True`` all ranks
by their common gradient.

**Lightning**: manual optimization and ``self.optimizers().step(closure=closure)``. **Hugging Face
Trainer**: override ``training_step`` and call the original one inside
``with self.optimizer.perturbed(lambda: model(**inputs).logits)``; or add the penalty in
``compute_loss``.

**Dropout** draws one mask for all passes of a step, and the global random state moves as if there
had been one pass. **Batch norm** statistics move once per step, at θ, if the model is given as
``module``; else once per pass. **Compiled** and **checkpointed** models need nothing.

A climb whose gradient is zero or not finite stays at θ. A step whose gradient is not finite counts
as one of gradient zero: the loss shows it, the weights do not. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from flatmin._climb import (
    DIVERGENCES,
    SIGMA,
    DivergenceName,
    check_beta,
    check_climb,
    check_outputs,
    check_rho,
    clear_unless_finite,
    new_generator,
    noise,
    pullback,
    require,
    same_randomness,
    unit,
)

Forward: TypeAlias = Callable[[], Tensor]
Deltas: TypeAlias = Iterator[list[Tensor]]
Direction: TypeAlias = Literal["gradient", "score", "random"]

_FORWARD_ONLY = (
    "the closure must run the forward pass only, but it has changed .grad or run backward"
)


class Climber(Optimizer):
    """What the optimizers here share: climb, take the gradient, come back.

    Parameter groups and state are those of the base optimizer, so that schedulers, gradient scalers
    and checkpoints see one optimizer. Each group has its radius as ``group["rho"]``: a group's part
    of the unit direction is scaled by the group's ρ.

    Attributes:
        base_optimizer: the optimizer that takes the step.
    """

    _by_loss = False  # whether the climb goes by the loss or by the logits
    _from_theta = False  # whether it takes its gradient at θ or only later

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Callable[..., Optimizer],
        *,
        rho: float,
        module: nn.Module | None,
        sync: bool,
        **base_kwargs: Any,
    ) -> None:
        if isinstance(base_optimizer, Optimizer):
            raise TypeError(f"base_optimizer must be a class, got an instance: {base_optimizer}")
        require(
            not sync or (dist.is_available() and dist.is_initialized()),
            "sync=True needs an initialised process group",
        )
        super().__init__(params, {"rho": rho})
        self._targets()
        if module is not None:
            held = {id(p) for group in self.param_groups for p in group["params"]}
            named = module.named_parameters()
            missing = [name for name, p in named if p.requires_grad and id(p) not in held]
            require(not missing, f"params must hold all parameters of module, missing: {missing}")
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        self.defaults.update(self.base_optimizer.defaults)
        self._share()
        self._module, self._sync, self._climbed = module, sync, False

    def _share(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this optimizer or of its base optimizer's kind."""
        self.base_optimizer.load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: runs the forward pass only and returns (loss, logits); SAM is content with the
                loss. Without a closure the base optimizer steps by the gradients taken inside
                :meth:`perturbed`.

        Returns:
            The loss at θ, detached; None without a closure.

        Raises:
            TypeError: the closure returns something else.
            RuntimeError: the closure has run backward; or no closure and no :meth:`perturbed`.
            ValueError: as :meth:`perturbed`.
        """
        loss = None
        if closure is not None:
            passes = _Passes(closure, self._by_loss)
            with torch.enable_grad():
                self._backward(passes)
            loss = passes.loss
        elif not self._climbed:
            raise RuntimeError("step() without a closure needs gradients taken inside perturbed()")
        self._climbed = False
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        clear_unless_finite([g for g in grads if g is not None])
        self.base_optimizer.step()
        return loss

    def _backward(self, passes: _Passes) -> None:
        """Add the gradient of one step to ``.grad``."""
        with self.perturbed(passes.objective):
            passes.run()[0].backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def perturbed(self, forward: Forward) -> Iterator[Tensor]:
        """Hold the parameters at θ + δ inside the ``with`` block, and bitwise at θ after it.

        Run backward inside: after it PyTorch refuses, as the parameters have moved. The climb does
        not touch ``.grad``. θ comes back after an exception too.

        Args:
            forward: the logits of one batch, or for SAM the loss, up to a factor.

        Yields:
            That value at θ, detached.

        Raises:
            ValueError: a radius out of range, no trainable parameter, an empty batch, logits that
                are not (n, C).
            RuntimeError: ``forward`` has run backward.
        """
        params, _ = self._targets()
        reference = self._start(forward, params)

        def rehearse() -> Tensor:
            with torch.enable_grad(), self._rehearsal(params):
                return forward()

        with self._buffers_kept():
            theta = [p.detach().clone() for p in params]
            try:
                for delta in self._climb(reference, rehearse, params):
                    _move(params, theta, delta)
                yield reference.detach()
            finally:
                _move(params, theta)
        self._climbed = True

    def _start(self, forward: Forward, params: Sequence[Tensor]) -> Tensor:
        """The pass at θ, the only one that moves batch-norm statistics."""
        before = [(p.grad, p.grad is not None and p.grad._version) for p in params]
        try:
            with torch.set_grad_enabled(self._from_theta), self._rehearsal(params):
                reference = forward()
        except RuntimeError as error:  # backward under no_grad
            if "does not require grad" in str(error):
                raise RuntimeError(_FORWARD_ONLY) from error
            raise
        for p, (grad, version) in zip(params, before, strict=True):
            if p.grad is not None and (p.grad is not grad or p.grad._version != version):
                raise RuntimeError(_FORWARD_ONLY)
        return reference

    def _climb(self, reference: Tensor, rehearse: Forward, params: list[Tensor]) -> Deltas:
        """Yield one δ after the other; the parameters are at θ + δ when it goes on."""
        raise NotImplementedError

    def _targets(self) -> tuple[list[Tensor], list[float]]:
        """The parameters to move and the radius of each."""
        pairs = [
            (p, group["rho"])
            for group in self.param_groups
            for p in group["params"]
            if p.requires_grad
        ]
        require(bool(pairs), "params holds no trainable parameter")
        for group in self.param_groups:
            check_rho(group["rho"])
        return [p for p, _ in pairs], [rho for _, rho in pairs]

    def _onto_ball(self, gradient: list[Tensor]) -> list[Tensor]:
        """δ = ρ g/‖g‖, in place."""
        if self._sync:
            flat = torch.cat([g.reshape(-1) for g in gradient])
            dist.all_reduce(flat)
            pieces = flat.split_with_sizes([g.numel() for g in gradient])
            gradient = [piece.view_as(g) for piece, g in zip(pieces, gradient, strict=True)]
        delta = unit(gradient)
        torch._foreach_mul_(delta, self._targets()[1])
        return delta

    @contextmanager
    def _rehearsal(self, params: Sequence[Tensor]) -> Iterator[None]:
        """A pass that the next can repeat: same dropout mask, no reduction over ranks."""
        no_sync: Callable[[], AbstractContextManager[None]]
        no_sync = getattr(self._module, "no_sync", nullcontext)
        with same_randomness(params), no_sync():
            yield

    @contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        buffers = [] if self._module is None else [*self._module.buffers()]
        kept = [b.clone() for b in buffers]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, kept, strict=True):
                    buffer.copy_(value)


def _move(params: list[Tensor], theta: list[Tensor], delta: list[Tensor] | None = None) -> None:
    with torch.no_grad():
        torch._foreach_copy_(params, theta)
        if delta is not None:
            torch._foreach_add_(params, delta)
    torch.clear_autocast_cache()  # autocast would go on with the weights it has cast before


class _Passes:
    """The passes of a closure, checked; keeps the loss of the first."""

    def __init__(self, closure: Callable[[], Any], by_loss: bool) -> None:
        self.closure, self.by_loss = closure, by_loss
        self.loss: Tensor | None = None

    def run(self) -> tuple[Tensor, Tensor]:
        match self.closure():
            case Tensor() as loss if self.by_loss:
                logits = loss
            case (Tensor() as loss, Tensor() as logits):
                pass
            case other:
                expected = "the loss, or (loss, logits)" if self.by_loss else "(loss, logits)"
                raise TypeError(f"the closure must return {expected}, got {other!r:.80}")
        require(loss.numel() == 1, f"the loss must be a scalar, got {tuple(loss.shape)}")
        self.loss = loss.detach() if self.loss is None else self.loss
        return loss, logits

    def objective(self) -> Tensor:
        """What the climb goes by."""
        loss, logits = self.run()
        return loss if self.by_loss else logits


class SAM(Climber):
    """Sharpness-aware minimization, and with ``adaptive=True`` its scale-invariant form ASAM.

    SAM steps by ∇L(θ + δ) with δ = ρ g/‖g‖, g = ∇L(θ) (Foret et al. 2021, equation 2). ASAM
    measures δ relative to the weights: δ = ρ T² g/‖T g‖ with T = |w| + 0.01 on weights and 1 on
    biases (Kwon et al. 2021, equation 9); here a parameter of one dimension counts as a bias. Its
    radii are about ten times SAM's. A step takes two forward and two backward passes.

    Args:
        params: parameters or groups of them, as for any optimizer.
        base_optimizer: class of the optimizer that steps, such as ``torch.optim.SGD``.
        rho: radius ρ > 0, also per group.
        adaptive: ASAM instead of SAM.
        module: the model, so that its batch-norm statistics move once per step.
        sync: ascend by the gradient summed over all ranks of the process group.
        **base_kwargs: passed to the base optimizer.

    Raises:
        ValueError: ρ out of range, no trainable parameter, or parameters of ``module`` that are not
            among ``params``.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([3.0]))
        >>> optimizer = SAM([w], torch.optim.SGD, rho=0.5, lr=0.1)
        >>> optimizer.step(lambda: 0.5 * w.square().sum())      # L = w²/2; steps by w + ρ
        tensor(4.5000)
        >>> w.data
        tensor([2.6500])
    """

    _by_loss = _from_theta = True

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Callable[..., Optimizer],
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        module: nn.Module | None = None,
        sync: bool = False,
        **base_kwargs: Any,
    ) -> None:
        super().__init__(params, base_optimizer, rho=rho, module=module, sync=sync, **base_kwargs)
        self._adaptive = adaptive

    def _climb(self, reference: Tensor, rehearse: Forward, params: list[Tensor]) -> Deltas:
        shape = tuple(reference.shape)
        require(reference.numel() == 1, f"SAM climbs by the loss, a scalar, got {shape}")
        gradient = pullback(reference, params, torch.ones_like(reference))
        if not self._adaptive:
            yield self._onto_ball(gradient)
            return
        scales = [p.detach().abs() + 0.01 if p.dim() > 1 else torch.ones_like(p) for p in params]
        torch._foreach_mul_(gradient, scales)
        delta = self._onto_ball(gradient)
        torch._foreach_mul_(delta, scales)
        yield delta


class IAMS(Climber):
    """IAM-S: steps by ∇L(θ + δ), δ the perturbation that moves the outputs most.

    δ_K is that of Algorithm 1 of Kim et al. 2026 on the logits of the step, K = ``steps``; the rest
    is as in SAM (Algorithm 2). It takes (K + 2) forward and (K + 1) backward passes.

    With ``direction="score"`` δ points along the mean score, the gradient of log f(x, θ)_y averaged
    over the batch, under labels y drawn from f(x, θ) itself. Its covariance is F/n: as a direction
    it is half a step of Algorithm 1, for two forward and two backward passes in all, as in SAM.
    Once a network is right and so sure (a loss well below 1/n) that the labels drawn are the true
    ones, the score is −∇L at every draw, and the climb is SAM's with its sign turned.

    With ``direction="random"`` δ points anywhere: the control that every claim for a direction
    needs.

    Args:
        params: parameters or groups of them, as for any optimizer.
        base_optimizer: class of the optimizer that steps, such as ``torch.optim.SGD``.
        rho: radius ρ > 0, also per group.
        sigma: size σ > 0 of the noise δ₀ ~ N(0, (σ²/m) I).
        steps: K ≥ 1.
        divergence: "categorical" for logits (n, C), "gaussian" for regression outputs (n, ...).
        direction: "gradient" for Algorithm 1; "score" for the mean score, without noise; "random"
            for the noise itself, made as long as ρ. K = 1 for both.
        generator: source of the noise or the labels, on the parameters' device; by default one
            seeded with 0. Its state is saved with the optimizer's.
        module: the model, so that its batch-norm statistics move once per step.
        sync: ascend by the gradient summed over all ranks of the process group.
        **base_kwargs: passed to the base optimizer.

    Raises:
        ValueError: an argument out of range, no trainable parameter, or parameters of ``module``
            that are not among ``params``.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
        >>> x, y = torch.ones(8, 4), torch.zeros(6, dtype=torch.long)   # two without a label
        >>> def closure():
        ...     logits = model(x)
        ...     return torch.nn.functional.cross_entropy(logits[:6], y), logits
        >>> losses = []
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     losses.append(optimizer.step(closure))
        >>> bool(losses[-1] < losses[0])
        True
    """

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Callable[..., Optimizer],
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
        check_climb(rho, steps, sigma, divergence)
        known = get_args(Direction)
        require(direction in known, f"direction must be one of {known}, got {direction!r}")
        self._from_theta = direction == "score"
        require(
            steps == 1 or direction == "gradient",
            f'steps must be 1 for direction="{direction}", got {steps}',
        )
        super().__init__(params, base_optimizer, rho=rho, module=module, sync=sync, **base_kwargs)
        self._sigma, self._steps, self._divergence = sigma, steps, divergence
        self._direction = direction
        self._generator = generator or new_generator(self._targets()[0])

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, the radii, and the state of the noise."""
        return {**super().state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this optimizer or of its base optimizer's kind."""
        super().load_state_dict(state_dict)
        if "generator" in state_dict:
            self._generator.set_state(state_dict["generator"].cpu())

    def _start(self, forward: Forward, params: Sequence[Tensor]) -> Tensor:
        return check_outputs(super()._start(forward, params), self._divergence)

    def _climb(self, reference: Tensor, rehearse: Forward, params: list[Tensor]) -> Deltas:
        if self._from_theta:
            score = DIVERGENCES[self._divergence].score(reference.detach(), self._generator)
            yield self._onto_ball(pullback(reference, params, score))
            return
        delta = noise(params, self._sigma, self._generator)
        if self._direction == "random":
            yield self._onto_ball(delta)
            return
        yield delta
        for _ in range(self._steps):
            outputs = rehearse()
            slope = DIVERGENCES[self._divergence].slope(reference, outputs.detach())
            yield self._onto_ball(pullback(outputs, params, slope))


class IAMD(IAMS):
    """IAM-D: minimises L(θ) + β S_ρ(θ) (Kim et al. 2026, Algorithm 2).

    S_ρ is the divergence of f(x, θ + δ_K) from f(x, θ), differentiated through both of its sides
    with δ_K fixed. :meth:`Climber.step` holds one graph at a time: memory is that of SGD, for
    (K + 3) forward and (K + 2) backward passes; with ``direction="score"`` three of each, with
    "random" three and two. :class:`flatmin.inconsistency.InconsistencyPenalty` gives the update of
    the gradient direction with one forward less and two graphs.

    Attributes:
        beta: β, may be changed between steps.

    Args:
        params: parameters or groups of them, as for any optimizer.
        base_optimizer: class of the optimizer that steps, such as ``torch.optim.SGD``.
        rho: radius ρ > 0, also per group.
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

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Callable[..., Optimizer],
        *,
        rho: float,
        beta: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_beta(beta)
        super().__init__(params, base_optimizer, rho=rho, **kwargs)
        self.beta = beta

    def _backward(self, passes: _Passes) -> None:
        params, _ = self._targets()
        total = DIVERGENCES[self._divergence].total
        with self.perturbed(passes.objective) as reference, self._rehearsal(params):
            outputs = passes.objective()
            penalty = self.beta * total(reference, outputs) / len(outputs)
            there = torch.autograd.grad(penalty, params, allow_unused=True)
            moved = outputs.detach()
        with self._buffers_kept():
            loss, outputs = passes.run()
            # After the forward, which may zero .grad; before backward, which reduces over ranks.
            for p, g in zip(params, there, strict=True):
                if g is not None:
                    p.grad = g if p.grad is None else p.grad.add_(g)
            penalty = self.beta * total(outputs, moved) / len(outputs)
            (loss + penalty).backward()  # type: ignore[no-untyped-call]
