import mpmath
import pytest
import torch
from cases import randn, seeded
from scipy.special import expit, rel_entr, softmax

from flatmin import divergences
from flatmin.divergences import divergence_named

NAMES = ["categorical", "bernoulli", "gaussian"]


@pytest.fixture
def in_pieces(monkeypatch):
    """Rows of 5 outputs at a time: two, two, two and one of seven."""
    monkeypatch.setattr(divergences, "_AT_ONCE", 10)


def by_definition(name, f, moved):
    """D summed over all, by SciPy."""
    f, moved = f.numpy(), moved.numpy()
    if name == "categorical":
        return rel_entr(softmax(f, -1), softmax(moved, -1)).sum()
    if name == "gaussian":
        return ((moved - f) ** 2).sum() / 2
    return (rel_entr(expit(f), expit(moved)) + rel_entr(expit(-f), expit(-moved))).sum()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_total_is_the_definition(name, shape):
    f, moved = 3 * randn(*shape), 3 * randn(*shape, seed=1)
    d = divergence_named(name)
    assert float(d.total(f, moved)) == pytest.approx(by_definition(name, f, moved), rel=1e-12)
    assert float(d.total(moved, f)) == pytest.approx(by_definition(name, moved, f), rel=1e-12)
    assert d.count(f) == (6 if name == "categorical" and len(shape) == 3 else shape[0])


@pytest.mark.parametrize("name", ["categorical", "bernoulli"])
@pytest.mark.parametrize("gap", [1e-3, 30.0, 700.0, 1e4])
def test_saturated_logits_against_many_digits(name, gap):
    f, moved = torch.tensor([[gap, 0.0]]).double(), torch.tensor([[gap, 1e-2]]).double()
    with mpmath.workdps(60):
        exp = mpmath.exp

        def probabilities(z):
            if name == "bernoulli":
                return [q for v in z for q in (1 / (1 + exp(-v)), 1 / (1 + exp(v)))]
            return [exp(v - max(z)) / sum(exp(w - max(z)) for w in z) for v in z]

        p, q = (probabilities([mpmath.mpf(v) for v in z[0].tolist()]) for z in (f, moved))
        pairs = zip(p, q, strict=True)
        expected = float(sum(p * mpmath.log(p / q) for p, q in pairs if p > 1e-300))
    found = float(divergence_named(name).total(f, moved))
    # With p as small as exp(-700), D is a difference of numbers of size 1e-16.
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_slope_curvature_and_quadratic_are_the_derivatives(name):
    d = divergence_named(name)
    f, moved, u = randn(3, 4, 5)
    slope = torch.func.grad(lambda g: d.between(f, g).sum())
    torch.testing.assert_close(d.slope(f, moved), slope(moved))
    curved = torch.func.jvp(slope, (f,), (u,))[1]
    torch.testing.assert_close(d.curvature(f, u), curved)
    torch.testing.assert_close(d.quadratic(f, u), (u * curved).sum())


@pytest.mark.parametrize("name", NAMES)
def test_score_has_mean_zero_and_the_curvature_as_covariance(name):
    d, f = divergence_named(name), randn(1, 3)
    scores = d.score(f.expand(40_000, 3), seeded())
    assert scores.mean(0).abs().max() < 0.03
    covariance = scores.T @ scores / len(scores)
    expected = torch.stack([d.curvature(f, e[None])[0] for e in torch.eye(3).double()])
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_make_the_whole(name, monkeypatch):
    d, u = divergence_named(name), randn(7, 5, seed=2)

    def everything():
        f = randn(7, 5).requires_grad_()
        moved = randn(7, 5, seed=1).requires_grad_()
        total = d.total(f, moved)
        yield from (total, *torch.autograd.grad(3 * total, [f, moved]))
        (one_side,) = torch.autograd.grad(d.total(f.detach(), moved), [moved])
        yield from (one_side, d.slope(f, moved), d.curvature(f, u), d.quadratic(f, u))
        yield torch.autograd.grad(d.total(f, moved.detach()), [f])[0]

    whole = [*everything()]
    monkeypatch.setattr(divergences, "_AT_ONCE", 10)
    assert len(d._pieces(u)) == 4
    torch.testing.assert_close([*everything()], whole)


