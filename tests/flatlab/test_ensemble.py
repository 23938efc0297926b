"""Many models at once against one after the other, with torch.optim.SGD and flatmin.optim."""

import copy
from itertools import islice
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from flatlab import shuffled, stream
from flatlab.ensemble import Ensemble, Method, ensemble_batches, train_ensemble
from flatlab.models import mlp
from flatmin.inconsistency import local_inconsistency
from flatmin.optim import IAMD, IAMS, SAM

SEEDS = [3, 3, 4]
LR, DECAY, RHO, BETA = [0.1, 0.2, 0.1], [1e-2, 0.0, 1e-3], [0.1, 0.4, 0.2], [1.0, 0.5, 2.0]
MOMENTUM, SIGMA = [0.9, 0.5, 0.0], 3.0
STEPS, BATCH, MORE = 5, 6, 4
IMAGES = torch.randn(20, 1, 6, 6, generator=stream(0), dtype=torch.float64)
LABELS = torch.randint(3, (20,), generator=stream(1))
POOL = torch.randn(9, 1, 6, 6, generator=stream(2), dtype=torch.float64)


def plain_mlp(seed):
    return mlp([36, 7, 3], nn.Tanh, generator=stream(seed, "start")).double()


def with_batch_norm(seed):
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(64, 3)).double()
    for p in model.parameters():
        nn.init.normal_(p, 0.1, 0.3, generator=stream(seed, "start"))
    return model


class RandomDirection:
    """IAM-D or IAM-S with a random δ, written out."""

    def __init__(self, model, form, rho, beta, generator, **kwargs):
        self.base = torch.optim.SGD(model.parameters(), **kwargs)
        self.model, self.form, self.rho, self.beta = model, form, rho, beta
        self.generator = generator

    def zero_grad(self):
        self.base.zero_grad()

    def step(self, closure):
        params = list(self.model.parameters())
        size = sum(p.numel() for p in params)
        delta = torch.randn(size, generator=self.generator, dtype=torch.float64)
        delta *= self.rho / delta.norm()
        loss, logits = closure()
        buffers = copy.deepcopy(dict(self.model.named_buffers()))
        pieces = delta.split([p.numel() for p in params])
        if self.form == "D":
            named = {
                name: p + d.view_as(p)
                for (name, p), d in zip(self.model.named_parameters(), pieces, strict=True)
            }
            values = {**named, **copy.deepcopy(buffers)}
            moved = torch.func.functional_call(self.model, values, (closure.x,))
            kl = kl_div(moved.log_softmax(1), logits.softmax(1), reduction="batchmean")
            (loss + self.beta * kl).backward()
        else:
            theta = [p.detach().clone() for p in params]
            with torch.no_grad():
                for p, d in zip(params, pieces, strict=True):
                    p += d.view_as(p)
            closure()[0].backward()
            with torch.no_grad():
                for p, value in zip(params, theta, strict=True):
                    p.copy_(value)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        self.base.step()


class PlainSGD(torch.optim.SGD):
    def step(self, closure):
        closure()[0].backward()
        super().step()


def optimizer_of(method, model, i):
    params = model.parameters()
    rest = {"lr": LR[i], "weight_decay": DECAY[i], "momentum": MOMENTUM[i]}
    noise = stream(SEEDS[i], "noise")
    if method == "SGD":
        return PlainSGD(params, **rest)
    if method.startswith("random"):
        return RandomDirection(model, method[-1], RHO[i], BETA[i], noise, **rest)
    rest |= {"rho": RHO[i], "module": model}
    if "SAM" in method:
        return SAM(params, torch.optim.SGD, adaptive=method == "ASAM", **rest)
    if method == "score-S":
        return IAMS(params, torch.optim.SGD, direction="score", generator=noise, **rest)
    rest |= {"steps": 2, "sigma": SIGMA, "generator": noise}
    if method == "IAM-D":
        return IAMD(params, torch.optim.SGD, beta=BETA[i], **rest)
    return IAMS(params, torch.optim.SGD, **rest)


