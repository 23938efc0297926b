"""What whole numbers must be."""

from __future__ import annotations

import math
import operator
from typing import Any

from flatmin._check import require


def whole(value: Any) -> float:
    """A whole number, whatever library it is of; of anything else, bools too, NaN."""
    try:
        return math.nan if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return math.nan


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number as Python's own.

    Raises:
        ValueError: it is none, or below ``least``.
    """
    require(whole(value) >= least, f"{name} must be an integer >= {least}, got {value!r:.80}")
    return operator.index(value)