@pytest.mark.usefixtures("in_pieces")
def test_outputs_need_not_be_contiguous():
    f, moved = randn(5, 7).T.requires_grad_(), randn(5, 7, seed=1).T
    d = divergence_named("categorical")
    torch.testing.assert_close(d.slope(f, moved), moved.softmax(1) - f.detach().softmax(1))
    (found,) = torch.autograd.grad(d.total(f, moved), f)
    (expected,) = torch.autograd.grad(d.between(f, moved).sum(), f)
    torch.testing.assert_close(found, expected)


def test_bernoulli_is_categorical_with_a_second_logit_of_zero():
    f, moved, u = randn(3, 6, 1)
    yes, pair = divergence_named("bernoulli"), divergence_named("categorical")

    def both(z):
        return torch.cat([torch.zeros_like(z), z], 1)

    torch.testing.assert_close(yes.total(f, moved), pair.total(both(f), both(moved)))
    torch.testing.assert_close(yes.slope(f, moved), pair.slope(both(f), both(moved))[:, 1:])
    torch.testing.assert_close(yes.curvature(f, u), pair.curvature(both(f), both(u))[:, 1:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_outputs_are_compared_in_float64(name, dtype):
    d = divergence_named(name)
    f, moved = randn(4, 5).to(dtype), randn(4, 5, seed=1).to(dtype)
    total = d.total(f, moved)
    assert total.dtype == torch.float64
    torch.testing.assert_close(total, d.total(f.double(), moved.double()), rtol=1e-14, atol=0)
    slope = d.slope(f, moved)
    assert slope.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    torch.testing.assert_close(
        slope.double(), d.slope(f.double(), moved.double()), atol=4e-3, rtol=4e-3
    )
    assert d.total(f, f) == 0
    assert not d.slope(f, f).any()


def test_a_slope_does_not_underflow_in_float16():
    f = torch.tensor([[0.0, -17.0]], dtype=torch.float16)
    slope = divergence_named("categorical").slope(f, f * 1.001)
    assert 0 < slope.abs().max() < 6e-8  # the least number of float16


def test_a_mask_is_a_choice_of_rows():
    f, moved = randn(2, 4, 6, 5)
    mask = torch.arange(24).view(4, 6) % 3 == 0
    d = divergence_named("categorical")
    chosen = d.between(f, moved)[mask].sum()
    torch.testing.assert_close(d.total(f[mask], moved[mask]), chosen)
    assert d.count(f[mask]) == 8


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("categorical", (8, 1), r'C >= 2 .*got \(8, 1\); for one logit .*divergence="bernoulli"'),
        ("categorical", (8,), r"logits must be \(\.\.\., C\).*got \(8,\)"),
        ("categorical", (0, 3), r"the batch must not be empty, got outputs \(0, 3\)"),
        ("bernoulli", (0,), "the batch must not be empty"),
        ("gaussian", (), "outputs must be .*got a scalar"),
    ],
)
def test_shapes_that_make_no_sense_are_named(name, shape, message):
    d, outputs = divergence_named(name), torch.zeros(shape)
    for use in (lambda: d.count(outputs), lambda: d.total(outputs, outputs)):
        with pytest.raises(ValueError, match=message):
            use()


def test_one_logit_per_example_need_not_have_a_second_axis():
    d, f, moved = divergence_named("bernoulli"), *randn(2, 6)
    assert d.count(f) == 6
    torch.testing.assert_close(d.total(f, moved), d.total(f[:, None], moved[:, None]))
    with pytest.raises(ValueError, match=r"divergence must be one of .*got 'kl'"):
        divergence_named("kl")
