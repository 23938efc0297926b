"""Runs stopped and resumed against runs that were not, and every recipe for two steps."""

import json
import re
import threading
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import islice

import pytest
import torch
from runs import SMALL
from torch.utils._pytree import tree_flatten

from flatlab import conduct as module
from flatlab.checkpoint import load_checkpoint
from flatlab.conduct import conduct
from flatlab.experiment import Experiment
from flatlab.sets import Place
from flatlab.settings import Settings, load_recipe, recipes, smoke
from flatlab.streams import stream

VARIANTS = {
    "SGD": replace(SMALL, method="SGD", rho=0.0),
    "SAM": replace(SMALL, method="SAM", warmup=1, schedule="cosine"),
    "ASAM": replace(SMALL, method="ASAM"),
    "IAM-D": replace(SMALL, unlabelled_batch_size=4, label_smoothing=0.1, halve_rho=1),
    "IAM-S": replace(SMALL, method="IAM-S", base="AdamW"),
    "random-D": replace(SMALL, method="random-D"),
    "random-S": replace(SMALL, method="random-S"),
    "score-S": replace(SMALL, method="score-S", model="cnn3", label_noise=0.5),
    "fixmatch": replace(SMALL, loop="fixmatch", unlabelled_batch_size=4, ema=0.9, threshold=0.1),
    "simclr": replace(SMALL, loop="simclr", model="wrn-10-1"),
}


def recorded(settings, path, place=None):
    for _ in conduct(settings, path, place or Place()):
        pass
    return json.loads(path.read_text())


def result(record):
    """What does not tell of the time that a run took."""
    return {key: record[key] for key in ("settings", "final", "curve")}


def assert_same(state, other):
    """Bitwise, in states that hold words too."""
    (leaves, form), (others, other_form) = tree_flatten(state), tree_flatten(other)
    assert form == other_form
    for leaf, twin in zip(leaves, others, strict=True):
        assert torch.equal(leaf, twin) if isinstance(leaf, torch.Tensor) else leaf == twin


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_stopped_twice_ends_like_one_that_was_not(name, tmp_path, monkeypatch):
    """Bitwise: weights, moments, averages, generators, curves."""
    ends = {}

    def keep(path, settings, state):
        ends[path.parent.name] = state["run"]
        original(path, settings, state)

    original = module.save_checkpoint
    monkeypatch.setattr(module, "save_checkpoint", keep)
    whole, parts = tmp_path / "whole" / "run.json", tmp_path / "parts" / "run.json"
    expected = recorded(VARIANTS[name], whole)
    for steps in (1, 1):  # the third goes to the end
        assert len([*islice(conduct(VARIANTS[name], parts, Place()), steps)]) == steps
        assert not parts.exists()
        assert parts.with_suffix(".pt").exists()
    assert result(recorded(VARIANTS[name], parts)) == result(expected)
    assert_same(ends["parts"], ends["whole"])
    assert [*parts.parent.iterdir()] == [parts]


def test_a_run_that_has_its_record_is_left_alone(tmp_path):
    path = tmp_path / "run.json"
    recorded(SMALL, path)
    before = path.read_bytes()
    assert [*conduct(SMALL, path, Place())] == []
    with pytest.raises(ValueError, match=r"lr was 0\.1, is 0\.2"):
        recorded(replace(SMALL, lr=0.2), path)
    assert path.read_bytes() == before


def test_a_checkpoint_of_other_settings_is_left_alone(tmp_path):
    path = tmp_path / "run.json"
    next(conduct(SMALL, path, Place()))
    before = path.with_suffix(".pt").read_bytes()
    with pytest.raises(ValueError, match="seed was 3, is 4"):
        recorded(replace(SMALL, seed=4), path)
    assert path.with_suffix(".pt").read_bytes() == before


