"""The model as a function of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


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
