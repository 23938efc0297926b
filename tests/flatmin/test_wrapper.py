"""Groups, settings, state, copies: an optimizer around another."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from cases import Case, build, flat
from optimizers import LR, MAKERS, RHO, closure_of, loss_gradient, theta_of
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import SGD, Adam, AdamW

from flatmin.optim import IAMD, IAMS, SAM, Climber

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": -1}, "rho must be positive and finite, got -1"),
        ({"rho": math.nan}, "rho must be positive and finite, got nan"),
        ({"rho": "x"}, "rho must be positive and finite, got 'x'"),
        ({"steps": 7}, r"steps must be the same in all groups, got \[1, 7\]"),
        ({"divergence": "gaussian"}, "divergence must be the same in all groups"),
        ({"params": [nn.Parameter(torch.ones(2))] * 2}, "params must hold each parameter once"),
    ],
)
def test_a_group_that_does_not_fit_is_not_added(change, message):
    case = build("mlp")
    optimizer = MAKERS["IAMS"](case.model[0].parameters(), momentum=0.9)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": case.model[2].parameters(), **change})
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    train(case, optimizer, 1)
    assert len(optimizer.state) == 2


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


# Copies, checkpoints of other kinds


def several(params, rho: float = RHO) -> Climber:
    """Muon for matrices, AdamW for the rest."""
    params = [*params]
    matrices, rest = ([p for p in params if (p.dim() == 2) is two] for two in (True, False))
    kind = getattr(torch.optim, "Muon", partial(SGD, momentum=0.9))  # the oldest has no Muon
    first = kind(matrices, lr=0.01)
    return IAMS(params, [first, AdamW(rest, lr=0.02)], rho=rho)


COPIED = {
    **{kind: lambda params, k=kind: MAKERS[k](params, momentum=0.9) for kind in MAKERS},
    "callable": lambda params: SAM(params, partial(SGD, lr=LR, momentum=0.9), rho=RHO),
    "several": several,
}


def train(case: Case, optimizer: Climber, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        optimizer.step(closure_of(case))


def by_pickle(pair):
    return pickle.loads(pickle.dumps(pair))


def by_distributed_checkpoint(pair):
    """Into a fresh optimizer."""
    case, optimizer = pair
    saved = copy.deepcopy(get_optimizer_state_dict(case.model, optimizer))
    other = copy.deepcopy(case)
    fresh = FRESH[0](other.model.parameters())
    set_optimizer_state_dict(other.model, fresh, saved)
    return other, fresh


FRESH: list = []


@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle, by_distributed_checkpoint])
@pytest.mark.parametrize("kind", COPIED)
def test_a_copy_goes_on_bitwise(kind, way):
    case = build("mlp", torch.float32)
    optimizer = COPIED[kind](case.model.parameters())
    FRESH[:] = [COPIED[kind]]
    train(case, optimizer)
    twin, other = way((case, optimizer))
    assert other.state is other.base_optimizer.state
    assert other.param_groups is other.base_optimizer.param_groups
    train(case, optimizer)
    train(twin, other)
    assert torch.equal(theta_of(case), theta_of(twin))
    assert other.base_optimizer is not optimizer.base_optimizer
    assert repr(other) == repr(optimizer)


def test_a_copy_keeps_the_module_and_the_counters():
    case = build("conv")
    optimizer = IAMS(case.model.parameters(), SGD, rho=RHO, lr=LR, module=case.model)
    optimizer.skipped += 2
    optimizer.stayed += 3
    twin, other = copy.deepcopy((case, optimizer))
    assert (other.skipped, other.stayed) == (2, 3)
    train(twin, other, 1)
    assert twin.model[1].num_batches_tracked == 1


@pytest.mark.parametrize("kind", MAKERS)
def test_a_state_of_the_plain_base_optimizer_loads(kind):
    case = build("mlp")
    plain = SGD(case.model.parameters(), lr=0.7, momentum=0.9)
    closure_of(case)()[0].backward()
    plain.step()
    optimizer = MAKERS[kind](case.model.parameters())
    optimizer.param_groups[0]["rho"] = RHO / 2  # by a schedule
    settings = {name: optimizer.param_groups[0][name] for name in optimizer._settings}
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.7, 0.9)
    assert {name: group[name] for name in settings} == settings
    assert len(optimizer.state) == 4
    train(case, optimizer)
    SGD(case.model.parameters(), lr=1.0).load_state_dict(optimizer.state_dict())  # and back


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rho": 0.0}, ValueError, "rho must be positive"),
        ({"beta": math.nan}, ValueError, "beta must be non-negative and finite, got nan"),
        ({"steps": 0}, ValueError, "steps must be an integer"),
        ({"sigma": -1.0}, ValueError, "sigma must be positive"),
        ({"divergence": "kl"}, ValueError, "divergence must be one of"),
        ({"direction": "up"}, ValueError, "direction must be one of"),
        ({"generator": torch.zeros(3, dtype=torch.uint8)}, RuntimeError, "size"),
    ],
)
def test_a_bad_state_changes_nothing(change, error, message):
    case = build("mlp")
    optimizer = MAKERS["IAMD"](case.model.parameters(), momentum=0.9)
    train(case, optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    bad = copy.deepcopy(before)
    bad["param_groups"][0] |= {"lr": 9.0, **change}
    bad["state"] = {}
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(bad)
    after = optimizer.state_dict()
    for group in (before["param_groups"][0], after["param_groups"][0]):
        group["generator"] = group["generator"].tolist()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)
    assert optimizer.state is optimizer.base_optimizer.state


def test_hooks_of_states_are_called():
    case = build("mlp")
    optimizer = MAKERS["IAMD"](case.model.parameters())
    called = []

    def faster(_optimizer, state):
        called.append("pre")
        groups = [{**group, "lr": 2.0, "beta": 5.0} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(faster)
    optimizer.register_load_state_dict_post_hook(lambda o: called.append(o.param_groups[0]["lr"]))
    optimizer.register_state_dict_pre_hook(lambda o: called.append("saved"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert called == ["saved", "pre", 2.0]
    assert (optimizer.beta, optimizer.base_optimizer.param_groups[0]["lr"]) == (5.0, 2.0)


# Settings


@pytest.mark.parametrize("name", ["beta", "sigma", "steps", "divergence", "direction"])
def test_settings_are_shown_saved_and_read_at_each_step(name):
    changed = {
        "beta": 5.0,
        "sigma": 3.0,
        "steps": 2,
        "divergence": "gaussian",
        "direction": "random",
    }[name]
    case, twin = build("mlp"), build("mlp")
    optimizer = MAKERS["IAMD"](case.model.parameters())
    train(case, optimizer, 1)
    setattr(optimizer, name, changed)
    assert getattr(optimizer, name) == changed
    assert f"{name}: {changed}" in repr(optimizer)
    reference = MAKERS["IAMD"](twin.model.parameters(), **{name: changed})
    assert optimizer.state_dict()["param_groups"][0][name] == changed
    nn.utils.vector_to_parameters(theta_of(case), twin.model.parameters())
    reference.generator.set_state(optimizer.generator.get_state())
    train(case, optimizer, 1)
    train(twin, reference, 1)
    assert torch.equal(theta_of(case), theta_of(twin))


def test_sam_turns_adaptive_between_steps():
    case, twin = build("mlp"), build("mlp")
    optimizer, reference = (
        MAKERS[k](c.model.parameters()) for k, c in (("SAM", case), ("ASAM", twin))
    )
    optimizer.adaptive = True
    train(case, optimizer, 1)
    train(twin, reference, 1)
    assert torch.equal(theta_of(case), theta_of(twin))


@pytest.mark.parametrize(
    ("name", "value"), [("beta", math.nan), ("beta", -1), ("sigma", 0), ("steps", 1.5)]
)
def test_a_setting_changed_out_of_range_is_refused_before_anything_moves(name, value):
    case = build("mlp")
    optimizer = MAKERS["IAMD"](case.model.parameters())
    theta, noise = theta_of(case), optimizer.generator.get_state()
    setattr(optimizer, name, value)
    with pytest.raises(ValueError, match=f"{name} must be"):
        optimizer.step(closure_of(case))
    assert torch.equal(theta_of(case), theta)
    assert torch.equal(optimizer.generator.get_state(), noise)


def test_a_radius_set_on_the_optimizer_is_refused():
    optimizer = MAKERS["SAM"](build("mlp").model.parameters())
    for use in (lambda: setattr(optimizer, "rho", 5.0), lambda: optimizer.rho):
        with pytest.raises(AttributeError, match=r'each group has its own radius, group\["rho"\]'):
            use()
    assert not hasattr(optimizer, "rho")
    assert optimizer.param_groups[0]["rho"] == RHO


def test_a_setting_is_written_to_all_groups():
    groups = [{"params": [p]} for p in build("mlp").model.parameters()]
    optimizer = MAKERS["IAMD"](groups)
    optimizer.beta = 3.0
    assert [group["beta"] for group in optimizer.param_groups] == [3.0] * len(groups)


def test_groups_that_disagree_are_refused():
    case = build("mlp")
    groups = [{"params": [p]} for p in case.model.parameters()]
    optimizer = MAKERS["IAMD"](groups)
    optimizer.param_groups[1]["beta"] = 3.0
    with pytest.raises(ValueError, match=r"beta must be the same in all groups, got \[2.0, 3.0"):
        optimizer.step(closure_of(case))


def test_an_added_group_has_the_settings_of_the_others():
    case = build("mlp")
    optimizer = MAKERS["IAMD"](case.model[0].parameters(), momentum=0.9)
    optimizer.beta = 7.0
    optimizer.param_groups[0]["rho"] = 0.5
    optimizer.add_param_group({"params": case.model[2].parameters()})
    assert [(g["beta"], g["rho"]) for g in optimizer.param_groups] == [(7.0, 0.5), (7.0, RHO)]
    train(case, optimizer, 1)


def test_parameters_may_have_names():
    case = build("mlp")
    optimizer = MAKERS["IAMS"](case.model.named_parameters())
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"
    optimizer.load_state_dict(optimizer.state_dict())
    train(case, optimizer)
