"""What optimizers that climb before they descend share: a step, its state, its settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim.optimizer import ParamsT

from flatmin._attach import Attachment
from flatmin._check import check_sync, require
from flatmin._function import Outputs
from flatmin._tangent import clear_unless_finite, here
from flatmin._visit import Visit, targets
from flatmin._wrapper import Base, Wrapper
from flatmin.directions import Direction


class Climber(Wrapper):
    """What the optimizers here share: climb, take the gradient, come back.

    Parameter groups and state are those of the base optimizer, so that schedulers, gradient scalers
    and checkpoints see one optimizer. Each group has its radius as ``group["rho"]``: a group's part
    of the unit direction is scaled by the group's ρ. The other settings of a climb are in every
    group too, the same in all; they may be changed between steps, as attributes of the optimizer.

    Attributes:
        base_optimizer: the optimizer that takes the step.
        skipped: how many steps had a gradient that was not finite and so counted as zero, a tensor
            on the parameters' device.
        stayed: how many climbs had no direction, or none that was finite, and so stayed at θ.
    """

    _kept = (*Wrapper._kept, "_module", "_sync", "skipped", "stayed")
    _steps_by_there = True  # whether it steps by the gradient of the loss at θ + δ
    _needs = (
        "step() without a closure needs gradients taken inside perturbed(), or from a training"
        " forward of a model given to attach()"
    )

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Base,
        *,
        module: nn.Module | None,
        sync: bool,
        generator: Generator | None = None,
        **kwargs: Any,
    ) -> None:
        check_sync(sync)
        settings = {name: kwargs.pop(name) for name in self._settings}
        super().__init__(params, base_optimizer, settings, kwargs)
        if module is not None:
            self._check_module(module)
        require(
            not getattr(module, "static_graph", False),
            "DistributedDataParallel(static_graph=True) counts passes, and a climb has more of them"
            " than it expects: leave static_graph out, or attach() the model",
        )
        device = targets(self.param_groups)[0][0].device
        self.generator = generator
        self._module, self._sync = module, sync
        self._climbed = False
        self._attached: Attachment | None = None
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.stayed = torch.zeros_like(self.skipped)

    # One step: start → direction → move → backward → home → base step

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: runs the forward pass only and returns (loss, logits); SAM is content with the
                loss. With an attached model it is that of :mod:`torch.optim`: it runs backward too.
                Without a closure the base optimizer steps by the gradients taken inside
                :meth:`perturbed` or through an attached model.

        Returns:
            The loss at θ, detached, or with an attached model what the closure returned; None
            without a closure.

        Raises:
            TypeError: the closure returns something else.
            RuntimeError: the closure has run backward; no closure, and gradients from elsewhere;
                a closure under accelerate's accumulation, which would drop batches.
            ValueError: as :meth:`perturbed`, with a setting out of range too.
        """
        self._come_home()
        loss = None
        if closure is not None:
            _refuse_accumulation()
            with torch.enable_grad():
                loss = closure() if self._attached else self._backward(closure)
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not self._climbed and any(bool(g.any()) for g in here(grads)):
            raise RuntimeError(self._needs)
        self._climbed = False
        self.skipped += ~clear_unless_finite(grads).isfinite()
        self.base_optimizer.step()
        return loss

    def _backward(self, closure: Callable[[], Any]) -> Tensor | None:
        """Add the gradient of one step to ``.grad``; return the loss at θ."""
        passes = Passes(closure, self._direction(self.param_groups[0]).by_loss)
        with self.perturbed(passes.objective):
            passes.run()[0].backward()  # type: ignore[no-untyped-call]
        return passes.loss

    @contextmanager
    def perturbed(self, forward: Callable[[], Any]) -> Iterator[Tensor]:
        """Hold the parameters at θ + δ inside the ``with`` block, and bitwise at θ after it.

        Run backward inside: after it PyTorch refuses, as the parameters have moved. The climb does
        not touch ``.grad``. θ comes back after an exception too.

        Args:
            forward: the logits of one batch (or what holds them as ``.logits``), or for SAM the
                loss, up to a factor.

        Yields:
            That value at θ, detached.

        Raises:
            ValueError: a radius out of range, no trainable parameter, an empty batch, logits that
                are not (..., C).
            RuntimeError: ``forward`` has run backward; a model is attached.
        """
        if self._attached:
            raise RuntimeError("perturbed() would climb twice: the attached model climbs by itself")
        visit, *reference = self._depart(forward, self._module)
        try:
            yield reference.pop()  # not kept here: with a large vocabulary it is large
        finally:
            visit.home()
        self._climbed = self._steps_by_there

    def _depart(self, forward: Callable[[], Any], module: nn.Module | None) -> tuple[Visit, Tensor]:
        """Go to θ + δ."""
        self._check(self.param_groups)
        direction = self._direction(self.param_groups[0])
        visit = Visit(
            lambda: self._objective(forward()),
            self.param_groups,
            module=module,
            sync=self._sync,
            generator=self.generator,
        )
        try:
            reference = visit.start(graph=direction.from_theta)
            self._check_reference(reference)
            visit.go(direction(reference, visit))
        except BaseException:
            visit.home()
            raise
        self.stayed += visit.stayed
        return visit, reference.detach()

    def _direction(self, group: dict[str, Any]) -> Direction:
        """Where to, by the settings of a group; a ValueError if one is out of range."""
        raise NotImplementedError

    def _objective(self, outputs: Any) -> Tensor:
        """What the climb goes by, in what a pass returned."""
        raise NotImplementedError

    def _check_reference(self, reference: Tensor) -> None:
        """Check the pass at θ."""
        raise NotImplementedError

    # Any loop

    def attach(self, model: nn.Module) -> Attachment:
        """Climb in the model's forward, so that the loop around it stays as it is.

        Each forward in training mode with gradients enabled first climbs by its own batch; the pass
        that the loop sees is that at θ + δ. The weights come home when backward ends, at the latest
        with the next forward, ``step`` or ``state_dict``, of model or optimizer; backward through a
        pass that they have left behind is refused.

        Args:
            model: the model that the loop calls; of ``DistributedDataParallel`` the one inside.

        Returns:
            A handle: after ``handle.remove()``, or its ``with`` block, the loop is plain again.

        Raises:
            ValueError: trainable parameters of the model that the optimizer lacks.
            RuntimeError: a model is attached already.
        """
        return self._attach(model, Attachment, None)

    def _attach(
        self,
        model: nn.Module,
        kind: Callable[[Climber, nn.Module, Outputs | None], Attachment],
        outputs: Outputs | None,
    ) -> Attachment:
        if self._attached:
            raise RuntimeError("a model is attached already: remove() its handle first")
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self._check_module(inner)
        self._attached = kind(self, inner, outputs)
        return self._attached

    def _come_home(self) -> None:
        if self._attached:
            self._attached.home()

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state; in the groups also the settings and the noise's state."""
        self._come_home()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this optimizer or of its base optimizer's kind.

        Settings that the latter lacks stay as they are.

        Raises:
            ValueError: other groups, or a setting out of range; then nothing has changed.
        """
        self._come_home()
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy is not attached: no model climbs by it.
        self.__dict__.setdefault("_attached", None)
        self.__dict__.setdefault("_climbed", False)
        super().__setstate__(state)

    def _check(self, groups: Sequence[dict[str, Any]]) -> None:
        self._direction(groups[0])
        super()._check(groups)

    def _check_module(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {module!r:.80}")
        held = {id(p) for group in self.param_groups for p in group["params"]}
        named = module.named_parameters()
        missing = [name for name, p in named if p.requires_grad and id(p) not in held]
        require(not missing, f"params must hold all parameters of module, missing: {missing}")


def _refuse_accumulation() -> None:
    """Called by accelerate, a closure would see the last batch of each few alone."""
    accelerate = sys.modules.get("accelerate.state")
    if not accelerate or accelerate.GradientState().num_steps == 1:
        return
    # That number is the whole process's: other loops beside accelerate's are not meant.
    caller: FrameType | None = sys._getframe()
    while caller and caller.f_globals.get("__name__") != "accelerate.optimizer":
        caller = caller.f_back
    if caller:
        raise RuntimeError(
            "step(closure) under accelerate's accumulation leaves out all batches but the last: "
            "attach the model, or run backward inside perturbed()"
        )


class Passes:
    """The passes of a closure, checked; keeps the loss of the first."""

    def __init__(self, closure: Callable[[], Any], by_loss: bool) -> None:
        self.closure, self.by_loss = closure, by_loss
        self.loss: Tensor | None = None

    def run(self) -> tuple[Tensor, Tensor]:
        """One pass: loss and logits, the loss twice if it came alone."""
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
