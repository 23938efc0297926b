"""The chapter on the papers' own scale, given records whose answers are known."""

import json
from dataclasses import asdict

import matplotlib.pyplot as plt
import pytest

from _tools.chapters import HERE
from flatlab.settings import load_recipe, recipes

SAM = {0: 10.0, 1: 11.0, 2: 12.0}  # its errors in %, by seed
ABOVE = {"SGD": 1.0, "SAM": 0.0, "ASAM": 0.3, "IAM-D": 0.5, "IAM-S": 0.2}
ABOVE |= {"random-D": 0.9, "random-S": 0.8, "score-S": 0.7}


def record(settings, order):
    error = (SAM[settings.seed % 3] + ABOVE.get(settings.method, 0.0)) / 100
    curve = {"step": [1, 2, 3], "error": [None, error, error + 0.01], "S": [None, 0.2, 0.1]}
    # Each network of a recipe has a wider gap than the one before, a larger S, a smaller trace.
    final = {"S": order, "Tr H": -order, "lambda_max(H)": 1, "error": 0.5, "train_error": -order}
    if order == 3:
        final["Tr H"] = None  # a network that diverged
    provenance = {"device": "H100", "commit": "0123456789"}
    values = {"settings": asdict(settings), "provenance": provenance, "seconds": 3600.0}
    return values | {"curve": curve, "final": final}


@pytest.fixture
def write(tmp_path, monkeypatch):
    (tmp_path / "iam").mkdir()
    monkeypatch.chdir(tmp_path / "iam")
    monkeypatch.setenv("FLATBOOK_OUT", str(tmp_path))
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))

    def write(recipe):
        folder = tmp_path / "results" / recipe
        folder.mkdir(parents=True)
        for order, (name, settings) in enumerate(load_recipe(recipe).items()):
            (folder / f"{name}.json").write_text(json.dumps(record(settings, order)))
        return folder

    return write


def read(capsys):
    """What the chapter prints, line by line, and its names."""
    (chapter,) = (c for c in HERE.chapters if c.name == "iam/12-paper-scale")
    cells = [cell.source for cell in chapter.source().cells if cell.cell_type == "code"]
    names = {}
    exec("\n".join(cells), names)  # a notebook's cells share their names
    return capsys.readouterr().out.splitlines(), names


def test_without_records_all_is_open(write, tmp_path, capsys):
    lines, _names = read(capsys)
    assert sum(" open. not run yet" in line for line in lines) == 4
    assert not [*tmp_path.glob("*.claim.json")]


def test_with_all_records_it_decides(write, tmp_path, capsys):
    for recipe in recipes():
        write(recipe)
    lines, names = read(capsys)
    for recipe in recipes():
        n, row = len(load_recipe(recipe)), names["kept"][recipe]
        assert row["recorded"] == f"{n} of {n}"
        assert (row["hours"], row["device"]) == (f"{n:.2f}", "H100")
        assert row["commits of the code"] == "0123456"
    scales = {names["kept"][recipe]["scale"] for recipe in ("vit", "table1-svhn", "heatmap")}
    assert scales == {"paper"}
    assert names["kept"]["vit-small"]["scale"] == "laptop"
    ours = [row for (_title, whose), row in names["lines"].items() if whose == "ours"]
    # Of thirteen rows: ImageNet has one seed.
    mean = f"12.00 ± {1 / 3**0.5:.2f}"
    assert [row["SGD"] for row in ours].count(mean) == 12
    assert sum(row["SAM"].startswith("11.00") for row in ours) == 12
    assert sum("25 of 25 cells" in line for line in lines) == 2
    assert sum("τ of S 1.00,  τ of Tr H -1.00" in line for line in lines) == 2
    found = {
        id_: json.loads((tmp_path / f"A.{id_}.claim.json").read_text())
        for id_ in ("TAB1-cifar10", "TAB1-cifar100", "TAB1-svhn", "TAB2")
    }
    for id_ in ("TAB1-cifar10", "TAB1-cifar100", "TAB1-svhn"):
        assert found[id_]["value"] == pytest.approx(100 * 0.5 / 12)  # always 0.5 above SAM
    assert found["TAB2"]["value"] == pytest.approx(0.5)  # IAM-D is 0.5 below SGD
    assert [record["verdict"] for record in found.values()] == [
        *("reproduced", "not reproduced", "reproduced", "reproduced")
    ]


def test_a_run_with_other_settings_is_no_run_of_the_table(write, tmp_path, capsys):
    path = write("table1-cifar10") / "SAM-seed1.json"
    content = json.loads(path.read_text())
    content["settings"]["epochs"] = 20
    path.write_text(json.dumps(content))
    lines, _names = read(capsys)
    assert "records with other settings: 1" in lines
    assert any(line.startswith("A.TAB1-cifar10: open.") for line in lines)
    assert not [*tmp_path.glob("*.claim.json")]
