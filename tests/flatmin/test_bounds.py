import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from flatmin.bounds import disagreement, generalization_bound, inconsistency_range

SETTING = {"norm": 3.0, "parameters": 50, "examples": 400, "rho": 0.2}


def test_bound_is_the_theorem_written_out():
    n, m, rho, norm, xi = 400, 50, 0.2, 3.0, 0.05
    bound = generalization_bound(0.1, 0.3, **SETTING, residual_norm=2.0, xi=xi)
    ratio = norm**2 / rho**2 * (1 + math.sqrt(math.log(n) / m)) ** 2
    complexity = math.sqrt((m * math.log(1 + ratio) + 4 * math.log(n / xi)) / (n - 1))
    assert bound.complexity == pytest.approx(complexity, rel=1e-12)
    assert bound.residual == pytest.approx(0.04)
    assert bound.total == pytest.approx(0.1 + 0.3 + 0.04 + complexity, rel=1e-12)


@pytest.mark.parametrize("examples", [100, 10_000])
def test_noise_of_the_posterior_stays_within_the_radius(examples):
    bound = generalization_bound(0.0, 0.0, **{**SETTING, "examples": examples})
    generator = torch.Generator().manual_seed(0)
    draws = bound.noise * torch.randn(20_000, SETTING["parameters"], generator=generator)
    outside = (draws.norm(dim=1) > SETTING["rho"]).double().mean()
    assert outside < 1 / math.sqrt(examples)


def test_complexity_falls_with_examples_and_radius_and_grows_with_the_norm():
    def complexity(**changed):
        return generalization_bound(0.0, 0.0, **{**SETTING, **changed}).complexity

    assert complexity(examples=800) < complexity() < complexity(norm=4.0)
    assert complexity(rho=0.4) < complexity() < complexity(xi=0.01)
    closed = math.sqrt(4 * math.log(400 / 0.05) / 399)
    assert complexity(norm=0.0) == pytest.approx(closed)


@pytest.mark.parametrize("runs", [2, 5])
def test_disagreement_is_the_mean_over_pairs(runs):
    logits = torch.randn(runs, 7, 4, generator=torch.Generator().manual_seed(1)).double()
    f = [Categorical(logits=z) for z in logits]
    pairs = [kl_divergence(p, q).mean() for p in f for q in f if p is not q]
    assert disagreement(logits) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-12)


def test_a_class_that_is_masked_by_minus_infinity_counts_for_nothing():
    logits = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1)).double()
    masked = torch.cat([logits, torch.full((3, 7, 1), -math.inf)], 2)
    assert disagreement(masked) == pytest.approx(disagreement(logits), rel=1e-12)
    masked[1:, :, 4] = 0.0  # but in one network alone
    assert disagreement(masked) == math.inf
    masked[:, 0, 0] = math.nan
    assert math.isnan(disagreement(masked))


@given(
    values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    variances=st.lists(st.floats(0.1, 10.0), min_size=8, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_range_holds_for_any_fisher_matrix_and_covariance(values, variances, seed):
    generator = torch.Generator().manual_seed(seed)

    def with_spectrum(eigenvalues):
        size = len(eigenvalues)
        square = torch.randn(size, size, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(square).Q
        return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T

    m, rho = len(values), 0.3
    variances = variances[:m]
    fisher, covariance = with_spectrum(values), with_spectrum(variances)
    c_p = float(rho**2 / m * (fisher @ covariance).trace())
    s_rho = 0.5 * rho**2 * max(values)
    spread = (min(variances), max(variances))
    low, high = inconsistency_range(c_p, parameters=m, spread=spread)
    assert low * (1 - 1e-9) <= s_rho <= high * (1 + 1e-9)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_range_is_tight_for_equal_eigenvalues(rank):
    m, rho = 10, 0.5
    c_p, s_rho = rho**2 / m * rank, 0.5 * rho**2
    low, high = inconsistency_range(c_p, parameters=m, dominant=rank)
    assert low == pytest.approx(s_rho)
    assert high == pytest.approx(s_rho * rank)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": -1.0}, "loss must be finite and >= 0, got -1.0"),
        ({"inconsistency": math.nan}, "inconsistency must be finite"),
        ({"norm": -1.0}, "norm must be"),
        ({"residual_norm": -1.0}, "residual_norm must be"),
        ({"parameters": 0}, "parameters must be finite and >= 1, got 0"),
        ({"examples": 1}, "examples must be finite and >= 2, got 1"),
        ({"rho": 0.0}, "rho must be positive and finite, got 0.0"),
        ({"xi": 1.0}, "xi must lie between 0 and 1, got 1.0"),
    ],
)
def test_bound_names_what_is_wrong(changed, message):
    with pytest.raises(ValueError, match=message):
        generalization_bound(**{"loss": 0.0, "inconsistency": 0.0, **SETTING, **changed})


def test_relation_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"logits must be \(r >= 2, n, C\), got \(1, 3, 2\)"):
        disagreement(torch.zeros(1, 3, 2))
    for wrong, message in [
        ({"disagreement": -1.0}, "disagreement must be finite and >= 0, got -1.0"),
        ({"parameters": 0}, "parameters must be finite and >= 1, got 0"),
        ({"dominant": 6}, "dominant must be from 1 to 5, got 6"),
        ({"spread": (2.0, 1.0)}, r"spread must be 0 < low <= high, got \(2.0, 1.0\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            inconsistency_range(**{"disagreement": 0.1, "parameters": 5, **wrong})
