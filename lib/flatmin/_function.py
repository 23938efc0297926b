"""The model as a function of its parameters: f(x, θ), with nothing of the model changed.

Modes, random state, buffers, autocast, attention kernels, and the way of a batch into the model:
measuring, penalty and curvature have them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.backends import mha
from torch.nn.parallel import DistributedDataParallel

from flatmin._check import check_not_flattened, require

Batch: TypeAlias = "Tensor | tuple[Any, ...] | Mapping[str, Any]"
Outputs: TypeAlias = Callable[[Any, Any], Tensor]
Progress: TypeAlias = Callable[[Iterable[Any]], Iterable[Any]]


def logits_of(outputs: Any) -> Tensor:
    """The tensor in what a model returns: it itself, or its ``.logits`` or ``["logits"]``.

    Raises:
        TypeError: there is none.
    """
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits", outputs)
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor):
        raise TypeError(
            "the model must return a tensor, or an object or a dict that holds it as logits, "
            f"got {type(outputs).__name__}"
        )
    return logits


def same_randomness(params: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Put the global random state back on leaving: the next pass draws the same dropout mask."""
    device = params[0].device
    devices = [] if device.type in ("cpu", "mps") else [device]
    context: AbstractContextManager[None] = torch.random.fork_rng(devices, device_type=device.type)
    return context


@contextmanager
def steady_attention() -> Iterator[None]:
    """Keep attention from a kernel that only passes without a gradient take.

    In bfloat16 the two differ by rounding, and D( f(x, θ) ‖ f(x, θ) ) would not be 0.
    """
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(fast)


class Function:
    """f(x, ·): the outputs of a model as a function of some of its parameters.

    Attributes:
        params: θ, in the order of the model, or in that of ``params``.
        size: m, how many numbers they hold.

    Args:
        model: the network. Of one in ``DistributedDataParallel`` the inner module is called.
        params: the parameters that make up θ; by default all that require a gradient.
        outputs: picks the outputs from what the model returns and the batch it returns it for; by
            default :func:`logits_of` the former.

    Raises:
        ValueError: no trainable parameter, or one in ``params`` that is not the model's.
        NotImplementedError: parameters sharded over processes.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Iterable[Tensor] | None = None,
        outputs: Outputs | None = None,
    ) -> None:
        self.model: nn.Module = (
            model.module if isinstance(model, DistributedDataParallel) else model
        )
        self._outputs = outputs
        check_not_flattened(self.model.parameters())
        own = [p for p in self.model.parameters() if p.requires_grad]
        require(bool(own), f"{type(model).__name__} has no trainable parameter")
        self.params: list[Tensor] = [*own] if params is None else [*dict.fromkeys(params)]
        strange = len({*self.params} - {*own})
        require(
            bool(self.params) and not strange,
            "params must hold one or more trainable parameters of the model, "
            f"got {len(self.params)}, of which {strange} are not",
        )
        if any(map(_is_sharded, own)):
            raise NotImplementedError(
                f"the parameters of {type(model).__name__} are sharded (fully_shard): measure an "
                "unsharded copy, loaded with torch.distributed.checkpoint.state_dict."
                "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))"
            )
        self.size = sum(p.numel() for p in self.params)

    def __call__(self, batch: Any) -> Tensor:
        """The outputs of one batch with the weights that are in place."""
        content = batch[0] if isinstance(batch, list) else batch
        if isinstance(content, Mapping):
            returned = self.model(**content)
        else:
            returned = self.model(*(content if isinstance(content, tuple) else (content,)))
        return self.select(returned, batch)

    def select(self, returned: Any, batch: Any) -> Tensor:
        """The outputs in what the model has returned for a batch."""
        return logits_of(self._outputs(returned, batch) if self._outputs else returned)

    @contextmanager
    def at(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Put weights in the place of the parameters, and copies in that of the buffers.

        To differentiate the outputs is part of what belongs inside: a checkpointed layer computes
        itself again with the weights it finds.
        """
        # Not torch.func.functional_call: it loses the parameters of a module that is used twice.
        places = [
            (store, name, tensor)
            for module in self.model.modules()
            for store in (module._parameters, module._buffers)
            for name, tensor in store.items()
            if tensor is not None
        ]
        put = {id(t): t.detach() if t.requires_grad else t for t in self.model.parameters()}
        put |= {id(b): b.clone() for b in self.model.buffers()}
        put |= {id(p): w for p, w in zip(self.params, weights, strict=True)}
        try:
            for store, name, tensor in places:
                store[name] = put[id(tensor)]  # type: ignore[assignment]
            yield
        finally:
            for store, name, tensor in places:
                store[name] = tensor  # type: ignore[assignment]

    def moved(self, delta: Sequence[Tensor]) -> list[Tensor]:
        """θ + δ as new leaves, to differentiate by."""
        with torch.no_grad():
            pairs = zip(self.params, delta, strict=True)
            return [(p + d).to(p.dtype).requires_grad_() for p, d in pairs]

    def leaves(self) -> list[Tensor]:
        """θ as leaves, to differentiate by; they share its memory."""
        return [p.detach().requires_grad_() for p in self.params]

    def split(self, vector: Tensor, name: str = "vector") -> list[Tensor]:
        """A vector (m,) in the shapes of the parameters, on their device."""
        if not isinstance(vector, Tensor):
            raise TypeError(f"{name} must be a tensor (m,), got {vector!r:.80}")
        shape = (*vector.shape,)
        require(shape == (self.size,), f"{name} must be ({self.size},), got {shape}")
        fits = not vector.is_complex() or any(p.is_complex() for p in self.params)
        require(fits, f"{name} must be real, as the parameters are, got {vector.dtype}")
        vector = on_device(vector, self.params[0].device)
        pieces = vector.split_with_sizes([p.numel() for p in self.params])
        return [v.view_as(p) for v, p in zip(pieces, self.params, strict=True)]

    @contextmanager
    def measured(self, training: bool = False) -> Iterator[None]:
        """The model in one mode and its own precision; then flags and random state as before.

        It is grad mode inside, whatever is around it.
        """
        flags = [(module, module.training) for module in self.model.modules()]
        autocast = torch.autocast(self.params[0].device.type, enabled=False)
        try:
            self.model.train(training)
            grad = torch.inference_mode(False), torch.enable_grad()
            with same_randomness(self.params), autocast, steady_attention(), grad[0], grad[1]:
                yield
        finally:
            for module, flag in flags:
                module.training = flag


