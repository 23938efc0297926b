"""The picture of each live figure, for pages without script: drawn by the library itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from _tools.boundary import as_module, boundary
from _tools.toy import METHODS, Toy
from flatbook.figures import COLORS, use_style
from flatmin.inconsistency import local_inconsistency
from flatmin.optim import IAMD
from flatmin.pathways import MultiPathway, flow_landing, simulate_modes, theory

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


def _landscape(ax: Axes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw levels of the toy's loss; return the grid and p(yes) on it, (grid, grid, inputs)."""
    axis = np.linspace(0, 4, 101)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    z = b[..., None] * np.tanh(a[..., None] * Toy.x.numpy())
    loss = (np.logaddexp(0, z) - Toy.yes.numpy() * z).mean(-1)
    levels = [0.44, 0.443, 0.45, 0.46, 0.48, 0.51, 0.56, 0.62, 0.75, 1]
    ax.contour(axis, axis, loss.T, levels, colors="0.75", linewidths=0.8)
    ax.set(xlabel="a", ylabel="b", aspect="equal")
    return axis, 1 / (1 + np.exp(-z))


def ball() -> Figure:
    """Draw the circle around θ, δ of Algorithm 1 and of SAM, and the divergence's ball."""
    toy, rho = Toy(0.9, 2.4), 0.7
    theta = toy.theta.detach().clone().numpy()
    found = local_inconsistency(toy, Toy.x, rho=rho, steps=6, restarts=4)
    one = local_inconsistency(toy, Toy.x, rho=rho, steps=1, restarts=4).delta.numpy()
    slope = torch.autograd.grad(toy.loss(Toy.x, Toy.yes), toy.theta)[0].numpy()
    fig, ax = plt.subplots(figsize=(8.6, 4.4))
    axis, p = _landscape(ax)
    home = 1 / (1 + np.exp(-theta[1] * np.tanh(theta[0] * Toy.x.numpy())))
    terms = home * np.log(home / p) + (1 - home) * np.log((1 - home) / (1 - p))
    ax.contour(axis, axis, terms.mean(-1).T, [found.value], colors=COLORS["path3"])
    turn = np.linspace(0, 2 * np.pi, 181)
    ax.plot(*(theta[:, None] + rho * np.stack([np.cos(turn), np.sin(turn)])), color="black", lw=1)
    arrows = {"δ, K = 1": (one, "IAM-S"), "δ, K = 6": (found.delta.numpy(), "IAM-D")}
    arrows["SAM's δ"] = (rho * slope / np.linalg.norm(slope), "SAM")
    for name, (delta, look) in arrows.items():
        ax.plot(*np.stack([theta, theta + delta]).T, "o-", ms=5, color=COLORS[look], label=name)
    ax.plot([], [], color=COLORS["path3"], label="ball of the divergence")
    ax.legend(loc="center left", bbox_to_anchor=(1.05, 0.5))
    return fig


def walk() -> Figure:
    """Draw the ways of four methods, and the local inconsistency on each."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.2))
    _landscape(left)
    setting = {"eta": 0.5, "rho": 0.3, "beta": 2.0, "sigma": 0.05}
    for method in METHODS:
        toy, color = Toy(0.35, 3.6), COLORS[method]
        way = toy.walk(method, [(Toy.x, Toy.yes)], 400, seed=0, **setting).numpy()
        left.plot(*way.T, lw=1, color=color)
        left.plot(*way[-1], "o", color=color)
        values = [
            local_inconsistency(Toy(*place), Toy.x, rho=0.3, steps=5, restarts=3).value
            for place in way[::20]
        ]
        right.semilogy(range(0, 401, 20), values, color=color, label=method)
    right.set(xlabel="step", ylabel="local inconsistency at ρ = 0.3")
    right.legend()
    return fig


def _cobweb(
    step: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    gamma: float,
    start: float,
    view: tuple[float, float],
    letter: str,
) -> Figure:
    """Draw a map with the staircase of a run, and where runs end over γ."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8))
    grid, one = np.linspace(*view, 301), np.array([gamma])
    orbit = [start]
    for _ in range(40):
        orbit.append(float(step(np.array(orbit[-1:]), one)[0]))
    across, up = np.repeat(orbit[:-1], 2), np.r_[0, np.repeat(orbit[1:], 2)][:-1]
    left.plot(view, view, color=COLORS["theory"], lw=1)
    left.plot(grid, step(grid, one), color=COLORS["GD"])
    left.plot(across, up, color=COLORS["path2"], lw=1)
    left.set(xlabel=letter, ylabel=f"next {letter}", xlim=view, ylim=view, title=f"γ = {gamma:g}")
    gammas = np.linspace(1, 8, 500)
    state = np.full_like(gammas, start)
    late = []
    with np.errstate(all="ignore"):
        for time in range(500):
            state = step(state, gammas)
            late += [state] if time >= 400 else []
    right.plot(gammas, np.array(late).T, ",", color=COLORS["GD"], alpha=0.7, rasterized=True)
    right.axvline(2, color=COLORS["theory"], ls="--", lw=1)
    right.set(xlabel="γ", ylabel=f"{letter} after 400 steps", ylim=view)
    return fig


