"""Bad arguments of the libraries: an error that names the argument, its value and what is allowed.

One line of a table is one case. Nothing may have changed when the error comes: weights, gradients,
modes and the global random state are compared bitwise.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from flatbook import claim, figure_data
from flatbook.claims import Claim, holds
from flatlab.data import fashion_mnist
from flatlab.data.images import balanced, cifar, with_wrong
from flatlab.ensemble import ensemble_batches, train_ensemble
from flatlab.models import WideResNet, cnn3, cnn6, mlp, resnet, vit
from flatlab.run import Batches, Run
from flatlab.schedules import constant
from flatlab.streams import shuffled
from flatmin import pathways as P
from flatmin.bounds import disagreement, generalization_bound, inconsistency_range
from flatmin.curvature import (
    fisher_trace,
    hessian_trace,
    top_fisher_eigenpairs,
    top_hessian_eigenpairs,
)
from flatmin.divergences import divergence_named
from flatmin.fisher import FisherOperator
from flatmin.hessian import HessianOperator
from flatmin.inconsistency import local_inconsistency, outputs_at, worst_case_perturbation
from flatmin.optim import IAMD, IAMS, SAM
from flatmin.pathways import theory
from flatmin.penalty import InconsistencyPenalty

X, Y = torch.linspace(-1, 1, 32).reshape(8, 4), torch.arange(8) % 3
TOKENS = torch.tensor([[0, 1], [1, 2]])
CE = nn.functional.cross_entropy
NAN, INF = math.nan, math.inf


@pytest.fixture
def net():
    """A network whose every part is compared with what it was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    CE(model(X), Y).backward()
    before = [t.clone() for t in (*model.parameters(), *model.buffers())]
    grads = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    yield model
    now = [*model.parameters(), *model.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def measured(**change):
    return lambda net: local_inconsistency(net, X, **{"rho": 0.1, **change})


def penalized(**change):
    return lambda net: InconsistencyPenalty(net, **{"rho": 0.1, **change})


def made(kind, **change):
    kwargs = {"rho": 0.1, "lr": 0.1, **change}
    return lambda net: kind(net.parameters(), torch.optim.SGD, **kwargs)


def stepped(kind, **change):
    """An optimizer whose settings are changed after it was made."""

    def step(net):
        optimizer = kind(net.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
        optimizer.param_groups[0].update(change)
        optimizer.step(lambda: (CE(net(X), Y), net(X)))

    return step


def modes(**change):
    given = {"depths": [2, 2], "target": 1.0, "step_size": 0.1, "init": [0.1, 0.1], "steps": 3}
    return lambda _: P.simulate_modes(**{**given, **change})


def flow(**change):
    given = {"depths": [2, 2], "target": 1.0, "init": [0.1, 0.1], "times": [0.0, 1.0]}
    return lambda _: P.gradient_flow(**{**given, **change})


def bound(**change):
    return lambda _: generalization_bound(0.1, 0.1, **{**GIVEN, **change})


def spread(**change):
    given = {"parameters": 9, "dominant": 2, "spread": (0.5, 2.0)}
    return lambda _: inconsistency_range(0.1, **{**given, **change})


def ensemble(**change):
    given = {"method": "SGD", "seeds": [0, 1], "lr": 0.1, "steps": 1, "batch_size": 2, **change}
    method, size = given.pop("method"), given.pop("batch_size")

    def train(_):
        models = [mlp([4, 3], generator=torch.Generator()) for _ in range(2)]
        batches = ensemble_batches(X, Y, seeds=[0, 1], batch_size=size)
        return [*train_ensemble(models, method, batches, **given)]

    return train


def embedding():
    """Three tokens, whose gradients are sparse."""
    return nn.EmbeddingBag.from_pretrained(torch.eye(3), freeze=False, sparse=True)


def wrong_logits(shape):
    """A model of one parameter whose outputs have a shape."""

    class Shaped(nn.Linear):
        def forward(self, x):
            return torch.zeros(shape) + self.weight.sum()

    return Shaped(1, 1)


def case(name, call, *words, error=ValueError):
    return pytest.param(call, (name, *words), error, id=f"{name} {words[-1]}"[:70])


POSITIVE = [0.0, -1.0, NAN, INF]
STRANGE = ["0.1", None, [0.1], 1j, True, 10**400, torch.ones(2), np.ones(2), np.complex64(1)]
GIVEN = {"parameters": 9, "examples": 10, "rho": 0.1, "norm": 1.0}
NO_COUNT = [0, -1, 1.5, "3", None, NAN, True, torch.ones(2)]
NO_WHOLE = [0, -1, 2.0, "2", True, NAN]
CASES = [
    # Measuring
    *(
        case(name, measured(**{name: v}), "positive and finite, got", repr(v)[:9])
        for name in ("rho", "sigma")
        for v in (*POSITIVE, *STRANGE)
        if name == "rho" or v is not None
    ),
    *(
        case(name, measured(**{name: v}), "integer >= 1, got", repr(v))
        for name in ("steps", "restarts")
        for v in NO_COUNT
    ),
    *(case("divergence", measured(divergence=v), "one of", repr(v)) for v in ("kl", "", None, [])),
    case("params", measured(params=[]), "trainable parameters of the model", "got 0"),
    case("params", measured(params=[nn.Parameter(X)]), "of the model", "of which 1 are not"),
    case("inputs", lambda net: local_inconsistency(net, iter([X]), rho=0.1), "re-iterable"),
    case("inputs", lambda net: local_inconsistency(net, [], rho=0.1), "at least one", "no batch"),
    case("empty", lambda net: local_inconsistency(net, X[:0], rho=0.1), "batch", "(0, 3)"),
    case("logits", measured(outputs=lambda r, b: r[:, 0]), "(..., C) with C >= 2", "(8,)"),
    case("logits", measured(outputs=lambda r, b: r[:, :1]), "(..., C) with C >= 2", "(8, 1)"),
    case("tensor", measured(outputs=lambda r, b: 3), "must return", "got int", error=TypeError),
    case("trainable", lambda _: local_inconsistency(nn.Flatten(), X, rho=0.1), "no", "Flatten"),
    case("rho", lambda net: worst_case_perturbation(net, X, rho=-2.0), "positive", "-2.0"),
    case("steps", lambda net: worst_case_perturbation(net, X, rho=1, steps=0), ">= 1", "got 0"),
    case("delta", lambda net: outputs_at(net, X, torch.zeros(3)), "must be (53,)", "(3,)"),
    case("delta", lambda net: outputs_at(net, X, torch.zeros(53, 1)), "(53,)", "(53, 1)"),
    *(
        case("outputs", call, "must be real", "torch.complex64")
        for call in (
            measured(outputs=lambda r, b: r * 1j),
            measured(outputs=lambda r, b: r * 1j, sigma=1.0),
            measured(outputs=lambda r, b: r * 1j, divergence="gaussian"),
            measured(outputs=lambda r, b: r * 1j, divergence="bernoulli"),
            lambda net: InconsistencyPenalty(net, rho=0.1)(X, net[2].weight * 1j),
            lambda net: made(IAMS)(net).step(lambda: (X.sum(), net[2].weight * 1j)),
        )
    ),
    *(
        case(name, call, "must be real", "torch.complex64")
        for name, call in (
            ("vector", lambda net: FisherOperator(net, X) @ (torch.ones(53) * 1j)),
            ("vector", lambda net: FisherOperator(net, X).quadratic(torch.ones(53) * 1j)),
            ("vector", lambda net: HessianOperator(net, CE, X, Y) @ (torch.ones(53) * 1j)),
            ("vector", lambda net: HessianOperator(net, CE, X, Y).quadratic(torch.ones(53) * 1j)),
            ("delta", lambda net: outputs_at(net, X, torch.ones(53) * 1j)),
            ("logits", lambda _: disagreement(torch.ones(2, 3, 4) * 1j)),
        )
    ),
    *(
        case("vector", call, "must be a tensor (m,), got", repr(v), error=TypeError)
        for v in (5, [1.0], np.ones(2))
        for call in (
            lambda net, v=v: FisherOperator(net, X) @ v,
            lambda net, v=v: FisherOperator(net, X).quadratic(v),
            lambda net, v=v: HessianOperator(net, CE, X, Y) @ v,
            lambda net, v=v: HessianOperator(net, CE, X, Y).quadratic(v),
        )
    ),
    *(
        case("generator", call, "torch.Generator", "got 5", error=TypeError)
        for call in (
            measured(generator=5),
            lambda net: worst_case_perturbation(net, X, rho=0.1, generator=5),
            penalized(generator=5),
            made(IAMS, generator=5),
            lambda net: top_fisher_eigenpairs(net, X, generator=5),
            lambda net: fisher_trace(net, X, generator=5),
        )
    ),
    case("generator", measured(generator=0), "torch.Generator", "got 0", error=TypeError),
    *(
        case("sparse", lambda _, call=call: call(embedding()), "sparse=False")
        for call in (
            lambda net: local_inconsistency(net, TOKENS, rho=0.1, sigma=1.0),
            lambda net: InconsistencyPenalty(net, rho=0.1)(TOKENS),
            lambda net: made(SAM)(net).step(lambda: net(TOKENS).sum()),
            lambda net: made(IAMD)(net).step(lambda: (net(TOKENS).sum(), net(TOKENS))),
        )
    ),
    *(
        case("params", lambda _, call=call: call(nn.Linear(0, 3, bias=False)), "no number")
        for call in (
            lambda net: local_inconsistency(net, X[:, :0], rho=0.1),
            lambda net: InconsistencyPenalty(net, rho=0.1)(X[:, :0]),
            lambda net: made(IAMS)(net).step(lambda: (net(X[:, :0]).sum(), net(X[:, :0]))),
        )
    ),
    # The penalty
    *(case("rho", penalized(rho=v), "positive and finite", f"{v}") for v in POSITIVE),
    *(
        case("beta", penalized(beta=v), "non-negative and finite, got", repr(v)[:9])
        for v in (-1, NAN, INF, *STRANGE)
    ),
    *(case("steps", penalized(steps=v), "integer >= 1", repr(v)) for v in NO_COUNT),
    case("sigma", penalized(sigma=0.0), "positive and finite", "0.0"),
    case("divergence", penalized(divergence="kl"), "one of", "'kl'"),
    case(
        "empty", lambda net: InconsistencyPenalty(net, rho=0.1)(X[:0], net[2].weight[:, :0].T), "(0"
    ),
    case(
        "state_dict", lambda net: InconsistencyPenalty(net, rho=0.1).load_state_dict({"x": X}), "x"
    ),
    # Optimizers
    *(
        case("rho", made(kind, rho=v), "positive and finite", f"{v}")
        for kind in (SAM, IAMS, IAMD)
        for v in (*POSITIVE, "x", None, True)
    ),
    *(case("beta", made(IAMD, beta=v), "non-negative", f"{v}") for v in (-1, NAN, "x", None)),
    *(case("steps", made(IAMS, steps=v), "integer >= 1", repr(v)) for v in NO_COUNT),
    case("steps", made(IAMS, steps=2, direction="random"), "must be 1", "2"),
    case("sigma", made(IAMS, sigma=-1.0), "positive and finite", "-1.0"),
    case("divergence", made(IAMS, divergence="js"), "one of", "'js'"),
    case("direction", made(IAMS, direction="up"), "one of", "'up'"),
    *(
        case(next(iter(change)), stepped(IAMD, **change), "must be", str(*change.values()))
        for change in (
            {"rho": -1.0},
            {"rho": NAN},
            {"beta": NAN},
            {"sigma": INF},
            {"steps": 0},
            {"divergence": "kl"},
            {"direction": "down"},
        )
    ),
    case("parameter", lambda _: SAM([], torch.optim.SGD, rho=0.1, lr=0.1), "empty parameter list"),
    case(
        "trainable",
        lambda _: SAM([nn.Parameter(X, requires_grad=False)], torch.optim.SGD, lr=0.1),
        "params",
    ),
    case(
        "base_optimizer",
        lambda net: SAM(net.parameters(), torch.optim.SGD(net.parameters(), lr=0.1)),
        "must be a class",
        "SGD",
        error=TypeError,
    ),
    case(
        "base_optimizer",
        lambda net: SAM(net.parameters(), [3]),
        "ready optimizers",
        "got 3",
        error=TypeError,
    ),
    case("learning rate", lambda net: SAM(net.parameters(), torch.optim.SGD, lr=-0.1), "-0.1"),
    case(
        "closure",
        lambda net: made(IAMS)(net).step(lambda: 3),
        "must return (loss, logits)",
        "got 3",
        error=TypeError,
    ),
    case("module", made(SAM, module=nn.Linear(2, 2)), "hold all parameters", "missing"),
    case("module", made(SAM, module=3), "torch.nn.Module", "got 3", error=TypeError),
    case("module", lambda net: made(SAM)(net).attach(3), "torch.nn.Module", error=TypeError),
    *(
        case("state_dict", lambda net, v=v: made(SAM)(net).load_state_dict(v), "'param_groups'", w)
        for v, w in [({}, "got []"), ({"state": {}}, "got ['state']")]
    ),
    case("sync", made(SAM, sync=True), "process group"),
    # Curvature
    *(
        case(
            "k", lambda net, k=v: top_fisher_eigenpairs(net, X, k), "from 1 to m - 1 = 52", repr(v)
        )
        for v in (*NO_COUNT, 99)
    ),
    *(
        case("tol", lambda net, t=v: top_fisher_eigenpairs(net, X, tol=t), "between 0 and 1", w)
        for v, w in [(0.0, "0.0"), (1, "1"), (NAN, "nan"), ("x", "'x'"), (None, "None"), (1j, "1j")]
    ),
    *(
        case("probes", lambda net, n=v: fisher_trace(net, X, probes=n), "at least 2", repr(v))
        for v in (1, *NO_COUNT)
    ),
    case("divergence", lambda net: fisher_trace(net, X, divergence="x"), "one of", "'x'"),
    case("k", lambda net: top_hessian_eigenpairs(net, CE, X, Y, 0), "from 1 to", "0"),
    case("probes", lambda net: hessian_trace(net, CE, X, Y, probes=0), "at least 2", "0"),
    case("targets", lambda net: hessian_trace(net, CE, [X, X], [Y]), "2 batches", "targets 1"),
    case(
        "loss_fn",
        lambda net: hessian_trace(net, nn.CrossEntropyLoss(reduction="none"), X, Y),
        "'mean' or 'sum'",
        "'none'",
    ),
    case(
        "loss_fn",
        lambda net: hessian_trace(net, nn.CrossEntropyLoss(ignore_index=1), [X, X], [Y, Y]),
        "give one batch",
    ),
    case("divergence", lambda _: divergence_named("KL"), "one of", "'KL'"),
    # Bounds
    case("rho", bound(rho=0.0), "positive and finite", "0.0"),
    case("parameters", bound(parameters=0), ">= 1", "0"),
    case("examples", bound(examples=1), ">= 2", "1"),
    *(
        case(name, bound(**{name: v}), allowed, repr(v)[:9])
        for name, allowed in [
            ("norm", "finite and >= 0"),
            ("residual_norm", "finite and >= 0"),
            ("parameters", "finite and >= 1"),
            ("examples", "finite and >= 2"),
            ("rho", "positive and finite"),
            ("xi", "between 0 and 1"),
        ]
        for v in (-1.0, NAN, INF, *STRANGE)
    ),
    *(
        case("norm / rho", bound(norm=n, rho=r), "finite squares", str(n), str(r))
        for n, r in [(1e200, 0.1), (1.0, 1e-200), (1e100, 1e-100), (0.0, 1e200)]
    ),
    *(
        case(name, lambda _, a=args: generalization_bound(*a, **GIVEN), ">= 0", repr(v))
        for v in ("x", None)
        for name, args in [("loss", (v, 0.1)), ("inconsistency", (0.1, v))]
    ),
    *(
        case("disagreement", lambda _, v=v: inconsistency_range(v, parameters=9), ">= 0", repr(v))
        for v in (-1.0, NAN, INF, "x", None)
    ),
    *(case("parameters", spread(parameters=v), ">= 1", repr(v)) for v in (0, INF, "x", None, True)),
    *(case("dominant", spread(dominant=v), "from 1 to 9", repr(v)) for v in (0, "x", 1j)),
    *(
        case("spread", spread(spread=v), "0 < low <= high", repr(v))
        for v in ((0, 1), (1, INF), ("x", "y"), (1, None))
    ),
    case("logits", lambda _: disagreement(torch.zeros(1, 2, 3)), "r >= 2", "(1, 2, 3)"),
    case("logits", lambda _: disagreement(torch.zeros(2, 3)), "(r >= 2, n, C)", "(2, 3)"),
    case("logits", lambda _: disagreement(torch.zeros(2, 0, 3)), "not be empty", "(2, 0, 3)"),
    case("logits", lambda _: disagreement(torch.zeros(2, 3, 0)), "not be empty", "(2, 3, 0)"),
    case("dominant", spread(dominant=10), "from 1 to 9", "10"),
    case("spread", spread(spread=(2.0, 0.5)), "0 < low <= high", "(2.0, 0.5)"),
    # Pathways
    case("depths", modes(depths=[]), "at least one pathway"),
    case("depths", modes(depths=[2, 0]), "at least 1", "0"),
    case("depths", modes(depths=[2, 1.5]), "whole numbers", "1.5"),
    case("depths", modes(depths=["a", "b"]), "whole numbers", "'a'"),
    *(
        case("depths", lambda _, d=v: theory.single_path_sharpness(d, 1.0), "below 2**63", str(v))
        for v in (INF, NAN, 1e300, 2**63, 10**30, 3j, None, True)
    ),
    case("depths", lambda _: theory.flattest_split([INF, 3], 1.0), "below 2**63", "[inf, 3]"),
    *(
        case("target", lambda _, t=v: theory.single_path_sharpness(2, t), "real numbers, got", w)
        for v, w in [
            ("x", "'x'"),
            ("1.0", "'1.0'"),
            (1j, "1j"),
            (10**400, "1000"),
            ([[1], [1, 2]], "[[1], [1, 2]]"),
        ]
    ),
    case("strengths", lambda _: theory.mode_sharpness([2, 2], [1j, 1]), "real numbers", "[1j, 1]"),
    case("init", modes(init=[0.1]), "one entry per pathway", "(1,)"),
    case("steps", modes(steps=-1), "steps >= 0", "-1"),
    case("record_every", modes(record_every=0), ">= 1", "0"),
    case("batch shapes", modes(target=[1.0, 2.0], step_size=[0.1] * 3), "broadcast", "(3,)"),
    case("times", flow(times=[1.0, 0.0]), "increasing numbers from 0", "[1.0, 0.0]"),
    case("times", flow(times=[]), "increasing numbers", "[]"),
    case("target", flow(target=-1.0), "positive", "-1.0"),
    case("target", flow(target=NAN), "positive", "nan"),
    case("init", flow(init=[-0.1, 0.1]), "positive", "-0.1"),
    case("depth", lambda _: theory.single_path_sharpness(0, 1.0), "at least 1", "0"),
    case("target", lambda _: theory.single_path_sharpness(2, 0.0), "positive", "0.0"),
    case("target", lambda _: theory.single_path_sharpness(2, INF), "positive", "inf"),
    case("strengths", lambda _: theory.mode_sharpness([2, 2], [1.0]), "per pathway", "(1,)"),
    case("strengths", lambda _: theory.mode_sharpness([2, 2], [1, -1.0]), "negative", "-1.0"),
    case("pathways", lambda _: theory.stability_window(3, 0, 1.0), "at least 1", "0"),
    case("depth", lambda _: theory.wcr_ratio(1), "at least", "1"),
    case("depth", lambda _: theory.wcr_ratio(2.5), "whole numbers", "2.5"),
    case("width", lambda _: P.MultiPathway([2], 0), "at least 1", "0"),
    case("depths", lambda _: P.MultiPathway([], 2), "at least one pathway"),
    # flatlab
    case("widths", lambda _: mlp([3]), "inputs and outputs", "[3]"),
    case("image_size", lambda _: cnn6(image_size=30), "multiple of 4", "30"),
    case("norm", lambda _: cnn3(norm="layer"), "'batch', 'group' or None", "'layer'"),
    *(case("width", lambda _, v=v: cnn3(width=v), "integer >= 1", f"got {v!r}") for v in NO_WHOLE),
    *(case("depth", lambda _, v=v: resnet(v), "18 or 50", f"{v}") for v in (34, 18.0, "18", True)),
    *(
        case(name, lambda _, name=name, v=v: vit(**{name: v}), "integer >= 1", f"got {v!r}")
        for name in ("image_size", "patch_size", "width", "depth", "heads")
        for v in NO_WHOLE
    ),
    *(
        case("image_size", lambda _, v=v: cnn6(image_size=v), "multiple of 4", f"{v}")
        for v in (8.0, 0)
    ),
    *(case("depth", lambda _, v=v: WideResNet(v, 1), "6 n + 4", f"{v}") for v in (10.0, 4, "10")),
    *(
        case("widen", lambda _, v=v: WideResNet(10, v), "integer >= 1", f"got {v!r}")
        for v in NO_WHOLE
    ),
    case("image_size", lambda _: vit(image_size=30, patch_size=4), "multiple of 4", "30"),
    case("split", lambda _: fashion_mnist("all"), "'train', 'validation' or 'test'", "'all'"),
    case("classes", lambda _: cifar(20, "train", root="x"), "10 or 100", "20"),
    *(
        case("per_class", lambda _, v=v: balanced(Y, v, seed=0), "lie in 1 … 2", f"{v}")
        for v in (9, 1.5, *NO_WHOLE)
    ),
    *(
        case("labels", lambda _, v=v: with_wrong(v, 0.5, classes=3, generator=None), "0 … 2", at)
        for v, at in ((Y - 1, "-1 … 1"), (Y + 1, "1 … 3"))
    ),
    case("classes", lambda _: with_wrong(Y, 0.5, classes=3.0, generator=None), "at least 2", "3.0"),
    case("fraction", lambda _: with_wrong(Y, 1.5, classes=3, generator=None), "0 and 1", "1.5"),
    case("classes", lambda _: with_wrong(Y, 0.5, classes=1, generator=None), "at least 2", "1"),
    *(case("n", lambda _, v=v: next(shuffled(v, 2, 0)), "integer >= 1", f"{v}") for v in NO_WHOLE),
    *(
        case("batch_size", lambda _, v=v: next(shuffled(3, v, 0)), "integer >= 1", f"got {v!r}")
        for v in NO_WHOLE
    ),
    *(
        case("start", lambda _, v=v: next(shuffled(3, 2, start=v)), "integer >= 0", f"got {v!r}")
        for v in (-1, 1.0, "1", True)
    ),
    case("size", lambda _: Batches((X, Y), 0), "positive", "0"),
    case("tensors", lambda _: Batches((X, Y[:3]), 2), "one length", "3"),
    case(
        "ema",
        lambda net: Run(
            net, torch.optim.SGD(net.parameters(), lr=1.0), seed=0, schedule=constant, ema=1.5
        ),
        "between 0 and 1",
        "1.5",
    ),
    case("method", ensemble(method="Adam"), "one of", "'Adam'"),
    case("seeds", ensemble(seeds=[0]), "one per model", "1"),
    case("lr", ensemble(lr=NAN), "finite and not negative", "nan"),
    case("lr", ensemble(lr=[0.1] * 3), "one per model", "(3,)"),
    case("batch_size", ensemble(batch_size=0), "integer >= 1", "0"),
    case("steps", ensemble(steps=-1), "not", "-1"),
    # flatbook
    case("id", lambda _: claim("A.T99"), "nearest", "A.T99", error=KeyError),
    case("value", lambda _: claim("A.T3").check("much"), "one number", "'much'", error=TypeError),
    case("value", lambda _: claim("A.T3").check([1, 2]), "one number", "[1, 2]", error=TypeError),
    case("interval", lambda _: claim("A.T3").check(1.0, interval=(2, 3)), "hold its value", "(2,"),
    case("tolerance", lambda _: Claim("X", {}).check(1.0), "choose one", "X"),
    case("tolerance", lambda _: holds(1.0, {"near": 3}), "must be one of", "{'near': 3}"),
    case("tolerance", lambda _: holds(1.0, {}), "must be one of", "{}"),
    case("name", lambda _: figure_data("Figure 1", x=[1]), "fig- and lower-case", "'Figure 1'"),
    case("name", lambda _: figure_data("fig-../x", x=[1]), "fig- and lower-case", "fig-../x"),
    case("columns", lambda _: figure_data("fig-a", x=[1], y=[1, 2]), "of one length", "(2,)"),
    case("columns", lambda _: figure_data("fig-a", x=np.eye(2)), "1-D", "(2, 2)"),
    case("columns", lambda _: figure_data("fig-a"), "1-D and of one length", "{}"),
]


@pytest.mark.parametrize(("call", "words", "error"), CASES)
def test_a_bad_argument_is_named_with_what_is_allowed_before_anything_changes(
    net, call, words, error
):
    with pytest.raises(error) as caught:
        call(net)
    said = str(caught.value)
    for word in words:
        assert word in said, said


@pytest.mark.parametrize("two", [2, np.int64(2), torch.tensor(2)])
@pytest.mark.parametrize("kind", [float, np.float32, np.float64, torch.tensor])
def test_numbers_of_other_libraries_are_numbers(two, kind):
    net, half = nn.Linear(4, 3), kind(0.5)
    expected = local_inconsistency(net, X, rho=0.5, sigma=0.5, steps=2, restarts=2)
    found = local_inconsistency(net, X, rho=half, sigma=half, steps=two, restarts=two)
    assert found.value == expected.value
    values = [
        InconsistencyPenalty(net, rho=r, beta=r, sigma=r, steps=k, divergence="bernoulli")(X)
        for r, k in ((half, two), (0.5, 2))
    ]
    assert values[0] == values[1]
    assert top_hessian_eigenpairs(net, CE, X, Y, two).converged
    assert fisher_trace(net, X, probes=two) == fisher_trace(net, X, probes=2)


def test_a_complex_model_with_real_outputs_is_measured():
    class Modulus(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3, 4) * (1 + 1j))

        def forward(self, x):
            return (x.to(self.weight.dtype) @ self.weight.T).abs()

    found = local_inconsistency(Modulus(), X, rho=0.1)
    assert found.value > 0
    assert found.delta.dtype == torch.complex64
    assert outputs_at(Modulus(), X, found.delta).shape == (8, 3)
    assert (FisherOperator(Modulus(), X) @ found.delta).isfinite().all()


def test_there_are_enough_cases():
    assert len(CASES) >= 120
