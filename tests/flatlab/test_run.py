"""Interrupted and resumed, through a file, against never interrupted: bitwise."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flatlab import stream
from flatlab.loops import fixmatch, simclr, supervised
from flatlab.run import Batches, LoadedBatches, Run
from flatlab.schedules import cosine
from flatmin.optim import IAMD, IAMS, SAM

X = torch.randn(30, 1, 5, 5, generator=stream(0))
Y = torch.randint(3, (30,), generator=stream(1))


def jitter(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator)


def start(method, ema=None):
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)]
    model = nn.Sequential(*layers)
    for p in model.parameters():
        nn.init.normal_(p, 0.1, 0.3, generator=stream(2))
    params, rest = model.parameters(), {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    climbing = {"rho": 0.1, "module": model} | rest
    optimizer = {
        "SGD": lambda: torch.optim.SGD(params, **rest),
        "AdamW": lambda: torch.optim.AdamW(params, lr=0.01),
        "SAM": lambda: SAM(params, torch.optim.SGD, **climbing),
        "IAM-S": lambda: IAMS(params, torch.optim.SGD, **climbing),
        "IAM-D": lambda: IAMD(params, torch.optim.SGD, **climbing),
    }[method]()
    return Run(model, optimizer, seed=3, schedule=cosine(6), ema=ema)


LOOPS = {
    "supervised": lambda run, steps: supervised(
        run, Batches((X, Y), 7), steps=steps, every=2, augment=jitter, unlabelled=Batches((X,), 4)
    ),
    "fixmatch": lambda run, steps: fixmatch(
        *(run, Batches((X[:5], Y[:5]), 4), Batches((X,), 8)),
        **{"weak": jitter, "strong": jitter, "threshold": 0.4, "steps": steps, "every": 2},
    ),
    "simclr": lambda run, steps: simclr(run, Batches((X,), 6), view=jitter, steps=steps, every=2),
}


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("method", ["SGD", "AdamW", "SAM", "IAM-S", "IAM-D"])
def test_resumed_is_bitwise_the_uninterrupted(method, loop, tmp_path):
    whole = start(method, ema=0.8)
    records = list(LOOPS[loop](whole, 6))
    assert [record["step"] for record in records] == [2, 4, 6]
    for step in (2, 3):  # at a record, and between two
        first = start(method, ema=0.8)
        list(LOOPS[loop](first, step))
        torch.save(first.state_dict(), tmp_path / "run.pt")
        second = start(method, ema=0.8)
        second.load_state_dict(torch.load(tmp_path / "run.pt", weights_only=True))
        assert second.step == step
        assert list(LOOPS[loop](second, 6))[-1] == records[-1] or step == 3
        assert equal(second.state_dict(), whole.state_dict())
    assert list(LOOPS[loop](second, 6)) == []


def test_the_average_is_pytorch_s_and_what_is_evaluated():
    run, decay = start("SGD", ema=0.75), 0.75
    library = AveragedModel(run.model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    seen, expected = [], None
    loop = supervised(
        run, Batches((X, Y), 7), steps=4, every=1, evaluate=lambda m: seen.append(m) or {}
    )
    for _ in loop:
        library.update_parameters(run.model)
        torch.testing.assert_close(
            run.evaluated.state_dict(), library.module.state_dict(), rtol=0, atol=0
        )
        weights = [p.detach().clone() for p in run.model.parameters()]
        pairs = zip(expected or weights, weights, strict=True)
        expected = [decay * mean + (1 - decay) * p for mean, p in pairs]
        for p, mean in zip(seen[-1].parameters(), expected, strict=True):
            torch.testing.assert_close(p.detach(), mean)
        for b, own in zip(seen[-1].buffers(), run.model.buffers(), strict=True):
            assert torch.equal(b, own)
    assert seen[-1] is run.evaluated is not run.model


def test_schedule_and_loss_are_those_of_the_steps():
    run = start("SGD")
    batches = list(zip(range(4), Batches((X, Y), 7).draw(3), strict=False))
    twin = copy.deepcopy(run.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    losses = []
    for _, (x, y) in batches:
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(twin(x), y))
        losses[-1].backward()
        optimizer.step()
        schedule.step()
    records = list(supervised(run, Batches((X, Y), 7), steps=4, every=3))
    expected = [sum(losses[:3]).item() / 3, losses[3].item()]
    assert [record["loss"] for record in records] == pytest.approx(expected, rel=1e-5)
    for p, q in zip(run.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_evaluation_is_in_evaluation_mode_and_changes_nothing():
    modes = []
    watched, other = start("SGD"), start("SGD")

    def evaluate(model):
        modes.append(model.training)
        return {"logit": float(model(X)[0, 0].detach())}

    list(supervised(watched, Batches((X, Y), 7), steps=4, every=1, evaluate=evaluate))
    list(supervised(other, Batches((X, Y), 7), steps=4, every=4))
    assert modes == [False] * 4
    assert equal(watched.state_dict(), other.state_dict())


def test_another_run_s_state_is_refused_whole():
    run = start("SGD")
    before = copy.deepcopy(run.state_dict())
    state = start("SGD", ema=0.9).state_dict()
    with pytest.raises(ValueError, match="'average'"):
        run.load_state_dict(state)
    with pytest.raises(ValueError, match="'model'"):
        run.load_state_dict(before | {"model": {"weight": X}})
    with pytest.raises(ValueError, match="state must hold"):
        run.load_state_dict({"model": before["model"]})
    assert equal(run.state_dict(), before)


class Read:
    """Reads an example of X, moved by a number drawn from its seed."""

    def __len__(self):
        return len(X)

    def __getitem__(self, item):
        index, seed = item
        draw = torch.Generator().manual_seed(seed)
        return X[index] + torch.rand(1, generator=draw), int(Y[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_loaded_batches_resume_and_follow_the_same_order(workers):
    before = torch.get_rng_state()
    loaded = LoadedBatches(Read(), 7, workers=workers)
    batches = list(zip(range(6), loaded.draw(3), strict=False))
    for (_, (x, y)), (own, labels) in zip(batches, Batches((X, Y), 7).draw(3), strict=False):
        assert torch.equal(y, labels)
        shift = (x - own).flatten(1)
        assert 0 < shift.min() <= shift.max() < 1
        assert shift.std(1).max() < 1e-5
    again = zip(batches[4:], loaded.draw(3, start=4), strict=False)
    assert all(torch.equal(x, y) for (_, a), b in again for x, y in zip(a, b, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_that_read_share_what_one_would_read():
    whole = [next(LoadedBatches(Read(), 6).draw(3, start=step)) for step in range(3)]
    for rank in range(2):
        share = LoadedBatches(Read(), 6, part=(rank, 2)).draw(3)
        for batch, part in zip(whole, share, strict=False):
            assert all(torch.equal(b[rank::2], p) for b, p in zip(batch, part, strict=True))


def test_a_batch_that_does_not_divide_is_refused():
    run = start("SGD")
    run.part = (0, 2)
    with pytest.raises(ValueError, match="a batch of 7 does not divide among 2 processes"):
        next(supervised(run, Batches((X, Y), 7), steps=1, every=1))
    with pytest.raises(ValueError, match=r"simclr runs in one process, got part=\(0, 2\)"):
        simclr(run, Batches((X,), 6), view=jitter, steps=1, every=1)
    with pytest.raises(ValueError, match=r"rank < world, got \(2, 2\)"):
        Run(run.model, run.optimizer, seed=0, part=(2, 2))


def test_bad_arguments():
    with pytest.raises(ValueError, match="ema must lie between 0 and 1, got 1"):
        start("SGD", ema=1.0)
    with pytest.raises(ValueError, match="every must be positive, got 0"):
        next(supervised(start("SGD"), Batches((X, Y), 7), steps=4, every=0))
    with pytest.raises(ValueError, match=r"of one length, got \[30, 29\]"):
        Batches((X, Y[1:]), 7)
    for build in (lambda: Batches((X, Y), 0), lambda: LoadedBatches(Read(), 0)):
        with pytest.raises(ValueError, match="size must be positive, got 0"):
            build()
