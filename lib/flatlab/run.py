"""One training run: all that changes while a model trains, and so all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from flatlab.schedules import Schedule, constant
from flatlab.streams import shuffled, stream
from flatmin._check import require
from flatmin.optim import Climber

Closure: TypeAlias = Callable[[], tuple[Tensor, Tensor]]
Record: TypeAlias = dict[str, float]
Evaluate: TypeAlias = Callable[[nn.Module], Mapping[str, float]]


class BatchSource(Protocol):
    """Where a loop gets its batches from."""

    def draw(self, *key: int | str, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end, from step ``start`` on, always the same for the same key."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of tensors that are in memory, or on the device, as a whole.

    Attributes:
        tensors: such as images (n, …) and labels (n,); pairs stay together.
        size: examples per batch.

    Raises:
        ValueError: tensors of different lengths, or an empty batch.

    Example:
        >>> batches = Batches((torch.arange(4.0), torch.arange(4)), size=2)
        >>> x, y = next(batches.draw(0))
        >>> bool((x == y).all())
        True
    """

    tensors: tuple[Tensor, ...]
    size: int

    def __post_init__(self) -> None:
        lengths = [len(t) for t in self.tensors]
        require(len(set(lengths)) == 1, f"tensors must be of one length, got {lengths}")
        require(self.size > 0, f"size must be positive, got {self.size}")

    def draw(self, *key: int | str, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end: those of :func:`flatlab.shuffled`."""
        for chosen in shuffled(len(self.tensors[0]), self.size, *key, start=start):
            on_device = chosen.to(self.tensors[0].device, non_blocking=True)
            yield tuple(t[on_device] for t in self.tensors)


@dataclass(frozen=True, eq=False)
class LoadedBatches:
    """Batches of a data set whose examples are read one at a time, by worker processes if wanted.

    Attributes:
        dataset: ``dataset[index, seed]`` is an example, augmented by draws from the seed, such as
            :class:`flatlab.data.images.FolderImages`.
        size: examples per batch.
        device: where the batches go.
        workers: processes that read ahead.
        part: (rank, world): of each batch only every world-th example, from the rank-th on.

    Raises:
        ValueError: an empty batch.
    """

    dataset: Any
    size: int
    device: torch.device | str = "cpu"
    workers: int = 0
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        require(self.size > 0, f"size must be positive, got {self.size}")

    def draw(self, *key: int | str, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end: those of :func:`flatlab.shuffled`."""

        def items() -> Iterator[list[tuple[int, int]]]:
            order = shuffled(len(self.dataset), self.size, *key, start=start)
            for step, chosen in enumerate(order, start):
                draw = stream(*key, "example", step)
                seeds = torch.randint(2**31, (self.size,), generator=draw)
                pairs = [*zip(chosen.tolist(), seeds.tolist(), strict=True)]
                yield pairs[self.part[0] :: self.part[1]]

        pinned = torch.device(self.device).type == "cuda"
        settings = {"num_workers": self.workers, "pin_memory": pinned, "generator": Generator()}
        for batch in DataLoader(self.dataset, batch_sampler=items(), **settings):  # type: ignore[arg-type]
            yield tuple(t.to(self.device, non_blocking=True) for t in batch)


class Run:
    """A model, its optimizer, their schedule and average, and the step they are at.

    To resume, build the same things, load the state, and call the same loop again: it goes on from
    :attr:`step` and, on a CPU, ends bitwise like a run that was never interrupted. The order of the
    examples is a function of seed and step; IAM's noise is saved by its optimizer.

    Args:
        model: trained in place, where it lies.
        optimizer: of :mod:`torch.optim` or :mod:`flatmin.optim`, over the model's parameters.
        seed: names the order of the examples and the augmentations.
        schedule: factor of each group's learning rate by step.
        ema: decay of an exponential moving average of the weights, which is then the model that is
            evaluated; None for no average.
        forward: how the loops call the model in training: it itself, or a compiled or distributed
            wrapper of it, perhaps under autocast.
        part: (rank, world): this process's share of every batch. All processes draw and augment the
            same batch, so that a run does not depend on their number.

    Attributes:
        step: steps taken so far.
        generator: source of the augmentations, on the model's device.
        average: a model with the averaged weights, or None.

    Raises:
        ValueError: ``ema`` outside (0, 1), or ``part`` is no share.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        seed: int,
        schedule: Schedule = constant,
        ema: float | None = None,
        forward: Callable[[Tensor], Tensor] | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        require(ema is None or 0 < ema < 1, f"ema must lie between 0 and 1, got {ema}")
        require(0 <= part[0] < part[1], f"part must be (rank, world) with rank < world, got {part}")
        self.forward: Callable[[Tensor], Tensor] = model if forward is None else forward
        self.part = part
        self.model, self.optimizer, self.seed, self.schedule = model, optimizer, seed, schedule
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.generator = stream(seed, "augmentation", device=next(model.parameters()).device)
        self.average = None if ema is None else deepcopy(model)
        self._ema = ema
        self.step = 0

    @property
    def evaluated(self) -> nn.Module:
        """The average where there is one, else the model."""
        return self.model if self.average is None else self.average

    def mine(self, batch: Tensor) -> Tensor:
        """This process's share of a batch that all have drawn."""
        rank, world = self.part
        require(
            len(batch) % world == 0,
            f"a batch of {len(batch)} does not divide among {world} processes",
        )
        return batch[rank::world]

    def train(
        self,
        updates: Iterable[Callable[[], Tensor]],
        *,
        steps: int,
        every: int,
        evaluate: Evaluate | None,
    ) -> Iterator[Record]:
        """What all loops share: take the updates one by one, and now and then look.

        Args:
            updates: each calls the optimizer once and returns the loss.
            steps: where to stop.
            every: steps between two records; the last step always yields one.
            evaluate: metrics of :attr:`evaluated`, which is in evaluation mode.

        Yields:
            ``{"step": …, "loss": mean over the steps since the last record, **metrics}``. Between
            two records is the time to save, change a radius, or stop.

        Raises:
            ValueError: ``every`` is not positive.
        """
        require(every > 0, f"every must be positive, got {every}")
        losses: list[Tensor] = []
        for update in islice(updates, max(steps - self.step, 0)):
            self.model.train()
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.schedule(self.step)
            self.optimizer.zero_grad()
            losses.append(update().detach())
            self._update_average()
            self.step += 1
            if self.step % every == 0 or self.step == steps:
                metrics = {} if evaluate is None else evaluate(self.evaluated.eval())
                yield {"step": self.step, "loss": float(torch.stack(losses).mean()), **metrics}
                losses = []

    @torch.no_grad()
    def _update_average(self) -> None:
        # Not by AveragedModel, which has a GPU wait for the number of updates.
        if self.average is None or self._ema is None:
            return
        weight = 1 - self._ema if self.step else 1
        mean: list[Tensor] = [*self.average.parameters()]
        now: list[Tensor] = [*self.model.parameters()]
        torch._foreach_lerp_(mean, now, weight)
        for buffer, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
            buffer.copy_(current)

    def state_dict(self) -> dict[str, Any]:
        """All that changes, for ``torch.save`` and ``torch.load(…, weights_only=True)``."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where ``state`` was taken.

        Raises:
            ValueError: before any change: the state of another kind of run.
        """
        own = self.state_dict()
        require(state.keys() == own.keys(), f"state must hold {[*own]}, got {[*state]}")
        for part in ("model", "average"):
            shapes = [{k: v.shape for k, v in (s[part] or {}).items()} for s in (own, state)]
            require(shapes[0] == shapes[1], f"state[{part!r}] is that of another model")
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        self.generator.set_state(state["generator"].cpu())
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step = state["step"]


def descend(optimizer: Optimizer, closure: Closure) -> Tensor:
    """One step of any optimizer, given the closure of :mod:`flatmin.optim`; returns the loss."""
    if isinstance(optimizer, Climber):
        loss = optimizer.step(closure)
        assert loss is not None  # as there is a closure
        return loss
    loss, _ = closure()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss
