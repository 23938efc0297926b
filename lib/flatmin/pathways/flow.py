"""Gradient flow on one mode: the limit of an infinitely small step, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from flatmin.pathways._check import Floats, positive, valid_depths


@dataclass(frozen=True)
class FlowHistory:
    """What :func:`gradient_flow` returns, in float64.

    Attributes:
        times: Times t, shape ``(times,)``.
        strengths: End-to-end strengths σ_h = s_h^{L_h}, shape ``(times, pathways)``.
        loss: ½ (Σ_h σ_h − σ⋆)², shape ``(times,)``.
        conserved: What the flow cannot change, φ_h − φ_1 for each path h after the first, with
            φ_h = s_h^{2 − L_h}/(2 − L_h), or log s_h at L_h = 2; shape ``(times, pathways − 1)``.
    """

    times: Floats
    strengths: Floats
    loss: Floats
    conserved: Floats


def gradient_flow(
    depths: Sequence[int], target: float, init: ArrayLike, times: ArrayLike
) -> FlowHistory:
    """Solve ds_h/dt = −s_h^{L_h − 1} (Σ_k s_k^{L_k} − σ⋆) for one mode.

    A gradient-descent run of n steps of size η corresponds to t = η n. Dividing the equations of
    two paths gives ds_h/ds_k = s_h^{L_h − 1}/s_k^{L_k − 1}, whose integral is ``conserved``: small
    differences at the start grow with depth (Shi et al. 2022; Kim & Lee 2026, Section 3).

    Args:
        depths: Layers L_h ≥ 1 of each pathway.
        target: Singular value σ⋆ > 0 of the target mode.
        init: End-to-end strengths α_h > 0 at time 0, shape ``(pathways,)``.
        times: Times ≥ 0 to report, increasing, shape ``(times,)``.

    Returns:
        Strengths, loss and conserved differences at ``times``.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not fit.
        RuntimeError: If the solver gives up.

    Example:
        >>> flow = gradient_flow([20, 20], 1.0, [0.011, 0.01], [0.0, 100.0])
        >>> print(flow.strengths[-1].round(4))
        [0.8711 0.1289]
        >>> print(np.ptp(flow.conserved) < 1e-8)
        True
    """
    depth, start = valid_depths(depths), positive("init", init)
    goal, at = positive("target", target), np.asarray(times, dtype=np.float64)
    if depth.ndim != 1 or start.shape != depth.shape or goal.ndim:
        raise ValueError(
            "gradient_flow takes one mode: depths and init of shape (pathways,) and one target, "
            f"got shapes {depth.shape}, {start.shape} and {goal.shape}"
        )
    if not (at.ndim == 1 and at.size and at[0] >= 0 and np.all(np.diff(at) > 0)):
        raise ValueError(f"times must be a list of increasing numbers from 0 on, got {times!r}")

    def velocity(_: float, s: Floats) -> Floats:
        return -(s ** (depth - 1)) * (np.sum(s**depth) - goal)

    def jacobian(_: float, s: Floats) -> Floats:
        slope = s ** (depth - 1)
        bend = (depth - 1) * s ** (depth - 2.0) * (np.sum(s**depth) - goal)
        return -np.outer(slope, depth * slope) - np.diag(bend)

    solution = solve_ivp(
        velocity,
        (0.0, max(at[-1], 1.0)),  # an empty span would not do,
        start ** (1 / depth),
        method="Radau",
        t_eval=at,
        jac=jacobian,
        rtol=1e-11,
        atol=1e-13,
    )
    if not solution.success:
        raise RuntimeError(f"the solver gave up: {solution.message}")
    layers = solution.y.T
    strengths = layers**depth
    potential = _potential(depth, layers)
    return FlowHistory(
        times=at,
        strengths=strengths,
        loss=0.5 * (strengths.sum(-1) - goal) ** 2,
        conserved=potential[:, 1:] - potential[:, :1],
    )


def flow_limit(depths: Sequence[int], target: float, init: ArrayLike) -> Floats:
    """Where :func:`gradient_flow` ends, without a solver of differential equations.

    The flow moves φ_h = s_h^{2 − L_h}/(2 − L_h), or log s_h at L_h = 2, of every path by the same
    amount: dφ_h/dt = σ⋆ − Σ_k σ_k. That amount is the one unknown in Σ_h σ_h = σ⋆.

    Args:
        depths: Layers L_h ≥ 2 of each pathway.
        target: Singular value σ⋆ > 0 of the target mode.
        init: End-to-end strengths α_h > 0 at the start, shape ``(pathways,)``.

    Returns:
        The strengths σ_h at zero loss, shape ``(pathways,)``.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not fit.

    Example:
        >>> print(flow_limit([3, 5, 7], 1.0, [0.01, 0.01, 0.01]).round(4))
        [0.8853 0.0673 0.0474]
    """
    depth, start, goal = valid_depths(depths, 2), positive("init", init), positive("target", target)
    if depth.ndim != 1 or start.shape != depth.shape or goal.ndim:
        raise ValueError(
            "flow_limit takes one mode: depths and init of shape (pathways,) and one target, "
            f"got shapes {depth.shape}, {start.shape} and {goal.shape}"
        )
    before = _potential(depth, start ** (1 / depth))

    def moved(by: float) -> Floats:
        phi = before + by
        base = np.where(depth == 2, 1.0, (2.0 - depth) * phi)
        power = depth / np.where(depth == 2, 1.0, 2.0 - depth)
        return np.where(depth == 2, np.exp(2 * phi * (depth == 2)), base**power)

    # One path above σ⋆ is too strong for the sum; all of them below σ⋆/H are not.
    shares = 0.99 * goal / len(depth), 1.01 * goal
    ends = [_potential(depth, share ** (1 / depth)) - before for share in shares]
    amount = brentq(lambda by: moved(by).sum() - goal, ends[0].min(), ends[1].min(), xtol=1e-15)
    return moved(float(amount))


def _potential(depth: NDArray[np.int64], layers: Floats) -> Floats:
    """φ of each path, whose differences the flow conserves."""
    share = np.where(depth == 2, 1.0, 2.0 - depth)  # any non-zero number where log takes over
    return np.where(depth == 2, np.log(layers), layers ** (2.0 - depth) / share)
