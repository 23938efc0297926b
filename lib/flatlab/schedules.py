"""Learning-rate schedules: step ↦ factor of the initial rate, for ``LambdaLR`` or an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, pi
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def constant(step: int) -> float:
    """1 at every step."""
    return 1.0


def cosine(steps: int, *, warmup: int = 0) -> Schedule:
    """Linear from 0 to 1 over ``warmup`` steps, then ½ (1 + cos) down to 0 at ``steps``.

    Example:
        >>> [round(cosine(4)(step), 3) for step in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + cos(pi * (step - warmup) / max(steps - warmup, 1)))

    return factor


def seven_sixteenths(steps: int) -> Schedule:
    """FixMatch's cos(7π t / 16 T), which ends at 0.195 (Sohn et al. 2020, Section 2.4).

    Example:
        >>> [round(seven_sixteenths(2)(step), 3) for step in range(3)]
        [1.0, 0.773, 0.195]
    """
    return lambda step: cos(7 * pi * step / (16 * steps))


def drops(at: Sequence[int], factor: float = 0.2) -> Schedule:
    """Times ``factor`` at each of the steps: the paper's, at epochs 60, 120, 160 of 200.

    Example:
        >>> [round(drops([2, 3])(step), 3) for step in range(4)]
        [1.0, 1.0, 0.2, 0.04]
    """
    return lambda step: factor ** sum(step >= drop for drop in at)
