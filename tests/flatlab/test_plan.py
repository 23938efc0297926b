"""Plans against counted passes, known sizes, and the shapes of saved tensors."""

from dataclasses import replace

import pytest

from flatlab.experiment import Experiment
from flatlab.plan import looks, passes, plan
from flatlab.sets import Place
from flatlab.settings import Settings, load_recipe

SMALL = Settings.of(
    {"data": "cifar-10", "model": "cnn-bn", "method": "SGD", "seed": 0, "tier": "smoke"}
    | {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4}
)
VARIANTS = [
    replace(SMALL, method="SAM", rho=0.1),
    replace(SMALL, method="IAM-S", rho=0.1, climb=2),
    replace(SMALL, method="IAM-D", rho=0.1),
    replace(SMALL, method="random-D", rho=0.1),
    replace(SMALL, method="random-S", rho=0.1),
    replace(SMALL, method="score-S", rho=0.1),
    replace(SMALL, loop="fixmatch", unlabelled_batch_size=8),
    replace(SMALL, loop="fixmatch", unlabelled_batch_size=8, method="SAM", rho=0.1),
    replace(SMALL, loop="fixmatch", unlabelled_batch_size=8, method="IAM-D", rho=0.1),
    replace(SMALL, loop="simclr", model="wrn-10-1", method="IAM-D", rho=0.1),
]


@pytest.mark.parametrize("settings", [SMALL, *VARIANTS])
def test_passes_and_images_are_those_of_the_loop(settings):
    experiment = Experiment(settings, Place())
    seen, backwards = [], []
    forward = experiment.run.forward

    def counted(images):
        seen.append(len(images))
        outputs = forward(images)
        if outputs.requires_grad:
            outputs.register_hook(backwards.append)
        return outputs

    experiment.run.forward = counted
    for _ in experiment.train():
        pass
    found = plan(settings)
    assert {*seen} == {found.images}
    assert len(seen) == found.steps * found.forwards
    assert len(backwards) == found.steps * found.backwards
    assert (found.forwards, found.backwards) == passes(settings)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"validate": True},
        {"loop": "simclr", "model": "wrn-10-1"},
        {"labels": 300, "label_noise": 0.4},
    ],
)
def test_evaluations_see_as_many_images_as_said(change):
    part = replace(SMALL, data="fashion-mnist-part", tier="paper", epochs=3, steps_per_epoch=1)
    settings = replace(part, look=2, **change)
    experiment = Experiment(settings, Place())
    model, seen = experiment.run.model, []
    network = model[0] if settings.loop == "simclr" else model  # the probe has no projector
    network.register_forward_hook(
        lambda module, inputs, _: None if module.training else seen.append(len(inputs[0]))
    )
    for _ in experiment.train():
        pass
    experiment.measure()
    assert sum(seen) == looks(settings)[0]


def test_sizes_of_published_networks():
    runs = load_recipe("table1-cifar10")
    found = plan(replace(runs["SGD-seed0"], model="wrn-16-2"))
    assert found.steps == 78_000
    assert found.parameters == 691_674
    # Every convolution by hand: maps × weights, and the head.
    first, one, two, three = 27 * 16, (16 + 3 * 32) * 32 * 9, 32 * 64, 64 * 128
    macs = 1024 * (first + one + 16 * 32)
    macs += 256 * (9 * (two + 3 * 64**2) + two) + 64 * (9 * (three + 3 * 128**2) + three) + 1280
    assert found.gigaflops == pytest.approx(2 * macs / 1e9, rel=1e-6)


def test_memory_of_a_network_counted_by_hand():
    """A convolution keeps its images, batch norm what it normalises, ReLU what comes out."""
    small, large = (plan(replace(SMALL, batch_size=size)).gigabytes for size in (4, 8))
    per_image = 4e-9 * (3 * 64 + 2 * (8 * 64 + 16 * 16 + 16 * 4) + 16)
    assert (large - small) / 4 == pytest.approx(per_image, rel=1e-6)


def test_nothing_is_read(monkeypatch):
    monkeypatch.setattr("flatlab.sets.cifar", None)
    assert plan(replace(SMALL, tier="paper")).hours > 0
