"""Plans against counted passes."""

from dataclasses import replace

import pytest

from flatlab.experiment import Experiment
from flatlab.plan import passes, plan
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


def test_an_epoch_is_the_training_data_once():
    settings = replace(SMALL, data="fashion-mnist-part", tier="paper", steps_per_epoch=0)
    for validate in (False, True):
        changed = replace(settings, validate=validate)
        assert (
            plan(changed).steps
            == Experiment(changed, Place()).steps
            == (5000 if validate else 6000) // 4
        )


def test_nothing_is_read(monkeypatch):
    monkeypatch.setattr("flatlab.sets.cifar", None)
    assert plan(load_recipe("table1-cifar10")["SGD-seed0"]).steps == 200 * (50_000 // 128)
