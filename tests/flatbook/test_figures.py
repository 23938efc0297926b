import pandas as pd
import pytest
import torch

from flatbook import COLORS, figure_data, use_style


def test_columns_come_back_from_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATBOOK_OUT", str(tmp_path))
    figure_data("fig-some-name", x=[1, 2], y=torch.tensor([0.5, 1 / 3], dtype=torch.float64))
    frame = pd.read_csv(tmp_path / "fig-some-name.csv")
    assert frame.columns.tolist() == ["x", "y"]
    assert frame.y.tolist() == [0.5, 0.333333]


@pytest.mark.parametrize("name", ["some-name", "fig-", "fig-Ratio", "fig-../x"])
def test_a_name_that_is_no_figure_is_refused(name):
    with pytest.raises(ValueError, match="name must be"):
        figure_data(name, x=[1])


@pytest.mark.parametrize("columns", [{}, {"x": [1], "y": [1, 2]}, {"x": [[1]]}])
def test_columns_must_agree(columns):
    with pytest.raises(ValueError, match="columns of fig-a must be"):
        figure_data("fig-a", **columns)


def test_methods_that_share_a_panel_have_their_own_colours():
    for panel in (
        ("SGD", "SAM", "ASAM", "IAM-D", "IAM-S", "random"),
        ("path1", "path2", "path3", "flow", "theory"),
        ("S", "Tr H", "lambda_max(H)"),
        ("K=1", "K=3", "K=10", "theory"),
    ):
        assert len({COLORS[name] for name in panel}) == len(panel)


def test_letters_stay_legible():
    use_style()
    import matplotlib as mpl

    assert mpl.rcParams["axes.labelsize"] >= 10
    assert mpl.rcParams["xtick.labelsize"] >= 10
