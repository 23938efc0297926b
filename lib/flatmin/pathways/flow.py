"""Gradient flow on one mode: the limit of an infinitely small step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from flatmin.pathways._check import Floats, positive, strengths_of, valid_depths


@dataclass(frozen=True)
class FlowHistory:
    """What :func:`gradient_flow` returns, in float64.

    Attributes:
        times: Times t, shape ``(times,)``.
        strengths: End-to-end strengths σ_h = s_h^{L_h}, shape ``(times, pathways)``.
        loss: ½ (Σ_h σ_h − σ⋆)², shape ``(times,)``.
        conserved: What the flow cannot change, φ_h − φ_1 for each path h after the first, with φ
            of :func:`flow_potential`; shape ``(times, pathways − 1)``.
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


def flow_potential(depths: ArrayLike, strengths: ArrayLike) -> Floats:
    """φ_h = s_h^{2 − L_h}/(2 − L_h), or log s_h at L_h = 2: gradient flow moves all of them alike.

    Its differences between pathways are what the flow conserves (Kim & Lee 2026, Section 3).

    Args:
        depths: L_h ≥ 1, shape ``(pathways,)``.
        strengths: σ_h > 0, shape ``(..., pathways)``.

    Returns:
        φ_h, shape ``(..., pathways)``; it grows with the strength, and is negative for L_h > 2.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not fit.

    Example:
        >>> print(flow_potential([2, 3, 4], [1.0, 0.125, 1.0]))
        [ 0.  -2.  -0.5]
    """
    depth, strength = valid_depths(depths), positive("strengths", strengths)
    strengths_of(depths, strength)
    return _potential(depth, strength ** (1 / depth))


def flow_landing(depths: ArrayLike, target: ArrayLike, strengths: ArrayLike) -> Floats:
    """Where gradient flow from given strengths reaches zero loss, without solving an equation of t.

    All φ_h of :func:`flow_potential` keep their distance to the largest, and where that one ends is
    found by Newton's method, from above on an increasing convex sum, so every step is safe. The
    sharpness at this point is the "gradient flow solution sharpness" of Kreisler et al. (2023).

    Args:
        depths: L_h ≥ 2, shape ``(pathways,)``.
        target: σ⋆ > 0, shape ``(...,)``.
        strengths: σ_h > 0 now, shape ``(..., pathways)``.

    Returns:
        σ_h ≥ 0 at zero loss, shape ``(..., pathways)``; they sum to σ⋆.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not fit.

    Example:
        >>> print(flow_landing([20, 20], 1.0, [0.011, 0.01]).round(4))
        [0.8711 0.1289]
    """
    depth, goal = valid_depths(depths, least=2), positive("target", target)[..., None]
    phi = flow_potential(depth, strengths)
    gap = phi - phi.max(axis=-1, keepdims=True)  # to the path that arrives first: nothing cancels
    level = np.min(_potential(depth, goal ** (1 / depth)) - gap, axis=-1, keepdims=True)
    for _ in range(100):
        layers = _layers(depth, level + gap)
        excess = np.sum(layers**depth, axis=-1, keepdims=True) - goal
        slope = np.sum(depth * layers ** (2 * depth - 2), axis=-1, keepdims=True)
        level = level - excess / slope
        if np.all(np.abs(excess) <= 1e-13 * goal):
            break
    return np.asarray(_layers(depth, level + gap) ** depth)


def _potential(depth: NDArray[np.int64], layers: Floats) -> Floats:
    log = depth == 2  # each branch is given only what it can compute
    power = layers ** (2.0 - depth) / np.where(log, 1.0, 2.0 - depth)
    return np.where(log, np.log(np.where(log, layers, 1.0)), power)


def _layers(depth: NDArray[np.int64], phi: Floats) -> Floats:
    """The layer values s_h of which ``phi`` is the potential, at depths from 2 on."""
    share = np.where(depth == 2, 1.0, 2.0 - depth)
    return np.where(depth == 2, np.exp(phi), (share * phi) ** (1 / share))
