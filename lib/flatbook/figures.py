"""One look for all figures, and the numbers behind each of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns

# Wong's colour-blind-safe palette as seaborn ships it. The same method has the same colour on
# every page; lines that share a panel must also differ in style or marker.
_BLUE, _ORANGE, _GREEN, _RED, _PINK, _BROWN, _ROSE, _GREY, _YELLOW, _SKY = sns.color_palette(
    "colorblind"
).as_hex()
COLORS: dict[str, str] = {
    "SGD": _GREY,
    "SAM": _ORANGE,
    "ASAM": _BROWN,
    "IAM-D": _BLUE,
    "IAM-S": _SKY,
    "random": _PINK,
    "GD": _BLUE,
    "flow": _GREY,
    "theory": "#222222",
    "path1": _BLUE,
    "path2": _ORANGE,
    "path3": _GREEN,
    "S": _BLUE,
    "Tr H": _ORANGE,
    "lambda_max(H)": _GREEN,
    "K=1": _SKY,
    "K=3": _BLUE,
    "K=10": _GREEN,
}


def use_style() -> None:
    """Set the book's look: seaborn ticks, colour-blind palette, letters legible on a phone."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        rc={
            "figure.dpi": 150,
            "figure.figsize": (6.4, 4.0),
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.35,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "mathtext.fontset": "cm",
        },
    )
    mpl.rcParams["savefig.facecolor"] = "white"


def figure_data(name: str, **columns: Any) -> None:
    """Keep the numbers behind a figure: one small CSV, offered for download below it.

    Stored where the environment variable ``FLATBOOK_OUT`` names a folder (the book's own runs
    set it); elsewhere the arguments are checked and nothing is written.

    Args:
        name: The figure's name in its cell's metadata: ``fig-`` and lower-case words.
        **columns: One-dimensional arrays, tensors or lists, all of one length; their names head
            the columns.

    Raises:
        ValueError: If the name is not of that form, or the columns are not one-dimensional, not
            of one length, or none.

    Examples:
        >>> figure_data("fig-squares", x=[1, 2, 3], y=[1, 4, 9])
    """
    if not re.fullmatch(r"fig(-[a-z0-9]+)+", name):
        raise ValueError(f"name must be fig- and lower-case words joined by -, got {name!r}")
    arrays = {key: np.asarray(column) for key, column in columns.items()}
    shapes = {key: array.shape for key, array in arrays.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"columns of {name} must be 1-D and of one length, got {shapes}")
    if folder := os.environ.get("FLATBOOK_OUT"):
        frame = pd.DataFrame(arrays)
        frame.to_csv(Path(folder, f"{name}.csv"), index=False, float_format="%.6g")
