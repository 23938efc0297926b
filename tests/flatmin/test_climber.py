"""One step: what is refused, what is counted, and when."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from cases import Case, build, call
from optimizers import LR, MAKERS, closure_of, theta_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from flatmin.optim import IAMD, IAMS, SAM, Climber

# Edges and errors


@pytest.mark.parametrize("kind", MAKERS)
def test_outputs_that_are_not_finite_leave_finite_weights(kind):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters(), momentum=0.9)
    optimizer.step(closure_of(case))
    before = theta_of(case)
    optimizer.zero_grad()
    x = case.inputs.clone()
    case.inputs[0, 0] = math.nan
    assert optimizer.step(closure_of(case)).isnan()
    moved = theta_of(case) - before
    assert moved.isfinite().all()
    assert moved.any()  # momentum goes on
    case.inputs.copy_(x)
    optimizer.zero_grad()
    assert optimizer.step(closure_of(case)).isfinite()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_climb_that_overflows_is_no_step_into_nan(kind):
    case = build("mlp", torch.float32)
    optimizer = MAKERS[kind](case.model.parameters(), rho=1e38)
    optimizer.step(closure_of(case))
    assert theta_of(case).isfinite().all()


@pytest.mark.parametrize("kind", MAKERS)
def test_without_a_direction_the_step_is_the_base_optimizers(kind):
    model = nn.Linear(3, 2)
    x, y = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])  # the mean gradient of SAM is zero
    case = Case("flat", model, x, y)
    with torch.no_grad():
        model.bias.zero_()
    weight = model.weight.detach().clone()
    optimizer = MAKERS[kind]([model.weight], weight_decay=0.5)
    optimizer.step(closure_of(case))
    torch.testing.assert_close(model.weight, weight * (1 - 0.5 * LR))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: IAMS(p, SGD, rho=0, lr=1), "rho must be positive and finite, got 0"),
        (lambda p: SAM(p, SGD, rho=-1, lr=1), "rho must be positive and finite, got -1"),
        (lambda p: SAM([{"params": p, "rho": -2}], SGD, lr=1), "rho must be .* got -2"),
        (lambda p: IAMD(p, SGD, rho=0.1, beta=-1, lr=1), "beta must be non-negative"),
        (lambda p: IAMS(p, SGD, rho=0.1, steps=0, lr=1), "steps must be an integer >= 1, got 0"),
        (lambda p: IAMS(p, SGD, rho=0.1, sigma=-1, lr=1), "sigma must be positive"),
        (lambda p: IAMS(p, SGD, rho=0.1, divergence="kl", lr=1), "divergence must be one of"),
        (lambda p: IAMS(p, SGD, rho=0.1, direction="up", lr=1), "direction must be one of .* 'up'"),
        (
            lambda p: IAMS(p, SGD, rho=1, direction="score", steps=2, lr=1),
            "steps must be 1 .* got 2",
        ),
        (lambda p: SAM(p, SGD, rho=0.1, sync=True, lr=1), "sync=True needs"),
        (lambda p: SAM([torch.zeros(1)], SGD, lr=1), "no trainable parameter"),
        (lambda p: SAM([*p, p[0]], SGD, lr=1), "params must hold each parameter once"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make([*build("mlp").model.parameters()])


def test_parameters_that_the_optimizer_lacks_are_named():
    model = build("mlp").model
    with pytest.raises(ValueError, match=r"missing: \['2.weight', '2.bias'\]"):
        SAM(model[0].parameters(), SGD, lr=1, module=model)


def test_base_optimizer_must_be_a_class():
    params = [*build("mlp").model.parameters()]
    with pytest.raises(TypeError, match="must be a class"):
        SAM(params, SGD(params, lr=1))


def noise_of(optimizer: Climber) -> Tensor | None:
    return optimizer.state_dict()["param_groups"][0].get("generator")


def _backward(case: Case):
    loss, logits = closure_of(case)()
    loss.backward()
    return loss, logits


def _backward_whatever_the_mode(case: Case):
    with torch.enable_grad():
        return _backward(case)


BAD_CLOSURES = [
    (lambda case: None, TypeError, "must return"),
    (lambda case: (*closure_of(case)(), 1), TypeError, "must return"),
    (lambda case: closure_of(case)()[0].item(), TypeError, "must return"),
    (lambda case: (case(), case()), ValueError, "loss must be a scalar|loss, a scalar"),
    (_backward, RuntimeError, "forward pass only"),
    (_backward_whatever_the_mode, RuntimeError, "forward pass only"),
]


@pytest.mark.parametrize(("closure", "error", "message"), BAD_CLOSURES)
@pytest.mark.parametrize("kind", MAKERS)
def test_bad_closures_are_refused_before_anything_moves(kind, closure, error, message):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters())
    before, noise = theta_of(case), noise_of(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step(lambda: closure(case))
    assert torch.equal(theta_of(case), before)
    assert not optimizer.state
    assert noise is None or torch.equal(noise_of(optimizer), noise)


@pytest.mark.parametrize("kind", ["SAM", "IAMS"])
def test_a_closure_that_adds_to_gradients_already_there_is_refused(kind):
    case = build("mlp")
    for p in case.model.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(RuntimeError, match="forward pass only"):
        MAKERS[kind](case.model.parameters()).step(lambda: _backward_whatever_the_mode(case))


@pytest.mark.parametrize("kind", ["IAMS", "IAMD", "score"])
def test_bad_logits_are_refused(kind):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters())

    def returning(change):
        def closure() -> tuple[Tensor, Tensor]:
            loss, logits = closure_of(case)()
            return loss, change(logits)

        return closure

    before = theta_of(case)
    for change, message in [
        (lambda z: z[:, 0], r"logits must be \(\.\.\., C\).*\(8,\)"),
        (lambda z: z[:, :1], r"logits must be \(\.\.\., C\) with C >= 2.*\(8, 1\)"),
        (lambda z: z[:0], "must not be empty"),
        (lambda z: z.detach(), "do not depend on any trainable parameter"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.step(returning(change))
        assert torch.equal(theta_of(case), before)
    with pytest.raises(TypeError, match="must return"):
        optimizer.step(lambda: closure_of(case)()[0])


@pytest.mark.parametrize("kind", MAKERS)
def test_a_radius_scheduled_out_of_range_is_refused(kind):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters())
    optimizer.param_groups[0]["rho"] = 0.0
    with pytest.raises(ValueError, match="rho must be positive"):
        optimizer.step(closure_of(case))


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_without_closure_needs_perturbed_first(kind, earlier):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters())
    assert isinstance(optimizer, Climber)
    if earlier:
        optimizer.step(closure_of(case))
    case().sum().backward()
    with pytest.raises(RuntimeError, match="perturbed"):
        optimizer.step()


def test_backward_after_leaving_perturbed_is_refused():
    case = build("mlp")
    optimizer = MAKERS["IAMS"](case.model.parameters())
    with optimizer.perturbed(case):
        loss = cross_entropy(call(case.model, case.inputs), case.targets)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


# Nothing is silent


def test_iam_d_does_not_step_by_gradients_that_lack_beta():
    case = build("mlp")
    optimizer = MAKERS["IAMD"](case.model.parameters())
    with optimizer.perturbed(case):
        closure_of(case)()[0].backward()
    before = theta_of(case)
    with pytest.raises(RuntimeError, match=r"lack that of beta S_rho.*InconsistencyPenalty"):
        optimizer.step()
    assert torch.equal(theta_of(case), before)


@pytest.mark.parametrize("kind", ["IAMD", "SAM"])
def test_a_closure_under_accumulation_of_accelerate_is_refused(kind, monkeypatch):
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters())
    plugin = SimpleNamespace(num_steps=1)
    module = SimpleNamespace(GradientState=lambda: plugin)
    monkeypatch.setitem(sys.modules, "accelerate.state", module)
    accelerate = {"__name__": "accelerate.optimizer"}
    exec("def step(optimizer, closure): optimizer.step(closure)", accelerate)
    accelerate["step"](optimizer, closure_of(case))
    plugin.num_steps = 4
    with pytest.raises(RuntimeError, match="leaves out all batches but the last"):
        accelerate["step"](optimizer, closure_of(case))
    optimizer.step(closure_of(case))  # a loop of its own, beside accelerate's


def test_static_graphs_are_refused():
    case = build("mlp")
    case.model.static_graph = True  # as DistributedDataParallel has it
    with pytest.raises(ValueError, match=r"static_graph=True.*attach"):
        MAKERS["SAM"](case.model.parameters(), module=case.model)


@pytest.mark.parametrize("kind", MAKERS)
def test_steps_and_climbs_that_do_not_move_are_counted(kind):
    case = build("mlp", torch.float32)
    optimizer = MAKERS[kind](case.model.parameters())
    optimizer.step(closure_of(case))
    assert (optimizer.skipped, optimizer.stayed) == (0, 0)
    optimizer.zero_grad()
    x = case.inputs.clone()
    case.inputs[0, 0] = math.nan
    optimizer.step(closure_of(case))
    assert optimizer.skipped == 1
    assert optimizer.stayed == (kind != "random")
    case.inputs.copy_(x)
    optimizer.zero_grad()
    optimizer.step(closure_of(case))
    assert optimizer.skipped == 1


def test_a_logit_of_minus_infinity_is_counted():
    """The loss is finite, the gradient of IAM-D's divergence is not."""
    case = build("mlp")
    optimizer = MAKERS["IAMD"](case.model.parameters())
    mask = torch.tensor([0.0, -math.inf, 0.0])

    def closure() -> tuple[Tensor, Tensor]:
        logits = case() + mask
        return cross_entropy(logits, case.targets * 0), logits

    before = theta_of(case)
    assert optimizer.step(closure).isfinite()
    assert torch.equal(theta_of(case), before)
    assert optimizer.skipped == 1


