import math

import pytest
import torch
from cases import build, flat
from optimizers import LR, MAKERS, RHO, closure_of, loss_gradient, theta_of
from torch import nn
from torch.optim import SGD, Adam

from flatmin.optim import IAMD, IAMS, SAM

# Groups, state, schedulers


@pytest.mark.parametrize("kind", MAKERS)
def test_groups_have_their_own_radius_and_rate(kind):
    case = build("mlp", torch.float32)
    first, last = case.model[0], case.model[2]
    groups = [{"params": first.parameters(), "rho": 0.1}, {"params": last.parameters(), "lr": 0.0}]
    optimizer = MAKERS[kind](groups)
    assert [(g["rho"], g["lr"]) for g in optimizer.param_groups] == [(0.1, LR), (RHO, 0.0)]
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups

    def lengths() -> tuple[float, float]:
        now = theta_of(case)
        with optimizer.perturbed(lambda: closure_of(case)()["SAM" not in kind]):
            moved = theta_of(case) - now
        split = sum(p.numel() for p in first.parameters())
        return float(moved[:split].norm()), float(moved[split:].norm())

    if kind != "ASAM":
        a, b = lengths()
        assert math.hypot(a / 0.1, b / RHO) == pytest.approx(1, rel=1e-4)
    frozen = flat(last.parameters())
    optimizer.step(closure_of(case))
    assert torch.equal(flat(last.parameters()), frozen)


@pytest.mark.parametrize("kind", MAKERS)
def test_added_groups_reach_both_optimizers(kind):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model[0].parameters(), momentum=0.9)
    optimizer.add_param_group({"params": [*case.model[2].parameters()], "rho": 1.0})
    before = theta_of(case)
    optimizer.step(closure_of(case))
    assert (theta_of(case) != before).all()
    assert optimizer.param_groups[1]["momentum"] == 0.9
    assert len(optimizer.state) == 4


@pytest.mark.parametrize("kind", MAKERS)
def test_schedulers_drive_the_rate_and_the_radius(kind):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    before = theta_of(case)
    optimizer.step(closure_of(case))
    gradient = (before - theta_of(case)) / LR
    scheduler.step()
    nn.utils.vector_to_parameters(before.clone(), case.model.parameters())
    optimizer.zero_grad()
    optimizer.param_groups[0]["rho"] = 1e-9
    optimizer.step(closure_of(case))
    plain = loss_gradient(build("mlp"), before)
    torch.testing.assert_close((before - theta_of(case)) / (LR / 2), plain, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(gradient, plain, rtol=1e-3)


@pytest.mark.parametrize("base", [SGD, Adam])
@pytest.mark.parametrize("kind", MAKERS)
def test_training_resumes_bitwise(kind, base, tmp_path):
    def start():
        case = build("conv", torch.float32)
        maker = {"SAM": SAM, "ASAM": SAM, "IAMS": IAMS, "IAMD": IAMD}.get(kind, IAMS)
        arguments = {"ASAM": {"adaptive": True}} | {
            d: {"direction": d} for d in ("score", "random")
        }
        arguments = dict(arguments.get(kind, {}))
        arguments |= {"momentum": 0.9} if base is SGD else {}
        return case, maker(case.model.parameters(), base, rho=RHO, lr=0.05, **arguments)

    def train(case, optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            optimizer.step(closure_of(case))

    case, optimizer = start()
    train(case, optimizer, 2)
    saved = {"model": case.model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "checkpoint.pt")
    train(case, optimizer, 2)

    other, resumed = start()
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other.model.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    assert resumed.state is resumed.base_optimizer.state
    train(other, resumed, 2)
    torch.testing.assert_close(other.model.state_dict(), case.model.state_dict(), rtol=0, atol=0)

    plain = base(case.model.parameters(), lr=0.05)
    closure_of(case)()[0].backward()
    plain.step()
    held = {key for state in optimizer.state.values() for key in state}
    assert held == {key for state in plain.state.values() for key in state} or base is SGD
    assert held <= {"momentum_buffer", "step", "exp_avg", "exp_avg_sq"}
    resumed.load_state_dict(optimizer.base_optimizer.state_dict())  # a plain one's, too


@pytest.mark.parametrize("kind", MAKERS)
def test_frozen_parameters_stay_and_do_not_count(kind):
    case = build("frozen")
    body = flat(case.model.body.parameters())
    optimizer = MAKERS[kind](case.model.parameters(), module=case.model, weight_decay=0.1)
    optimizer.step(closure_of(case))
    assert torch.equal(flat(case.model.body.parameters()), body)
