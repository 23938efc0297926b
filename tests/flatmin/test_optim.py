import pytest
import torch
from cases import NAMES, Case, Counted, algorithm_1, build, flat, kl, outputs_at, seeded, trainable
from optimizers import BETA, LR, MAKERS, RHO, SIGMA, closure_of, loss_gradient, peak, theta_of
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
)
from torch.optim import SGD
from torch.profiler import profile

from flatmin.divergences import divergence_named
from flatmin.optim import IAMD, SAM
from flatmin.penalty import InconsistencyPenalty

DETERMINISTIC = [name for name in NAMES if name != "dropout"]

# The updates, by hand


def sam(case: Case) -> Tensor:
    g = loss_gradient(case, theta_of(case))
    return loss_gradient(case, theta_of(case) + RHO * g / g.norm())


def asam(case: Case) -> Tensor:
    params = trainable(case.model).values()
    t = flat(p.abs() + 0.01 if p.dim() > 1 else torch.ones_like(p) for p in params)
    g = t * loss_gradient(case, theta_of(case))
    return loss_gradient(case, theta_of(case) + RHO * t * g / g.norm())


def iams(case: Case, generator: torch.Generator, steps: int = 1) -> Tensor:
    delta = algorithm_1(case, RHO, steps, SIGMA, generator)[-1]
    return loss_gradient(case, theta_of(case) + delta)


def by_score(case: Case, generator: torch.Generator) -> Tensor:
    """SAM, had the network drawn the labels itself."""
    p = case().detach().softmax(1)
    u = torch.rand(p.shape, dtype=torch.double, generator=generator)
    gumbel = -(-u.log()).log()
    drawn = Case("drawn", case.model, case.inputs, (p.log() + gumbel).argmax(1))
    g = loss_gradient(drawn, theta_of(case))
    return loss_gradient(case, theta_of(case) - RHO * g / g.norm())


def by_chance(case: Case, generator: torch.Generator) -> Tensor:
    theta = theta_of(case)
    direction = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
    return loss_gradient(case, theta + RHO * direction / direction.norm())


def iamd(case: Case, generator: torch.Generator, steps: int = 1) -> Tensor:
    delta = algorithm_1(case, RHO, steps, SIGMA, generator)[-1]

    def objective(theta: Tensor) -> Tensor:
        z, moved = (outputs_at(case.model, case.inputs, t) for t in (theta, theta + delta))
        return cross_entropy(z, case.targets) + BETA * kl(z, moved)

    return torch.func.grad(objective)(theta_of(case))


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("kind", MAKERS)
def test_three_steps_follow_the_published_formula(kind, name):
    case, twin, generator = build(name), build(name), seeded()
    optimizer = MAKERS[kind](case.model.parameters())
    by_hand = {
        "SAM": sam,
        "ASAM": asam,
        "IAMS": lambda c: iams(c, generator),
        "IAMD": lambda c: iamd(c, generator),
        "score": lambda c: by_score(c, generator),
        "random": lambda c: by_chance(c, generator),
    }[kind]
    for _ in range(3):
        optimizer.zero_grad()
        loss = optimizer.step(closure_of(case))
        torch.testing.assert_close(loss, cross_entropy(twin(), twin.targets).detach())
        theta = theta_of(twin) - LR * by_hand(twin)
        nn.utils.vector_to_parameters(theta, trainable(twin.model).values())
        torch.testing.assert_close(theta_of(case), theta, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["IAMS", "IAMD"])
