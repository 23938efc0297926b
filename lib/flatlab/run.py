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
from torch.utils._pytree import tree_flatten, tree_map_only
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
            ValueError: before any change: the state of another kind of run, or of an optimizer with
                other settings; a radius that was changed on the way is to be set before.
        """
        own = self.state_dict()
        require(state.keys() == own.keys(), f"state must hold {[*own]}, got {[*state]!s:.200}")
        step = state["step"]
        require(type(step) is int and step >= 0, f"state['step'] must not be {step!r:.80}")
        for part in ("model", "average"):
            require(
                _forms(state[part]) == _forms(own[part]), f"state[{part!r}] is of another model"
            )
        _check_generator(self.generator, state["generator"])
        optimizer = self._optimizer_state(own["optimizer"], state["optimizer"], step)
        self.optimizer.load_state_dict(optimizer)
        self.model.load_state_dict(state["model"])
        self.generator.set_state(state["generator"].cpu())
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step = step

    def _optimizer_state(self, own: dict[str, Any], state: Any, step: int) -> dict[str, Any]:
        """An optimizer's state, checked: its settings are ours, and the rate is the schedule's."""
        wrong = "state['optimizer'] is of another optimizer"
        require(isinstance(state, dict) and state.keys() == own.keys(), wrong)
        kept, groups = state["state"], state["param_groups"]
        require(isinstance(kept, dict) and isinstance(groups, list), wrong)
        require(len(groups) == len(own["param_groups"]), wrong)
        for mine, theirs in zip(own["param_groups"], groups, strict=True):
            require(isinstance(theirs, dict), wrong)
            for name in sorted(mine.keys() & theirs.keys() - {"lr", "generator"}):
                was, now = theirs[name], mine[name]
                require(_same(was, now), f"{name} was {was!r:.80}, is {now!r:.80}")
            mine["lr"] = mine["initial_lr"] * self.schedule(max(step - 1, 0))
            if "generator" in mine:
                noise = getattr(self.optimizer, "generator", None)
                assert noise is not None  # whose state it is
                _check_generator(noise, theirs.get("generator"))
                mine["generator"] = theirs["generator"]
        expected = self._kept_after_a_step()
        for index, values in kept.items():
            at = f"state['optimizer'] of parameter {index!r:.80}"
            require(
                type(index) is int and _forms(values) == expected.get(index, 0),
                f"{at} is of another kind",
            )
            count = values.get("step")
            require(count is None or 0 < count <= step, f"{at} is after {count} steps of {step}")
        # Copies, as tensors that share their memory cannot move apart.
        apart = tree_map_only(Tensor, lambda t: t.detach().clone(), kept)
        return {"state": apart, "param_groups": own["param_groups"]}

    def _kept_after_a_step(self) -> dict[int, Any]:
        """What the optimizer keeps of each parameter: names and forms."""
        twin = deepcopy(getattr(self.optimizer, "base_optimizer", self.optimizer))
        for group in twin.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        twin.step()
        return {index: _forms(values) for index, values in twin.state_dict()["state"].items()}


def _forms(values: Any) -> Any:
    """What tensors under names are besides their numbers, and the types of all else."""
    if not isinstance(values, dict):
        return type(values)
    return {
        name: (v.shape, v.dtype, v.layout, v.is_meta) if isinstance(v, Tensor) else type(v)
        for name, v in values.items()
    }


def _same(one: Any, other: Any) -> bool:
    """Whether two settings are equal, and of one type: a tensor in one is equal to nothing."""
    (left, form), (right, other_form) = tree_flatten(one), tree_flatten(other)
    pairs = zip(left, right, strict=False)
    return form == other_form and all(type(a) is type(b) and a == b for a, b in pairs)


def _check_generator(generator: Generator, state: Any) -> None:
    """Raise ValueError unless it is a state of such a generator."""
    good = _forms({"": state}) == _forms({"": generator.get_state()})
    try:
        if good:
            Generator(generator.device).set_state(state.cpu())
    except RuntimeError:
        good = False
    require(good, f"the state of a generator must not be {state!r:.80}")


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
