"""Numbers that Parts II and III state in prose and no cell prints: computed, and looked for."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from flatmin.pathways import flow_landing, recovery_ratio, theory
from flatmin.pathways.recovery import _difference_kept

BOOK = Path(__file__).parents[2] / "book"
FIRST, SECOND = np.array([1.1e-2, 1e-2]), np.array([0.10, 0.09])
SPLIT = theory.flattest_split([2, 5, 7], 1.0)
DEEP = 10**7
LAMBDA_4 = theory.balanced_sharpness(20, 4, 1.0)


def tie(shallow, deep):
    """The start from which two paths arrive together."""
    return ((shallow - 2) / (deep - 2)) ** (shallow * deep / 2 / (deep - shallow))


def unsafe(depth, excess):
    """The part of all starts of a lone path that an excess over the worst-case return flips."""
    gamma = (1 + excess) * float(theory.wcr_ratio(depth))
    x = np.linspace(0, 1, 100_001)[1:-1] ** (1 / depth)
    for _ in range(2):
        x = x - gamma / depth * x ** (depth - 1) * (x**depth - 1)
    return np.mean(x < 0)


def near_rungs():
    """2/λ where the flow ends, and per cent left to the other path, of the modes 0.9 and 0.89."""
    ends = flow_landing([20, 20], np.array([0.9, 0.89]), [[0.02, 0.005]] * 2)
    left = 100 * ends.min(-1) / ends.sum(-1)
    return (*(2 / theory.mode_sharpness([20, 20], ends)), left.mean())


def worst_pair(gamma):
    """The two strengths that a step sets back furthest, at infinite depth."""
    found = minimize(
        lambda logs: _difference_kept(gamma, DEEP, *np.exp(logs)),
        np.log([0.6, 0.03]),
        method="Nelder-Mead",
    )
    return tuple(np.exp(found.x))


def balance_law(depth, paths=2):
    """p and κ of the time to balance."""
    p = 2 * (5 * depth - 4) / (3 * (depth - 2))
    return p, 4 * (depth - 1) * (depth - 2) * paths / (depth**2 * (p - 1))


STATED = [
    ("pathways/03-gradient-flow", "falls from %.2f to about %.1f",
     (flow_landing([20, 20], 1.0, FIRST)[0], flow_landing([20, 20], 1.0, SECOND)[0])),
    ("pathways/05-why-it-drifts", "close to $%.2f/(L-1)$", DEEP * theory.reversal_threshold(DEEP)),
    ("pathways/06-unequal-depths", "depths 5 and 20 that is %.4f", tie(5, 20)),
    ("pathways/06-unequal-depths", "for 3 and 5 it is %.3f", tie(3, 5)),
    ("pathways/06-unequal-depths", "(3/5)^{15/4} = %.3f$", (3 / 5) ** (15 / 4)),
    ("pathways/06-unequal-depths", "(1/4)^{5/3} = %.3f$", SPLIT[1]),
    ("pathways/06-unequal-depths", "(1/6)^{7/5} = %.3f$", SPLIT[2]),
    ("pathways/06-unequal-depths", "takes all the rest, %.3f", SPLIT[0]),
    ("pathways/08-many-modes", "weaker than about %.1f of the strongest", 2**-0.5),
    ("pathways/08-many-modes", "2/S_4 = %.3f$", 2 / theory.single_path_sharpness(20, 0.5)),
    ("pathways/08-many-modes", "between the rungs %.3f and %.3f",
     tuple(2 / theory.single_path_sharpness(20, [0.9, 0.89]))),
    ("pathways/08-many-modes", "from %.3f and %.3f on: the flow leaves %.1f %%", near_rungs()),
    ("pathways/08-many-modes", r"\eta_{\mathrm{WCR}} = %.3f$", theory.wcr_step_size(20, 1.0)),
    ("pathways/08-many-modes", r"2/\lambda_1^{\min} = %.3f$", 2 / LAMBDA_4),
    ("pathways/08-many-modes", "= %.2f$ of the strongest mode",
     (theory.wcr_ratio(20) / 2) ** (-20 / 38)),
    ("pathways/08-many-modes", "not the %.2f of", 4 ** (-18 / 38)),
    ("beyond/01-iam-restores-symmetry", r"6 \cdot 0.5^{5/3} = %.2f$",
     theory.single_path_sharpness(6, 0.5)),
    ("beyond/01-iam-restores-symmetry", r"$\alpha_2^{-2/3}/%.2f$", 20 * 0.4 * 0.1**2),
    ("beyond/01-iam-restores-symmetry", r"^{-3/2} \approx %.0f \cdot 10^{-8}$", 1e8 * 80_000**-1.5),
    ("beyond/02-infinite-depth", "tends to %.2f", recovery_ratio(DEEP)),
    ("beyond/02-infinite-depth", "a leader of %.2f and a follower of %.3f", worst_pair(4.4)),
]  # fmt: skip


@pytest.mark.parametrize(("page", "words", "values"), STATED)
def test_the_prose_says_what_is_true(page, words, values):
    text = " ".join((BOOK / f"{page}.md").read_text().split())
    assert words % values in text


def test_limits_that_the_chapter_on_drift_gives_as_fractions():
    p, kappa = balance_law(DEEP)
    assert (p, kappa) == pytest.approx((10 / 3, 24 / 7), rel=1e-6)


@pytest.mark.parametrize("depth", [3, 5, 20])
def test_the_schwarzian_derivative_of_one_step_at_the_edge(depth):
    step = np.polynomial.Polynomial([0, 1])
    step -= (
        2
        / depth
        * np.polynomial.Polynomial.basis(depth - 1)
        * (np.polynomial.Polynomial.basis(depth) - 1)
    )
    one, two, three = (step.deriv(k)(1.0) for k in (1, 2, 3))
    assert one == pytest.approx(-1)
    assert three / one - 1.5 * (two / one) ** 2 == pytest.approx(-8 * (depth - 1) * (5 * depth - 4))


@pytest.mark.parametrize("depth", [3, 8, 40])
def test_unsafe_starts_are_a_tenth_at_one_per_cent_and_grow_like_the_root(depth):
    assert unsafe(depth, 0.01) == pytest.approx(0.1, abs=0.025)
    assert unsafe(depth, 0.04) / unsafe(depth, 0.01) == pytest.approx(2, rel=0.05)