def test_more_steps_climb_further(kind):
    case = build("mlp")
    expected = {"IAMS": iams, "IAMD": iamd}[kind](case, seeded(), steps=3)
    MAKERS[kind](case.model.parameters(), steps=3).step(closure_of(case))
    found = flat(p.grad for p in case.model.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_both_forms_of_iam_d_agree_to_rounding(name, steps):
    lean, fast = build(name), build(name)
    settings = {"rho": RHO, "beta": BETA, "sigma": SIGMA, "steps": steps}
    optimizer = IAMD(lean.model.parameters(), SGD, lr=LR, **settings)
    plain = SGD(fast.model.parameters(), lr=LR)
    penalty = InconsistencyPenalty(fast.model, **settings)
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.step(closure_of(lean))
        plain.zero_grad()
        loss, logits = closure_of(fast)()
        (loss + penalty(fast.inputs, logits)).backward()
        plain.step()
    torch.testing.assert_close(theta_of(lean), theta_of(fast), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("divergence", ["categorical", "gaussian"])
def test_covariance_of_the_score_is_the_fisher_matrix(divergence):
    """And its mean is zero, within five standard errors of 20,000 draws."""
    f = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    p = f.softmax(1)[0]
    expected = p.diag() - p.outer(p) if divergence == "categorical" else torch.eye(3).double()
    draws = divergence_named(divergence).score(f.expand(20_000, 3), seeded())
    products = draws[:, :, None] * draws[:, None, :]
    for sample, mean in [(draws, torch.zeros(3)), (products, expected)]:
        error = sample.std(0) / 20_000**0.5
        assert ((sample.mean(0) - mean).abs() <= 5 * error).all()


def test_logits_may_cover_more_examples_than_the_loss():
    case = build("mlp")

    def closure() -> tuple[Tensor, Tensor]:
        logits = case()
        return cross_entropy(logits[:2], case.targets[:2]), logits

    MAKERS["IAMS"](case.model.parameters()).step(closure)
    twin = build("mlp")
    delta = algorithm_1(twin, RHO, 1, SIGMA)[-1]
    twin.inputs.resize_(2, 5)
    expected = loss_gradient(
        Case("few", twin.model, twin.inputs, twin.targets[:2]), theta_of(twin) + delta
    )
    torch.testing.assert_close(flat(p.grad for p in case.model.parameters()), expected)


@pytest.mark.parametrize("kind", ["IAMS", "IAMD"])
def test_every_row_of_the_logits_is_an_example(kind):
    case, twin = build("mlp"), build("mlp")

    def in_sequences() -> tuple[Tensor, Tensor]:
        loss, logits = closure_of(twin)()
        return loss, logits.unflatten(0, (2, 4))

    MAKERS[kind](case.model.parameters()).step(closure_of(case))
    MAKERS[kind](twin.model.parameters()).step(in_sequences)
    torch.testing.assert_close(theta_of(twin), theta_of(case))


@pytest.mark.parametrize("divergence", ["gaussian", "bernoulli"])
def test_outputs_that_are_no_classes(divergence):
    lean, fast = build("mlp"), build("mlp")
    target = torch.ones(8, 3, dtype=torch.float64)
    loss = {"gaussian": mse_loss, "bernoulli": binary_cross_entropy_with_logits}[divergence]

    def closure() -> tuple[Tensor, Tensor]:
        outputs = lean()
        return loss(outputs, target), outputs

    IAMD(lean.model.parameters(), SGD, rho=RHO, divergence=divergence, lr=LR).step(closure)
    outputs = fast()
    penalty = InconsistencyPenalty(fast.model, rho=RHO, divergence=divergence)
    (loss(outputs, target) + penalty(fast.inputs, outputs)).backward()
    SGD(fast.model.parameters(), lr=LR).step()
    torch.testing.assert_close(theta_of(lean), theta_of(fast))


# Cost


@pytest.mark.parametrize(
    ("kind", "forwards", "backwards"),
    [
        ("SAM", 2, 2),
        ("ASAM", 2, 2),
        ("IAMS", 3, 2),
        ("IAMD", 4, 3),
        ("score", 2, 2),
        ("random", 2, 1),
    ],
)
def test_passes_are_counted(kind, forwards, backwards):
    case = build("conv")
    model = Counted(case.model)
    for steps in (1, 2) if kind.startswith("IAM") else (1,):
        model.forwards = model.backwards = 0
        arguments = {"steps": steps} if kind.startswith("IAM") else {}
        MAKERS[kind](model.parameters(), module=model, **arguments).step(closure_of(case, model))
        assert model.forwards == forwards + steps - 1
        assert model.backwards == backwards + steps - 1


@pytest.mark.parametrize(("direction", "backwards"), [("score", 3), ("random", 2)])
def test_iam_d_by_another_direction_takes_three_forwards(direction, backwards):
    case = build("conv")
    model = Counted(case.model)
    MAKERS["IAMD"](model.parameters(), module=model, direction=direction).step(
        closure_of(case, model)
    )
    assert (model.forwards, model.backwards) == (3, backwards)


def test_the_score_of_a_sure_network_is_the_negative_gradient_of_its_loss():
    case = build("mlp")
    labels = case().argmax(1)
    with torch.no_grad():
        for p in [*case.model.parameters()][-2:]:
            p.mul_(1e3)
    sure = Case("sure", case.model, case.inputs, labels)
    assert cross_entropy(sure(), labels) < 1e-6
    g = loss_gradient(sure, theta_of(sure))
    expected = loss_gradient(sure, theta_of(sure) - RHO * g / g.norm())
    MAKERS["score"](sure.model.parameters()).step(closure_of(sure))
    torch.testing.assert_close(flat(p.grad for p in sure.model.parameters()), expected)


def test_iam_d_holds_one_graph_and_its_penalty_two():
    case = build("conv")
    closure = closure_of(case)
    optimizer = MAKERS["IAMD"](case.model.parameters())
    penalty = InconsistencyPenalty(case.model, rho=RHO)

    def sgd() -> None:
        closure()[0].backward()

    def fast() -> None:
        loss, logits = closure()
        (loss + penalty(case.inputs, logits)).backward()

    unit = peak(sgd)
    assert peak(lambda: optimizer.step(closure)) <= 1.15 * unit
    assert 1.7 * unit <= peak(fast) <= 2.3 * unit
    for kind in ("SAM", "ASAM", "IAMS", "score"):
        optimizer = MAKERS[kind](case.model.parameters())
        assert peak(lambda o=optimizer: o.step(closure)) <= 1.15 * unit


@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_waits_for_nothing(kind):
    case = build("conv")
    optimizer = MAKERS[kind](case.model.parameters(), module=case.model, momentum=0.9)
    optimizer.step(closure_of(case))
    with profile() as events:
        optimizer.step(closure_of(case))
    names = {event.name for event in events.events()}
    assert "aten::convolution" in names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}


class Added(nn.Module):
    """Two weights that are added have one gradient tensor in common."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.eye(3, 5, dtype=torch.float64) / k) for k in (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.a + self.b).T


@pytest.mark.parametrize("kind", MAKERS)
def test_weights_that_are_added_move_alike(kind):
    model, x = Added(), build("mlp").inputs
    case = Case("added", model, x, build("mlp").targets)
    optimizer = MAKERS[kind](model.parameters())
    theta = theta_of(case)
    if kind != "ASAM":
        with optimizer.perturbed(lambda: closure_of(case)()["SAM" not in kind]):
            assert float((theta_of(case) - theta).norm()) == pytest.approx(RHO)
    if kind in ("SAM", "IAMS", "IAMD"):
        twin = Case("twin", Added(), x, case.targets)
        expected = {
            "SAM": sam,
            "IAMS": lambda c: iams(c, seeded()),
            "IAMD": lambda c: iamd(c, seeded()),
        }
        optimizer = MAKERS[kind](model.parameters())
        optimizer.step(closure_of(case))
        torch.testing.assert_close(theta - theta_of(case), LR * expected[kind](twin))
    for _ in range(2):  # with gradients there already
        optimizer.step(closure_of(case))
    difference = theta_of(case).view(2, -1)
    torch.testing.assert_close(
        difference[0] - difference[1], theta.view(2, -1)[0] - theta.view(2, -1)[1]
    )


def test_sam_is_bitwise_the_reference():
    """Foret et al. 2021 as written by hand, in float32 with batch norm and momentum."""
    case, twin = build("conv", torch.float32), build("conv", torch.float32)
    optimizer = SAM(case.model.parameters(), SGD, rho=RHO, lr=LR, momentum=0.9)
    params = [*twin.model.parameters()]
    plain = SGD(params, lr=LR, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        optimizer.step(closure_of(case))
        plain.zero_grad()
        closure_of(twin)()[0].backward()
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        theta = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p in params:
                p.add_(p.grad / norm * RHO)
        plain.zero_grad()
        closure_of(twin)()[0].backward()
        with torch.no_grad():
            for p, t in zip(params, theta, strict=True):
                p.copy_(t)
        plain.step()
    torch.testing.assert_close(case.model.state_dict(), twin.model.state_dict(), rtol=0, atol=0)
