"""A model in whose forward the optimizer climbs, in loops that know nothing of it."""

import copy
import pickle
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from cases import Case, Counted, build
from optimizers import (
    KINDS,
    Labelled,
    closure_of,
    grads_of,
    make,
    parts,
    peak,
    theta_of,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

CONV, DROPOUT = "conv", "dropout"


def start(kind: str, name: str = CONV, dtype: torch.dtype = torch.float32, **arguments):
    """A model that returns its loss, and its optimizer."""
    case = build(name, dtype)
    model = Labelled(case.model)
    return case, model, make(kind, model, **arguments)


def run(case: Case, model: nn.Module) -> Tensor:
    """What a loop does for one batch."""
    loss = model(case.inputs, case.targets).loss
    loss.backward()
    return loss.detach()


def train(case: Case, model: nn.Module, optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        run(case, model)
        optimizer.step()
        optimizer.zero_grad()


def by_hand(kind: str, case: Case, model: nn.Module, optimizer) -> None:
    """The same step by `perturbed`, or by a closure."""

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(case.inputs, case.targets)
        return outputs.loss, outputs.logits

    if kind == "IAMD":
        optimizer.step(closure)
    else:
        with optimizer.perturbed(lambda: closure()[kind != "SAM"]):
            closure()[0].backward()
        optimizer.step()
    optimizer.zero_grad()


def same_weights(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", [CONV, DROPOUT])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_bitwise_the_hand_written_loop(kind, name):
    case, model, optimizer = start(kind, name, momentum=0.9)
    twin, other, reference = start(kind, name, momentum=0.9)
    optimizer.attach(model)
    state = torch.get_rng_state()
    for _ in range(3):
        train(case, model, optimizer)
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


# Coming home


WAYS_HOME = {
    "zero_grad": lambda case, model, optimizer: optimizer.zero_grad(),
    "a pass in evaluation mode": lambda case, model, optimizer: model.eval()(
        case.inputs, case.targets
    ),
    "a checkpoint of the model": lambda case, model, optimizer: model.state_dict(),
    "a checkpoint of the optimizer": lambda case, model, optimizer: optimizer.state_dict(),
    "a loaded checkpoint": lambda case, model, optimizer: optimizer.load_state_dict(
        optimizer.base_optimizer.state_dict()
    ),
    "remove": lambda case, model, optimizer: optimizer._attached.remove(),
    "a bare step": lambda case, model, optimizer: optimizer.step(),
}


@pytest.mark.parametrize("way", WAYS_HOME)
@pytest.mark.parametrize("kind", ["SAM", "IAMS"])
def test_after_a_pass_without_backward_the_weights_come_home(kind, way):
    case, model, optimizer = start(kind)
    optimizer.attach(model)
    theta = theta_of(case)
    statistics = copy.deepcopy(case.model[1].state_dict())
    twin = build(CONV, torch.float32)
    twin()
    outputs = model(case.inputs, case.targets)
    assert not torch.equal(theta_of(case), theta)
    WAYS_HOME[way](case, model, optimizer)
    assert torch.equal(theta_of(case), theta)
    assert not torch.equal(case.model[1].running_mean, statistics["running_mean"])
    torch.testing.assert_close(case.model[1].state_dict(), twin.model[1].state_dict())
    if way != "remove":
        with pytest.raises(RuntimeError, match="the weights have moved since this forward"):
            outputs.loss.backward()
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_training_pass_climbs_from_theta(kind):
    case, model, optimizer = start(kind)
    twin, other, reference = start(kind)
    for o, m in ((optimizer, model), (reference, other)):
        o.attach(m)
    lost = model(case.inputs, case.targets)  # interrupted
    other(twin.inputs, twin.targets)
    reference.zero_grad()
    train(case, model, optimizer)
    train(twin, other, reference)
    same_weights(model, other)
    with pytest.raises(RuntimeError, match="the weights have moved"):
        lost.loss.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_in_any_pass_leaves_theta(kind):
    case, model, optimizer = start(kind)
    optimizer.attach(model)
    theta, left = theta_of(case), 0

    def interrupt(*_) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise ValueError("interrupted")

    hook = case.model[0].register_forward_hook(interrupt)
    for last in range(1, {"SAM": 2, "IAMS": 3, "IAMD": 4}[kind] + 1):
        left = last
        with pytest.raises(ValueError, match="interrupted"):
            run(case, model)
        assert torch.equal(theta_of(case), theta)
    hook.remove()
    train(case, model, optimizer)
    assert not torch.equal(theta_of(case), theta)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_twice_through_one_pass_is_refused(kind):
    case, model, optimizer = start(kind)
    optimizer.attach(model)
    outputs = model(case.inputs, case.targets)
    outputs.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        outputs.loss.backward()


# What is attached


def test_a_handle_gives_the_plain_loop_back():
    case, model, optimizer = start("IAMS")
    with optimizer.attach(model) as handle:
        with pytest.raises(RuntimeError, match="attached already"):
            optimizer.attach(model)
        with pytest.raises(RuntimeError, match="climb twice"), optimizer.perturbed(case):
            pass
        train(case, model, optimizer)
    handle.remove()  # again
    theta = theta_of(case)
    model(case.inputs, case.targets)
    assert torch.equal(theta_of(case), theta)
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    optimizer.step(closure_of(case))
    optimizer.attach(model).remove()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_model_is_a_plain_one(copied):
    case, model, optimizer = start("IAMS")
    optimizer.attach(model)
    average = copied(model)
    before = [p.detach().clone() for p in average.parameters()]
    average(case.inputs, case.targets).loss.backward()
    assert all(map(torch.equal, before, average.parameters()))
    assert torch.equal(theta_of(case), torch.cat([p.flatten() for p in before]))
    assert average.state_dict().keys() == model.state_dict().keys()


def test_a_copied_optimizer_is_not_attached():
    case, model, optimizer = start("IAMS")
    optimizer.attach(model)
    twin, other, copied = copy.deepcopy((case, model, optimizer))
    train(case, model, optimizer)
    copied.attach(other)
    train(twin, other, copied)
    same_weights(model, other)


def test_a_replica_is_refused():
    case, model, optimizer = start("IAMS")
    optimizer.attach(model)
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        copy.copy(model)(case.inputs, case.targets)


def test_parameters_that_the_optimizer_lacks_are_named():
    model = build("mlp").model
    optimizer = make("SAM", model[0])
    with pytest.raises(ValueError, match=r"missing: \['2.weight', '2.bias'\]"):
        optimizer.attach(model)


# What the model returns

Pair = namedtuple("Pair", ["loss", "logits"])
RETURNED = {
    "object": lambda loss, logits: SimpleNamespace(loss=loss, logits=logits),
    "dict": lambda loss, logits: {"loss": loss, "logits": logits},
    "ordered": lambda loss, logits: OrderedDict(loss=loss, logits=logits),
    "pair": Pair,
    "nested": lambda loss, logits: SimpleNamespace(loss=loss, logits=logits, hidden=[(logits,)]),
}


class Returning(Labelled):
    def __init__(self, model: nn.Module, kind: str):
        super().__init__(model)
        self.kind = kind

    def forward(self, x: Tensor, labels: Tensor):
        outputs = super().forward(x, labels)
        return RETURNED[self.kind](outputs.loss, outputs.logits)


@pytest.mark.parametrize("returned", RETURNED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_found_in_what_the_model_returns(kind, returned):
    case = build("mlp", torch.float32)
    model = Returning(case.model, returned)
    optimizer = make(kind, model)
    optimizer.attach(model)
    if (kind, returned) == ("IAMD", "pair"):
        with pytest.raises(TypeError, match="its loss in a place that can be set"):
            model(case.inputs, case.targets)
        return
    outputs = model(case.inputs, case.targets)
    loss = outputs["loss"] if isinstance(outputs, dict) else outputs.loss
    loss.backward()
    optimizer.step()
    twin, other, reference = start(kind, "mlp")
    by_hand(kind, twin, other, reference)
    assert torch.equal(theta_of(case), theta_of(twin))


def test_a_model_of_logits_alone():
    case, twin = build(CONV, torch.float32), build(CONV, torch.float32)
    optimizer, reference = (make("IAMS", c.model) for c in (case, twin))
    optimizer.attach(case.model)
    cross_entropy(case(), case.targets).backward()
    optimizer.step()
    reference.step(closure_of(twin))
    same_weights(case.model, twin.model)


def test_sam_takes_the_loss_from_the_logits():
    case, twin = build(CONV, torch.float32), build(CONV, torch.float32)
    optimizer, reference = (make("SAM", c.model) for c in (case, twin))
    with optimizer.attach(case.model), pytest.raises(ValueError, match=r"attach\(\) takes loss="):
        case()
    optimizer.attach(case.model, loss=lambda logits: cross_entropy(logits, case.targets))
    cross_entropy(case(), case.targets).backward()
    optimizer.step()
    reference.step(closure_of(twin))
    torch.testing.assert_close(theta_of(case), theta_of(twin), rtol=0, atol=0)


def test_iam_d_needs_the_models_own_loss():
    case = build("mlp")
    optimizer = make("IAMD", case.model)
    theta = theta_of(case)
    with optimizer.attach(case.model), pytest.raises(TypeError, match="must return its loss"):
        case()
    assert torch.equal(theta_of(case), theta)
    model = Labelled(case.model)
    optimizer.attach(model)
    logits = model(case.inputs, case.targets).logits  # a loss that knows nothing of the penalty
    cross_entropy(logits, case.targets).backward()
    with pytest.raises(RuntimeError, match="beta S_rho"):
        optimizer.step()


def test_iam_d_returns_the_penalised_loss():
    case, model, optimizer = start("IAMD", "mlp", torch.float64, beta=3.0)
    plain = model(case.inputs, case.targets).loss
    optimizer.attach(model)
    optimizer.beta = 0.0
    assert torch.equal(model(case.inputs, case.targets).loss, plain)
    optimizer.zero_grad()
    optimizer.generator.manual_seed(0)
    optimizer.beta = 1.0
    one = model(case.inputs, case.targets).loss - plain
    optimizer.zero_grad()
    optimizer.generator.manual_seed(0)
    optimizer.beta = 2.0
    two = model(case.inputs, case.targets).loss - plain
    assert one > 0
    torch.testing.assert_close(two, 2 * one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_runs_backward_as_in_torch(kind):
    """So does Lightning's under automatic optimization."""
    case, model, optimizer = start(kind)
    twin, other, reference = start(kind)
    optimizer.attach(model)
    reference.attach(other)

    def closure() -> Tensor:
        optimizer.zero_grad()
        return run(case, model)

    for _ in range(2):
        with torch.no_grad():
            assert optimizer.step(closure) > 0
        train(twin, other, reference)
    torch.testing.assert_close(theta_of(case), theta_of(twin), rtol=0, atol=0)
