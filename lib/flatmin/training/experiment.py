"""One run from its settings to its record: read, build, train, look, keep.

``python -m flatmin.training`` is this module at the command line.
"""

from __future__ import annotations

import fcntl
import json
import math
import platform
import re
import resource
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.utils._pytree import tree_map_only

import flatmin
from flatmin._climb import require
from flatmin.curvature import hessian_trace, top_hessian_eigenpairs
from flatmin.data.augment import STRONG, VIEW, WEAK
from flatmin.data.images import FolderImages, balanced
from flatmin.inconsistency import local_inconsistency
from flatmin.models import ResNet, VisionTransformer, WideResNet, cnn6, cnn_bn, mlp
from flatmin.optim import IAMD, IAMS, SAM
from flatmin.training.checkpoint import check_same, load_checkpoint, save_checkpoint, write_whole
from flatmin.training.loops import fixmatch, linear_probe, simclr, supervised
from flatmin.training.randomness import stream
from flatmin.training.run import Batches, BatchSource, LoadedBatches, Record, Run
from flatmin.training.schedules import constant, cosine, drops, seven_sixteenths
from flatmin.training.sets import AT_ONCE, Pair, Place, Stack, kind_of, read, stack
from flatmin.training.settings import Settings

RECORD_EVERY = 500  # steps at most between two records, each of which is a checkpoint
LOOK_AT = 1000  # images that S and H are measured on
LOOK_RHO = 0.1
MODELS = "cnn-bn, cnn6, vit, resnet-18, resnet-50 or wrn-<depth>-<widen>"


def conduct(settings: Settings, record: Path, place: Place) -> Iterator[Record]:
    """Train from the last checkpoint on, and write the record in the end.

    The checkpoint lies beside the record and goes when the record comes; it is written while the
    next steps are taken. A run that is stopped, in whatever way, loses the steps since the last
    whole checkpoint; resumed, it ends, on a CPU bitwise, like one that was not. The number of
    processes may have changed.

    Args:
        settings: of the run.
        record: the JSON file to write. If it is there, nothing is done.
        place: where.

    Yields:
        What the loop yields, ``{"step": …, "loss": …}``, with "steps" to be taken in all,
        "images_per_second" and, at a look, "error", "error_top5" and "S".

    Raises:
        ValueError: settings that do not fit together; a record or checkpoint that is damaged, has
            other settings, or was written on another kind of device; another process is at this
            run, or not all of this run's processes see its files.
        FileNotFoundError: the data are not there.
        OSError: a file cannot be written; the last checkpoint is as it was.
    """
    checkpoint, first = record.with_suffix(".pt"), place.part[0] == 0
    if _common(record.exists(), place, record):
        check_same(record, read_record(record)["settings"], asdict(settings))
        return
    with _alone(record.with_suffix(".lock")) if first else nullcontext():
        yield from _conduct(settings, record, checkpoint, place)


def _conduct(settings: Settings, record: Path, checkpoint: Path, place: Place) -> Iterator[Record]:
    values, writes = asdict(settings), place.part[0] == 0
    told = {"provenance": provenance(place), "device": torch.device(place.device).type}
    if told["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)
    experiment = Experiment(settings, place)
    curve: list[Record] = []
    seconds = peak = 0.0
    if saved := load_checkpoint(checkpoint, values):
        require(
            saved["device"] == told["device"],
            f"{checkpoint} was written on {saved['device']}, this is {told['device']}: go on there,"
            " or move it away",
        )
        experiment.run.load_state_dict(saved["run"])
        curve, seconds, peak = saved["curve"], saved["seconds"], saved["peak"]
        told["provenance"] = saved["provenance"]
    _common(experiment.run.step, place, checkpoint)
    started = perf_counter() - seconds
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for point in experiment.train():
            seconds = perf_counter() - started
            curve.append(point)
            if writes:
                if written:
                    written.result()  # raises what went wrong
                peak = max(peak, _peak_megabytes(place))
                state = {"run": experiment.run.state_dict(), "curve": curve, **told}
                # A copy, since the next steps change what the writer reads.
                state = tree_map_only(Tensor, lambda t: t.to("cpu", copy=True), state)
                state |= {"seconds": seconds, "peak": peak}
                written = writer.submit(save_checkpoint, checkpoint, values, state)
            rate = point["step"] * experiment.images_per_step / seconds
            yield point | {"steps": experiment.steps, "images_per_second": rate}
        if written:
            written.result()
    if writes:
        content = {
            "provenance": told["provenance"],
            "seconds": seconds,
            "images_per_second": experiment.steps * experiment.images_per_step / seconds,
            "peak_megabytes": peak,
            "final": curve[-1] | experiment.measure(),
            "curve": _columns(curve),
        }
        content = {"settings": values, **_compact(content)}
        write_whole(record, (json.dumps(content) + "\n").encode())
        checkpoint.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read what :func:`conduct` wrote.

    Raises:
        ValueError: a file that is damaged or something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or "settings" not in content:
        raise ValueError(f"{path} is damaged or no record of flatmin: move it away")
    return content


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Only one command at a time works on a run; a lock ends with its process."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{lock} is held: another process trains this run") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _common(value: int, place: Place, path: Path) -> int:
    """What all processes found, or ValueError where they differ."""
    world = place.part[1]
    found = [value] * world
    if world > 1:
        dist.all_gather_object(found, value)
    require(
        len({*found}) == 1,
        f"all processes must see the same folder, but not all see the same {path}",
    )
    return value


