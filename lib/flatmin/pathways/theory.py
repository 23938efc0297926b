"""Closed forms of the multi-pathway theory: sharpness, flattest splits, step-size thresholds.

Every function works elementwise on arrays, in float64. A strength σ_h is the end-to-end value
s_h^{L_h} of pathway h on one target mode, and σ⋆ is what the strengths sum to at zero loss.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from flatmin.pathways._check import Floats, positive, strengths_of, valid_depths


def mode_sharpness(depths: ArrayLike, strengths: ArrayLike) -> Floats:
    r"""Hessian eigenvalue of one mode at a zero-loss, depth-balanced point.

    λ = Σ_h L_h σ_h^{2 − 2/L_h} (Kim & Lee 2026).

    Args:
        depths: L_h ≥ 1, shape ``(..., pathways)``.
        strengths: σ_h ≥ 0, shape ``(..., pathways)``.

    Returns:
        λ, shape ``(...,)``.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not broadcast.

    Example:
        >>> print(mode_sharpness([5, 5], [[1.0, 0.0], [0.5, 0.5]]).round(4))
        [5.     3.2988]
    """
    depth, strength = valid_depths(depths), strengths_of(depths, strengths)
    return np.asarray(np.sum(depth * strength ** (2 - 2 / depth), axis=-1))


def cross_mode_sharpness(depths: ArrayLike, strengths: ArrayLike) -> Floats:
    r"""All non-zero Hessian eigenvalues of the matrix network at such a point.

    Entry (i, j) belongs to the direction u_i v_jᵀ of the network map and equals
    Σ_h Σ_ℓ σ_{hi}^{2(L_h − ℓ)/L_h} σ_{hj}^{2(ℓ − 1)/L_h}; the diagonal is :func:`mode_sharpness`.
    An entry never exceeds the mean of the two diagonal entries beside it, so the sharpness of the
    network is always the eigenvalue of a mode.

    Args:
        depths: L_h ≥ 1, shape ``(pathways,)``.
        strengths: σ_{ih} ≥ 0, shape ``(..., modes, pathways)``.

    Returns:
        The eigenvalues, shape ``(..., modes, modes)``, symmetric.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not fit.

    Example:
        >>> print(cross_mode_sharpness([5, 5], [[0.8, 0.2], [0.1, 0.4]]).round(4))
        [[3.8795 1.9347]
         [1.9347 1.2798]]
    """
    depth, strength = valid_depths(depths), strengths_of(depths, strengths)
    if depth.ndim != 1 or strength.ndim < 2:
        raise ValueError(
            "cross_mode_sharpness needs depths of shape (pathways,) and strengths of shape "
            f"(..., modes, pathways), got {depth.shape} and {strength.shape}"
        )
    total = np.zeros((*strength.shape[:-1], strength.shape[-2]))
    for h, layers in enumerate(depth):
        power = 2 * np.arange(layers) / layers
        terms = strength[..., h, None] ** power  # (..., modes, layers)
        total += terms[..., ::-1] @ np.swapaxes(terms, -1, -2)
    return total


def single_path_sharpness(depth: ArrayLike, target: ArrayLike) -> Floats:
    """Sharpness S = L σ⋆^{2 − 2/L} with all the signal in one path: the sharpest split.

    Args:
        depth: L ≥ 1.
        target: σ⋆ > 0.

    Returns:
        S, in the shape the arguments broadcast to.

    Raises:
        ValueError: If an argument is outside its range or NaN.

    Example:
        >>> print(single_path_sharpness(20, 1.0))
        20.0
    """
    layers, goal = valid_depths(depth), positive("target", target)
    return np.asarray(layers * goal ** (2 - 2 / layers))


def balanced_sharpness(depth: ArrayLike, pathways: ArrayLike, target: ArrayLike) -> Floats:
    """Sharpness L H^{2/L − 1} σ⋆^{2 − 2/L} of the equal split, the flattest one for L > 2.

    Args:
        depth: L ≥ 1, the same for all paths.
        pathways: H ≥ 1.
        target: σ⋆ > 0.

    Returns:
        λ^min, in the shape the arguments broadcast to.

    Raises:
        ValueError: If an argument is outside its range or NaN.

    Example:
        >>> print(balanced_sharpness(20, 2, 1.0).round(4))
        10.7177
    """
    layers, paths = valid_depths(depth), valid_depths(pathways, name="pathways")
    return np.asarray(paths ** (2 / layers - 1) * single_path_sharpness(depth, target))


def flattest_split(depths: ArrayLike, target: ArrayLike) -> Floats:
    r"""The strengths of least :func:`mode_sharpness` that sum to σ⋆.

    At the optimum 2 (L_h − 1) σ_h^{1 − 2/L_h} is the same for all paths (Kim & Lee 2026, Eq. 18).
    A path of depth 2 costs 2σ however strong it is, so it takes what deeper paths would carry at a
    higher price; between several of depth 2 every split is equally flat and the equal one is given.

    Args:
        depths: L_h ≥ 2, shape ``(pathways,)``.
        target: σ⋆ > 0, any shape.

    Returns:
        σ_h ≥ 0, shape ``(*target.shape, pathways)``.

    Raises:
        ValueError: If an argument is outside its range or NaN.

    Example:
        >>> print(flattest_split([3, 5, 7], 1.0).round(4))
        [0.5953 0.2361 0.1686]
    """
    depth, goals = valid_depths(depths, least=2), positive("target", target)
    if depth.ndim != 1:
        raise ValueError(f"depths must have shape (pathways,), got {depth.shape}")
    return np.stack([_fill(depth, goal) for goal in goals.flat]).reshape(*goals.shape, len(depth))


def _fill(depth: NDArray[np.int64], goal: float) -> Floats:
    """One split: raise the common price μ of a little more strength until the paths carry σ⋆."""
    deep = depth > 2
    split = np.zeros(len(depth))
    cost, exponent = 2.0 * (depth[deep] - 1), depth[deep] / (depth[deep] - 2)

    def carried(log_price: float) -> Floats:
        return np.asarray(np.exp(exponent * (log_price - np.log(cost))))

    if deep.all() or carried(math.log(2)).sum() > goal:
        # At this price even the cheapest path alone would carry all of it.
        enough = float(np.min(np.log(cost) + math.log(goal) / exponent))
        some = float(np.min(np.log(cost) + math.log(goal / len(cost)) / exponent))
        price = brentq(lambda p: carried(p).sum() - goal, some - 1, enough + 1, xtol=1e-15)
        split[deep] = carried(price)
    else:
        split[deep] = carried(math.log(2))
        split[~deep] = (goal - split.sum()) / (~deep).sum()
    return np.asarray(split * (goal / split.sum()))


def reversal_threshold(depth: ArrayLike) -> Floats:
    r"""Largest relative step t of a layer from which no difference between pathways can grow.

    One step multiplies a layer value by 1 − t with t = η r s^{L − 2}, r = Σ_k σ_k − σ⋆. The
    differences of s_h^{2 − L}, which gradient flow conserves, keep their order and shrink while
    t ≤ 1/(L − 1); beyond it they may reverse, and can grow by that only above the root of
    (L − 1) t − 1 = (1 − t)^{L − 1}: 2 − √2 at L = 3, and 1.2785/(L − 1) in the limit of depth.

    Args:
        depth: L ≥ 3, any shape.

    Returns:
        The root, between 1/(L − 1) and 1, in the shape of ``depth``.

    Raises:
        ValueError: If a depth is below 3 or not a whole number.

    Example:
        >>> print(reversal_threshold([3, 5, 20]).round(4))
        [0.5858 0.3075 0.0668]
    """
    return np.asarray(np.vectorize(_reversal, otypes=[float])(valid_depths(depth, least=3) - 1.0))


def _reversal(n: float) -> float:
    def excess(x: float) -> float:  # x = n t; log1p keeps the power exact at any depth
        return x - 1 - math.exp(n * math.log1p(-x / n))

    root: float = brentq(excess, 1.0, 1.5, xtol=1e-15)
    return root / n


def wcr_ratio(depth: ArrayLike) -> Floats:
    r"""Largest step γ_WCR = η S from which a single path always comes back in two steps.

    With x = w/w⋆ gradient descent on one path is f_γ(x) = x − (γ/L) x^{L−1}(x^L − 1), and γ_WCR
    is the γ at which the highest overshoot from (0, 1) is sent to zero: f_γ(max f_γ) = 0 (Kim & Lee
    2026, the worst-case return). It is above 2 and grows like 2 log L.

    With x^L = e^a the point of highest overshoot gives γ in closed form, which leaves one equation
    in a. Nothing in it cancels at large L: the relative error is below 1e-9 up to L = 10⁶.

    Args:
        depth: L ≥ 2, any shape.

    Returns:
        γ_WCR in the shape of ``depth``.

    Raises:
        ValueError: If a depth is below 2 or not a whole number.

    Example:
        >>> print(wcr_ratio([2, 20, 1000]).round(6))
        [ 3.196152  5.843603 11.613611]
    """
    return np.asarray(np.vectorize(_wcr_ratio, otypes=[float])(valid_depths(depth, least=2)))


def _wcr_ratio(depth: int) -> float:
    """One depth, its equations written in u = x^L."""
    c, top, bottom = 1 - 2 / depth, 2 - 1 / depth, 1 - 1 / depth

    def ratio(u: float) -> float:  # the γ whose overshoot from (0, 1) is highest at x^L = u
        return 1 / (math.pow(u, c) * (top * u - bottom))

    def excess(u: float) -> float:  # zero where that overshoot is sent to zero
        a = math.log(u)
        y = a + depth * math.log1p(ratio(u) / depth * u**c * (1 - u))  # log x^L one step later
        return math.log(ratio(u) / depth) + c * y + y + math.log(-math.expm1(-y))

    low = bottom / top
    root: float = brentq(excess, low + 1e-9, 1 - 1e-3, xtol=1e-15, rtol=4 * np.finfo(float).eps)
    return ratio(root)


def wcr_step_size(depth: ArrayLike, target: ArrayLike) -> Floats:
    """η_WCR = γ_WCR(L)/S: above it a leading path can cross zero (Kim & Lee 2026).

    Args:
        depth: L ≥ 2.
        target: σ⋆ > 0.

    Returns:
        η_WCR, in the shape the arguments broadcast to.

    Raises:
        ValueError: If an argument is outside its range or NaN.

    Example:
        >>> print(wcr_step_size(20, 1.0).round(5))
        0.29218
    """
    return np.asarray(wcr_ratio(depth) / single_path_sharpness(depth, target))


def stability_window(
    depth: ArrayLike, pathways: ArrayLike, target: ArrayLike
) -> tuple[Floats, Floats]:
    """The step sizes that rebalance a mode: 2/S < η < min(2/λ^min, η_WCR) (Kim & Lee 2026).

    Args:
        depth: L ≥ 2, the same for all paths. At L = 2 the window is empty: both ends are equal.
        pathways: H ≥ 1.
        target: σ⋆ > 0.

    Returns:
        The lower and the upper end, each in the shape the arguments broadcast to.

    Raises:
        ValueError: If an argument is outside its range or NaN.

    Example:
        >>> low, high = stability_window(20, 2, 1.0)
        >>> print(low, high.round(5))
        0.1 0.18661
    """
    balanced = balanced_sharpness(depth, pathways, target)
    high = np.minimum(2 / balanced, wcr_step_size(depth, target))
    low = np.broadcast_to(2 / single_path_sharpness(depth, target), high.shape)
    return np.asarray(low), np.asarray(high)
