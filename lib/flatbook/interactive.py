"""A figure with a slider: drawn once with matplotlib, moved in the page without a kernel.

The picture of one value is what Colab, a PDF and a page without script show. Beside it the notebook
keeps the curves of all values in plotly's own format (the MIME type that JupyterLab and VS Code
know too); the book's site replaces the picture by them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

MIME = "application/vnd.plotly.v1+json"
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond"}


def slider(
    label: str, values: Sequence[float], draw: Callable[[float], Any], *, start: int = 0
) -> None:
    """Draw a figure that a slider over ``values`` moves; end the cell with ``plt.show()``.

    Lines (``plot``, ``axhline``, ``axvline``), legends, axis labels, limits and log scales move
    with it; titles, texts and fills stand in the picture only.

    Args:
        label: What the slider sets, such as ``"γ"``; plain text, no formula.
        values: Where it can stand, at least two, finite; shown with three significant digits.
        draw: ``draw(value)`` makes one matplotlib figure. For every value it must have the same
            panels with the same limits, and the same lines in the same order.
        start: Index in ``values`` of the picture, and of the slider at first.

    Raises:
        ValueError: If there are fewer than two values, two that look alike, or one that is not
            finite; ``start`` is no index of theirs; a label holds a formula; or the figures
            differ in more than the points of their lines.

    Examples:
        >>> def draw(power):
        ...     fig, ax = plt.subplots()
        ...     ax.plot([0, 0.5, 1], [0, 0.5**power, 1])
        ...     ax.set(xlabel="x", ylabel="xᵖ", xlim=(0, 1), ylim=(0, 1))
        >>> slider("p", [1, 2, 3], draw)
        >>> plt.close()
    """
    names = [f"{value:.3g}" for value in values]
    if len(names) < 2 or len({*names}) < len(names) or not all(map(math.isfinite, values)):
        raise ValueError(
            "values must be at least two finite numbers that differ in three digits, "
            f"got {', '.join(names) or 'none'}"
        )
    if not 0 <= start < len(names):
        raise ValueError(f"start must be an index of the {len(names)} values, got {start}")
    _plain(label)
    drawn = []
    for value in values:
        draw(value)
        drawn.append(_spec(plt.gcf()))
        plt.close()
    shown = drawn[start]
    for name, other in zip(names, drawn, strict=True):
        if _still(other) != _still(shown):
            raise ValueError(
                f"draw({name}) and draw({names[start]}) must have the same panels, limits, labels "
                "and lines, and differ in the points of the lines only"
            )
    traces = list(zip(*(spec["data"] for spec in drawn), strict=True))  # each through all values
    moving = [[key for key in "xy" if any(t[key] != all_[0][key] for t in all_)] for all_ in traces]
    frames = [
        {
            "name": name,
            "data": [
                {key: t[key] for key in keys} for t, keys in zip(spec["data"], moving, strict=True)
            ],
        }
        for name, spec in zip(names, drawn, strict=True)
    ]
    at_once = {"mode": "immediate", "frame": {"duration": 0}, "transition": {"duration": 0}}
    steps = [{"label": name, "method": "animate", "args": [[name], at_once]} for name in names]
    control = {"active": start, "currentvalue": {"prefix": f"{label} = "}, "steps": steps}
    spec = {**shown, "layout": {**shown["layout"], "sliders": [control]}, "frames": frames}
    draw(values[start])
    # What IPython asks of any object it shows, besides its picture.
    plt.gcf()._repr_mimebundle_ = lambda **_: {MIME: spec}  # type: ignore[attr-defined]


def _plain(text: str) -> str:
    if "$" in text:
        raise ValueError(f"labels must be plain text, as the slider cannot set {text!r}: use ρ, σ₁")
    return text


def _spec(figure: Figure) -> dict[str, Any]:
    """A matplotlib figure as plotly's data and layout."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": round(72 * figure.get_size_inches()[1])}
    panels = figure.get_axes()
    for number, axes in enumerate(panels):
        suffix = str(number + 1) if number else ""
        width = 1 / len(panels)
        span = [number * width + 0.06 * bool(number), (number + 1) * width]
        layout[f"xaxis{suffix}"] = {**_axis(axes, "x"), "anchor": f"y{suffix}", "domain": span}
        layout[f"yaxis{suffix}"] = {**_axis(axes, "y"), "anchor": f"x{suffix}"}
        known = axes.get_legend() is not None
        data += [
            {**_trace(axes, line, known), "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
            for line in axes.get_lines()
        ]
    return {"data": data, "layout": layout}


def _axis(axes: Axes, which: str) -> dict[str, Any]:
    scale = getattr(axes, f"get_{which}scale")()
    limits = getattr(axes, f"get_{which}lim")()
    ends = [math.log10(end) if scale == "log" else end for end in limits]
    title = _plain(getattr(axes, f"get_{which}label")())
    return {"title": {"text": title}, "type": scale, "range": [float(f"{e:.4g}") for e in ends]}


def _trace(axes: Axes, line: Line2D, known: bool) -> dict[str, Any]:
    points = np.asarray(line.get_xydata(), dtype=float)
    if line.get_transform() != axes.transData:  # axhline and axvline reach across the panel
        pixels = line.get_transform().transform(points)
        points = axes.transData.inverted().transform(pixels)
    colour, name = to_hex(line.get_color()), str(line.get_label())
    dash, marker = DASHES.get(str(line.get_linestyle())), MARKERS.get(str(line.get_marker()))
    named = not name.startswith("_")
    return {
        "type": "scatter",
        "mode": "+".join(["lines"] * bool(dash) + ["markers"] * bool(marker)),
        "name": _plain(name) if named else "",
        "showlegend": named and known,
        "line": {"color": colour, "dash": dash or "solid", "width": line.get_linewidth()},
        "marker": {"color": colour, "symbol": marker or "circle", "size": line.get_markersize()},
        "x": _packed(points[:, 0], axes.get_xlim(), axes.get_xscale()),
        "y": _packed(points[:, 1], axes.get_ylim(), axes.get_yscale()),
    }


def _packed(values: Any, limits: tuple[float, float], scale: str) -> dict[str, str]:
    """Numbers to less than a ten-thousandth of the axis: alike on every processor.

    In plotly's binary form, as a notebook would put every number of a list on a line of its own.
    """
    digits = 4 - math.floor(math.log10(abs(limits[1] - limits[0])))
    rounded = [
        float(f"{value:.4g}") if scale == "log" else round(float(value), digits) + 0.0  # no -0.0
        for value in values
    ]
    raw = np.array(rounded, dtype="<f4").tobytes()
    return {"dtype": "f4", "bdata": base64.b64encode(raw).decode()}


def _still(spec: dict[str, Any]) -> Any:
    """All of a figure but the points of its lines."""
    bare = [{key: v for key, v in trace.items() if key not in "xy"} for trace in spec["data"]]
    return bare, spec["layout"]
