"""The step up to which an overshoot sets two pathways back no further than they had come.

Gradient flow conserves the differences z = u_2 − u_1 of u = σ^{2/L − 1}. Every step of gradient
descent shrinks them, unless it throws the stronger path back behind the weaker one: such a reversal
can leave a larger difference than there was.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize

from flatmin.pathways._check import Floats, valid_depths


def recovery_ratio(depth: ArrayLike) -> Floats:
    r"""Largest step γ_rec = η S whose overshoots never enlarge the difference of two pathways.

    Two pathways σ_1 > σ_2 > 0 with σ_1 + σ_2 ≤ σ⋆ take one step, which may overshoot, and the next,
    which may reverse their order and then leaves z″ < 0. γ_rec is the γ at which the worst start
    brings z″ = −z. It is below :func:`flatmin.pathways.theory.wcr_ratio`, and where that grows like
    2 log L this tends to 4.400 (Part III of the book).

    Args:
        depth: L ≥ 3, any shape. With two layers there is no lead that a step could lose.

    Returns:
        γ_rec in the shape of ``depth``.

    Raises:
        ValueError: If a depth is below 3 or not a whole number.

    Example:
        >>> print(recovery_ratio([3, 20, 1000]).round(4))
        [3.5949 4.2751 4.3978]
    """
    return np.asarray(np.vectorize(_recovery_ratio, otypes=[float])(valid_depths(depth, least=3)))


def _recovery_ratio(depth: int) -> float:
    def limit(start: Floats) -> float:  # the γ that turns the difference of this start round
        log_follower, share = start
        follower = math.exp(log_follower)
        leader = follower + share * (1 - 2 * follower)

        def left(gamma: float) -> float:  # z″/z + 1, squeezed into [−1, 1]
            kept = _difference_kept(gamma, depth, leader, follower)
            return -1.0 if kept == -math.inf else (kept + 1) / (abs(kept) + 1)

        return float(brentq(left, 2, 20, xtol=1e-13))

    worst = minimize(
        limit,
        [-4.0, 0.6],
        method="Nelder-Mead",
        bounds=[(-8, -2), (0.3, 0.9)],
        options={"xatol": 1e-6, "fatol": 1e-12},
    )
    return float(worst.fun)


def _difference_kept(gamma: float, depth: int, leader: float, follower: float) -> float:
    """z″/z of two pathways after two steps of γ/S, negative if their order is reversed.

    Args:
        gamma: Step in units of 1/S.
        depth: L ≥ 3.
        leader: σ_1/σ⋆, in (0, 1).
        follower: σ_2/σ⋆, below σ_1/σ⋆.

    Returns:
        z″/z, or −∞ if a layer changes its sign.

    Example:
        >>> [round(_difference_kept(gamma, 20, 0.6, 0.1), 3) for gamma in (3.0, 5.0)]
        [0.96, -10.434]
    """
    power = 1 - 2 / depth
    logs = [math.log(leader), math.log(follower)]
    before = follower**-power - leader**-power
    for _ in range(2):
        residual = sum(math.exp(x) for x in logs) - 1
        moves = [gamma / depth * residual * math.exp(power * x) for x in logs]
        if max(moves) >= 1:
            return -math.inf
        logs = [x + depth * math.log1p(-move) for x, move in zip(logs, moves, strict=True)]
    after = [math.exp(min(-power * x, 700)) for x in logs]
    return float((after[1] - after[0]) / before)
