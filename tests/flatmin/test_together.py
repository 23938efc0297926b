"""Several base optimizers as one."""

import pytest
import torch
from cases import Case, build
from optimizers import RHO, closure_of, theta_of
from torch.optim import LBFGS, SGD, Adadelta, Adam

from flatmin.optim import IAMS, Climber


def train(case: Case, optimizer: Climber, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        optimizer.step(closure_of(case))


def test_several_optimizers_step_as_each_alone():
    """SGD and Adam, whose gradients are those of one climb."""
    case, twin = build("mlp"), build("mlp")
    first, last = case.model[0].parameters(), case.model[2].parameters()
    base = [SGD(first, lr=0.3), Adam(last, lr=0.01)]
    optimizer = IAMS(case.model.parameters(), base, rho=RHO)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    plain = IAMS(twin.model.parameters(), SGD, rho=RHO, lr=0.0)
    bases = [SGD(twin.model[0].parameters(), lr=0.3), Adam(twin.model[2].parameters(), lr=0.01)]
    for step in range(3):
        train(case, optimizer, 1)
        scheduler.step()
        train(twin, plain, 1)
        for other in bases:
            other.step()
            other.param_groups[0]["lr"] *= 0.5
        assert torch.equal(theta_of(case), theta_of(twin)), step
    assert [g["lr"] for g in optimizer.param_groups] == [0.3 / 8, 0.01 / 8]
    assert {key for state in optimizer.state.values() for key in state} >= {"exp_avg"}


def test_ready_optimizers_may_have_a_state_and_a_radius():
    case = build("mlp")
    ready = Adam([{"params": case.model.parameters(), "rho": 0.7}], lr=0.1)
    closure_of(case)()[0].backward()
    ready.step()
    optimizer = IAMS(case.model.parameters(), [ready], rho=RHO)
    assert optimizer.param_groups[0]["rho"] == 0.7
    train(case, optimizer, 1)
    assert all(state["step"] == 2 for state in optimizer.state.values())


def _refused_bases(case: Case):
    params = [*case.model.parameters()]
    yield [], {}, ValueError, "at least one optimizer"
    yield [SGD(params, lr=1)], {"lr": 1}, ValueError, r"got also \['lr'\]"
    yield [SGD(params[:2], lr=1)], {}, ValueError, "must hold the same parameters"
    yield [SGD(params, lr=1), SGD(params[2:], lr=1)], {}, ValueError, "more than one"
    yield [SGD], {"lr": 1}, TypeError, "must list ready optimizers"
    yield Adadelta, {}, ValueError, r"Adadelta has settings of its own named \['rho'\]"
    yield lambda _: SGD(params[:2], lr=1), {}, ValueError, "must hold the same parameters"
    groups = [{"params": params[:2], "steps": 7}, {"params": params[2:]}]
    yield [SGD(groups, lr=1)], {}, ValueError, "steps must be the same in all groups"
    yield LBFGS, {}, ValueError, "must step without a closure, which LBFGS does not"
    yield [LBFGS(params)], {}, ValueError, "must step without a closure, which LBFGS does not"


@pytest.mark.parametrize("number", range(10))
def test_bases_that_do_not_fit_are_refused(number):
    case = build("mlp")
    base, arguments, error, message = [*_refused_bases(case)][number]
    with pytest.raises(error, match=message):
        IAMS(case.model.parameters(), base, rho=RHO, **arguments)


def test_a_base_may_leave_frozen_parameters_out_and_group_the_others_anew():
    case = build("frozen")

    def base(groups):
        return SGD([p for group in groups for p in group["params"] if p.requires_grad], lr=1)

    optimizer = IAMS(case.model.parameters(), base, rho=RHO)
    assert [group["rho"] for group in optimizer.param_groups] == [RHO]
    before = theta_of(case)
    optimizer.step(closure_of(case))
    assert not torch.equal(theta_of(case), before)


def test_a_refused_base_is_left_as_it_was():
    params = [*build("mlp").model.parameters()]
    ready = [SGD(params[:2], lr=1), LBFGS(params[2:])]
    states = [optimizer.state for optimizer in ready]
    with pytest.raises(ValueError, match="LBFGS"):
        IAMS(params, ready, rho=RHO)
    assert all(o.state is state for o, state in zip(ready, states, strict=True))


def test_a_group_cannot_join_several():
    case = build("mlp")
    optimizer = IAMS(case.model[0].parameters(), [SGD(case.model[0].parameters(), lr=1)], rho=RHO)
    with pytest.raises(ValueError, match="before they are joined"):
        optimizer.add_param_group({"params": case.model[2].parameters()})
    assert len(optimizer.param_groups) == 1
