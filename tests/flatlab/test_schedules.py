"""Schedules against PyTorch's own."""

import math

import pytest
import torch

from flatlab.schedules import constant, cosine, drops, seven_sixteenths


def factors(scheduler_class, **kwargs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_class(optimizer, **kwargs)
    found = []
    for _ in range(11):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return pytest.approx(found, abs=1e-12)


def test_cosine_and_drops_are_pytorch_s():
    schedulers = torch.optim.lr_scheduler
    assert [cosine(10)(t) for t in range(11)] == factors(schedulers.CosineAnnealingLR, T_max=10)
    expected = factors(schedulers.MultiStepLR, milestones=[3, 7], gamma=0.2)
    assert [drops([3, 7])(t) for t in range(11)] == expected


def test_warmup_rises_linearly_then_falls():
    rising = cosine(12, warmup=4)
    assert [rising(t) for t in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [rising(t) for t in range(4, 13)] == pytest.approx([cosine(8)(t) for t in range(9)])


def test_fixmatch_ends_at_its_cosine():
    assert seven_sixteenths(100)(0) == 1.0
    assert seven_sixteenths(100)(100) == pytest.approx(math.cos(7 * math.pi / 16))
    assert constant(7) == 1.0
