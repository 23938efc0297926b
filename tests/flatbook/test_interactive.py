import base64

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.axes import Axes
from matplotlib_inline.backend_inline import configure_inline_support
from plotly.offline import get_plotlyjs

from flatbook.interactive import MIME, slider

X = np.linspace(0, 1, 5)


def panels(power):
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
    left.plot(X, X**power, "o--", color="C1", label="xᵖ")
    left.axhline(0.5, color="k", ls=":")
    left.legend()
    left.set(xlabel="x", ylabel="y", xlim=(0, 1), ylim=(0, 1), title=f"p = {power}")
    right.plot(X[1:], X[1:] ** power, label="again")
    right.set(xlim=(0, 1), ylim=(0.01, 1), yscale="log")


def numbers(packed):
    assert packed["dtype"] == "f4"
    return np.frombuffer(base64.b64decode(packed["bdata"]), "<f4")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def bundle():
    """What a notebook stores for the figure."""
    shell = InteractiveShell.instance()
    configure_inline_support(shell, "module://matplotlib_inline.backend_inline")
    slider("p", [1, 2, 3], panels, start=1)
    yield shell.display_formatter.format(plt.gcf())[0]
    InteractiveShell.clear_instance()


def test_picture_and_curves_are_one_output(bundle):
    assert {"image/png", MIME} <= bundle.keys()
    assert plt.gcf().axes[0].get_title() == "p = 2"
    assert plt.get_fignums() == [plt.gcf().number]


def test_plotly_knows_every_field(bundle):
    figure = go.Figure(bundle[MIME])  # raises on any it does not
    assert [frame.name for frame in figure.frames] == ["1", "2", "3"]
    assert figure.layout.sliders[0].active == 1
    assert all(step.args[0][0] == step.label for step in figure.layout.sliders[0].steps)


def test_the_curves_are_those_of_the_picture(bundle):
    dots, level, curve = bundle[MIME]["data"]
    layout = bundle[MIME]["layout"]
    np.testing.assert_allclose(numbers(dots["y"]), X**2, atol=1e-4)
    assert (dots["mode"], dots["name"], dots["showlegend"]) == ("lines+markers", "xᵖ", True)
    assert (dots["line"]["dash"], dots["marker"]["symbol"]) == ("dash", "circle")
    assert numbers(level["x"]).tolist() == [0, 1]
    assert numbers(level["y"]).tolist() == [0.5, 0.5]
    assert level["line"]["dash"] == "dot"
    assert not level["showlegend"]
    assert not curve["showlegend"], "the right panel has no legend"
    assert (layout["yaxis2"]["type"], layout["yaxis2"]["range"]) == ("log", [-2, 0])
    assert layout["xaxis"]["title"]["text"] == "x"


def test_a_frame_holds_what_moves_and_only_that(bundle):
    first, second, _ = bundle[MIME]["frames"]
    assert [sorted(trace) for trace in first["data"]] == [["y"], [], ["y"]]
    np.testing.assert_allclose(numbers(first["data"][0]["y"]), X, atol=1e-4)
    assert second["data"][0]["y"] == bundle[MIME]["data"][0]["y"]


def test_rounding_noise_does_not_show():
    def noisy(value):
        plt.figure()
        plt.plot([0, 1], [value + 1e-13, -1e-13])
        plt.gca().set(xlim=(0, 1), ylim=(0, 2))

    slider("v", [1 / 3, np.nextafter(2 / 3, 1)], noisy)
    for frame, third in zip(
        plt.gcf()._repr_mimebundle_()[MIME]["frames"], [0.3333, 0.6667], strict=True
    ):
        assert numbers(frame["data"][0]["y"]).tolist() == [np.float32(third), 0]


def test_a_gap_stays_a_gap():
    def broken(value):
        plt.figure()
        plt.plot([0, 1, 2], [value, np.nan, value])
        plt.gca().set(xlim=(0, 2), ylim=(0, 2))

    slider("v", [1, 2], broken)
    gap = numbers(plt.gcf()._repr_mimebundle_()[MIME]["data"][0]["y"])
    assert np.isnan(gap).tolist() == [False, True, False]


@pytest.mark.parametrize("values", [[], [1], [1, 1.0001], [1, float("nan")]])
def test_values_that_no_slider_can_show(values):
    with pytest.raises(ValueError, match="values must be"):
        slider("p", values, panels)
    assert not plt.get_fignums(), "nothing is drawn before the check"


def test_a_start_out_of_range():
    with pytest.raises(ValueError, match="start must be an index of the 2 values, got 2"):
        slider("p", [1, 2], panels, start=2)


@pytest.mark.parametrize("place", ["slider", "axis"])
def test_a_formula_is_refused(place):
    def draw(value):
        plt.figure()
        plt.plot([0, 1], [0, value])
        plt.xlabel("$x$")

    with pytest.raises(ValueError, match="plain text"):
        slider("$p$" if place == "slider" else "p", [1, 2], draw)


@pytest.mark.parametrize("change", [Axes.axhline, lambda axes: axes.set_xlim(0, 9)])
def test_figures_that_differ_in_more_than_points_are_refused(change):
    def draw(value):
        _, axes = plt.subplots()
        axes.plot([0, 1], [0, value])
        axes.set(xlim=(0, 1), ylim=(0, 2))
        if value == 2:
            change(axes)

    with pytest.raises(ValueError, match=r"draw\(2\) and draw\(1\) must have the same"):
        slider("v", [1, 2], draw)


def test_plotly_brings_the_script_that_the_site_ships():
    assert "Plotly" in get_plotlyjs()
