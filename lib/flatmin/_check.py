"""What arguments must be: each check names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_rho(rho: float) -> None:
    """Check a radius."""
    require(0 < rho < math.inf, f"rho must be positive and finite, got {rho}")


def check_beta(beta: float) -> None:
    """Check the weight of a penalty."""
    require(0 <= beta < math.inf, f"beta must be non-negative and finite, got {beta}")


def check_climb(steps: int, sigma: float) -> None:
    """Check what Algorithm 1 is run with."""
    require(isinstance(steps, int) and steps >= 1, f"steps must be an integer >= 1, got {steps}")
    require(0 < sigma < math.inf, f"sigma must be positive and finite, got {sigma}")


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