@pytest.mark.parametrize("kind", MAKERS)
def test_a_flat_start_is_counted(kind):
    model = nn.Linear(3, 2)
    x, y = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        model.bias.zero_()
    optimizer = MAKERS[kind]([model.weight])
    optimizer.step(closure_of(Case("flat", model, x, y)))
    assert optimizer.stayed == (kind != "random")
    assert optimizer.skipped == 0


def test_a_slope_without_bound_is_counted():
    w = nn.Parameter(torch.zeros(1))
    optimizer = SAM([w], SGD, rho=0.1, lr=LR)
    optimizer.step(lambda: w.sqrt().sum())
    assert (optimizer.stayed, optimizer.skipped, w) == (1, 1, 0)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_may_be_taken_where_no_gradients_are_kept(kind):
    case, twin = build("mlp"), build("mlp")
    with torch.no_grad():
        MAKERS[kind](case.model.parameters()).step(closure_of(case))
    MAKERS[kind](twin.model.parameters()).step(closure_of(twin))
    assert torch.equal(theta_of(case), theta_of(twin))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_without_gradients_is_nothing(kind):
    """As torch.distributed.checkpoint takes one, to make room for a state."""
    case = build("mlp")
    optimizer = MAKERS[kind](case.model.parameters(), weight_decay=0.0)
    before = theta_of(case)
    optimizer.step()
    for p in case.model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(theta_of(case), before)
