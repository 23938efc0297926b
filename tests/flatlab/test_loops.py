"""The losses of the loops written out, and the loops against the ensemble."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from flatlab import stream
from flatlab.data.augment import STRONG, VIEW, WEAK, on_pixels
from flatlab.ensemble import Ensemble, ensemble_batches, train_ensemble
from flatlab.loops import error, fixmatch, linear_probe, simclr, similarities, supervised
from flatlab.models import cnn_bn, mlp
from flatlab.run import Batches, Run
from flatlab.schedules import cosine
from flatmin.optim import IAMD, SAM

X = torch.randn(30, 6, generator=stream(0), dtype=torch.float64)
Y = torch.randint(3, (30,), generator=stream(1))


def small(seed=0):
    return mlp([6, 8, 3], nn.Tanh, generator=stream(seed)).double()


def jitter(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def mirrored(x, generator):
    return -jitter(x, generator)


def test_supervised_is_the_ensemble_s_model():
    seed, settings = 5, {"rho": 0.3, "beta": 2.0, "weight_decay": 1e-2}
    batches = ensemble_batches(
        *(X, Y), seeds=[seed], batch_size=7, unlabelled=X, unlabelled_batch_size=4, augment=jitter
    )
    ((_, expected),) = train_ensemble(
        [small()], "IAM-D", batches, seeds=[seed], steps=5, lr=0.1, **settings
    )
    model = small()
    settings |= {"lr": 0.1, "momentum": 0.9, "generator": stream(seed, "noise")}
    optimizer = IAMD(model.parameters(), torch.optim.SGD, **settings)
    run = Run(model, optimizer, seed=seed, schedule=cosine(5))
    more = {"unlabelled": Batches((X,), 4), "augment": jitter}
    list(supervised(run, Batches((X, Y), 7), steps=5, every=5, **more))
    torch.testing.assert_close(Ensemble.of([model]).theta, expected.theta, rtol=1e-9, atol=1e-11)


def fixmatch_by_hand(model, x, y, u, generator, threshold, weight):
    """Labelled and weighted unlabelled loss, example by example."""
    x, weak = jitter(x, generator), jitter(u, generator)
    strong = -(u + jitter(torch.zeros_like(u), generator))
    total = 0.0
    for a, b in zip(weak, strong, strict=True):
        p = model(a[None]).softmax(1)[0].detach()
        if p.max() >= threshold:
            total = total - model(b[None]).log_softmax(1)[0, p.argmax()]
    return cross_entropy(model(x), y), weight * total / len(u)


def one_fixmatch_step(optimizer, model, threshold=0.4, weight=2.0):
    run = Run(model, optimizer, seed=7)
    batches = Batches((X[:9], Y[:9]), 4), Batches((X,), 8)
    settings = {"weak": jitter, "strong": mirrored, "threshold": threshold, "weight": weight}
    (record,) = fixmatch(run, *batches, **settings, steps=1, every=1)
    x, y = next(batches[0].draw(7))
    (u,) = next(batches[1].draw(7, "unlabelled"))
    return record["loss"], (x, y, u)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.1])
def test_fixmatch_loss_written_out(threshold):
    model, twin = small(), small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss, data = one_fixmatch_step(optimizer, model, threshold)
    parts = fixmatch_by_hand(twin, *data, stream(7, "augmentation"), threshold, 2.0)
    assert loss == pytest.approx(sum(parts).item(), rel=1e-9)
    assert (parts[1] == 0) == (threshold > 1)
    sum(parts).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach() - 0.1 * q.grad)


def test_fixmatch_takes_what_is_as_sure_as_the_threshold():
    model = small()
    for p in model.parameters():
        nn.init.zeros_(p)
    confidence = model(X[:1]).softmax(1).max().item()  # a third, rounded
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss, _ = one_fixmatch_step(optimizer, model, threshold=confidence, weight=1.0)
    assert loss == pytest.approx(2 * math.log(3))
    above = math.nextafter(confidence, 1)
    loss, _ = one_fixmatch_step(optimizer, model, threshold=above, weight=1.0)
    assert loss == pytest.approx(math.log(3))


def test_fixmatch_climbs_the_labelled_loss_alone_under_sam():
    model, twin, rho = small(), small(), 0.5
    loss, data = one_fixmatch_step(SAM(model.parameters(), torch.optim.SGD, rho=rho, lr=0.1), model)

    def gradients(part):
        parts = fixmatch_by_hand(twin, *data, stream(7, "augmentation"), 0.4, 2.0)
        return torch.autograd.grad(parts[part], list(twin.parameters())), sum(parts).item()

    (labelled, total), (unlabelled, _) = gradients(0), gradients(1)
    assert loss == pytest.approx(total, rel=1e-9)
    norm = math.sqrt(sum(g.square().sum().item() for g in labelled))
    theta = [p.detach().clone() for p in twin.parameters()]
    with torch.no_grad():
        for p, g in zip(twin.parameters(), labelled, strict=True):
            p += rho * g / norm
    there, _ = gradients(0)
    for p, start, g, h in zip(model.parameters(), theta, there, unlabelled, strict=True):
        torch.testing.assert_close(p.detach(), start - 0.1 * (g + h))


def test_nt_xent_written_out():
    model, temperature = small(), 0.3
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), seed=7)
    batches = Batches((X,), 5)
    settings = {"view": jitter, "temperature": temperature}
    (record,) = simclr(run, batches, **settings, steps=1, every=1)
    generator, (x,) = stream(7, "augmentation"), next(batches.draw(7))
    views = torch.cat([jitter(x, generator), jitter(x, generator)])
    z = nn.functional.normalize(small()(views)).detach()
    total = 0.0
    for i in range(10):
        weights = [math.exp(float(z[i] @ z[j]) / temperature) if j != i else 0 for j in range(10)]
        total -= math.log(weights[(i + 5) % 10] / sum(weights)) / 10
    assert record["loss"] == pytest.approx(total, rel=1e-9)


def test_similarities_leave_out_the_diagonal():
    z = torch.randn(7, 4, generator=stream(0), dtype=torch.float64)
    found = similarities(z, 0.5)
    for i in range(7):
        others = [j for j in range(7) if j != i]
        expected = torch.cosine_similarity(z[i : i + 1], z[others]) / 0.5
        torch.testing.assert_close(found[i], expected)


def test_simclr_pulls_views_together():
    model = small()
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.5), seed=7)
    losses = [
        record["loss"] for record in simclr(run, Batches((X,), 10), view=jitter, steps=40, every=10)
    ]
    assert losses[-1] < losses[0] - 0.1


def test_images_go_through_their_augmentations():
    images, labels = torch.randn(12, 1, 16, 16, generator=stream(0)), torch.arange(12) % 3
    weak, strong, view = (on_pixels(*ops, mean=0.3, std=0.4) for ops in (WEAK, STRONG, VIEW))
    model, batches = cnn_bn(1, 3, generator=stream(1)), Batches((images, labels), 6)
    optimizer = IAMD(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, module=model)
    run = Run(model, optimizer, seed=0, ema=0.9)
    settings = {"weak": weak, "strong": strong, "every": 1, "threshold": 0.0}
    losses = [r["loss"] for r in fixmatch(run, batches, Batches((images,), 9), **settings, steps=2)]
    losses += [r["loss"] for r in simclr(run, batches, view=view, steps=4, every=1)]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))


def test_bad_temperature():
    run = Run(model := small(), torch.optim.SGD(model.parameters(), lr=0.5), seed=7)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        simclr(run, Batches((X,), 10), view=jitter, steps=1, every=1, temperature=0)


def test_linear_probe_learns_from_the_training_examples_alone():
    labels, far = (X[:, 0] > 0).long(), X[X[:, 0].abs() > 0.5]
    wrong = (far[:, 0] < 0).long()
    assert linear_probe(nn.Identity(), (X, labels), (far, wrong), batch_size=10, lr=0.1) > 0.9


def test_linear_probe_sees_the_features_alone():
    labels = (X[:, 0] > 0).long()
    settings = {"epochs": 60, "batch_size": 10, "lr": 0.05}
    before = torch.get_rng_state()
    good = linear_probe(nn.Identity(), (X, labels), (X, labels), **settings)
    assert good == linear_probe(nn.Identity(), (X, labels), (X, labels), **settings)
    assert torch.equal(torch.get_rng_state(), before)
    assert good < 0.1
    blind = nn.Linear(6, 2).double()
    nn.init.zeros_(blind.weight)
    values = blind.weight.clone()
    assert linear_probe(blind, (X, labels), (X, labels), **settings) > 0.3
    assert torch.equal(blind.weight, values)
    assert blind.training


def test_error_is_counted_in_evaluation_mode():
    model = nn.Sequential(nn.Dropout(0.9), small())
    expected = (model[1](X).argmax(1) != Y).double().mean().item()
    assert error(model, X, Y) == expected
    assert model.training
