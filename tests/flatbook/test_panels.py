import pytest
import torch
from matplotlib.figure import Figure

from flatbook.panels import against, border, curves, heat


@pytest.fixture
def ax():
    return Figure().subplots()


def looks(ax):
    return [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines]


@pytest.mark.parametrize("how", [{}, {"marks": 2}, {"line": False, "marks": 1}])
def test_curves_of_a_panel_differ_in_colour_and_without_colour(ax, how):
    curves(ax, torch.arange(3), torch.eye(3), **how)
    colours, styles = {look[0] for look in looks(ax)}, {look[1:] for look in looks(ax)}
    assert len(colours) == len(styles) == 3


def test_points_have_the_colours_of_their_lines(ax):
    curves(ax, [0, 1], [[0, 1], [1, 0]])
    curves(ax, [0, 1], [[0, 1], [1, 0]], line=False, marks=1)
    colours = [look[0] for look in looks(ax)]
    assert colours[:2] == colours[2:]


def test_rows_without_a_label_are_not_in_the_legend(ax):
    curves(ax, [0, 1], [[0, 1], [1, 0]], ["first"], lw=3)
    assert ax.get_legend_handles_labels()[1] == ["first"]
    assert {line.get_linewidth() for line in ax.lines} == {3}


def test_more_rows_than_looks_are_refused(ax):
    with pytest.raises(ValueError, match="at most 4"):
        curves(ax, [0, 1], [[0, 1]] * 5)


def test_a_border_stands_where_it_is_and_is_named(ax):
    border(ax, 0.5, "limit")
    assert [*ax.lines[0].get_xdata()] == [0.5, 0.5]
    border(ax, 0.7, "other", low=True)
    assert [(text.get_text(), text.xy[0]) for text in ax.texts] == [("limit", 0.5), ("other", 0.7)]
    assert ax.texts[0].xy[1] > 0.5 > ax.texts[1].xy[1]


@pytest.mark.parametrize("numbers", [[3.0, 1.0, 2.0], torch.tensor([3.0, 1.0, 2.0])])
def test_a_comparison_has_the_line_on_which_both_are_equal(ax, numbers):
    against(ax, numbers, [3.0, 1.5, 2.0], marker="x")
    points, line = ax.lines
    assert (points.get_marker(), points.get_linestyle()) == ("x", "None")
    assert [*line.get_xdata()] == [*line.get_ydata()] == [1.0, 3.0]


def test_a_map_has_its_bar_and_no_grid(ax):
    ax.grid(visible=True)
    heat(ax, [1, 2], [1, 2], [[0.0, 0.5], [0.5, 1.0]], "share", "top")
    main, bar = ax.figure.axes
    assert bar.get_xlabel() == "share"
    assert not any(line.get_visible() for line in main.get_xgridlines())
