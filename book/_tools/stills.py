"""The picture of each live figure, for pages without script: drawn by the library itself."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from flatbook.figures import COLORS, use_style
from flatmin.pathways import simulate_modes, theory

DEPTH, START = 20, (0.011, 0.01)


def pathways(path: Path) -> None:
    """Draw the strengths of two paths at a small, a middle and a large step."""
    _, high = theory.stability_window(DEPTH, 2, 1.0)
    use_style()
    shown = np.unique(np.geomspace(1, 2000, 250).astype(int))  # on a logarithmic axis
    with plt.rc_context({"svg.hashsalt": "flatmin"}):
        fig, panels = plt.subplots(1, 3, figsize=(8.6, 3.2), sharey=True)
        for ax, eta in zip(panels, (0.05, 0.15, float(high)), strict=True):
            run = simulate_modes([DEPTH] * 2, 1.0, eta, START, 2000)
            for h in range(2):
                color, label = COLORS[f"path{h + 1}"], f"path {h + 1}"
                ax.semilogx(run.steps[shown], run.strengths[shown, h], color=color, label=label)
            ax.set(title=f"step size {eta:.3f}", xlabel="step", ylim=(0, 1.05))
        panels[0].set_ylabel("strength of each path")
        panels[0].legend()
        fig.savefig(path, metadata={"Date": None})
        plt.close(fig)