def one_after_the_other(method, build, unlabelled):
    """The plain loop, with PyTorch's own cosine schedule."""
    models = [build(seed) for seed in SEEDS]
    for i, (model, seed) in enumerate(zip(models, SEEDS, strict=True)):
        optimizer = optimizer_of(method, model, i)
        base = getattr(optimizer, "base_optimizer", getattr(optimizer, "base", optimizer))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(base, STEPS)
        order, pool = shuffled(20, BATCH, seed), shuffled(9, MORE, seed, "unlabelled")
        for chosen, others in zip(islice(order, STEPS), pool, strict=False):

            def closure(chosen=chosen, others=others, model=model):
                closure.x = IMAGES[chosen]
                if unlabelled:
                    closure.x = torch.cat([closure.x, POOL[others]])
                logits = model(closure.x)
                return cross_entropy(logits[:BATCH], LABELS[chosen], label_smoothing=0.1), logits

            optimizer.zero_grad()
            optimizer.step(closure)
            schedule.step()
    return models


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("build", [plain_mlp, with_batch_norm], ids=["mlp", "batch-norm"])
@pytest.mark.parametrize("unlabelled", [False, True], ids=["labelled", "unlabelled too"])
@pytest.mark.parametrize("method", get_args(Method))
def test_all_at_once_is_one_after_the_other(method, build, unlabelled):
    expected = Ensemble.of(one_after_the_other(method, build, unlabelled))
    more = {"unlabelled": POOL, "unlabelled_batch_size": MORE} if unlabelled else {}
    batches = ensemble_batches(IMAGES, LABELS, seeds=SEEDS, batch_size=BATCH, **more)
    start = [build(seed) for seed in SEEDS]
    settings = {"lr": LR, "weight_decay": DECAY, "rho": RHO, "beta": BETA, "climb": 2}
    settings |= {"momentum": MOMENTUM, "sigma": SIGMA}
    runs = train_ensemble(
        start, method, batches, seeds=SEEDS, steps=STEPS, label_smoothing=0.1, **settings
    )
    ((step, trained),) = runs
    assert step == STEPS
    moved = expected.theta - Ensemble.of(start).theta
    assert moved.norm(dim=1).min() > 0.1
    torch.testing.assert_close(trained.theta, expected.theta, rtol=1e-9, atol=1e-11)
    for name, buffer in expected.buffers.items():
        torch.testing.assert_close(trained.buffers[name], buffer, rtol=1e-9, atol=1e-11)


def train(method="SGD", build=plain_mlp, batches=None, **settings):
    models = [build(seed) for seed in SEEDS]
    if batches is None:
        batches = ensemble_batches(IMAGES, LABELS, seeds=SEEDS, batch_size=BATCH)
    settings = {"seeds": SEEDS, "steps": 4, "lr": 0.1} | settings
    return list(train_ensemble(models, method, batches, **settings))


def test_methods_differ_and_radius_zero_is_sgd():
    ends = {m: train(m)[-1][1].theta for m in get_args(Method)}
    for method, theta in ends.items():
        others = [(theta - other).norm() for name, other in ends.items() if name != method]
        assert min(others) > 1e-4
        torch.testing.assert_close(train(method, rho=0.0)[-1][1].theta, ends["SGD"])


def test_models_and_what_was_yielded_stay_as_they_are():
    models = [with_batch_norm(seed) for seed in SEEDS]
    before = Ensemble.of(models)
    batches = ensemble_batches(IMAGES, LABELS, seeds=SEEDS, batch_size=BATCH)
    runs = train_ensemble(models, "IAM-D", batches, seeds=SEEDS, steps=3, lr=0.1, record={0, 2})
    steps, stages = zip(*runs, strict=True)
    assert steps == (0, 2, 3)
    for ensemble in (Ensemble.of(models), stages[0]):
        assert torch.equal(ensemble.theta, before.theta)
        assert all(torch.equal(ensemble.buffers[k], v) for k, v in before.buffers.items())
    assert stages[1].buffers["1.num_batches_tracked"].tolist() == [2, 2, 2]


def test_recording_changes_nothing():
    recorded = train("IAM-S", with_batch_norm, record=[1, 2, 3])
    for _, ensemble in recorded:
        ensemble.error(IMAGES, LABELS)
    torch.testing.assert_close(recorded[-1][1].theta, train("IAM-S", with_batch_norm)[-1][1].theta)