class Batches:
    """One batch, or a stream of batches that can be read again and again, on a device.

    Args:
        inputs: a tensor, tuple or mapping: one batch; else an iterable of batches.
        device: where the model is.
        progress: wraps the stream each time that it is read, as tqdm does.

    Raises:
        ValueError: a stream that can be read only once; on reading: no batch.
    """

    def __init__(self, inputs: Any, device: torch.device, progress: Progress | None = None) -> None:
        require(
            not isinstance(inputs, Iterator),
            "inputs can be read only once: give a list, a DataLoader or another re-iterable",
        )
        self.single = isinstance(inputs, Tensor | tuple | Mapping)
        self._inputs = [inputs] if self.single else inputs
        self._device, self._progress = device, progress

    def __iter__(self) -> Iterator[Any]:
        empty = True
        wrap = self._progress if self._progress and not self.single else iter
        for batch in wrap(self._inputs):
            yield on_device(batch, self._device)
            empty = False
        require(not empty, "inputs must hold at least one batch, got no batch")


def on_device(value: Any, device: torch.device) -> Any:
    """Tensors, alone or in lists, tuples and mappings, on the device and for autograd to take."""
    if isinstance(value, Tensor):
        with torch.inference_mode(False):
            moved = value.to(device, non_blocking=True)
            return moved.clone() if moved.is_inference() else moved
    if isinstance(value, Mapping):
        return {key: on_device(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(on_device(item, device) for item in value)
    return value.to(device) if hasattr(value, "to") else value


def _is_sharded(parameter: Tensor) -> bool:
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor  # only where it can be: the import is slow

    return isinstance(parameter, DTensor)
