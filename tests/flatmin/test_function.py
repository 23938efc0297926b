import copy
from types import SimpleNamespace

import pytest
import torch
from cases import build, evaluated, flat, pushes_through_checkpoints, randn, seeded
from torch import Tensor, nn
from torch.backends import mha
from torch.utils.checkpoint import checkpoint

from flatmin._function import Batches, Function, logits_of, on_device
from flatmin.curvature import top_fisher_eigenpairs, top_hessian_eigenpairs
from flatmin.fisher import FisherOperator
from flatmin.inconsistency import local_inconsistency, outputs_at, worst_case_perturbation
from flatmin.optim import IAMS
from flatmin.penalty import InconsistencyPenalty


def twice() -> nn.Module:
    """A module that is used twice, and a second name for one parameter."""
    inner = nn.Linear(4, 4)
    model = nn.Sequential(inner, nn.BatchNorm1d(4), inner).double()
    model.register_parameter("alias", inner.bias)
    return model


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x)[0][:, -1])


class Checkpointed(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        for layer in self.model:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


def climb(model: nn.Module, x: Tensor) -> None:
    with IAMS(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1).perturbed(lambda: model(x)):
        pass


MEASURES = {
    "local_inconsistency": lambda model, x: local_inconsistency(model, x, rho=0.1),
    "noise": lambda model, x: local_inconsistency(model, x, rho=0.1, sigma=0.1, training=True),
    "worst_case_perturbation": lambda model, x: worst_case_perturbation(model, x, rho=0.1),
    "outputs_at": lambda model, x: outputs_at(model, x, torch.ones(Function(model).size)),
    "fisher": lambda model, x: top_fisher_eigenpairs(model, x),
    "hessian": lambda model, x: top_hessian_eigenpairs(
        model, nn.CrossEntropyLoss(), x, torch.arange(len(x)) % 2
    ),
    "penalty": lambda model, x: InconsistencyPenalty(model, rho=0.1)(x).backward(),
    "climb": climb,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("make", [twice, lambda: Recurrent().double()])
def test_the_parameters_are_the_same_objects_afterwards(measure, make):
    model = make().eval()
    x = randn(6, 4) if isinstance(model, nn.Sequential) else randn(6, 5, 3)
    before = [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    expected = model(x)
    MEASURES[measure](model, x)
    for module, parameters, buffers in before:
        assert list(module._parameters) == list(parameters)
        assert all(module._parameters[name] is p for name, p in parameters.items())
        assert all(module._buffers[name] is b for name, b in buffers.items())
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(model(x), expected)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_module_used_twice_moves_twice():
    model, x = nn.Sequential(inner := nn.Linear(4, 4).double(), nn.Tanh(), inner), randn(6, 4)
    delta = 0.1 * randn(20)
    moved = outputs_at(model, x, delta)
    weight, bias = inner.weight + delta[:16].view(4, 4), inner.bias + delta[16:]
    by_hand = torch.tanh(x @ weight.T + bias) @ weight.T + bias
    torch.testing.assert_close(moved, by_hand)


def test_parameters_come_back_after_an_error_inside():
    model = twice()
    before = [*model.parameters()]
    function = Function(model)
    with pytest.raises(RuntimeError), function.at([p + 1 for p in function.params]):
        function(randn(6, 3))
    assert all(p is q for p, q in zip(model.parameters(), before, strict=True))


@pushes_through_checkpoints
@pytest.mark.parametrize("training", [False, True])
def test_a_checkpointed_model_is_measured_like_the_plain_one(training):
    plain = build("conv")
    model, x = Checkpointed(plain.model), plain.inputs
    for measure in (
        lambda m: local_inconsistency(m, x, rho=0.1, training=training).history,
        lambda m: local_inconsistency(m, x, rho=0.1, sigma=0.1, training=training).history,
        lambda m: FisherOperator(m, x, training=training) @ torch.ones(Function(m).size).double(),
        lambda m: top_hessian_eigenpairs(m, nn.CrossEntropyLoss(), x, plain.targets).eigenvalues,
    ):
        torch.testing.assert_close(measure(model), measure(plain.model), rtol=1e-9, atol=1e-12)


def test_a_checkpointed_model_is_penalized_like_the_plain_one():
    grads = []
    for wrap in (Checkpointed, lambda model: model):
        case = build("conv")
        model = wrap(case.model)
        InconsistencyPenalty(model, rho=0.1)(case.inputs, model(case.inputs)).backward()
        grads.append(flat(p.grad for p in case.model.parameters()))
    torch.testing.assert_close(*grads)


# Attention


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.body(x)).mean(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_divergence_of_a_model_from_itself_is_exactly_zero(dtype, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Transformer().to(dtype), torch.randn(8, 6, 16).to(dtype)
    # At a radius below all rounding, θ + δ is θ.
    found = local_inconsistency(model, x, rho=1e-30, steps=2)
    assert found.value == 0
    assert not found.converged
    model.eval()
    penalty = InconsistencyPenalty(model, rho=1e-30, sigma=1e-30)
    assert penalty(x) == 0
    with torch.no_grad():
        assert penalty(x) == 0


@pytest.mark.parametrize("fast", [False, True])
def test_the_fast_path_is_off_inside_and_as_it_was_afterwards(fast):
    seen = []

    class Watching(Transformer):
        def forward(self, x):
            seen.append(mha.get_fastpath_enabled())
            return super().forward(x)

    model, x = Watching(), torch.randn(2, 6, 16)
    before = mha.get_fastpath_enabled()
    try:
        mha.set_fastpath_enabled(fast)
        for name, measure in MEASURES.items():
            measure(model.requires_grad_(True), x)
            assert mha.get_fastpath_enabled() is fast, name
        with pytest.raises(AssertionError, match="embedding dimension"):
            local_inconsistency(model, x[:, :, :3], rho=0.1)
        assert mha.get_fastpath_enabled() is fast
    finally:
        mha.set_fastpath_enabled(before)
    assert not any(seen)


# Batches and outputs


def test_where_the_outputs_are():
    z = torch.ones(2, 3)
    for outputs in (z, {"logits": z, "loss": 0}, SimpleNamespace(logits=z)):
        assert logits_of(outputs) is z
    for wrong in ((z, z), {"loss": z}, None):
        with pytest.raises(TypeError, match=r"must return a tensor, .* got (tuple|dict|NoneType)"):
            logits_of(wrong)


class Tokens(nn.Module):
    """A language model as transformers has them: called by name, with its labels."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)

    def forward(self, input_ids, labels=None):
        return SimpleNamespace(loss=0.0, logits=self.head(torch.tanh(self.embed(input_ids))))


def test_tokens_that_are_chosen_count_as_examples():
    model = Tokens().double()
    ids = torch.randint(11, (4, 6), generator=seeded())
    labels = torch.where(ids % 3 == 0, -100, ids)
    chosen = {"input_ids": ids[labels != -100][:, None]}
    # A stream whose batches keep unequally many tokens, and as many once without padding.
    stream = [{"input_ids": ids[i], "labels": labels[i]} for i in (slice(1), slice(1, 4))]

    def kept(out, batch):
        return out.logits[batch["labels"] != -100]

    expected = local_inconsistency(model, chosen, rho=0.2)
    found = local_inconsistency(model, stream, rho=0.2, outputs=kept)
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    one = {"input_ids": ids, "labels": labels}
    penalty = InconsistencyPenalty(model, rho=0.2, outputs=kept)
    alike = InconsistencyPenalty(model, rho=0.2)(chosen)
    torch.testing.assert_close(penalty(one), alike)
    penalty = InconsistencyPenalty(model, rho=0.2, outputs=kept)
    torch.testing.assert_close(penalty(one, model(**one)), alike)
    top = top_fisher_eigenpairs(model, stream, outputs=kept).eigenvalues
    torch.testing.assert_close(
        top, top_fisher_eigenpairs(model, chosen).eigenvalues, rtol=1e-6, atol=0
    )
    moved = outputs_at(model, one, found.delta, outputs=kept)
    assert moved.shape == (len(chosen["input_ids"]), 11)


def test_a_selector_sees_the_labels_of_a_loader():
    case = evaluated("mlp")
    keep = case.targets == 0
    stream = [[case.inputs, case.targets]]
    found = local_inconsistency(
        case.model, stream, rho=0.1, outputs=lambda out, batch: out[batch[1] == 0]
    )
    expected = local_inconsistency(case.model, case.inputs[keep], rho=0.1)
    assert found.value == pytest.approx(expected.value, rel=1e-9)


def test_batches_come_to_the_device_as_they_are():
    x = torch.ones(2)
    nested = {"x": x, "more": [x, (x, 1)], "name": "a"}
    moved = on_device(nested, torch.device("meta"))
    assert moved["x"].device.type == moved["more"][1][0].device.type == "meta"
    assert isinstance(moved["more"][1], tuple)
    assert moved["name"] == "a"
    packed = nn.utils.rnn.pack_sequence([x])
    assert type(on_device(packed, torch.device("cpu"))) is type(packed)


def test_progress_wraps_every_pass_over_a_stream():
    case, bars = evaluated("mlp"), []

    def bar(stream):
        bars.append(0)
        for batch in stream:
            bars[-1] += 1
            yield batch

    stream = list(case.inputs.split(3))
    plain = local_inconsistency(case.model, stream, rho=0.1)
    assert local_inconsistency(case.model, stream, rho=0.1, progress=bar).value == plain.value
    assert bars == [3] * 4  # K + 1
    local_inconsistency(case.model, case.inputs, rho=0.1, progress=bar)
    top_fisher_eigenpairs(case.model, case.inputs, progress=bar)
    assert len(bars) == 4
    worst_case_perturbation(case.model, stream, rho=0.1, progress=bar)
    assert len(bars) == 7
    FisherOperator(case.model, stream, progress=bar).quadratic(torch.ones(75).double())
    assert bars == [3] * 8


# Some of the parameters


def test_params_are_the_coordinates_in_their_order():
    case = evaluated("mlp")
    first, last = case.model[0].weight, case.model[2].bias
    whole = FisherOperator(case.model, case.inputs)
    eye = torch.eye(75).double()
    matrix = torch.stack([whole @ e for e in eye])
    part = FisherOperator(case.model, case.inputs, params=[last, first])
    rows = [*range(72, 75), *range(40)]
    assert part.size == 43
    block = torch.stack([part @ e for e in torch.eye(43).double()])
    torch.testing.assert_close(block, matrix[rows][:, rows])
    rho = 1e-3
    found = local_inconsistency(
        case.model, case.inputs, rho=rho, steps=80, params=iter([last, first])
    )
    top = float(torch.linalg.eigvalsh(block)[-1])
    assert found.value == pytest.approx(0.5 * rho**2 * top, rel=0.01)
    moved = outputs_at(case.model, case.inputs, found.delta, params=[last, first])
    whole_delta = torch.zeros(75).double()
    whole_delta[rows] = found.delta
    torch.testing.assert_close(moved, outputs_at(case.model, case.inputs, whole_delta))


def test_params_spare_the_graph_of_the_others():
    case = evaluated("mlp")
    function = Function(case.model, [case.model[2].bias])
    with function.at(function.leaves()):
        assert not case.model[0](case.inputs).requires_grad
        assert function(case.inputs).requires_grad


@pytest.mark.parametrize("params", [[], [nn.Parameter(torch.ones(2))]])
def test_params_that_are_not_the_models_are_refused(params):
    case = build("frozen")
    with pytest.raises(ValueError, match="params must hold one or more trainable parameters"):
        local_inconsistency(case.model, case.inputs, rho=0.1, params=params)
    with pytest.raises(ValueError, match="got 2, of which 2 are not"):
        Function(case.model, case.model.body.parameters())


def test_a_vector_of_another_size_is_refused():
    function = Function(build("mlp").model)
    with pytest.raises(ValueError, match=r"vector must be \(75,\), got \(74,\)"):
        function.split(torch.ones(74))


def test_nothing_of_an_empty_stream():
    with pytest.raises(ValueError, match="at least one batch, got no batch"):
        list(Batches([], torch.device("cpu")))
