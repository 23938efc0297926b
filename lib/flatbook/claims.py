"""From a measured number to a verdict: the papers' claims and the checks that decide them."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

REPRODUCED = "reproduced"
REDUCED = "reproduced at reduced scale"
FAILED = "not reproduced"
INCONCLUSIVE = "inconclusive"
UNTESTABLE = "not testable here"


@lru_cache(maxsize=1)
def load_claims() -> dict[str, dict[str, Any]]:
    """Read every claim: from ``book/claims.yml`` in a checkout, else from the installed copy.

    Returns:
        One mapping per claim id, with the fields explained at the top of that file.
    """
    installed = Path(__file__).with_name("claims.yml")
    source = installed if installed.exists() else Path(__file__).parents[2] / "book" / "claims.yml"
    claims: dict[str, dict[str, Any]] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return claims


def holds(value: float, tolerance: Mapping[str, Any]) -> bool:
    """Whether ``value`` lies where ``tolerance`` says it must.

    Args:
        value: The measured number. NaN never passes.
        tolerance: ``{"below": x}``, ``{"above": x}`` or ``{"between": [a, b]}``.

    Raises:
        ValueError: If the tolerance is none of the three.

    Examples:
        >>> holds(0.02, {"below": 0.1}), holds(float("nan"), {"below": 0.1})
        (True, False)
    """
    match dict(tolerance):
        case {"below": limit, **others} if not others:
            return value < float(limit)
        case {"above": limit, **others} if not others:
            return value > float(limit)
        case {"between": [low, high], **others} if not others:
            return float(low) <= value <= float(high)
    raise ValueError(
        f"tolerance must be one of below: x, above: x, between: [a, b]; got {dict(tolerance)!r}"
    )


def verdict(
    value: float, entry: Mapping[str, Any], interval: tuple[float, float] | None = None
) -> str:
    """Return the verdict that a number earns under the tolerance and scale of a claim's entry.

    Args:
        value: The measured number. NaN never passes, whatever its interval.
        entry: The claim's fields, of which ``tolerance`` and ``scale`` count.
        interval: The ends of its 95 % interval if it is an estimate: the whole interval has to
            lie inside the limits, or outside all on one side; else nothing is decided.
    """
    tolerance = entry["tolerance"]
    if math.isnan(value):
        return FAILED
    low, high = (value, value) if interval is None else interval
    if not holds(low, tolerance) or not holds(high, tolerance):
        limits = [tolerance[key] for key in ("below", "above") if key in tolerance]
        limits = [float(x) for x in limits or tolerance["between"]]
        straddles = any(low <= limit <= high for limit in limits) and low < high
        return INCONCLUSIVE if straddles else FAILED
    return REDUCED if entry.get("scale") == "reduced" else REPRODUCED


def required(tolerance: Mapping[str, Any]) -> str:
    """Say a tolerance in words.

    Examples:
        >>> required({"between": [0.9, 1.1]})
        'must be between 0.9 and 1.1'
    """
    ((kind, limit),) = tolerance.items()
    limits = limit if isinstance(limit, list) else [limit]
    return f"must be {kind} " + " and ".join(f"{float(x):g}" for x in limits)


def _shown(value: float, tolerance: Mapping[str, Any]) -> str:
    # Rounding errors differ from one processor to the next; their exact size says nothing.
    floor = float(tolerance.get("below", 0)) / 100
    return f"below {floor:.0e}" if abs(value) < floor else f"{value:.3g}"


def _written(number: float) -> float | str:
    """A number as JSON takes it."""
    return number if math.isfinite(number) else str(number)


@dataclass(frozen=True)
class Claim:
    """One claim of a paper. Get it by :func:`claim`.

    Attributes:
        id: Its id in ``book/claims.yml``, such as ``"A.T3"``.
        entry: Its fields there.
    """

    id: str
    entry: Mapping[str, Any]

    def check(self, value: float, *, interval: tuple[float, float] | None = None) -> None:
        """Compare ``value`` with the claim's tolerance and print one line with the verdict.

        Where the environment variable ``FLATBOOK_OUT`` names a folder (the book's own runs set
        it), the figure is stored there for the scoreboard.

        Args:
            value: The number that the claim's ``check`` describes. NaN counts as not reproduced.
            interval: Ends of its 95 % interval, if the number is an estimate: see :func:`verdict`.

        Raises:
            ValueError: If the claim has no tolerance yet, or the interval does not hold the value.
            TypeError: If ``value`` is not one number.

        Examples:
            >>> entry = {"tolerance": {"below": 0.1}, "check": "distance from 3"}
            >>> Claim("X.1", entry).check(0.02)
            X.1: reproduced. 0.02 (must be below 0.1), distance from 3
            >>> Claim("X.1", entry).check(0.05, interval=(0.01, 0.12))
            X.1: inconclusive. 0.05 [0.01, 0.12] (must be below 0.1), distance from 3
        """
        if "tolerance" not in self.entry:
            raise ValueError(f"claim {self.id} has no tolerance in book/claims.yml: choose one")
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"value of claim {self.id} must be one number, got {value!r}"
            ) from error
        tolerance = self.entry["tolerance"]
        shown = _shown(number, tolerance)
        if interval is not None:
            low, high = map(float, interval)
            if low > number or number > high:
                raise ValueError(
                    f"interval of claim {self.id} must hold its value, got {value} and {interval}"
                )
            interval = low, high
            shown += f" [{low:.3g}, {high:.3g}]"
        outcome = verdict(number, self.entry, interval)
        print(f"{self.id}: {outcome}. {shown} ({required(tolerance)}), {self.entry['check']}")
        record: dict[str, Any] = {"value": _written(number), "verdict": outcome}
        if interval is not None:
            record["interval"] = [_written(x) for x in interval]
        self._keep(record)

    def untestable(self, why: str) -> None:
        """Print, and store for the scoreboard, that a gate failed: the claim cannot be tested here.

        Args:
            why: The gate and its value, and what it would take; one sentence.

        Examples:
            >>> Claim("X.1", {}).untestable("SAM does not beat SGD: 0.1 ± 0.4 points.")
            X.1: not testable here. SAM does not beat SGD: 0.1 ± 0.4 points.
        """
        print(f"{self.id}: {UNTESTABLE}. {why}")
        self._keep({"verdict": UNTESTABLE, "why": why})

    def _keep(self, record: Mapping[str, Any]) -> None:
        if folder := os.environ.get("FLATBOOK_OUT"):
            Path(folder, f"{self.id}.claim.json").write_text(json.dumps(record), encoding="utf-8")


def claim(id: str) -> Claim:  # noqa: A002 - the word that claims.yml and the scoreboard use
    """Look up a claim.

    Args:
        id: An id of ``book/claims.yml``.

    Raises:
        KeyError: If there is no such claim; the message names the nearest ones.

    Examples:
        >>> claim("A.T3").entry["source"]["paper"]
        'kim2026iam'
    """
    claims = load_claims()
    if id not in claims:
        near = ", ".join(difflib.get_close_matches(id, claims, n=3, cutoff=0)) or "none"
        raise KeyError(f"id {id!r} is not in book/claims.yml; the nearest are {near}")
    return Claim(id, claims[id])