def overshoot() -> Figure:
    """Draw the map of a layer of five."""
    fig = _cobweb(lambda x, g: x - g / 5 * x**4 * (x**5 - 1), 3.0, 0.8, (-0.4, 1.4), "x")
    fig.axes[1].axvline(float(theory.wcr_ratio(5)), color=COLORS["theory"], ls="--", lw=1)
    return fig


def chain() -> Figure:
    """Draw the map of the signal in a chain of infinite depth."""
    return _cobweb(lambda y, g: y * np.exp(g * y * (1 - y)), 3.0, 0.2, (0.0, 3.2), "y")


def split() -> Figure:
    """Draw the sharpness of the splits between three paths of depth 5, and of one the spectrum."""
    depths, here = [5, 5, 5], np.array([0.7, 0.2, 0.1])
    grid = np.linspace(0, 1, 61)
    first, second = (part.ravel() for part in np.meshgrid(grid, grid))
    kept = first + second <= 1 + 1e-9
    first, second = first[kept], second[kept]
    third = np.maximum(0, 1 - first - second)
    corners = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])  # of paths 1, 2, 3
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8))
    splits = np.stack([first, second, third], -1)
    sharpness = theory.mode_sharpness(depths, splits)
    levels = left.tricontour(*(splits @ corners).T, sharpness, 8, cmap="viridis")
    left.clabel(levels, fontsize=9)
    left.plot(*corners[[0, 1, 2, 0]].T, color=COLORS["theory"], lw=1)
    left.plot(*corners.mean(0), "*", ms=12, color=COLORS["path3"], label="flattest")
    left.plot(*(here @ corners), "o", color=COLORS["GD"], label="a split")
    for h, (place, up) in enumerate(zip(corners, (-0.08, -0.08, 0.04), strict=True)):
        left.text(place[0], place[1] + up, f"path {h + 1}", ha="center")
    left.set(aspect="equal", ylim=(-0.15, 1))
    left.axis("off")
    left.legend(loc="upper left")
    values = theory.cross_mode_sharpness(depths, np.outer([1, 0.5], here))
    names = ["mode 1", "between, twice", "mode 2"]
    right.bar(names, [values[0, 0], values[0, 1], values[1, 1]], color=COLORS["GD"])
    right.set(ylabel="Hessian eigenvalues")
    return fig


def ladder() -> Figure:
    """Draw four modes at one step size: their sharpness, and how they are split."""
    eta, targets, modes = 0.14, np.array([1.0, 0.9, 0.8, 0.5]), np.arange(1, 5)
    run = simulate_modes([DEPTH] * 2, targets, eta, [0.02, 0.005], 4000).strengths
    end = run[:, -2:].mean(1).numpy()
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    single = theory.single_path_sharpness(DEPTH, targets)
    left.bar(modes, single, fc="none", ec=COLORS["theory"], lw=1, label="of a single path")
    sharp = theory.mode_sharpness([DEPTH] * 2, end)
    left.bar(modes, sharp, color=COLORS["GD"], label="at the end", zorder=0)
    left.axhline(2 / eta, color=COLORS["theory"], ls="--", lw=1, label="2/η")
    left.set(xlabel="mode", ylabel="sharpness", xticks=modes)
    left.legend()
    right.bar(modes, end[:, 0], color=COLORS["path1"], label="path 1")
    right.bar(modes, end[:, 1], bottom=end[:, 0], color=COLORS["path2"], label="path 2")
    right.set(xlabel="mode", ylabel="signal", xticks=modes)
    right.legend()
    return fig


def restore() -> Figure:
    """Draw two pathways under plain descent and under IAM-D, as matrix networks of width 1."""
    one = torch.ones(1, 1, dtype=torch.float64)
    fig, panels = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True)
    for ax, rho in zip(panels, (0.0, 0.1), strict=True):
        net = MultiPathway([6, 6], 1).start_balanced([0.05, 0.02])
        optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.12)
        if rho:
            optimizer = IAMD(
                net.parameters(),
                torch.optim.SGD,
                rho=rho,
                sigma=0.01,
                divergence="gaussian",
                lr=0.12,
            )
        record = []
        for _ in range(1000):
            optimizer.zero_grad()
            if rho:
                optimizer.step(lambda net=net: (net.loss(one), net(one)))
            else:
                net.loss(one).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            record.append(net.path_maps().detach().flatten())
        for h, strength in enumerate(torch.stack(record).T):
            means = strength.reshape(-1, 20).mean(1)
            ax.plot(range(10, 1000, 20), means, color=COLORS[f"path{h + 1}"], label=f"path {h + 1}")
        ax.set(xlabel="step", title="IAM-D" if rho else "plain descent", ylim=(0, 1.05))
    panels[0].set_ylabel("strengths")
    panels[0].legend()
    return fig


STILLS: dict[str, Callable[[], Figure]] = {
    "ball": ball,
    "boundary": boundary,
    "chain": chain,
    "ladder": ladder,
    "overshoot": overshoot,
    "pathways": pathways,
    "plane": plane,
    "restore": restore,
    "split": split,
    "walk": walk,
}


def write(folder: Path) -> None:
    """Draw each of them into a folder, alike every time, and write the data that a figure reads."""
    (folder / "boundary-data.mjs").write_text(as_module(), "utf-8")
    use_style()
    with plt.rc_context({"svg.hashsalt": "flatmin"}):
        for name, draw in STILLS.items():
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close()
