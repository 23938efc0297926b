"""What panels of several chapters have in common: curves, borders, comparisons and maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes

from flatbook.figures import COLORS

_LOOKS = [("path1", "-", "o"), ("path2", "--", "s"), ("path3", "-.", "D"), ("random", ":", "^")]


def curves(
    ax: Axes,
    x: Any,
    rows: Iterable[Any],
    labels: Iterable[str] = (),
    *,
    line: bool = True,
    marks: int = 0,
    **look: Any,
) -> None:
    """Draw each row over ``x``, the rows different in colour and in style or marker.

    Args:
        ax: The axes.
        x: Where the numbers stand, shape (n,).
        rows: One to four rows of numbers, each of shape (n,): pathways, or modes.
        labels: Their names in the legend; without one a row has no entry.
        line: Whether to join the numbers by a line.
        marks: Put a marker on every so many of them; 0 for none.
        **look: What else matplotlib shall know of the lines.

    Raises:
        ValueError: If there are more rows than looks.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> curves(ax, [0, 1], [[0.9, 0.6], [0.1, 0.4]], ["path 1", "path 2"])
        >>> [(drawn.get_label(), drawn.get_linestyle()) for drawn in ax.lines]
        [('path 1', '-'), ('path 2', '--')]
    """
    rows, names = [*rows], [*labels]
    if len(rows) > len(_LOOKS):
        raise ValueError(f"at most {len(_LOOKS)} rows can be told apart, got {len(rows)}")
    for k, (row, (color, style, marker)) in enumerate(zip(rows, _LOOKS, strict=False)):
        own: dict[str, Any] = {"color": COLORS[color], "ls": style if line else ""}
        if marks:
            own |= {"marker": marker, "markevery": marks, "ms": 5}
        ax.plot(x, row, label=names[k] if k < len(names) else None, **own | look)


def border(ax: Axes, x: float, name: str, *, low: bool = False) -> None:
    """Draw a dotted vertical line at ``x`` with its name along it, at the top or ``low``.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> border(ax, 0.1, "$2/S_1$")
        >>> [text.get_text() for text in ax.texts]
        ['$2/S_1$']
    """
    ax.axvline(x, ls=":", lw=1.5, color=COLORS["theory"])
    place: Any = ("data", "axes fraction")
    y, va = (0.03, "bottom") if low else (0.97, "top")
    ax.annotate(name, (x, y), xycoords=place, ha="right", va=va, rotation=90)


def against(ax: Axes, predicted: Any, measured: Any, **look: Any) -> None:
    """Draw points of measured over predicted numbers, and the line on which both are equal.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> against(ax, [1.0, 2.0], [1.1, 2.0])
        >>> [line.get_linestyle() for line in ax.lines]
        ['None', '-']
    """
    ax.plot(predicted, measured, **{"ls": "", "marker": "o", "color": COLORS["GD"]} | look)
    ends = [min(predicted), max(predicted)]
    ax.plot(ends, ends, color=COLORS["theory"], lw=1)


def heat(ax: Axes, x: Any, y: Any, values: Any, label: str, location: str = "right") -> None:
    """Show values from 0 to 1 over ``x`` and ``y`` as colours, with their bar and without a grid.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> heat(ax, [1, 2], [1, 2], [[0.0, 0.5], [0.5, 1.0]], "share")
        >>> ax.collections[0].get_clim()
        (0.0, 1.0)
    """
    mesh = ax.pcolormesh(x, y, values, cmap="viridis", vmin=0, vmax=1)
    ax.grid(visible=False)
    figure: Any = ax.figure
    figure.colorbar(mesh, ax=ax, location=location, label=label)
