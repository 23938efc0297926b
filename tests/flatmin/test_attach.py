"""A model in whose forward the optimizer climbs, in loops that know nothing of it."""

import pytest
import torch
from attached import CONV, DROPOUT, by_hand, run, same_weights, start, train
from cases import Counted, build
from optimizers import KINDS, Labelled, grads_of, make, parts, peak, theta_of
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


@pytest.mark.parametrize("name", [CONV, DROPOUT])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_bitwise_the_hand_written_loop(kind, name):
    case, model, optimizer = start(kind, name, momentum=0.9)
    twin, other, reference = start(kind, name, momentum=0.9)
    optimizer.attach(model)
    state = torch.get_rng_state()
    for step in range(3):
        loss = model(case.inputs, case.targets).loss
        if step:
            optimizer.zero_grad()  # in tutorials, and in Lightning, between forward and backward
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.eval()
            model(case.inputs, case.targets)
        model.train()
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    for _ in range(3):
        by_hand(kind, twin, other, reference)
    same_weights(model, other)
    assert torch.equal(after, torch.get_rng_state())
    if name == CONV:
        assert case.model[1].num_batches_tracked == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_without_gradients_is_at_theta(kind):
    case, model, optimizer = start(kind)
    optimizer.attach(model)
    theta = theta_of(case)
    with torch.no_grad():
        model(case.inputs, case.targets)
    assert torch.equal(theta_of(case), theta)
    model.eval()
    model(case.inputs, case.targets).loss.backward()
    assert torch.equal(theta_of(case), theta)
    with pytest.raises(RuntimeError, match=r"attach\(\)"):
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_add_up(kind):
    case, model, optimizer = start(kind, "mlp", torch.float64)
    twin, other, reference = start(kind, "mlp", torch.float64, lr=0.0)
    optimizer.attach(model)
    expected = 0
    for part in parts(twin):

        def closure(part=part) -> tuple[Tensor, Tensor]:
            outputs = other(part.inputs, part.targets)
            return outputs.loss, outputs.logits

        reference.step(closure)
        expected = expected + grads_of(twin) / 2
        reference.zero_grad()
    for part in parts(case):
        (model(part.inputs, part.targets).loss / 2).backward()
    torch.testing.assert_close(grads_of(case), expected)
    before = theta_of(case)
    optimizer.step()
    torch.testing.assert_close(theta_of(case), before - 0.1 * expected)


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_losses_and_clipping(kind):
    case, model, optimizer = start(kind, "mlp")
    twin, other, reference = start(kind, "mlp")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer.attach(model)
    reference.attach(other)

    def scaled() -> None:
        with torch.autocast("cpu", torch.float16):
            loss = model(case.inputs, case.targets).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    scaled()
    run(twin, other)
    clip_grad_norm_(other.parameters(), 0.1)
    reference.step()
    torch.testing.assert_close(theta_of(case), theta_of(twin), rtol=0.01, atol=1e-3)
    before = theta_of(case)
    case.inputs.mul_(1e6)  # overflows fp16
    scaled()
    assert torch.equal(theta_of(case), before)
    assert scaler.get_scale() == 2.0**9
    case.inputs.mul_(1e-6)
    scaled()
    assert theta_of(case).isfinite().all()
    assert not torch.equal(theta_of(case), before)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_around_the_forward(kind):
    case, model, optimizer = start(kind)
    twin, other, reference = start(kind)
    optimizer.attach(model)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(case.inputs, case.targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        def closure() -> tuple[Tensor, Tensor]:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = other(twin.inputs, twin.targets)
                return outputs.loss, outputs.logits

        reference.step(closure)
        reference.zero_grad()
    same_weights(model, other)


@pytest.mark.parametrize(
    ("kind", "forwards", "backwards"), [("SAM", 2, 2), ("IAMS", 3, 2), ("IAMD", 4, 3)]
)
def test_passes_and_graphs_are_those_of_a_step(kind, forwards, backwards):
    case = build(CONV)
    counted = Counted(case.model)
    model = Labelled(counted)
    plain = peak(lambda: run(case, model))
    for steps in (1, 2) if kind != "SAM" else (1,):
        counted.forwards = counted.backwards = 0
        optimizer = make(kind, model, **({} if kind == "SAM" else {"steps": steps}))
        with optimizer.attach(model):
            assert peak(lambda: run(case, model)) <= 1.15 * plain
        assert counted.forwards == forwards + steps - 1
        assert counted.backwards == backwards + steps - 1


def test_hooks_of_the_model_run_once_in_each_pass():
    case, model, optimizer = start("IAMS")
    seen = []
    model.register_forward_pre_hook(lambda _model, args: (2 * args[0], *args[1:]))
    model.model.register_forward_pre_hook(lambda _model, args: seen.append(args[0]))
    optimizer.attach(model)
    run(case, model)
    assert len(seen) == 3
    assert all(torch.equal(x, 2 * case.inputs) for x in seen)


class Checkpointed(nn.Module):
    def __init__(self, model: nn.Sequential, reentrant: bool):
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_() if self.reentrant else x
        return checkpoint_sequential(self.model, 2, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("name", [CONV, DROPOUT])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpointed_model(kind, name):
    twin, other, reference = start(kind, name)
    case = build(name, torch.float32)
    model = Labelled(Checkpointed(case.model, reentrant=False))
    optimizer = make(kind, model)
    optimizer.attach(model)
    state = torch.get_rng_state()
    train(case, model, optimizer, 2)
    torch.set_rng_state(state)
    for _ in range(2):
        by_hand(kind, twin, other, reference)
    same_weights(case.model, twin.model)


@pytest.mark.parametrize("kind", KINDS)
def test_reentrant_checkpoints_are_refused_by_name(kind):
    case = build(CONV)
    model = Labelled(Checkpointed(case.model, reentrant=True))
    make(kind, model).attach(model)
    theta = theta_of(case)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        model(case.inputs, case.targets)
    assert torch.equal(theta_of(case), theta)


def test_a_part_of_a_checkpoint_is_refused():
    case = build("mlp")
    optimizer = make("IAMS", case.model, steps=1)
    optimizer.attach(case.model)
    loss = checkpoint(case.model, case.inputs, use_reentrant=False).sum()
    with pytest.raises(RuntimeError, match="attach the whole model"):
        loss.backward()


@pytest.mark.parametrize("first", ["compile", "attach"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model(kind, first):
    case, model, optimizer = start(kind)
    twin, other, reference = start(kind)
    reference.attach(other)
    if first == "attach":
        optimizer.attach(model)
    compiled = torch.compile(model, backend="aot_eager")
    if first == "compile":
        optimizer.attach(compiled)
    train(case, compiled, optimizer, 2)
    train(twin, other, reference, 2)
    torch.testing.assert_close(model.state_dict(), other.state_dict())
