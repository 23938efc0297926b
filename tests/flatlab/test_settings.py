"""Recipes against what the paper's tables ask for, and settings that are refused."""

from dataclasses import MISSING, fields

import pytest

from flatlab.settings import RECIPES, Settings, load_recipe, parse, recipes, smoke

GIVEN = {"data": "cifar-10", "model": "cnn6", "method": "IAM-D", "rho": 0.1, "seed": 0}


#: What a recipe leaves unsaid, and a record that is older than the setting.
DEFAULTS = {
    **{"loop": "supervised", "tier": "paper", "validate": False, "epochs": 200},
    **{"steps_per_epoch": 0, "until": 0.0, "look": 1, "batch_size": 128, "labels": 0},
    **{"label_noise": 0.0, "unlabelled_batch_size": 0, "augment": True, "lr": 0.1},
    **{"schedule": "drops", "warmup": 0, "base": "SGD", "momentum": 0.9, "weight_decay": 5e-4},
    **{"label_smoothing": 0.0, "rho": 0.0, "beta": 1.0, "climb": 1, "climb_batch": 0},
    **{"sigma": 1.0, "halve_rho": 0, "threshold": 0.95, "unlabelled_weight": 1.0, "ema": 0.0},
    **{"temperature": 0.5, "probe": "AdamW", "curvature": False, "bf16": True, "compiled": True},
}


def test_what_is_unsaid_stays_what_it_was():
    """Another default would change recipes, and what their records are taken for."""
    defaults = {field.name: field.default for field in fields(Settings)}
    assert {name: v for name, v in defaults.items() if v is not MISSING} == DEFAULTS


def test_each_table_and_figure_has_its_recipe():
    tables = ["table1-cifar10", "table1-cifar100", "table1-fashion-mnist", "table1-svhn"]
    tables += ["table2-imagenet", "table3-few-cifar10", "table3-few-cifar100"]
    tables += ["table3-fixmatch-cifar10", "table3-fixmatch-cifar100"]
    figures = ["figure1-cnn6", "figure1-wrn", "figure2", "figure3", "heatmap", "vit"]
    assert {*tables, *figures} <= {*recipes()}


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_loads_and_its_runs_differ(recipe):
    runs = load_recipe(recipe)
    assert len({*runs.values()}) == len(runs)
    for name, settings in runs.items():
        assert name.startswith(settings.method)
        assert name.endswith(f"seed{settings.seed}")
        assert "/" not in name
        assert smoke(settings).tier == "smoke"


def test_table_1_is_five_optimizers_and_a_control_with_three_seeds():
    runs = load_recipe("table1-cifar100")
    methods = {"SGD", "SAM", "ASAM", "IAM-D", "IAM-S", "random-D"}
    assert {(s.method, s.seed) for s in runs.values()} == {
        (method, seed) for method in methods for seed in range(3)
    }
    assert (runs["IAM-D-seed0"].beta, runs["IAM-D-seed0"].rho) == (10, 0.1)
    assert runs["IAM-S-seed0"].rho == 0.5


def test_the_heat_map_is_the_papers_grid():
    runs = load_recipe("heatmap").values()
    grid = {(s.beta, s.rho) for s in runs if s.method == "IAM-D" and s.data == "cifar-10"}
    assert grid == {(b, r) for b in (0.1, 1, 5, 10, 20) for r in (0.01, 0.05, 0.1, 0.5, 1)}
    assert all(s.validate for s in runs)


def test_changes_are_told_in_the_names():
    runs = load_recipe("demo", epochs=1, model="cnn6")
    assert [*runs][::3] == [f"{m}-epochs1-cnn6-seed0" for m in ("SGD", "SAM", "IAM-D")]
    assert {s.epochs for s in runs.values()} == {1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.1}, "'learning_rate' is no setting"),
        ({"data": "mnist"}, "data must be one of .* got 'mnist'"),
        ({"epochs": 1.5}, "epochs must be of type int, got 1.5"),
        ({"epochs": True}, "epochs must be of type int, got True"),
        ({"augment": 1}, "augment must be of type bool, got 1"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"lr": float("inf")}, "lr must be finite, got inf"),
        ({"rho": 1.1e30}, r"rho must be at most 1e\+30, got 1\.1e\+30"),
        ({"label_noise": 1.5}, r"label_noise must be at most 1, got 1\.5"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be at most 1, got 1\.5"),
        ({"ema": 1.0}, r"ema must be below 1, got 1\.0"),
        ({"lr": -0.1}, "lr must not be negative, got -0.1"),
        ({"rho": 0.0}, "rho must be positive for IAM-D"),
        ({"method": "SGD"}, "rho must be left out for SGD, got 0.1"),
        ({"loop": "fixmatch"}, "unlabelled_batch_size must be positive"),
        ({"method": "IAM-D", "climb_batch": 4}, "climb_batch is for .* IAM-D in supervised"),
        (
            {"method": "SGD", "rho": 0.0, "climb_batch": 4},
            "climb_batch is for .* SGD in supervised",
        ),
        (
            {"method": "IAM-S", "loop": "simclr", "climb_batch": 4},
            "climb_batch is for .* IAM-S in simclr",
        ),
        (
            {"method": "IAM-S", "climb_batch": 129},
            "climb_batch must be at most batch_size=128, got 129",
        ),
        ({"loop": "simclr", "until": 0.1}, "until must be left out for simclr"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Settings.of(GIVEN | change)


def test_a_missing_setting_is_named():
    with pytest.raises(ValueError, match=r"must name \['method', 'seed'\]"):
        Settings.of({"data": "svhn", "model": "cnn6"})


def test_whole_numbers_do_for_real_ones():
    assert isinstance(Settings.of(GIVEN | {"lr": 1}).lr, float)


def test_files_that_are_no_recipe(tmp_path):
    path = tmp_path / "mine.toml"
    with pytest.raises(FileNotFoundError, match=r"no recipe table9; there are .*'demo'"):
        load_recipe("table9")
    for text, message in [
        ("lr = ", "is not a TOML file"),
        ("lr = 0.1", r"at least one \[\[runs\]\]"),
        (
            (RECIPES / "demo.toml").read_text() + '[[runs]]\nmethod = "SGD"\nseed = 0',
            "two runs of the name",
        ),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_recipe(path)


def test_assignments():
    assert parse("lr=1e-3") == ("lr", 1e-3)
    assert parse("data=cifar-10") == ("data", "cifar-10")
    for text in ("lr", "=1", "lr=", "lr=1\nepochs=3", "lr=1\r"):
        with pytest.raises(ValueError, match="expected name=value in one line"):
            parse(text)