def test_a_full_disk_stops_the_run_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    expected = recorded(SMALL, tmp_path / "expected.json")
    calls = []

    def full_from_the_second_on(file):
        calls.append(file)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("flatlab.checkpoint.os.fsync", full_from_the_second_on)
        with pytest.raises(OSError, match="No space left"):
            recorded(SMALL, path)
    assert not path.exists()
    saved = load_checkpoint(path.with_suffix(".pt"), asdict(SMALL))
    assert saved["run"]["step"] == 2
    assert result(recorded(SMALL, path)) == result(expected)


def test_checkpoints_are_written_while_it_trains_and_in_order(tmp_path, monkeypatch):
    """A slow disk delays no step but those of the second record after it."""
    path, begin = tmp_path / "run.json", threading.Event()
    steps = []

    def slow(path, settings, state):
        assert begin.wait(60)
        steps.append((state["run"]["step"], len(state["curve"])))
        original(path, settings, state)

    original = module.save_checkpoint
    monkeypatch.setattr(module, "save_checkpoint", slow)
    run = conduct(SMALL, path, Place())
    first = next(run)
    assert steps == []
    assert not path.with_suffix(".pt").exists()
    begin.set()
    rest = [*run]
    assert steps == [(p["step"], i + 1) for i, p in enumerate([first, *rest])]


def test_a_checkpoint_is_of_one_moment(tmp_path, monkeypatch):
    """Written late, while the weights move on, it still holds those of its own step."""
    path, begin = tmp_path / "run.json", threading.Event()
    then, written = [], []

    def late(path, settings, state):
        assert begin.wait(60)
        written.append(state["run"])

    monkeypatch.setattr(module, "save_checkpoint", late)
    original = module.Experiment.train

    def train(experiment):
        for record in original(experiment):
            then.append(deepcopy(experiment.run.state_dict()))
            yield record
            if len(then) == 1:
                experiment.run.model[0].weight.data.add_(1)  # as the next steps do, but at once
                experiment.run.generator.manual_seed(9)
                begin.set()

    monkeypatch.setattr(module.Experiment, "train", train)
    recorded(SMALL, path)
    assert_same(written[0], then[0])


def test_one_command_at_a_time(tmp_path):
    path = tmp_path / "run.json"
    first = conduct(SMALL, path, Place())
    next(first)
    with pytest.raises(ValueError, match="another process trains this run"):
        next(conduct(SMALL, path, Place()))
    first.close()
    assert recorded(SMALL, path)["curve"]["step"] == [2, 4, 6]
    assert [*tmp_path.iterdir()] == [path]


def test_a_checkpoint_of_another_device_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    next(conduct(SMALL, path, Place()))
    saved = load_checkpoint(path.with_suffix(".pt"), asdict(SMALL))
    module.save_checkpoint(path.with_suffix(".pt"), asdict(SMALL), saved | {"device": "cuda"})
    with pytest.raises(ValueError, match="was written on 'cuda', this is 'cpu'"):
        next(conduct(SMALL, path, Place()))


def test_a_run_that_ended_early_is_not_resumed(tmp_path):
    """Stopped between its last checkpoint and its record, it is recorded as it is."""
    settings = replace(SMALL, until=9.0)
    expected = recorded(settings, tmp_path / "whole.json")
    assert expected["curve"]["step"] == [2]
    assert expected["images_per_second"] == pytest.approx(8 / expected["seconds"], rel=1e-4)
    assert [*islice(conduct(settings, tmp_path / "parts.json", Place()), 1)]
    assert result(recorded(settings, tmp_path / "parts.json")) == result(expected)


def test_settings_are_kept_to_the_last_digit(tmp_path):
    settings = replace(SMALL, lr=10**-1.5)
    assert recorded(settings, tmp_path / "run.json")["settings"] == asdict(settings)
    assert [*conduct(settings, tmp_path / "run.json", Place())] == []


