"""What a run reads, looks at and measures."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from runs import SMALL
from torch import nn
from torch.nn.functional import cross_entropy

from flatlab import experiment as module
from flatlab.build import build_optimizer
from flatlab.data.images import with_wrong
from flatlab.experiment import Experiment, errors
from flatlab.sets import KINDS, Place
from flatlab.streams import stream
from flatmin.curvature import top_hessian_eigenpairs

# Resuming


# What is recorded


def test_curvature_is_that_of_the_training_loss(tmp_path):
    experiment = Experiment(replace(SMALL, curvature=True), Place())
    images, labels = (torch.cat(part) for part in zip(*experiment.seen, strict=True))
    found = experiment.measure()["lambda_max(H)"]
    model = experiment.run.model
    expected = top_hessian_eigenpairs(model, cross_entropy, images, labels, tol=1e-4)
    assert found == pytest.approx(float(expected.eigenvalues[0]), rel=0.02)


def test_a_run_calls_its_model_as_it_was_built_to_be_called(monkeypatch):
    """On a CPU that is the model itself; on a GPU it decides precision and compilation."""
    told = []
    monkeypatch.setattr(module, "build_forward", lambda *given: told.append(given) or len)
    run = Experiment(SMALL, Place()).run
    assert run.forward is len
    assert told == [(SMALL, run.model, "cpu")]


def test_processes_share_the_images_that_are_climbed_on(monkeypatch):
    told = []
    alone = partial(build_optimizer, place=Place())
    monkeypatch.setattr(module, "DistributedDataParallel", lambda model: model)
    monkeypatch.setattr(module, "build_optimizer", lambda *given: alone(*given[:3]))
    monkeypatch.setattr(
        module, "supervised", lambda *_, **rest: told.append(rest["climb_on"]) or []
    )
    settings = replace(SMALL, method="SAM", climb_batch=2)
    for world in (1, 2):
        assert [*Experiment(settings, Place(part=(0, world))).train()] == []
    assert told == [2, 1]


def test_a_thousand_images_are_looked_at(monkeypatch):
    """S and H are those of the first thousand; by hand, elsewhere, they are few."""
    looks, measured = [], []

    def inconsistency(model, images, *, rho):
        looks.append((sum(map(len, images)), rho))
        return SimpleNamespace(value=0.5)

    def predictors(model, unlabelled, labelled):
        measured.append((sum(map(len, unlabelled)), sum(len(y) for _, y in labelled)))
        return {}

    monkeypatch.setattr(module, "local_inconsistency", inconsistency)
    monkeypatch.setattr(module, "predictors", predictors)
    given = {"data": "fashion-mnist-part", "tier": "paper", "curvature": True, "epochs": 1}
    experiment = Experiment(replace(SMALL, **given), Place())
    assert [record["S"] for record in experiment.train()] == [0.5]
    experiment.measure()
    assert looks == [(1000, 0.1)]
    assert measured == [(1000, 1000)]


@pytest.mark.parametrize(("epoch", "every"), [(2, 2), (500, 500), (782, 500)])
def test_a_record_comes_after_an_epoch_or_500_steps(epoch, every, monkeypatch):
    told = []
    monkeypatch.setattr(module, "supervised", lambda *_, **rest: told.append(rest["every"]) or [])
    assert [*Experiment(replace(SMALL, steps_per_epoch=epoch), Place()).train()] == []
    assert told == [every]


def test_errors_by_hand():
    logits = torch.eye(7)[[0, 1, 2]] + torch.arange(7) / 100
    model = nn.Identity()
    batches = [(logits[:2], torch.tensor([0, 0])), (logits[2:], torch.tensor([6]))]
    # Wrong at first: the second and the third; 0 is the smallest of the rest, 6 the largest.
    assert errors(model, batches) == pytest.approx((2 / 3, 1 / 3))


def test_the_radius_is_halved_in_its_epoch():
    experiment = Experiment(replace(SMALL, halve_rho=2), Place())
    radii = [
        (record["step"], experiment.run.optimizer.param_groups[0]["rho"])
        for record in experiment.train()
    ]
    assert radii == [(2, 0.1), (4, 0.05), (6, 0.05)]


def test_looks_come_when_they_are_due():
    experiment = Experiment(replace(SMALL, look=2, epochs=5), Place())
    looked = [record["step"] for record in experiment.train() if "S" in record]
    assert looked == [4, 8, 10]


def test_a_run_ends_with_the_record_that_reaches_its_cross_entropy():
    records = [*Experiment(replace(SMALL, until=9.0, look=3), Place()).train()]
    assert [record["step"] for record in records] == [2]
    assert records[0]["train_loss"] <= 9
    assert "S" in records[0]  # the last record looks at everything
    records = [*Experiment(replace(SMALL, until=1e-9, look=3), Place()).train()]
    assert ["S" in record for record in records] == [False, False, True]
    assert all("train_loss" in record for record in records)


# What is refused


def test_processes_that_share_a_run_cannot_end_it_early():
    with pytest.raises(ValueError, match=r"until must be left out where processes .* got 0\.1"):
        Experiment(replace(SMALL, until=0.1), Place(part=(0, 2)))


def test_batches_must_divide(tmp_path):
    with pytest.raises(ValueError, match=r"must divide by 3 processes, got \(4, 0, 0\)"):
        Experiment(SMALL, Place(part=(0, 3)))
    with pytest.raises(ValueError, match=r"must divide by 2 processes, got \(4, 0, 3\)"):
        Experiment(replace(SMALL, method="SAM", climb_batch=3), Place(part=(0, 2)))


def test_settings_that_do_not_fit_the_data_or_the_place_are_refused():
    with pytest.raises(ValueError, match="labels must be a multiple of the 10 classes, got 25"):
        Experiment(replace(SMALL, labels=25), Place())
    with pytest.raises(ValueError, match="download must be left to one process, got 2"):
        Experiment(SMALL, Place(download=True, part=(0, 2)))


def test_missing_data_are_told_in_one_line(tmp_path):
    for data in ("mnist-14", "cifar-10", "cifar-100", "svhn", "imagenet"):
        settings = replace(SMALL, data=data, tier="paper")
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}") as caught:
            Experiment(settings, Place(data=tmp_path))
        assert "\n" not in str(caught.value)


# The data


def test_the_part_that_ships_is_as_large_as_said_and_few_labels_are_balanced():
    given = {"data": "fashion-mnist-part", "tier": "paper", "model": "cnn-bn"}
    settings = replace(SMALL, **given, steps_per_epoch=0, labels=20, unlabelled_batch_size=4)
    experiment = Experiment(settings, Place())
    images, labels = experiment.labelled.tensors
    assert experiment.pool.tensors[0].shape == (KINDS["fashion-mnist-part"].count, 1, 28, 28)
    assert images.shape == (20, 1, 28, 28)
    assert labels.bincount().tolist() == [2] * 10
    assert experiment.epoch == 6000 // 4


def test_wrong_labels_are_learned_and_counted():
    given = {"data": "fashion-mnist-part", "tier": "paper", "method": "SGD", "rho": 0.0}
    settings = replace(SMALL, **given, labels=200, label_noise=0.4, validate=True, look=3)
    experiment = Experiment(settings, Place())
    images, told = experiment.labelled.tensors
    clean = Experiment(replace(settings, label_noise=0.0), Place())
    assert clean.wrong is None
    assert torch.equal(images, clean.labelled.tensors[0])
    wrong = told != clean.labelled.tensors[1]
    assert int(wrong.sum()) == 80
    assert torch.equal(experiment.wrong[0], images[wrong])
    assert torch.equal(experiment.wrong[1], told[wrong])
    again = Experiment(replace(settings, seed=4), Place())
    draw = stream(4, "label noise")
    true = Experiment(replace(settings, seed=4, label_noise=0.0), Place()).labelled.tensors[1]
    assert torch.equal(again.labelled.tensors[1], with_wrong(true, 0.4, classes=10, generator=draw))
    *_, last = experiment.train()
    guesses = experiment.run.model.eval()(images).argmax(1)
    memorised = (guesses == told)[wrong].double().mean()
    assert last["memorised"] == pytest.approx(float(memorised))
    train_error = float((guesses != told).double().mean())
    assert experiment.measure()["train_error"] == pytest.approx(train_error)
    assert "memorised" not in [*clean.train()][-1]


# The recipes
