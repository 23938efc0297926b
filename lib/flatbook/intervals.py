"""An estimate over seeds: its mean and the 95 % interval that verdicts are given by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def interval(values: ArrayLike | Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean over seeds and the ends of its 95 % interval by Student's t.

    Args:
        values: One number for each seed (n,), n ≥ 2; of a comparison, the paired differences.

    Raises:
        ValueError: If there are fewer than two, or the shape is another.

    Examples:
        >>> mean, (low, high) = interval([1.0, 2.0, 3.0])
        >>> f"{mean:.2f} [{low:.2f}, {high:.2f}]"
        '2.00 [-0.48, 4.48]'
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"values must be (n,) with n >= 2, got {array.shape}")
    mean = float(array.mean())
    half = float(stats.t.ppf(0.975, len(array) - 1) * stats.sem(array))
    return mean, (mean - half, mean + half)


def told(values: ArrayLike | Sequence[float]) -> str:
    """The same in words, with signs, as tables of differences show it.

    Examples:
        >>> told([1.0, 2.0, 3.0])
        '+2.00 [-0.48, +4.48]'
    """
    mean, (low, high) = interval(values)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def seeds_needed(values: ArrayLike | Sequence[float]) -> float:
    """How many seeds would part such a mean from zero: half its 95 % interval is then the mean.

    Args:
        values: As for :func:`interval`; infinitely many if their mean is zero.

    Examples:
        >>> round(seeds_needed([1.0, 2.0, 3.0]), 2)
        0.96
    """
    array = np.asarray(values, dtype=float)
    mean, _ = interval(array)
    spread = float(stats.norm.ppf(0.975) * array.std(ddof=1))
    return (spread / mean) ** 2 if mean else np.inf
