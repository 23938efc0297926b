"""Every method in every loop and every recipe, in float64, against a run assembled by hand.

Also, generated from the dataclass: each setting decides something. A new one without an entry
in ``CHANGES`` fails.
"""

from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import get_args

import by_hand
import pytest
import torch

from flatlab import experiment as module
from flatlab.experiment import Experiment
from flatlab.sets import KINDS, Place
from flatlab.settings import Loop, MethodName, ScheduleName, Settings, load_recipe, recipes

#: Every setting at a value that is not its default.
COMMON = {
    **{"data": "cifar-10", "model": "cnn-bn", "seed": 3, "validate": True, "epochs": 3},
    **{"steps_per_epoch": 2, "look": 2, "batch_size": 4, "labels": 8, "unlabelled_batch_size": 6},
    **{"label_noise": 0.4, "until": 0.1},
    **{"lr": 0.07, "schedule": "cosine", "warmup": 1, "momentum": 0.6, "weight_decay": 0.03},
    **{"beta": 0.7, "climb": 2, "sigma": 0.5, "halve_rho": 1, "ema": 0.8, "curvature": True},
    **{"label_smoothing": 0.2, "threshold": 0.3, "unlabelled_weight": 0.6, "temperature": 0.3},
    **{"bf16": False, "compiled": False},
}


def settings_of(method="IAM-D", loop="supervised", **changes):
    rho = {} if method == "SGD" else {"rho": 0.3}
    other = {"model": "wrn-10-1", "until": 0.0} if loop == "simclr" else {}
    return Settings.of(COMMON | {"method": method, "loop": loop} | rho | other | changes)


