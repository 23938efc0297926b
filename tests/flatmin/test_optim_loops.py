"""The optimizers and the penalty inside the loops that people write."""

import pytest
import torch
from cases import Case, build, pushes_through_checkpoints, trainable
from optimizers import KINDS, RHO, Labelled, closure_of, goes_by, grads_of, make, parts, theta_of
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint_sequential

from flatlab.ensemble import Ensemble
from flatmin.inconsistency import local_inconsistency
from flatmin.optim import SAM, Climber
from flatmin.penalty import InconsistencyPenalty

LR = 0.1
BY_HAND = ["SAM", "IAMS"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hand_written_loop_is_the_closure(kind):
    case, twin = build("conv"), build("conv")
    optimizer, other = make(kind, case.model), make(kind, twin.model)
    penalty = InconsistencyPenalty(case.model, rho=RHO)
    plain = SGD(case.model.parameters(), lr=LR)
    for _ in range(3):
        if kind == "IAMD":
            loss, logits = closure_of(case)()
            (loss + penalty(case.inputs, logits)).backward()
            plain.step()
            plain.zero_grad()
        else:
            with optimizer.perturbed(goes_by(kind, case)):
                closure_of(case)()[0].backward()
            optimizer.step()
            optimizer.zero_grad()
        other.step(closure_of(twin))
        other.zero_grad()
    torch.testing.assert_close(case.model.state_dict(), twin.model.state_dict())


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_inside_or_around_the_step(kind, inside):
    case = build("conv", torch.float32)
    exact = build("conv", torch.float32)
    make(kind, exact.model).step(closure_of(exact))
    optimizer = make(kind, case.model)

    def closure() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            return closure_of(case)()

    if inside:
        optimizer.step(closure)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            optimizer.step(closure_of(case))
    assert torch.cosine_similarity(grads_of(case), grads_of(exact), dim=0) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_keep_the_weights_of_an_earlier_pass(kind):
    inside, around = build("mlp", torch.float32), build("mlp", torch.float32)

    def closure() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return closure_of(inside)()

    make(kind, inside.model).step(closure)
    with torch.autocast("cpu", torch.bfloat16):
        make(kind, around.model).step(closure_of(around))
    assert torch.equal(grads_of(around), grads_of(inside))


@pytest.mark.parametrize("kind", KINDS)
def test_fp16_with_a_gradient_scaler(kind):
    case, exact = build("mlp", torch.float32), build("mlp", torch.float32)
    optimizer = SGD(case.model.parameters(), lr=LR) if kind == "IAMD" else make(kind, case.model)
    penalty = InconsistencyPenalty(case.model, rho=RHO)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def forward() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.float16):
            return closure_of(case)()

    def train() -> None:
        optimizer.zero_grad()
        if kind == "IAMD":
            loss, logits = forward()
            with torch.autocast("cpu", torch.float16):
                loss = loss + penalty(case.inputs, logits)
            scaler.scale(loss).backward()
        else:
            climbed = (
                (lambda: scaler.scale(forward()[0])) if kind == "SAM" else lambda: forward()[1]
            )
            with optimizer.perturbed(climbed):
                scaler.scale(forward()[0]).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    train()
    make(kind, exact.model).step(closure_of(exact))
    torch.testing.assert_close(theta_of(case), theta_of(exact), rtol=0.01, atol=2e-3)

    before = theta_of(case)
    case.inputs.mul_(1e6)  # overflows fp16
    train()
    assert torch.equal(theta_of(case), before)
    assert scaler.get_scale() == 2.0**9
    case.inputs.mul_(1e-6)
    train()
    assert theta_of(case).isfinite().all()
    assert not torch.equal(theta_of(case), before)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradients_add_up(kind):
    case = build("mlp")
    optimizer = make(kind, case.model)
    penalty = InconsistencyPenalty(case.model, rho=RHO)

    def run(batches: list[Case]) -> None:
        for part in batches:
            if kind == "IAMD":
                loss, logits = closure_of(part)()
                (loss / 2 + penalty(part.inputs, logits) / 2).backward()
            else:
                with optimizer.perturbed(goes_by(kind, part)):
                    (closure_of(part)()[0] / 2).backward()

    single = []
    for part in parts(case):
        run([part])
        single.append(grads_of(case))
        case.model.zero_grad()
    for source in (penalty.generator, optimizer.generator or penalty.generator):
        source.manual_seed(0)
    run(parts(case))
    torch.testing.assert_close(grads_of(case), sum(single))
    before = theta_of(case)
    if kind != "IAMD":
        optimizer.step()
        torch.testing.assert_close(theta_of(case), before - LR * sum(single))


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_by_a_hook_and_by_hand(kind):
    case = build("mlp")
    optimizer = make(kind, case.model)
    before = theta_of(case)

    def clip(*_) -> None:
        clip_grad_norm_(case.model.parameters(), 0.01)

    hook = optimizer.base_optimizer.register_step_pre_hook(clip)
    optimizer.step(closure_of(case))
    assert float((theta_of(case) - before).norm()) == pytest.approx(LR * 0.01, rel=1e-3)
    hook.remove()
    if kind in BY_HAND:
        before = theta_of(case)
        with optimizer.perturbed(goes_by(kind, case)):
            closure_of(case)()[0].backward()
        clip_grad_norm_(case.model.parameters(), 0.02)
        optimizer.step()
        assert float((theta_of(case) - before).norm()) == pytest.approx(LR * 0.02, rel=1e-3)


