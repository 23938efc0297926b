"""The network whose decisions a live figure moves: trained when the site is built."""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector

from flatbook.figures import COLORS
from flatlab import stream
from flatlab.models import mlp
from flatmin.inconsistency import outputs_at, worst_case_perturbation

WIDTHS = [2, 16, 16, 3]
SEED = 100  # the first network of the chapter's figure


def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """Return the network, its points (300, 2) from three Gaussians, and their labels."""
    labels = torch.arange(300) % 3
    angles = 2 * math.pi * labels.double() / 3
    noise = torch.randn(300, 2, generator=stream(SEED, "points")).double()
    points = torch.stack([angles.cos(), angles.sin()], -1) + noise / 2
    model = mlp(WIDTHS, nn.Tanh, generator=stream(SEED, "init")).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(500):
        optimizer.zero_grad()
        cross_entropy(model(points), labels).backward()
        optimizer.step()
    return model, points, labels


def as_module() -> str:
    """Return it as a module for the figure."""
    model, points, labels = trained()
    theta = parameters_to_vector(model.parameters()).detach()
    kept = {
        "widths": WIDTHS,
        "theta": [round(value, 7) for value in theta.tolist()],
        "points": [[round(value, 4) for value in point] for point in points.tolist()],
        "labels": labels.tolist(),
    }
    return f"export default {json.dumps(kept, separators=(',', ':'))};\n"


def boundary() -> Figure:
    """Draw the boundaries at θ and θ ± δ, for δ₁ and a random direction."""
    model, points, labels = trained()
    axis = torch.linspace(-2.8, 2.8, 81).double()
    grid = torch.cartesian_prod(axis, axis)
    climbed = worst_case_perturbation(model, points, rho=0.5, steps=1)
    drawn = torch.randn(len(climbed), generator=stream(SEED, "noise")).double()
    fig, panels = plt.subplots(1, 2, figsize=(8.6, 4.2), sharey=True)

    def lines(ax: Axes, delta: Tensor, color: str, style: str) -> None:
        z = outputs_at(model, grid, delta).detach()
        for c in range(3):
            ahead = z[:, c] - torch.cat([z[:, :c], z[:, c + 1 :]], 1).amax(1)
            margin = ahead.reshape(len(axis), -1).T
            ax.contour(axis, axis, margin, [0], colors=color, linestyles=style)

    for ax, delta, name in zip(
        panels, (climbed, 0.5 * drawn / drawn.norm()), ("IAM-D", "random"), strict=True
    ):
        ax.scatter(*points.T, c=labels, cmap="Greys", vmin=-2, vmax=4, s=4)
        lines(ax, 0 * delta, COLORS["theory"], "solid")
        lines(ax, delta, COLORS[name], "dashed")
        lines(ax, -delta, COLORS[name], "dotted")
        ax.grid(visible=False)
        ax.set(title={"IAM-D": "along δ₁", "random": "in a random direction"}[name], aspect="equal")
    return fig