def test_a_network_that_diverged_is_recorded_without_its_curvature(tmp_path):
    settings = replace(SMALL, lr=1e30, curvature=True)
    final = recorded(settings, tmp_path / "run.json")["final"]
    assert (final["lambda_max(H)"], final["Tr H"]) == (None, None)


def test_a_record_says_what_ran_where_and_what_came_out(tmp_path):
    record = recorded(replace(SMALL, curvature=True), tmp_path / "run.json")
    assert Settings.of(record["settings"]) == replace(SMALL, curvature=True)
    assert record["provenance"].keys() >= {"commit", "date", "torch", "device", "processes"}
    assert record["curve"].keys() == {"step", "loss", "error", "error_top5", "S"}
    assert record["curve"]["step"] == [2, 4, 6]
    assert record["images_per_second"] == pytest.approx(24 / record["seconds"], rel=1e-4)
    last = {name: column[-1] for name, column in record["curve"].items()}
    assert record["final"].items() >= last.items()
    assert record["final"].keys() > last.keys() | {"train_error", "Tr H"}


def test_what_is_no_number_becomes_null(tmp_path):
    record = recorded(replace(SMALL, lr=1e30), tmp_path / "run.json")
    assert record["curve"]["loss"][-1] is None
    assert "NaN" not in (tmp_path / "run.json").read_text()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_on_a_gpu_stops_and_goes_on(name, compiled, tmp_path):
    settings, place = replace(VARIANTS[name], compiled=compiled), Place(device="cuda")
    assert [*islice(conduct(settings, tmp_path / "run.json", place), 1)]
    record = recorded(settings, tmp_path / "run.json", place)
    assert record["curve"]["step"] == [2, 4, 6]
    assert None not in record["curve"]["loss"]
    assert record["peak_megabytes"] > 0


@pytest.fixture
def folder(tmp_path):
    io = pytest.importorskip("torchvision.io")
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            path = tmp_path / "imagenet" / split / name
            path.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (3, 40, 50), generator=stream(split, name, i))
                io.write_png(pixels.byte(), str(path / f"{i}.png"))
    return tmp_path


def test_a_set_that_is_read_from_files_trains_and_resumes(folder, tmp_path):
    given = {"data": "imagenet", "tier": "paper", "model": "cnn-bn", "epochs": 2}
    settings = replace(SMALL, **given, steps_per_epoch=2, batch_size=2)
    place = Place(data=folder, workers=0)
    expected = recorded(settings, tmp_path / "whole.json", place)
    assert [*islice(conduct(settings, tmp_path / "parts.json", place), 1)]
    assert result(recorded(settings, tmp_path / "parts.json", place)) == result(expected)
    assert expected["final"]["error_top5"] <= expected["final"]["error"]
    assert Experiment(settings, Place(data=folder, workers=2)).labelled.workers == 2
    with pytest.raises(
        ValueError, match="imagenet is for supervised runs with all labels, as they are, only"
    ):
        Experiment(replace(settings, labels=1000), place)


def one_of_each_kind():
    """Of each recipe the last method, of FixMatch all; the networks narrow, ResNet-18 for 50."""
    for recipe in recipes():
        by_method = {settings.method: settings for settings in load_recipe(recipe).values()}
        last = [*by_method][-1:]
        for method in by_method if recipe == "table3-fixmatch-cifar10" else last:
            model = re.sub(r"(wrn-\d+)-\d+", r"\1-1", by_method[method].model)
            settings = replace(by_method[method], model=model.replace("resnet-50", "resnet-18"))
            yield pytest.param(settings, id=f"{recipe}-{method}")


@pytest.mark.parametrize("settings", [*one_of_each_kind()])
def test_a_recipe_takes_two_steps(settings, tmp_path):
    record = recorded(smoke(settings), tmp_path / "run.json")
    assert record["curve"]["step"] == [1, 2]
    assert all(loss is not None for loss in record["curve"]["loss"])
    assert record["curve"]["error"][-1] is not None
