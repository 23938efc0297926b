"""What moved between two runs of a chapter: numbers, pictures, verdicts, printed text."""

from __future__ import annotations

import base64
import difflib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
from nbformat import NotebookNode
from numpy.typing import NDArray

from _tools.shape import picture_problem

COLUMN_TOLERANCE = 1e-3
"""Of a number in a figure's data: the largest change, as a part of it."""

COLUMN_FLOOR = 1e-6
"""As a part of the largest number of the column: a change so small is none, whatever the number."""

LOOSE = {"fig-rank-p-leak": 10.0}
"""Another such floor, of figures whose numbers are rounding errors, amplified: their largest number
returns to its order of magnitude, and no other at all."""

PICTURE_TOLERANCE = 3.0
"""Of a picture: root mean square of the change of its pixels, of 255."""

SQUARE, SQUARE_TOLERANCE = 16, 50.0
"""The same in each square of so many pixels: names exchanged in a legend change little of a whole
picture. Data that move within their tolerance change a square by less than 40, another digit in a
legend by more than 60."""

VALUE_TOLERANCE = 1e-2
"""Of a claim's number: the largest change, as a part of it; what is a hundred times smaller than
an upper limit is a rounding error and compared with nothing."""


@dataclass(frozen=True)
class Moved:
    """One thing that moved beyond its tolerance.

    Attributes:
        what: A figure, a claim or a cell.
        how: By how much, in one sentence.
        verdict: Whether it is a verdict that changed.
        pictures: Before, after and difference, as PNG in base64, of a figure that looks different.
    """

    what: str
    how: str
    verdict: bool = False
    pictures: tuple[str, ...] = ()


def data(name: str, old: str, new: str) -> Iterator[Moved]:
    """Compare the data of a figure, column by column.

    Args:
        name: The figure.
        old: Its CSV before; empty if there was none.
        new: Its CSV after; empty if there is none.
    """
    if not old or not new:
        yield Moved(name, "its data are new" if new else "its data are gone")
        return
    before, after = (pd.read_csv(io.StringIO(text)) for text in (old, new))
    if list(before.columns) != list(after.columns) or len(before) != len(after):
        yield Moved(
            name,
            f"its data had {len(before)} rows of {', '.join(before.columns)}, "
            f"now {len(after)} of {', '.join(after.columns)}",
        )
        return
    for column in before.columns:
        if not all(pd.api.types.is_float_dtype(frame[column]) for frame in (before, after)):
            if list(before[column].astype(str)) != list(after[column].astype(str)):
                yield Moved(name, f"column {column} differs")
            continue
        yield from _column(name, column, before[column].to_numpy(), after[column].to_numpy())


def _column(name: str, column: str, old: NDArray[Any], new: NDArray[Any]) -> Iterator[Moved]:
    known = np.isfinite(old)
    if not np.array_equal(old[~known], new[~known], equal_nan=True):
        yield Moved(name, f"column {column} is finite elsewhere")
        return
    floor = LOOSE.get(name, COLUMN_FLOOR)
    before, change = np.abs(old[known]), np.abs(new[known] - old[known])
    allowed = COLUMN_TOLERANCE * before + floor * before.max(initial=0.0)
    if not np.all(change <= allowed):
        worst = np.argmax(change - allowed)  # which NaN is, if there is one
        was = before[worst]
        yield Moved(name, f"column {column} changed by {change[worst]:.3g} where it was {was:.3g}")


def _pixels(picture: str) -> NDArray[np.float64]:
    read = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)), format="png")
    return np.asarray(255 * read[..., :3], dtype=np.float64)


def _png(pixels: NDArray[np.float64]) -> str:
    out = io.BytesIO()
    matplotlib.image.imsave(out, (255 - pixels).clip(0, 255).astype(np.uint8), format="png")
    return base64.b64encode(out.getvalue()).decode()