@pytest.mark.parametrize("kind", [*KINDS, "penalty"])
def test_channels_last_is_kept(kind):
    case, plain = build("conv"), build("conv")
    case.model.to(memory_format=torch.channels_last)
    inputs = case.inputs.contiguous(memory_format=torch.channels_last)
    last = Case("last", case.model, inputs, case.targets)
    for c in (last, plain):
        if kind == "penalty":
            penalty = InconsistencyPenalty(c.model, rho=RHO)
            for _ in range(2):
                penalty(c.inputs, c()).backward()
        else:
            optimizer = make(kind, c.model)
            for _ in range(2):
                optimizer.step(closure_of(c))
    torch.testing.assert_close(grads_of(case), grads_of(plain))
    torch.testing.assert_close(theta_of(case), theta_of(plain))
    weight = case.model[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_an_ensemble_may_come_in_channels_last():
    case, plain = build("conv"), build("conv")
    case.model.to(memory_format=torch.channels_last)
    one, other = (Ensemble.of([c.model, c.model]).theta for c in (case, plain))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [*KINDS, "penalty"])
def test_a_compiled_model_trains_alike(kind):
    case, plain = build("conv"), build("conv")
    compiled = torch.compile(case.model, backend="aot_eager")
    for c, model in ((case, compiled), (plain, plain.model)):
        if kind == "penalty":
            loss, logits = closure_of(c, model)()
            (loss + InconsistencyPenalty(model, rho=RHO)(c.inputs, logits)).backward()
        else:
            optimizer = make(kind, model)
            for _ in range(2):
                optimizer.step(closure_of(c, model))
    torch.testing.assert_close(case.model.state_dict(), plain.model.state_dict())
    torch.testing.assert_close(grads_of(case), grads_of(plain))


class Checkpointed(nn.Module):
    def __init__(self, model: nn.Sequential):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_sequential(self.model, 2, x, use_reentrant=False)


@pytest.mark.parametrize("kind", [*KINDS, "penalty"])
@pytest.mark.parametrize("name", ["conv", "dropout"])
def test_a_checkpointed_model_trains_alike(kind, name):
    case, plain = build(name), build(name)
    start = torch.get_rng_state()
    for c, model in ((case, Checkpointed(case.model)), (plain, plain.model)):
        torch.set_rng_state(start)
        if kind == "penalty":
            (InconsistencyPenalty(model, rho=RHO)(c.inputs)).backward()
        else:
            make(kind, model).step(closure_of(c, model))
    torch.testing.assert_close(grads_of(case), grads_of(plain))


@pytest.mark.parametrize("sigma", [pytest.param(None, marks=pushes_through_checkpoints), 0.1])
def test_a_checkpointed_model_is_measured_alike(sigma):
    case = build("conv")
    found, expected = (
        local_inconsistency(model, case.inputs, rho=RHO, sigma=sigma, training=True)
        for model in (Checkpointed(case.model), case.model)
    )
    torch.testing.assert_close(found.delta, expected.delta)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_weight_moves_once(kind):
    case = build("shared-dict")
    optimizer = make(kind, case.model)
    assert len(optimizer.param_groups[0]["params"]) == len(trainable(case.model))
    before = theta_of(case)
    with optimizer.perturbed(goes_by(kind, case)):
        assert case.model.left.weight is case.model.right.weight
        assert float((theta_of(case) - before).norm()) == pytest.approx(RHO)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_gpu_waits_for_nothing(kind):
    host = build("conv", torch.float32)
    case = Case("gpu", host.model.cuda(), host.inputs.cuda(), host.targets.cuda())
    optimizer = make(kind, case.model, momentum=0.9)
    before = theta_of(case)
    optimizer.step(closure_of(case))
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.zero_grad()
        loss = optimizer.step(closure_of(case))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
    assert theta_of(case).isfinite().all()
    assert not torch.equal(theta_of(case), before)


# Frameworks


def lightning_step(optimizer: Climber, closure) -> Tensor:
    """How Lightning's precision plugin calls an optimizer under manual optimization."""

    def wrapped():
        return closure()

    with torch.enable_grad():
        return optimizer.step(closure=wrapped)


@pytest.mark.parametrize("kind", KINDS)
def test_lightning_style(kind):
    case, twin = build("conv"), build("conv")
    optimizer, other = make(kind, case.model), make(kind, twin.model)
    loss = lightning_step(optimizer, closure_of(case))
    assert torch.equal(loss, other.step(closure_of(twin)))
    assert torch.equal(theta_of(case), theta_of(twin))


class Trainer:
    """The shape of Hugging Face's: it owns backward, and calls `optimizer.step()` bare."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.model, self.optimizer = model, optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return model(**inputs).loss

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        model.train()
        loss = self.compute_loss(model, inputs)
        loss.backward()
        return loss.detach()

    def train(self, batch: dict[str, Tensor]) -> None:
        self.training_step(self.model, batch)
        self.optimizer.step()
        self.model.zero_grad()


class PerturbedTrainer(Trainer):
    def training_step(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        outputs = (lambda: model(**inputs).loss) if isinstance(self.optimizer, SAM) else None
        with self.optimizer.perturbed(outputs or (lambda: model(**inputs).logits)):
            return super().training_step(model, inputs)


class PenalisedTrainer(Trainer):
    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        outputs = model(**inputs)
        penalty = InconsistencyPenalty(model, rho=RHO)
        return outputs.loss + penalty(inputs, outputs.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_face_style(kind):
    case, twin = build("conv"), build("conv")
    model = Labelled(case.model)
    batch = {"x": case.inputs, "labels": case.targets}
    if kind == "IAMD":
        PenalisedTrainer(model, SGD(model.parameters(), lr=LR)).train(batch)
    else:
        PerturbedTrainer(model, make(kind, model)).train(batch)
    make(kind, twin.model).step(closure_of(twin))
    torch.testing.assert_close(theta_of(case), theta_of(twin))