@pytest.mark.parametrize("build", [plain_mlp, with_batch_norm], ids=["mlp", "batch-norm"])
def test_evaluation_is_each_model_s_own(build, monkeypatch):
    _, trained = train("IAM-D", build)[-1]
    monkeypatch.setattr("flatlab.ensemble.stacked._AT_ONCE", 3 * 7)  # in pieces of 7, 7, 6
    loss, error = trained.loss(IMAGES, LABELS), trained.error(IMAGES, LABELS)
    value = trained.inconsistency(IMAGES, rho=0.2, steps=3)
    for i in range(len(trained)):
        model = trained.model(i)
        logits = model(IMAGES)
        torch.testing.assert_close(loss[i], cross_entropy(logits, LABELS))
        assert error[i] == (logits.argmax(1) != LABELS).double().mean()
        expected = local_inconsistency(
            model, IMAGES, rho=0.2, steps=3, sigma=1.0, generator=torch.Generator().manual_seed(0)
        )
        torch.testing.assert_close(value[i].item(), expected.value, rtol=1e-9, atol=0)


def test_each_seed_draws_its_own_subset_and_augmentation():
    subsets = torch.tensor([[0, 1], [2, 3], [4, 5]])
    batches = ensemble_batches(
        *(IMAGES, LABELS),
        **{"seeds": [1, 1, 2], "batch_size": 2, "subsets": subsets},
        augment=lambda x, g: x + torch.rand(1, generator=g, dtype=x.dtype),
    )
    x, y = next(batches)
    shift = torch.stack([x[i] - IMAGES[subsets[i]][[0, 1]] for i in range(3)])
    swapped = torch.stack([x[i] - IMAGES[subsets[i]][[1, 0]] for i in range(3)])
    added = torch.where(
        (shift.std((1, 2, 3, 4)) < 1e-9)[:, None], shift[:, 0, 0, 0], swapped[:, 0, 0, 0]
    )[:, 0]
    assert added[0] == pytest.approx(added[1].item())
    assert added[0] != pytest.approx(added[2].item())
    assert [set(row.tolist()) for row in y] == [set(LABELS[s].tolist()) for s in subsets]


def test_float32_models_stay_float32():
    x, models = IMAGES.float(), [plain_mlp(seed).float() for seed in SEEDS]
    batches = ensemble_batches(x, LABELS, seeds=SEEDS, batch_size=BATCH)
    *_, (_, trained) = train_ensemble(models, "IAM-D", batches, seeds=SEEDS, steps=3, lr=LR)
    assert trained.theta.dtype == torch.float32
    assert trained.model(0)(x).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "Adam"}, "method must be one of .*'Adam'"),
        ({"seeds": [1, 2]}, "seeds must be one per model, got 2"),
        ({"lr": [0.1, 0.2]}, "lr must be one number or 3"),
        ({"rho": [0.1, -0.2, 0.1]}, "rho must be finite and not negative, got .*-0.2"),
        ({"beta": float("nan")}, "beta must be finite"),
        ({"climb": 0}, "steps must be an integer >= 1, got 0"),
        ({"sigma": 0.0}, "sigma must be positive"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        train(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": LABELS[:5]}, "images and labels must pair, got 20 and 5"),
        ({"subsets": torch.zeros(2, 4).long()}, r"subsets must be \(3, k\)"),
        ({"unlabelled": POOL}, "go together, got size 0"),
        ({"unlabelled_batch_size": 3}, "go together, got size 3"),
    ],
)
def test_bad_batches(settings, message):
    settings = {"images": IMAGES, "labels": LABELS, "seeds": SEEDS, "batch_size": 2} | settings
    with pytest.raises(ValueError, match=message):
        ensemble_batches(**settings)


def test_bad_radius():
    with pytest.raises(ValueError, match="rho must be positive and finite, got 0"):
        Ensemble.of([plain_mlp(0)]).inconsistency(IMAGES, rho=0.0)


def test_bad_models():
    with pytest.raises(ValueError, match="at least one"):
        Ensemble.of([])
    with pytest.raises(ValueError, match="same architecture"):
        Ensemble.of([nn.Linear(2, 3), nn.Linear(3, 3)])
    frozen = nn.Linear(2, 3)
    frozen.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"frozen parameter, got \['bias'\]"):
        Ensemble.of([frozen])