def picture(name: str, old: str, new: str) -> Iterator[Moved]:
    """Compare two pictures, PNG in base64; empty is none."""
    if not old or not new:
        yield Moved(name, "its picture is new" if new else "its picture is gone")
        return
    if old == new:
        return
    if said := picture_problem(old) or picture_problem(new):
        yield Moved(name, f"its picture is {said}")
        return
    try:
        before, after = _pixels(old), _pixels(new)
    except (OSError, SyntaxError, ValueError) as error:  # all three are raised by Pillow
        yield Moved(name, f"its picture cannot be read: {error}")
        return
    if before.shape != after.shape:
        sizes = [f"{width} × {height}" for height, width, _ in (before.shape, after.shape)]
        yield Moved(name, f"its picture had {sizes[0]} pixels, now {sizes[1]}", pictures=(old, new))
        return
    squares = np.mean((after - before) ** 2, axis=2)
    change, worst = float(np.sqrt(squares.mean())), _worst(squares)
    if change > PICTURE_TOLERANCE or worst > SQUARE_TOLERANCE:
        shown = (old, new, _png(np.abs(after - before)))
        how = f"its pixels changed by {change:.1f} of 255, by {worst:.0f} in one place"
        yield Moved(name, how, pictures=shown)


def _worst(squares: NDArray[np.float64]) -> float:
    """Return the largest root mean square over the pixels of any square of a grid."""
    height, width = (-(-size // SQUARE) for size in squares.shape)
    whole = np.zeros((height * SQUARE, width * SQUARE))
    whole[: squares.shape[0], : squares.shape[1]] = squares
    return float(np.sqrt(whole.reshape(height, SQUARE, width, SQUARE).mean((1, 3)).max()))


def claims(
    old: Mapping[str, Any], new: Mapping[str, Any], entries: Mapping[str, Any]
) -> Iterator[Moved]:
    """Compare what two stamps say of the claims; ``entries`` are those of ``claims.yml``."""
    for id_ in sorted(old.keys() | new.keys()):
        then, now = (found.get(id_, {}).get("verdict", "nothing") for found in (old, new))
        if then != now:
            yield Moved(id_, f"was {then!r}, is {now!r}", verdict=True)
        elif "value" in old[id_]:
            before, after = float(old[id_]["value"]), float(new[id_]["value"])
            floor = float(entries.get(id_, {}).get("tolerance", {}).get("below", 0)) / 100
            small = max(abs(before), abs(after)) < floor
            if not small and not np.isclose(after, before, VALUE_TOLERANCE, 0, equal_nan=True):
                yield Moved(id_, f"measured {before:.6g}, now {after:.6g}")


def words(cell: NotebookNode) -> str:
    """Return all that a cell put out but pictures; of a figure not that it is one.

    A kernel tells a table as text first, a file as HTML first: the order of kinds says nothing.
    """
    said = []
    for output in cell.get("outputs", []):
        shown = dict(sorted(output.get("data", {}).items()))
        if shown.pop("image/png", None):
            shown.pop("text/plain", None)
        told = (v if isinstance(v, str) else json.dumps(v, sort_keys=True) for v in shown.values())
        said += [output.get("text", ""), *told]
    return "".join(said)


def text(old: NotebookNode, new: NotebookNode) -> Iterator[Moved]:
    """Compare what the cells printed, to the letter."""
    before, after = (
        [words(cell) for cell in notebook.cells if cell.cell_type == "code"]
        for notebook in (old, new)
    )
    if len(before) != len(after):
        yield Moved("cells", f"{len(before)} code cells before, {len(after)} now")
    for number, (then, now) in enumerate(zip(before, after, strict=False), 1):
        if then != now:
            lines = difflib.unified_diff(then.splitlines(), now.splitlines(), lineterm="", n=0)
            yield Moved(f"code cell {number}", "\n".join([*lines][2:]))


def pictures(notebook: NotebookNode) -> dict[str, str]:
    """Return the figures of an executed notebook: PNG in base64, by name.

    A second one of a cell is named so: it is shown as the first is.
    """
    found: dict[str, str] = {}
    for cell in notebook.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        drawn = [
            o["data"]["image/png"]
            for o in cell.get("outputs", [])
            if "image/png" in o.get("data", {})
        ]
        for number, shown in enumerate(drawn if name else [], 1):
            found[name if number == 1 else f"{name}, picture {number}"] = shown.replace("\n", "")
    return found
