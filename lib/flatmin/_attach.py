"""The climb inside a model's forward, so that the loop around it stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flatmin._function import Outputs, logits_of
from flatmin._tangent import KnownGradient
from flatmin._visit import Visit

if TYPE_CHECKING:
    from flatmin._climber import Climber
    from flatmin.optim import IAMD

_LEFT_BEHIND = (
    "the weights have moved since this forward: run backward once, and before the next forward,"
    " step or state_dict; several batches need one forward, or perturbed()"
)
_NESTED = "attach the whole model: this part runs in a backward pass, perhaps checkpointed"
_TOO_EARLY = "attach the model after fully_shard, whose hooks have to run inside the climb"
_REPLICA = "an attached model cannot be copied for DataParallel: use DistributedDataParallel"


class Attachment:
    """A model in whose training forward an optimizer climbs; a context manager."""

    def __init__(self, optimizer: Climber, model: nn.Module, outputs: Outputs | None) -> None:
        self._optimizer: Climber | None = optimizer
        self._model, self._outputs = model, outputs
        self._visit: Visit | None = None
        self._climbing = False
        self._hooks = [
            # First of all hooks: the passes of the climb go through the others themselves.
            model.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True, always_call=True),
            model.register_state_dict_pre_hook(self._come_home),  # type: ignore[no-untyped-call]
        ]

    def remove(self) -> None:
        """Detach: the weights come home, the model is as it was."""
        if self._optimizer is not None:
            self.home()
            for hook in self._hooks:
                hook.remove()
            self._optimizer._attached = None
            self._optimizer = None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied model, such as an average of weights, is a plain one.
        return _nothing, ()

    def home(self) -> None:
        """Bring the weights home, if they are away."""
        visit, self._visit = self._visit, None
        if visit is not None:
            visit.home()

    def _come_home(self, *_: Any) -> None:
        self.home()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._climbing or self._optimizer is None:
            return
        if model is not self._model:
            raise RuntimeError(_REPLICA)
        self.home()
        if not (model.training and torch.is_grad_enabled()):
            return
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(_NESTED)
        if hasattr(model, "reshard") and next(iter(model._forward_pre_hooks)) != self._hooks[0].id:
            raise RuntimeError(_TOO_EARLY)
        batch = _batch(args, kwargs)
        self._climbing = True
        try:
            self._visit = self._depart(lambda: self._select(model(*args, **kwargs), batch))
        finally:
            self._climbing = False

    def _select(self, returned: Any, batch: Any) -> Any:
        """What the climb goes by, in what the model has returned for a batch."""
        return self._outputs(returned, batch) if self._outputs else returned

    def _depart(self, forward: Callable[[], Any]) -> Visit:
        assert self._optimizer is not None
        visit, _reference = self._optimizer._depart(forward, self._model)
        return visit

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any
    ) -> None:
        visit = self._visit
        if self._climbing or visit is None:
            return

        def begin(_gradient: Tensor) -> None:
            if visit is not self._visit:
                raise RuntimeError(_LEFT_BEHIND)
            torch.autograd.Variable._execution_engine.queue_callback(self._end)

        watched = [t for t in self._watched(outputs, _batch(args, kwargs)) if t.requires_grad]
        for tensor in watched:
            tensor.register_hook(begin)  # type: ignore[no-untyped-call]
        if not watched:  # nothing to train by, or an exception
            self.home()

    def _watched(self, outputs: Any, batch: Any) -> Iterable[Tensor]:
        """The tensors through which backward is to come."""
        return tensors_in(outputs)

    def _end(self) -> None:
        """Backward has ended."""
        self.home()
        if self._optimizer is not None:
            self._optimizer._climbed = True


class Penalised(Attachment):
    """IAM-D's: the climb is over when the loop's forward begins, the loss comes with β S_ρ."""

    _optimizer: IAMD

    def _depart(self, forward: Callable[[], Any]) -> Visit:
        visit, reference = self._optimizer._depart(forward, self._model)
        try:
            self._moved, self._there = self._optimizer._far_side(visit, reference)
        except BaseException:
            visit.home()
            raise
        return visit

    def _watched(self, outputs: Any, batch: Any) -> Iterable[Tensor]:
        if outputs is None:  # an exception
            return ()
        logits = logits_of(self._select(outputs, batch))
        here = self._optimizer._penalty(logits, self._moved)
        assert self._visit is not None
        penalty = KnownGradient.apply(here, self._there, *self._visit.params)
        del self._moved, self._there
        loss = read(outputs, "loss")
        penalised = loss + penalty.to(loss.dtype)
        try:
            if isinstance(outputs, MutableMapping):
                outputs["loss"] = penalised
            else:
                outputs.loss = penalised
        except AttributeError as error:
            kind = type(outputs).__name__
            message = f"the model must return its loss in a place that can be set, got {kind}"
            raise TypeError(message) from error
        return (penalised,)


def _nothing() -> Attachment:
    attachment = Attachment.__new__(Attachment)
    attachment._optimizer = attachment._visit = None
    attachment._climbing = False
    return attachment


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a model is called with, in the form that an ``outputs`` of the user takes."""
    return kwargs or (args[0] if len(args) == 1 else args)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in what a model returns: a tensor, containers, an object with attributes."""
    parts = value if isinstance(value, Mapping) else getattr(value, "__dict__", value)
    if isinstance(value, Tensor):
        yield value
    elif isinstance(parts, Mapping):
        yield from tensors_in([*parts.values()])
    elif isinstance(parts, list | tuple):
        for part in parts:
            if isinstance(part, Tensor | Mapping | list | tuple):
                yield from tensors_in(part)


def read(outputs: Any, name: str) -> Tensor:
    """What a model returns by that name, as an attribute or in a dict."""
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"the model must return its {name} beside the rest, as .{name} or in a dict, "
            f"got {type(outputs).__name__}; hand it the labels, or see the manual of flatmin.optim"
        )
    return value
