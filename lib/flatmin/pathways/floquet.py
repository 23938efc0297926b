"""Whether the singular-vector set holds: off-diagonal disturbances of a run on it.

Between two modes i and j the layers of a network on the set are diagonal. Disturb their (i, j) and
(j, i) entries: to first order no other entry hears of it, and the Hessian of the loss acts on these
2 Σ_h L_h numbers alone. Along a run of gradient descent I − ηH multiplies the disturbance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from flatmin.pathways._check import Floats, non_negative, positive, valid_depths


def pair_hessian(depths: Sequence[int], strengths: ArrayLike, targets: ArrayLike) -> Floats:
    r"""Hessian in the entries that couple two modes, at any depth-balanced point of the set.

    With a = s_{hi}, b = s_{hj} and residuals r it has a part from the network map, whose (i, j)
    entry moves with a^{L−ℓ} b^{ℓ−1}, and one from the residuals, which ties the (i, j) entry of
    layer m to the (j, i) entry of layer ℓ: r_i a^{L−1−k} b^{k−1} for k = m − ℓ > 0, and r_j
    b^{L−1−k} a^{k−1} for k = ℓ − m > 0. At zero loss the non-zero eigenvalues are those of
    :func:`~flatmin.pathways.theory.cross_mode_sharpness`.

    Args:
        depths: Layers L_h ≥ 1 of each pathway.
        strengths: σ_{ih} ≥ 0 of the two modes, shape ``(2, pathways)``.
        targets: σ⋆ > 0 of the two modes, shape ``(2,)``.

    Returns:
        The Hessian, shape ``(2 N, 2 N)`` with N = Σ_h L_h: first the (i, j) entries, pathway by
        pathway from input to output, then the (j, i) entries.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not fit.

    Example:
        >>> top = np.linalg.eigvalsh(pair_hessian([5, 5], [[0.8, 0.2], [0.1, 0.4]], [1.0, 0.5]))[-1]
        >>> print(top.round(4))
        1.9347
    """
    depth, strength = valid_depths(depths), non_negative("strengths", strengths)
    goals = positive("targets", targets)
    if depth.ndim != 1 or strength.shape != (2, len(depth)) or goals.shape != (2,):
        raise ValueError(
            "a pair takes depths of shape (pathways,), strengths of shape (2, pathways) and two "
            f"targets, got shapes {depth.shape}, {strength.shape} and {goals.shape}"
        )
    residuals = strength.sum(1) - goals
    forward, backward, ties = [], [], []
    for layers, (a, b) in zip(depth, (strength ** (1 / depth)).T, strict=True):
        power = np.arange(layers)
        forward.append(a ** power[::-1] * b**power)
        backward.append(b ** power[::-1] * a**power)
        gap = power[:, None] - power  # m − ℓ
        k = np.clip(np.abs(gap), 1, max(layers - 1, 1))
        rest = np.maximum(layers - 1 - k, 0)
        above, below = a**rest * b ** (k - 1), b**rest * a ** (k - 1)
        ties.append(residuals[0] * above * (gap > 0) + residuals[1] * below * (gap < 0))
    along, across, tie = np.concatenate(forward), np.concatenate(backward), block_diag(*ties)
    return np.block([[np.outer(along, along), tie], [tie.T, np.outer(across, across)]])


def floquet_exponent(
    depths: Sequence[int], strengths: ArrayLike, targets: ArrayLike, step_size: float
) -> float:
    r"""Growth per step of a disturbance that mixes two modes, over two steps from here.

    Half the logarithm of the spectral radius of (I − ηH')(I − ηH), H and H' the
    :func:`pair_hessian` here and one step on. Two steps, because at the edge of stability the
    residuals alternate in sign. A turn of the frames of one pathway mixes modes and changes
    nothing, so that on a run at rest, or of period two, the exponent is never below 0.

    Args:
        depths: Layers L_h ≥ 1 of each pathway.
        strengths: σ_{ih} ≥ 0 of the two modes now, shape ``(2, pathways)``.
        targets: σ⋆ > 0 of the two modes, shape ``(2,)``.
        step_size: η ≥ 0.

    Returns:
        The exponent; the disturbance grows where it is above 0.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not fit, or if the
            step takes a layer below zero.

    Example:
        At rest at the edge of stability, and swinging about it in opposite phase:

        >>> still, swing = [[1.0], [1.0]], [[1.1], [0.9]]
        >>> [round(floquet_exponent([6], s, [1.0, 1.0], 1 / 3), 4) for s in (still, swing)]
        [0.0, 0.0038]
    """
    rate = float(non_negative("step_size", step_size))
    first = pair_hessian(depths, strengths, targets)
    strength, depth = np.asarray(strengths, dtype=np.float64), valid_depths(depths)
    layers = strength ** (1 / depth)
    residuals = strength.sum(1, keepdims=True) - np.asarray(targets)[:, None]
    layers = layers - rate * layers ** (depth - 1) * residuals
    if np.any(layers < 0):
        raise ValueError(f"step_size {step_size} takes a layer below zero from {strengths!r}")
    second = pair_hessian(depths, layers**depth, targets)
    eye = np.eye(len(first))
    multipliers = np.linalg.eigvals((eye - rate * second) @ (eye - rate * first))
    return float(np.log(np.abs(multipliers).max()) / 2)
