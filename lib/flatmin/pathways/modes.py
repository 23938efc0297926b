"""Gradient descent on the singular modes alone: the scalar recursion, many runs at a time.

On the singular-vector-stationary set a pathway of depth L_h with equal layers acts on a target mode
through one number per layer, s_h, and gradient descent with step η is

    s_h ← s_h − η s_h^{L_h − 1} (Σ_k s_k^{L_k} − σ⋆)

(Kim & Lee 2026, Section 3). Modes do not interact, so several modes are simply one more batch axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from flatmin.pathways._check import non_negative, valid_depths

# Runs advanced together: on a CPU their state stays in the second-level cache for all steps.
_CPU_NUMBERS = 8192


@dataclass(frozen=True)
class ModeHistory:
    """What :func:`simulate_modes` recorded, in float64.

    Attributes:
        strengths: End-to-end strengths σ_h = s_h^{L_h}, shape ``(*batch, times, pathways)``.
        loss: ½ (Σ_h σ_h − σ⋆)², shape ``(*batch, times)``.
        steps: The steps recorded, shape ``(times,)``: every ``record_every``-th and the last.
        flipped_at: First step at which some layer value is negative, which the strengths of an even
            depth do not show; −1 if none. Shape ``(*batch,)``.
        diverged_at: First step whose residual is not finite, −1 if none. Shape ``(*batch,)``.
    """

    strengths: Tensor
    loss: Tensor
    steps: Tensor
    flipped_at: Tensor
    diverged_at: Tensor


def simulate_modes(
    depths: Sequence[int] | Tensor,
    target: ArrayLike | Tensor,
    step_size: ArrayLike | Tensor,
    init: ArrayLike | Tensor,
    steps: int,
    record_every: int = 1,
) -> ModeHistory:
    """Run the scalar recursion of Kim & Lee 2026 (Section 3) for a whole batch at once.

    All arguments but the last two broadcast, so one call runs a whole phase diagram. Every step is
    taken in place on a piece of the batch that fits the cache, and only what ``record_every`` asks
    for is kept: a million runs with ``record_every=steps`` hold two states each.

    Args:
        depths: Layers of each pathway, at least 1, shape ``(pathways,)`` or ``(*batch, pathways)``.
        target: Singular value σ⋆ ≥ 0 of the target mode, shape ``(*batch,)``.
        step_size: η ≥ 0, shape ``(*batch,)``.
        init: End-to-end strengths α_h ≥ 0 at the start, shape ``(*batch, pathways)``; the layer
            values start at α_h^{1/L_h}. The run takes place where this tensor lies.
        steps: Gradient steps, at least 0.
        record_every: Keep every n-th step; the first and the last are always kept.

    Returns:
        The recorded strengths and losses, and when a run changed sign or diverged.

    Raises:
        ValueError: If an argument is outside its range, NaN, or the shapes do not broadcast.

    Example:
        A small step keeps one path, a larger one moves part of the signal to the other:

        >>> end = simulate_modes([20, 20], 1.0, [0.05, 0.16], [0.011, 0.01], 20_000, 20_000)
        >>> end.strengths[:, -1]
        tensor([[0.8606, 0.1394],
                [0.7096, 0.2904]], dtype=torch.float64)
    """
    if steps < 0 or record_every < 1:
        raise ValueError(
            f"need steps >= 0 and record_every >= 1, got steps={steps}, record_every={record_every}"
        )
    depth = valid_depths(depths)
    start = torch.as_tensor(init, dtype=torch.float64)
    goal = torch.as_tensor(target, dtype=torch.float64, device=start.device)
    rate = torch.as_tensor(step_size, dtype=torch.float64, device=start.device)
    for name, value in (("init", start), ("target", goal), ("step_size", rate)):
        non_negative(name, value.cpu())
    if not (start.ndim and depth.ndim and start.shape[-1] == depth.shape[-1]):
        raise ValueError(
            "init and depths need one entry per pathway on their last axis, "
            f"got shapes {tuple(start.shape)} and {depth.shape}"
        )
    try:
        batch = np.broadcast_shapes(depth.shape[:-1], start.shape[:-1], goal.shape, rate.shape)
    except ValueError:
        raise ValueError(
            f"the batch shapes do not broadcast: depths {depth.shape[:-1]}, target "
            f"{tuple(goal.shape)}, step_size {tuple(rate.shape)}, init {tuple(start.shape[:-1])}"
        ) from None

    pathways = depth.shape[-1]
    times = [*range(0, steps, record_every), steps]
    start = start.expand(*batch, pathways).reshape(-1, pathways)
    goal, rate = goal.expand(batch).reshape(-1), rate.expand(batch).reshape(-1)
    runs = len(goal)
    strengths = start.new_empty(len(times), pathways, runs)  # runs last: what is written together
    loss = start.new_empty(len(times), runs)
    events = torch.empty(2, runs, dtype=torch.long, device=start.device)

    kinds, kind = np.unique(depth.reshape(-1, pathways), axis=0, return_inverse=True)
    kind = np.broadcast_to(kind.reshape(depth.shape[:-1]), batch).reshape(-1)
    chunk = max(1, _CPU_NUMBERS // pathways) if start.device.type == "cpu" else max(1, runs)
    for k, row in enumerate(kinds.tolist()):
        alike = torch.from_numpy(np.flatnonzero(kind == k)).to(start.device)
        for index in torch.split(alike, chunk):
            _descend(row, goal, rate, start, times, index, strengths, loss, events)
    flipped_at, diverged_at = events.reshape(2, *batch)
    return ModeHistory(
        strengths.reshape(*strengths.shape[:2], *batch).movedim((0, 1), (-2, -1)),
        loss.reshape(len(loss), *batch).movedim(0, -1),
        torch.tensor(times),
        flipped_at,
        diverged_at,
    )


def _descend(
    depths: list[int],
    goal: Tensor,
    rate: Tensor,
    start: Tensor,
    times: list[int],
    index: Tensor,
    strengths: Tensor,
    loss: Tensor,
    events: Tensor,
) -> None:
    """Run the pieces of the batch at ``index``, all of the same ``depths``, into the outputs."""
    goal, rate = goal[index], rate[index]
    roots = 1 / torch.tensor(depths, dtype=goal.dtype, device=goal.device)
    layers = (start[index] ** roots).T.contiguous()  # pathways x runs
    slope, strength = torch.empty_like(layers), torch.empty_like(layers)
    residual, scratch = torch.empty_like(goal), torch.empty_like(goal)
    least = layers.amin(0)
    positive, finite = torch.zeros_like(goal), torch.zeros_like(goal)  # steps it stayed so

    powers, first = [], 0
    for depth, group in groupby(depths):  # neighbours of one depth share their multiplications
        rows = slice(first, first := first + len(list(group)))
        powers.append((layers[rows], depth - 1, slope[rows]))

    recorded = iter(enumerate(times))
    slot, when = next(recorded)
    for step in range(times[-1] + 1):
        for base, exponent, out in powers:
            _power(base, exponent, out)
        torch.mul(slope, layers, out=strength)
        torch.sum(strength, 0, out=residual).sub_(goal)
        torch.amin(layers, 0, out=scratch)
        torch.minimum(least, scratch, out=least)
        positive.add_(torch.ge(least, 0, out=scratch))
        torch.abs(residual, out=scratch)
        finite.add_(torch.lt(scratch, torch.inf, out=scratch))
        if step == when:
            strengths[slot, :, index] = strength
            loss[slot, index] = residual.square().div_(2)
            slot, when = next(recorded, (0, -1))
        layers.addcmul_(slope, residual.mul_(rate), value=-1)

    lasted = torch.stack((positive, finite)).long()
    seen = (lasted <= times[-1]) & (lasted <= lasted[1])  # a NaN is no change of sign
    events[:, index] = lasted.where(seen, -1)


def _power(base: Tensor, exponent: int, out: Tensor) -> None:
    """Write ``base ** exponent`` by repeated squaring, far cheaper than pow."""
    if exponent == 0:
        out.fill_(1)
        return
    out.copy_(base)
    for bit in bin(exponent)[3:]:
        out.mul_(out)
        if bit == "1":
            out.mul_(base)