class Experiment:
    """Model, optimizer and data of one run.

    Args:
        settings: of the run.
        place: where.

    Attributes:
        run: the :class:`flatmin.training.Run`.
        epoch: steps of an epoch.
        steps: how many it takes.
        images_per_step: over all processes; two views of an image count once.

    Raises:
        ValueError: settings that do not fit together.
        FileNotFoundError: the data are not there.
    """

    def __init__(self, settings: Settings, place: Place) -> None:
        self.settings, self.place, self.kind = settings, place, kind_of(settings)
        sizes, world = (settings.batch_size, settings.unlabelled_batch_size), place.part[1]
        require(
            all(size % world == 0 for size in sizes),
            f"batch_size and unlabelled_batch_size must divide by {world} processes, got {sizes}",
        )
        require(
            settings.labels % self.kind.classes == 0,
            f"labels must be a multiple of the {self.kind.classes} classes, got {settings.labels}",
        )
        require(
            world == 1 or not place.download,
            f"download must be left to one process, got {world}: fetch the data before",
        )
        train = read(settings, "train" if settings.validate else "train+validation", place)
        held_out = read(settings, "validation" if settings.validate else "test", place)
        self.held_out, self.seen = stack(held_out, place), stack(train, place)
        self.labelled: BatchSource
        self.pool: Batches | None = None  # what needs no label
        if isinstance(train, FolderImages):
            require(
                settings.loop == "supervised" and max(settings.labels, sizes[1]) == 0,
                f"{settings.data} is for supervised runs with all labels only",
            )
            self.labelled = LoadedBatches(
                train, sizes[0], place.device, place.workers, part=place.part
            )
            count, part = len(train), (0, 1)  # it divides batches before they are read
        else:
            images, labels = train
            count, part = len(labels), place.part
            if settings.labels and settings.tier == "paper":
                per_class = settings.labels // self.kind.classes
                known = balanced(labels.cpu(), per_class, seed=settings.seed).to(labels.device)
                self.labelled = Batches((images[known], labels[known]), sizes[0])
            else:
                self.labelled = Batches(train, sizes[0])
            self.pool = Batches((images,), sizes[1]) if sizes[1] else None
        self.epoch = settings.steps_per_epoch or max(1, count // sizes[0])
        self.steps = settings.epochs * self.epoch
        self.images_per_step = sum(sizes)
        self.run = self._run(part)

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
        compiled = on_gpu and settings.compiled and not shared
        called = torch.compile(wrapped) if compiled else wrapped

        def forward(images: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu and settings.bf16):
                outputs: Tensor = called(images)
            return outputs.float()

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
            forward=forward,
            part=part,
        )

    def train(self) -> Iterator[Record]:
        """The records of the loop; between two of them is the time to save."""
        self._set_radius()
        for record in self._loop():
            self._set_radius()
            yield record | {"loss": self._mean(record["loss"])}

    def _loop(self) -> Iterator[Record]:
        settings, kind = self.settings, self.kind
        every = min(self.epoch, RECORD_EVERY)
        rest: dict[str, Any] = {"steps": self.steps, "every": every}
        rest["evaluate"] = partial(self._look, every)
        if settings.loop == "simclr":
            view = kind.augmentation(*VIEW)
            rest |= {"view": view, "temperature": settings.temperature}
            return simclr(self.run, self.labelled, **rest)
        if settings.loop == "fixmatch":
            assert self.pool is not None  # as its settings were checked
            rest |= {"weak": kind.augmentation(*WEAK), "strong": kind.augmentation(*STRONG)}
            rest |= {"threshold": settings.threshold, "weight": settings.unlabelled_weight}
            return fixmatch(self.run, self.labelled, self.pool, **rest)
        if settings.augment and kind.standard:
            rest["augment"] = kind.augmentation(*kind.standard)
        smoothing = settings.label_smoothing
        return supervised(
            self.run, self.labelled, unlabelled=self.pool, label_smoothing=smoothing, **rest
        )

    def _mean(self, loss: float) -> float:
        """The mean over all processes, each of which has met its own examples."""
        world = self.place.part[1]
        if world == 1:
            return loss
        total = torch.tensor(loss, device=self.place.device)
        dist.all_reduce(total)
        return float(total) / world

    def _set_radius(self) -> None:
        late = self.settings.halve_rho and self.run.step >= self.settings.halve_rho * self.epoch
        for group in self.run.optimizer.param_groups:
            if "rho" in group:
                group["rho"] = self.settings.rho / 2 if late else self.settings.rho

    def _look(self, every: int, model: nn.Module) -> Record:
        """Error and S every so many epochs, in the first process."""
        due = self.run.step % (self.settings.look * self.epoch) < every
        if not (due or self.run.step == self.steps) or self.place.part[0] > 0:
            return {}
        if self.settings.loop == "simclr":
            assert isinstance(model, nn.Sequential)
            train, test = (_whole(part) for part in (self.seen, self.held_out))
            epochs = 1 if self.settings.tier == "smoke" else 20
            return {"error": linear_probe(model[0], train, test, epochs=epochs)}
        few = [x for x, _ in islice(self.held_out, LOOK_AT // AT_ONCE)]
        first, fifth = errors(model, self.held_out)
        S = local_inconsistency(model, few, rho=LOOK_RHO).value
        return {"error": first, "error_top5": fifth, "S": S}

    def measure(self) -> Record:
        """What is measured once, in the end."""
        model = self.run.evaluated.eval()
        if self.settings.loop == "simclr":
            return {}
        found = {"train_error": errors(model, self.seen)[0]}
        if self.settings.curvature:
            # Batch by batch: a second derivative keeps several times what a training step does.
            few = [*islice(self.seen, LOOK_AT // AT_ONCE)]
            images, labels = [x for x, _ in few], [y for _, y in few]
            found |= {"lambda_max(H)": math.nan, "Tr H": math.nan}
            with suppress(FloatingPointError):  # a network that diverged has none
                top = top_hessian_eigenpairs(model, cross_entropy, images, labels, tol=1e-2)
                if top.converged:
                    found["lambda_max(H)"] = float(top.eigenvalues[0])
                found["Tr H"] = hessian_trace(model, cross_entropy, images, labels).value
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


def build_model(settings: Settings) -> nn.Module:
    """The network of a run, with a projector behind it for SimCLR.

    Raises:
        ValueError: an unknown name, or SimCLR with a network that has no ``head``.

    Example:
        >>> given = {"data": "svhn", "model": "wrn-16-2", "method": "SGD", "seed": 0}
        >>> type(build_model(Settings.of(given))).__name__
        'WideResNet'
    """
    kind, name = kind_of(settings), settings.model
    shape = {"num_classes": kind.classes, "in_channels": kind.channels}
    rest: dict[str, Any] = {**shape, "generator": stream(settings.seed, "init")}
    model: nn.Module
    if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        model = WideResNet(int(wide[1]), int(wide[2]), **rest)
    elif name in ("resnet-18", "resnet-50"):
        stem = "imagenet" if kind.size > 64 else "cifar"
        model = ResNet(int(name[-2:]), stem=stem, **rest)
    elif name == "cnn-bn":
        model = cnn_bn(**rest)
    elif name in ("cnn6", "vit"):
        model = (cnn6 if name == "cnn6" else VisionTransformer)(image_size=kind.size, **rest)
    else:
        raise ValueError(f"model must be {MODELS}, got {name!r}")
    if settings.loop != "simclr":
        return model
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"model must end in a head for simclr, got {name!r}")
    width, model.head = head.in_features, nn.Identity()
    projector = mlp([width, width, 128], generator=stream(settings.seed, "projector"))
    return nn.Sequential(model, projector)


def build_optimizer(
    settings: Settings, model: nn.Module, wrapped: nn.Module, place: Place
) -> Optimizer:
    """The optimizer of a run; climbs are common to all processes."""
    base: type[Optimizer] = {"SGD": SGD, "AdamW": AdamW}[settings.base]
    rest: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.base == "SGD":
        rest["momentum"] = settings.momentum
    method = settings.method
    if method == "SGD":
        return base(model.parameters(), **rest)
    rest |= {"rho": settings.rho, "module": wrapped, "sync": place.part[1] > 1}
    if method in ("SAM", "ASAM"):
        return SAM(model.parameters(), base, adaptive=method == "ASAM", **rest)
    rest["generator"] = stream(settings.seed, "noise", device=place.device)
    if method.startswith("random"):
        rest["direction"] = "random"
    else:
        rest |= {"sigma": settings.sigma, "steps": settings.climb}
    if method.endswith("D"):
        return IAMD(model.parameters(), base, beta=settings.beta, **rest)
    return IAMS(model.parameters(), base, **rest)


def provenance(place: Place) -> dict[str, Any]:
    """Where the figures of a record come from."""
    device = torch.device(place.device)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "flatmin": flatmin.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "processes": place.part[1],
    }


def _commit() -> str:
    """Of the repository that holds this file, if one does."""
    here = Path(__file__)

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", *command], cwd=here.parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--abbrev=40", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _peak_megabytes(place: Place) -> float:
    """Of the device's memory in this run, or of this process in all its runs."""
    if torch.device(place.device).type == "cuda":
        return torch.cuda.max_memory_allocated(place.device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kilobytes on Linux


def _columns(curve: list[Record]) -> dict[str, list[float | None]]:
    """One list per quantity, None where it was not looked at."""
    names = dict.fromkeys(name for record in curve for name in record)
    return {name: [record.get(name) for record in curve] for name in names}


def _compact(value: Any) -> Any:
    """Six digits, and None for what is no number: JSON has no NaN."""
    match value:
        case dict():
            return {key: _compact(v) for key, v in value.items()}
        case list():
            return [_compact(v) for v in value]
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
