"""The climb inside a model's forward, so that the loop around it stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flatmin._visit import Visit

if TYPE_CHECKING:
    from flatmin._climber import Climber

_LEFT_BEHIND = (
    "the weights have moved since this forward: run backward before the next forward, step,"
    " zero_grad or state_dict, once; give several batches to one forward, or use perturbed()"
)
_NESTED = "attach the whole model: this part runs in a backward pass, perhaps checkpointed"
_REPLICA = "an attached model cannot be copied for DataParallel: use DistributedDataParallel"


class Attachment:
    """A model in whose training forward an optimizer climbs; a context manager."""

    def __init__(self, optimizer: Climber, model: nn.Module, then: Callable[[Any], Any]) -> None:
        self._optimizer: Climber | None = optimizer
        self._model, self._then = model, then
        self._visit: Visit | None = None
        self._climbing = False
        self._hooks = [
            # First of all hooks: the passes of the climb go through the others themselves.
            model.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
            model.register_forward_hook(self._after, always_call=True),
            model.register_state_dict_pre_hook(self._come_home),
        ]

    def remove(self) -> None:
        """Detach: the weights come home, the model is as it was."""
        if self._optimizer is not None:
            self.home()
            for hook in self._hooks:
                hook.remove()
            self._optimizer._attached = self._optimizer = None

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

    @torch.compiler.disable
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
        self._climbing = True
        try:
            self._visit = self._depart(lambda: self._then(model(*args, **kwargs)))
        finally:
            self._climbing = False

    def _depart(self, forward: Callable[[], Any]) -> Visit:
        assert self._optimizer is not None
        visit, _reference = self._optimizer._depart(forward, self._model)
        return visit

    @torch.compiler.disable
    def _after(self, model: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        visit = self._visit
        if self._climbing or visit is None:
            return

        def begin(_gradient: Tensor) -> None:
            if visit is not self._visit:
                raise RuntimeError(_LEFT_BEHIND)
            torch.autograd.Variable._execution_engine.queue_callback(self._end)

        watched = [t for t in self._watched(outputs) if t.requires_grad]
        for tensor in watched:
            tensor.register_hook(begin)
        if not watched:  # nothing to train by, or an exception
            self.home()

    def _watched(self, outputs: Any) -> Iterable[Tensor]:
        """The tensors through which backward is to come."""
        return tensors_in(outputs)

    def _end(self) -> None:
        """Backward has ended."""
        self.home()
        if self._optimizer is not None:
            self._optimizer._climbed = True


def _nothing() -> Attachment:
    attachment = Attachment.__new__(Attachment)
    attachment._optimizer = attachment._visit = None
    attachment._climbing = False
    return attachment


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
