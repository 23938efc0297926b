"""What arguments must be: each check names the argument, its value and what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def real(value: Any) -> float:
    """A real number as a float; of anything else, bools too, NaN, which lies in no range."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def whole(value: Any) -> float:
    """A whole number, whatever library it is of; of anything else, bools too, NaN."""
    try:
        return math.nan if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return math.nan


def check_rho(rho: float) -> None:
    """Check a radius."""
    require(0 < real(rho) < math.inf, f"rho must be positive and finite, got {rho!r:.80}")


def check_beta(beta: float) -> None:
    """Check the weight of a penalty."""
    require(0 <= real(beta) < math.inf, f"beta must be non-negative and finite, got {beta!r:.80}")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Check how many there are of something, or how often it is done; return Python's own int."""
    require(whole(value) >= least, f"{name} must be an integer >= {least}, got {value!r:.80}")
    return operator.index(value)


def check_climb(steps: int, sigma: float) -> None:
    """Check what Algorithm 1 is run with."""
    check_count("steps", steps)
    require(0 < real(sigma) < math.inf, f"sigma must be positive and finite, got {sigma!r:.80}")


def check_sync(sync: bool) -> None:
    """Check that there are other processes to work with."""
    require(
        not sync or (dist.is_available() and dist.is_initialized()),
        "sync=True needs an initialised process group",
    )


def check_not_flattened(params: Iterable[Tensor]) -> None:
    """Check that no parameter is part of a flat one: it would be a view, or empty, by turns."""
    if any(getattr(p, "_fsdp_flattened", False) for p in params):
        raise NotImplementedError(
            "FullyShardedDataParallel flattens parameters, which can then be neither moved nor"
            " measured: shard the model with torch.distributed.fsdp.fully_shard instead, and"
            " measure an unsharded copy"
        )
