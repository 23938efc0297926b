"""What every entry point of the package asks of its arguments."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def valid_depths(depths: Any, least: int = 1, name: str = "depths") -> NDArray[np.int64]:
    """``depths`` as integers, each at least ``least`` and below 2⁶³, as int64 goes no further."""
    array = np.asarray(depths)
    if array.ndim and array.shape[-1] == 0:
        raise ValueError(f"{name} is empty: a network needs at least one pathway")
    number = array.dtype.kind in "iuf"
    if not (number and np.all(array == np.floor(array)) and np.all(array < 2.0**63)):
        raise ValueError(f"{name} must be whole numbers below 2**63, got {depths}")
    if np.any(array < least):
        raise ValueError(f"{name} must be at least {least}, got {depths}")
    return array.astype(np.int64)


def positive(name: str, value: Any) -> Floats:
    """``value`` in float64, every entry finite and above zero."""
    array = _floats(name, value)
    good = (array > 0) & np.isfinite(array)
    if not good.all():
        raise ValueError(f"{name} must be finite and positive, got {array[~good][0]}")
    return array


def non_negative(name: str, value: Any) -> Floats:
    """``value`` in float64, every entry finite and not below zero."""
    array = _floats(name, value)
    good = (array >= 0) & np.isfinite(array)
    if not good.all():
        raise ValueError(f"{name} must be finite and not negative, got {array[~good][0]}")
    return array


def strengths_of(depths: Any, strengths: Any) -> Floats:
    """``strengths`` as floats, one for each pathway on the last axis."""
    depth, array = valid_depths(depths), non_negative("strengths", strengths)
    if not (depth.ndim and array.ndim and depth.shape[-1] == array.shape[-1]):
        raise ValueError(
            "strengths and depths need one entry per pathway on their last axis, "
            f"got shapes {array.shape} and {depth.shape}"
        )
    return array


def _floats(name: str, value: Any) -> Floats:
    """``value`` in float64; NumPy would read text as a number, and drop an imaginary part."""
    try:
        if np.asarray(value).dtype.kind in "biufO":
            return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be real numbers, got {value!r:.80}")
