"""Model, optimizer and data of one run, what it looks at on the way, and what in the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flatlab.build import build_forward, build_model, build_optimizer
from flatlab.data.images import FolderImages, balanced, with_wrong
from flatlab.loops import fixmatch, linear_probe, simclr, supervised
from flatlab.measures import mean_loss, predictors
from flatlab.probe import logistic_probe
from flatlab.run import Batches, BatchSource, LoadedBatches, Record, Run
from flatlab.schedules import constant, cosine, drops, seven_sixteenths
from flatlab.sets import AT_ONCE, Pair, Place, Stack, check_sizes, kind_of, read, stack
from flatlab.settings import Settings
from flatlab.streams import stream
from flatmin._check import require
from flatmin.inconsistency import local_inconsistency

RECORD_EVERY = 500  # steps at most between two records, each of which is a checkpoint
LOOK_AT = 1000  # images that S and H are measured on
LOOK_RHO = 0.1


class Experiment:
    """Model, optimizer and data of one run.

    Args:
        settings: of the run.
        place: where.

    Attributes:
        run: the :class:`flatlab.run.Run`.
        epoch: steps of an epoch.
        steps: how many it takes.
        wrong: the images whose labels are wrong, and these labels, if there are any.
        images_per_step: over all processes; two views of an image count once.

    Raises:
        ValueError: settings that do not fit together.
        FileNotFoundError: the data are not there.
    """

    def __init__(self, settings: Settings, place: Place) -> None:
        self.settings, self.place, self.kind = settings, place, kind_of(settings)
        sizes, world = (settings.batch_size, settings.unlabelled_batch_size), place.part[1]
        divided = (*sizes, settings.climb_batch)
        require(
            all(size % world == 0 for size in divided),
            "batch_size, unlabelled_batch_size and climb_batch must divide by "
            f"{world} processes, got {divided}",
        )
        check_sizes(settings)
        require(
            world == 1 or not place.download,
            f"download must be left to one process, got {world}: fetch the data before",
        )
        require(
            world == 1 or settings.until == 0,
            f"until must be left out where processes share a run, got {settings.until}",
        )
        train = read(settings, "train" if settings.validate else "train+validation", place)
        held_out = read(settings, "validation" if settings.validate else "test", place)
        self.held_out = stack(held_out, place)
        self.labelled: BatchSource
        self.pool: Batches | None = None  # what needs no label
        self.wrong: Pair | None = None  # images of wrong labels, and these
        if isinstance(train, FolderImages):
            require(
                settings.loop == "supervised"
                and max(settings.labels, settings.label_noise, sizes[1]) == 0,
                f"{settings.data} is for supervised runs with all labels, as they are, only",
            )
            self.labelled = LoadedBatches(
                train, sizes[0], place.device, place.workers, part=place.part
            )
            self.seen = stack(train, place)
            count, part = len(train), (0, 1)  # it divides batches before they are read
        else:
            count, part = len(train[1]), place.part
            known = self._known(train)
            self.labelled = Batches(train if settings.loop == "simclr" else known, sizes[0])
            self.seen = stack(known, place)
            self.pool = Batches(train[:1], sizes[1]) if sizes[1] else None
        self.epoch = settings.steps_per_epoch or max(1, count // sizes[0])
        self.steps = settings.epochs * self.epoch
        self.images_per_step = sum(sizes)
        self.run = self._run(part)

    def _known(self, train: Pair) -> Pair:
        """The images whose labels are known, and the labels as they are told."""
        settings, (images, labels) = self.settings, train
        if settings.labels and settings.tier == "paper":
            per_class = settings.labels // self.kind.classes
            chosen = balanced(labels.cpu(), per_class, seed=settings.seed).to(labels.device)
            images, labels = images[chosen], labels[chosen]
        if settings.label_noise:
            draw = stream(settings.seed, "label noise")
            true, classes = labels, self.kind.classes
            labels = with_wrong(true, settings.label_noise, classes=classes, generator=draw)
            self.wrong = images[labels != true], labels[labels != true]
        return images, labels

    def _run(self, part: tuple[int, int]) -> Run:
        settings, device = self.settings, torch.device(self.place.device)
        model, on_gpu = build_model(settings).to(device), device.type == "cuda"
        shared = self.place.part[1] > 1
        if on_gpu:
            model.to(memory_format=torch.channels_last)
            # Of the whole batch, as in one process. PyTorch has it on GPUs only, and does not
            # compile it; on processors each process normalises by its own part.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if shared else model  # type: ignore[no-untyped-call]
        wrapped = DistributedDataParallel(model) if shared else model
        return Run(
            model,
            build_optimizer(settings, model, wrapped, self.place),
            seed=settings.seed,
            schedule={
                "drops": drops([self.steps * tenths // 10 for tenths in (3, 6, 8)]),
                "cosine": cosine(self.steps, warmup=settings.warmup * self.epoch),
                "fixmatch": seven_sixteenths(self.steps),
                "constant": constant,
            }[settings.schedule],
            ema=settings.ema or None,
            forward=build_forward(settings, wrapped, device.type),
            part=part,
        )

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where a state of :attr:`run` was taken.

        Raises:
            ValueError: before the run changes: the state of another kind of run, with other
                settings, or after more steps than this one takes.
        """
        step = state["step"]
        require(0 < step <= self.steps, f"its step must lie in 1 … {self.steps}, got {step}")
        self._set_radius(step)
        self.run.load_state_dict(state)

    def train(self) -> Iterator[Record]:
        """The records of the loop; between two of them is the time to save."""
        self._set_radius(self.run.step)
        for record in self._loop():
            self._set_radius(self.run.step)
            yield record | {"loss": self._mean(record["loss"])}
            if self.reached(record):
                return

    def reached(self, record: Record) -> bool:
        """Whether a record is one that ends the run before all its steps."""
        return record.get("train_loss", math.inf) <= self.settings.until

    def _loop(self) -> Iterator[Record]:
        settings, kind = self.settings, self.kind
        every = min(self.epoch, RECORD_EVERY)
        rest: dict[str, Any] = {"steps": self.steps, "every": every}
        rest["evaluate"] = partial(self._look, every)
        if settings.loop == "simclr":
            view = kind.augmentation(*kind.view)
            rest |= {"view": view, "temperature": settings.temperature}
            return simclr(self.run, self.labelled, **rest)
        if settings.loop == "fixmatch":
            assert self.pool is not None  # as its settings were checked
            weak, strong = kind.augmentation(*kind.weak), kind.augmentation(*kind.strong)
            rest |= {"weak": weak, "strong": strong}
            rest |= {"threshold": settings.threshold, "weight": settings.unlabelled_weight}
            return fixmatch(self.run, self.labelled, self.pool, **rest)
        if settings.augment and kind.standard:
            rest["augment"] = kind.augmentation(*kind.standard)
        climb_on = settings.climb_batch // self.place.part[1]  # of this process's share
        rest |= {"label_smoothing": settings.label_smoothing, "climb_on": climb_on}
        return supervised(self.run, self.labelled, unlabelled=self.pool, **rest)

    def _mean(self, loss: float) -> float:
        """The mean over all processes, each of which has met its own examples."""
        world = self.place.part[1]
        if world == 1:
            return loss
        total = torch.tensor(loss, device=self.place.device)
        dist.all_reduce(total)
        return float(total) / world

    def _set_radius(self, step: int) -> None:
        late = self.settings.halve_rho and step >= self.settings.halve_rho * self.epoch
        for group in self.run.optimizer.param_groups:
            if "rho" in group:
                group["rho"] = self.settings.rho / 2 if late else self.settings.rho

    def _look(self, every: int, model: nn.Module) -> Record:
        """Error and S every so many epochs and in the end, in the first process."""
        due = self.run.step % (self.settings.look * self.epoch) < every
        fit = {"train_loss": mean_loss(model, self.seen)} if self.settings.until else {}
        last = self.run.step == self.steps or self.reached(fit)
        if not (due or last) or self.place.part[0] > 0:
            return fit
        if self.settings.loop == "simclr":
            assert isinstance(model, nn.Sequential)
            return {"error": self._probe(model[0])}
        few = [x for x, _ in islice(self.held_out, LOOK_AT // AT_ONCE)]
        first, fifth = errors(model, self.held_out)
        S = local_inconsistency(model, few, rho=LOOK_RHO).value
        found = fit | {"error": first, "error_top5": fifth, "S": S}
        if self.wrong:
            found["memorised"] = 1 - errors(model, stack(self.wrong, self.place))[0]
        return found

    def _probe(self, encoder: nn.Module) -> float:
        """The error of a linear classifier on the encoder's features."""
        train, test = (_whole(part) for part in (self.seen, self.held_out))
        if self.settings.probe == "LBFGS":
            return logistic_probe(encoder, train, test)
        epochs = 1 if self.settings.tier == "smoke" else 20
        return linear_probe(encoder, train, test, epochs=epochs)

    def measure(self) -> Record:
        """What is measured once, in the end."""
        model = self.run.evaluated.eval()
        if self.settings.loop == "simclr":  # what features must beat
            untrained = build_model(self.settings).to(self.place.device)
            assert isinstance(untrained, nn.Sequential)
            return {
                "error_pixels": self._probe(nn.Flatten()),
                "error_untrained": self._probe(untrained[0]),
            }
        found = {"train_error": errors(model, self.seen)[0]}
        if self.settings.curvature:
            few, held_out = (
                islice(part, LOOK_AT // AT_ONCE) for part in (self.seen, self.held_out)
            )
            found["train_loss"] = mean_loss(model, self.seen)
            found |= predictors(model, [x for x, _ in held_out], [*few])
        return found


def _whole(batches: Stack) -> Pair:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def errors(model: nn.Module, batches: Stack) -> tuple[float, float]:
    """The fractions of images whose label is not the first, and not among the first five, guesses.

    Args:
        model: in evaluation mode.
        batches: images (n, …) and labels (n,).

    Example:
        >>> errors(nn.Identity(), [(torch.tensor([[0.1, 0.9, 0.0]]), torch.tensor([0]))])
        (1.0, 0.0)
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    missed, count = torch.zeros(2, device=device), 0
    with torch.no_grad():
        for x, y in batches:
            logits = model(x.to(device))
            guesses = logits.topk(min(5, logits.shape[1])).indices == y.to(device)[:, None]
            missed += torch.stack([~guesses[:, 0], ~guesses.any(1)]).sum(1)
            count += len(y)
    first, fifth = (missed / count).tolist()
    return first, fifth
