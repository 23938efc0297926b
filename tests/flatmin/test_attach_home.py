"""When the weights of an attached model come home, and where its loss is found."""

import copy
import pickle
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from attached import CONV, by_hand, run, same_weights, start, train
from cases import build
from optimizers import KINDS, Labelled, closure_of, make, theta_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# Coming home


WAYS_HOME = {
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
    reference.state_dict()
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


class Masked(Labelled):
    """A masked language model: rows without a label have no part in the loss."""

    def forward(self, x: Tensor, labels: Tensor) -> SimpleNamespace:
        outputs = super().forward(x, labels)
        outputs.loss = cross_entropy(outputs.logits[labels >= 0], labels[labels >= 0])
        return outputs


SELECTED = {
    "keywords": (
        lambda model, case: model(x=case.inputs, labels=case.targets),
        lambda returned, batch: returned.logits[batch["labels"] >= 0],
    ),
    "positional": (
        lambda model, case: model(case.inputs, case.targets),
        lambda returned, batch: returned.logits[batch[1] >= 0],
    ),
}


@pytest.mark.parametrize("call", SELECTED)
@pytest.mark.parametrize("kind", ["IAMS", "IAMD"])
def test_the_climb_goes_by_the_outputs_that_are_selected(kind, call):
    forward, outputs = SELECTED[call]
    (case, _, _), (twin, _, _) = start(kind, "mlp"), start(kind, "mlp")
    model, other = Masked(case.model), Masked(twin.model)
    optimizer, reference = make(kind, model), make(kind, other)
    case.targets[::2] = twin.targets[::2] = -100
    optimizer.attach(model, outputs=outputs)
    kept = twin.targets >= 0

    def closure() -> tuple[Tensor, Tensor]:
        returned = other(twin.inputs, twin.targets)
        return returned.loss, returned.logits[kept]

    for _ in range(2):
        forward(model, case).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if kind == "IAMS":
            with reference.perturbed(lambda: closure()[1]):
                closure()[0].backward()
            reference.step()
        else:
            reference.step(closure)
        reference.zero_grad()
    same_weights(model, other)


def test_outputs_are_selected_from_a_batch_of_one_tensor():
    case, twin = build("mlp", torch.float32), build("mlp", torch.float32)
    optimizer, reference = make("IAMS", case.model), make("IAMS", twin.model)
    optimizer.attach(case.model, outputs=lambda logits, x: logits[x[:, 0] > 0])
    cross_entropy(case(), case.targets).backward()
    optimizer.step()
    some = twin.inputs[:, 0] > 0
    assert 0 < some.sum() < len(some)
    with reference.perturbed(lambda: twin()[some]):
        closure_of(twin)()[0].backward()
    reference.step()
    same_weights(case.model, twin.model)


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
    optimizer.state_dict()
    optimizer.generator.manual_seed(0)
    optimizer.beta = 1.0
    one = model(case.inputs, case.targets).loss - plain
    optimizer.state_dict()
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
