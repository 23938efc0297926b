"""The picture of each live figure, for pages without script: drawn by the library itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from flatbook.figures import COLORS, use_style
from flatmin.pathways import flow_landing, simulate_modes, theory

DEPTH, START = 20, (0.011, 0.01)


def pathways() -> Figure:
    """Draw the strengths of two paths at a small, a middle and a large step."""
    _, high = theory.stability_window(DEPTH, 2, 1.0)
    shown = np.unique(np.geomspace(1, 2000, 250).astype(int))  # on a logarithmic axis
    fig, panels = plt.subplots(1, 3, figsize=(8.6, 3.2), sharey=True)
    for ax, eta in zip(panels, (0.05, 0.15, float(high)), strict=True):
        run = simulate_modes([DEPTH] * 2, 1.0, eta, START, 2000)
        for h in range(2):
            color, label = COLORS[f"path{h + 1}"], f"path {h + 1}"
            ax.semilogx(run.steps[shown], run.strengths[shown, h], color=color, label=label)
        ax.set(title=f"step size {eta:.3f}", xlabel="step", ylim=(0, 1.05))
    panels[0].set_ylabel("strength of each path")
    panels[0].legend()
    return fig


def plane() -> Figure:
    """Draw a run in the plane of two strengths, and the sharpness of the splits at zero loss."""
    eta, start = 0.15, (0.05, 0.04)
    run = simulate_modes([DEPTH] * 2, 1.0, eta, start, 400).strengths.numpy()
    share = np.linspace(0, 1, 201)
    sharpness = theory.mode_sharpness([DEPTH] * 2, np.stack([share, 1 - share], -1))
    rest = np.where(sharpness < 2 / eta, sharpness, np.nan)
    landing = float(flow_landing([DEPTH] * 2, 1.0, start)[0])
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    left.plot(*run.T, "o-", ms=4, lw=0.5, color=COLORS["GD"], label="steps of descent")
    left.plot(share, 1 - share, color=COLORS["theory"], lw=1, zorder=0)
    left.plot(share + 0 * rest, 1 - share, color=COLORS["path3"], lw=5, zorder=0)
    left.set(xlabel="σ₁", ylabel="σ₂", xlim=(0, 1.2), ylim=(0, 1.2))
    right.plot(share, sharpness, color=COLORS["theory"], lw=1)
    right.plot(share, rest, color=COLORS["path3"], lw=5, label="here a step can rest")
    right.axhline(2 / eta, color=COLORS["theory"], ls="--", lw=1, label="2/η")
    for at, look in ((run[-2:, 0].mean(), "o"), (landing, "s")):
        height = theory.mode_sharpness([DEPTH] * 2, [at, 1 - at])
        name = "descent ends" if look == "o" else "flow ends"
        right.plot(at, height, look, color=COLORS["GD" if look == "o" else "flow"], label=name)
    right.set(xlabel="share of path 1", ylabel="sharpness", ylim=(0, 1.15 * DEPTH))
    right.legend(loc="lower center")
    return fig


STILLS: dict[str, Callable[[], Figure]] = {"pathways": pathways, "plane": plane}


def write(folder: Path) -> None:
    """Draw each of them into a folder, alike every time."""
    use_style()
    with plt.rc_context({"svg.hashsalt": "flatmin"}):
        for name, draw in STILLS.items():
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close()
