import copy
import itertools

import pytest
import torch
from cases import build
from optimizers import LR, MAKERS, RHO, closure_of, theta_of
from torch import Tensor
from torch.optim import SGD

# What stays as it was


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", MAKERS)
def test_theta_is_bitwise_back_after_an_exception_in_any_pass(kind, error):
    case = build("conv", torch.float32)
    optimizer = MAKERS[kind](case.model.parameters(), module=case.model)
    theta = theta_of(case)
    interrupted = 0
    for last in itertools.count():
        state = copy.deepcopy(case.model.state_dict())
        passes = itertools.count()

        def closure(passes=passes, last=last) -> tuple[Tensor, Tensor]:
            if next(passes) == last:
                raise error
            return closure_of(case)()

        try:
            optimizer.step(closure)
        except error:
            interrupted += 1
        else:
            break
        assert torch.equal(theta_of(case), theta)
        if last == 0:
            torch.testing.assert_close(case.model.state_dict(), state, rtol=0, atol=0)
    assert interrupted == {"SAM": 2, "ASAM": 2, "IAMS": 3, "IAMD": 4, "score": 2, "random": 2}[kind]


@pytest.mark.parametrize("kind", MAKERS)
def test_theta_moves_inside_perturbed_and_comes_back_bitwise(kind):
    case = build("mlp", torch.float32)
    optimizer = MAKERS[kind](case.model.parameters())
    theta = theta_of(case)
    loss, logits = closure_of(case)()
    with optimizer.perturbed(lambda: closure_of(case)()["SAM" not in kind]) as reference:
        distance = float((theta_of(case) - theta).norm())
        torch.testing.assert_close(reference, loss if "SAM" in kind else logits)
        assert not reference.requires_grad
    assert distance > 0
    assert kind == "ASAM" or distance == pytest.approx(RHO, rel=1e-5)
    assert torch.equal(theta_of(case), theta)
    assert all(p.grad is None for p in case.model.parameters())


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_add_to_those_already_there(kind):
    case, twin = build("mlp"), build("mlp")
    for p in case.model.parameters():
        p.grad = torch.ones_like(p)
    MAKERS[kind](case.model.parameters()).step(closure_of(case))
    MAKERS[kind](twin.model.parameters()).step(closure_of(twin))
    for p, q in zip(case.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad + 1)


@pytest.mark.parametrize("kind", MAKERS)
def test_zero_grad_inside_the_closure_is_harmless(kind):
    case, twin = build("mlp"), build("mlp")
    optimizer = MAKERS[kind](case.model.parameters())

    def closure() -> tuple[Tensor, Tensor]:
        optimizer.zero_grad()
        return closure_of(case)()

    other = MAKERS[kind](twin.model.parameters())
    for _ in range(2):
        optimizer.step(closure)
        other.zero_grad()
        other.step(closure_of(twin))
    assert torch.equal(theta_of(case), theta_of(twin))


@pytest.mark.parametrize("kind", MAKERS)
def test_batch_statistics_move_once_a_step_given_the_module(kind):
    case, twin = build("conv"), build("conv")
    MAKERS[kind](case.model.parameters(), module=case.model).step(closure_of(case))
    twin()
    torch.testing.assert_close(dict(case.model.named_buffers()), dict(twin.model.named_buffers()))
    assert case.model[1].num_batches_tracked == 1
    case = build("conv")
    MAKERS[kind](case.model.parameters()).step(closure_of(case))
    assert case.model[1].num_batches_tracked > 1


@pytest.mark.parametrize("kind", MAKERS)
def test_dropout_draws_one_mask_a_step(kind):
    case, twin = build("dropout"), build("dropout")
    # With next to no radius a step is that of SGD, if all passes have its mask.
    optimizer = MAKERS[kind](case.model.parameters(), rho=1e-9)
    plain = SGD(twin.model.parameters(), lr=LR)
    start = torch.get_rng_state()
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.step(closure_of(case))
    after = torch.get_rng_state()
    torch.set_rng_state(start)
    for _ in range(2):
        plain.zero_grad()
        closure_of(twin)()[0].backward()
        plain.step()
    assert torch.equal(torch.get_rng_state(), after)
    torch.testing.assert_close(theta_of(case), theta_of(twin), rtol=1e-6, atol=1e-7)
