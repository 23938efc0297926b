"""What arguments must be: each check names the argument, its value and what is allowed."""

from __future__ import annotations

import math


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