def split(name, count):
    images = torch.randn(count, 3, 8, 8, generator=by_hand.stream(name, "images"))
    return images, torch.randperm(count, generator=by_hand.stream(name, "labels")) % 4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Data sets of three dozen images of 3 × 8 × 8 in four classes, in float64."""
    monkeypatch.setattr(module, "AT_ONCE", by_hand.AT_ONCE)
    monkeypatch.setattr("flatlab.sets.AT_ONCE", by_hand.AT_ONCE)
    monkeypatch.setattr(module, "LOOK_AT", by_hand.LOOK_AT)
    torch.set_default_dtype(torch.float64)
    data = {"train": split("train", 14), "validation": split("validation", 11)}
    data |= {"test": split("test", 13)}
    both = zip(data["train"], data["validation"], strict=True)
    data["train+validation"] = tuple(torch.cat(pair) for pair in both)
    for name, kind in KINDS.items():
        shape = {"classes": 4, "channels": 3, "size": 8}
        of_pixels = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
        monkeypatch.setitem(KINDS, name, replace(kind, **shape, **of_pixels))
    monkeypatch.setattr(module, "read", lambda settings, name, place: data[name])
    yield data
    torch.set_default_dtype(torch.float32)


def conducted(settings):
    experiment = Experiment(settings, Place())
    looks = [*experiment.train()]
    return experiment, looks, experiment.measure()


def assert_same(settings, data):
    expected = by_hand.run(settings, KINDS[settings.data], data)
    experiment, looks, final = conducted(settings)
    tolerance = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(looks, expected["looks"], **tolerance)
    torch.testing.assert_close(final, expected["final"], **tolerance)
    for found, wanted in (
        (experiment.run.model, expected["model"]),
        (experiment.run.average, expected["average"]),
    ):
        assert (found is None) == (wanted is None)
        if found is not None:
            states = found.state_dict(), wanted.state_dict()
            torch.testing.assert_close(*(dict(state) for state in states), **tolerance)


@pytest.mark.parametrize("loop", get_args(Loop))
@pytest.mark.parametrize("method", get_args(MethodName))
def test_a_method_in_a_loop_by_hand(method, loop, small):
    assert_same(settings_of(method, loop), small)


@pytest.mark.parametrize(
    "changes",
    [
        *({"schedule": name, "epochs": 10, "warmup": 0} for name in get_args(ScheduleName)),
        {"base": "AdamW", "lr": 0.01},
        {"validate": False, "labels": 0, "steps_per_epoch": 0, "unlabelled_batch_size": 0},
        {"augment": False, "ema": 0.0, "label_smoothing": 0.0, "halve_rho": 0, "look": 1},
        {"method": "IAM-S", "climb_batch": 3},
        {"method": "score-S", "climb_batch": 3, "unlabelled_batch_size": 0},
        {"method": "SAM", "climb_batch": 3},
        {"loop": "fixmatch", "ema": 0.0, "augment": False},
        {"loop": "simclr", "validate": False, "labels": 0, "base": "AdamW"},
        {"loop": "simclr", "probe": "LBFGS", "model": "cnn3-8-flat", "data": "fashion-mnist-14"},
        {"loop": "simclr", "probe": "LBFGS", "labels": 0},
        {"loop": "fixmatch", "data": "fashion-mnist-14"},
        {"loop": "fixmatch", "data": "mnist-14"},
        {"loop": "simclr", "data": "mnist-14"},
        {"loop": "fixmatch", "data": "svhn"},
    ],
    ids=str,
)
def test_other_settings_by_hand(changes, small):
    assert_same(settings_of(**changes), small)


def of_recipes():
    """Of each recipe each method, its settings kept but for the size of network, batch and run."""
    seen = set()
    for recipe in recipes():
        for method, settings in {s.method: s for s in load_recipe(recipe).values()}.items():
            model = "wrn-10-1" if settings.loop == "simclr" else "cnn-bn"
            size = {"model": model, "epochs": 4, "steps_per_epoch": 1, "batch_size": 4, "look": 2}
            size["labels"] = 8 * (settings.labels > 0)
            size["unlabelled_batch_size"] = 6 * (settings.unlabelled_batch_size > 0)
            size["warmup"] = int(settings.warmup > 0)
            size["halve_rho"] = int(settings.halve_rho > 0)
            small = replace(settings, **size)
            own = small.data if small.data.endswith(("svhn", "-14")) else "cifar-10"
            told = astuple(replace(small, data=own))
            if told not in seen:  # many recipes differ in data and network alone
                yield pytest.param(small, id=f"{recipe}-{method}")
            seen.add(told)


@pytest.mark.parametrize("settings", [*of_recipes()])
def test_a_recipe_by_hand(settings, small):
    assert_same(settings, small)


def test_the_probe_learns_from_the_known_labels_for_twenty_epochs(small, monkeypatch):
    """More than one step, and so more than the few images above can tell."""
    probes = []
    monkeypatch.setattr(
        module, "linear_probe", lambda _, *given, **rest: probes.append((given, rest)) or 0.5
    )
    conducted(settings_of("SGD", "simclr", label_noise=0.0))
    images, labels = small["train"]
    known = by_hand.few_of_each(labels, 2, seed=3)
    assert len(probes) == 4  # two looks, pixels, an untrained encoder
    for given, rest in probes:
        torch.testing.assert_close(given, ((images[known], labels[known]), small["validation"]))
        assert rest == {"epochs": 20}


# Each setting decides something.

#: For each setting a context in which it matters, and another value.
CHANGES = {
    "data": ({"unlabelled_batch_size": 0}, "svhn"),  # a digit is not mirrored
    "model": ({"loop": "simclr"}, "wrn-16-1"),
    "method": ({}, "IAM-S"),
    "seed": ({}, 4),
    "loop": ({}, "fixmatch"),
    "validate": ({"labels": 0}, False),
    "epochs": ({}, 4),
    "steps_per_epoch": ({}, 3),
    "until": ({}, 9.0),
    "look": ({}, 1),
    "batch_size": ({}, 5),
    "labels": ({}, 4),
    "label_noise": ({}, 0.7),
    "unlabelled_batch_size": ({}, 7),
    "augment": ({}, False),
    "lr": ({}, 0.08),
    "schedule": ({}, "constant"),
    "warmup": ({}, 0),
    "base": ({"lr": 0.001}, "AdamW"),
    "momentum": ({}, 0.7),
    "weight_decay": ({}, 0.05),
    "label_smoothing": ({}, 0.1),
    "rho": ({}, 0.2),
    "beta": ({}, 0.8),
    "climb": ({}, 1),
    "climb_batch": ({"method": "IAM-S", "climb_batch": 2}, 3),
    "sigma": ({}, 5.0),
    "halve_rho": ({}, 0),
    "threshold": ({"loop": "fixmatch"}, 0.9),
    "unlabelled_weight": ({"loop": "fixmatch", "threshold": 0.1}, 0.7),
    "ema": ({}, 0.7),
    "temperature": ({"loop": "simclr"}, 0.4),
    "probe": ({"loop": "simclr"}, "LBFGS"),
    "curvature": ({}, False),
}
#: What decides elsewhere, and the test that fails when it is ignored there.
ELSEWHERE = {
    "tier": ("test_sets.py", "test_the_smoke_tier_reads_eight_images_of_noise"),
    "bf16": ("test_build.py", "test_on_a_gpu_it_is_compiled_and_in_bfloat16"),
    "compiled": ("test_build.py", "test_on_a_gpu_it_is_compiled_and_in_bfloat16"),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_each_setting_decides_something(name):
    if name in ELSEWHERE:
        file, test = ELSEWHERE[name]
        assert f"def {test}(" in Path(__file__).with_name(file).read_text()
        return
    context, other = CHANGES[name]
    settings = settings_of(**context)
    changed = Settings.of(asdict(settings) | {name: other})
    assert getattr(settings, name) != other
    (one, *told), (two, *other_told) = conducted(settings), conducted(changed)
    pair = [dict(e.run.model.state_dict()) for e in (one, two)]
    with pytest.raises(AssertionError):
        torch.testing.assert_close([pair[0], *told], [pair[1], *other_told], rtol=1e-4, atol=1e-6)
