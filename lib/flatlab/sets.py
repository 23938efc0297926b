"""The data of the experiments by name, in the splits that a run trains on and looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader

from flatlab.data import MEAN, STD, fashion_mnist
from flatlab.data.augment import (
    GREY_STRONG,
    GREY_VIEW,
    STANDARD,
    STRONG,
    VIEW,
    WEAK,
    Augmentation,
    flip,
    on_pixels,
)
from flatlab.data.images import STATISTICS, FolderImages, cifar, mnist, svhn
from flatlab.settings import DataName, Settings
from flatlab.streams import stream
from flatmin._check import require

Pair: TypeAlias = tuple[Tensor, Tensor]
#: Batches of images and labels to look at, again and again.
Stack: TypeAlias = "list[Pair] | DataLoader[Pair]"

AT_ONCE = 250  # images in one pass of an evaluation


@dataclass(frozen=True)
class Place:
    """Where a run takes place.

    Attributes:
        data: folder of the data sets.
        download: fetch what is not there.
        device: of model and data.
        part: (rank, world) among the processes that share the run.
        workers: processes that decode images, if they do not fit in memory.
    """

    data: Path = Path("data")
    download: bool = False
    device: str = "cpu"
    part: tuple[int, int] = (0, 1)
    workers: int = 8


@dataclass(frozen=True)
class Kind:
    """What networks have to know of a data set, and augmentations of its pixels.

    Attributes:
        classes: outputs.
        channels: of the images.
        size: height and width of the images.
        mean: of the pixels, by channel.
        std: of the pixels, by channel.
        count: training images, those for validation among them.
        validation: how many of them a search looks at; of ImageNet, about.
        test: test images.
        standard: operations of the supervised augmentation.
        weak: operations of FixMatch's weak augmentation.
        strong: operations of its strong one.
        view: operations of SimCLR's views.
    """

    classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: int
    validation: int
    test: int
    standard: tuple[Augmentation, ...] = STANDARD
    weak: tuple[Augmentation, ...] = WEAK
    strong: tuple[Augmentation, ...] = STRONG
    view: tuple[Augmentation, ...] = VIEW

    def augmentation(self, *operations: Augmentation) -> Augmentation:
        """The operations, on images normalised like these."""
        return on_pixels(*operations, mean=self.mean, std=self.std)


def _digits(kind: Kind) -> Kind:
    """The same without mirrors: most digits, mirrored, are none."""
    augmentations = ("standard", "weak", "strong", "view")
    kept: dict[str, Any] = {
        a: tuple(op for op in getattr(kind, a) if op is not flip) for a in augmentations
    }
    return replace(kind, **kept)


_FASHION = Kind(10, 1, 28, (MEAN,), (STD,), 60_000, 6_000, 10_000)
_GREY: dict[str, Any] = {"strong": GREY_STRONG, "view": GREY_VIEW}
KINDS: dict[DataName, Kind] = {
    "fashion-mnist-part": replace(_FASHION, count=6_000, validation=1_000, test=2_000),
    "fashion-mnist": _FASHION,
    # Each pixel the mean of four.
    "fashion-mnist-14": replace(_FASHION, size=14, std=(0.33,), **_GREY),
    "mnist-14": _digits(
        Kind(10, 1, 14, STATISTICS["MNIST"][0], (0.28,), 60_000, 5_996, 10_000, **_GREY)
    ),
    "cifar-10": Kind(10, 3, 32, *STATISTICS["CIFAR-10"], 50_000, 5_000, 10_000),
    "cifar-100": Kind(100, 3, 32, *STATISTICS["CIFAR-100"], 50_000, 5_000, 10_000),
    "svhn": _digits(Kind(10, 3, 32, *STATISTICS["SVHN"], 73_257, 7_320, 26_032)),
    # Its loader augments.
    "imagenet": Kind(1000, 3, 224, *STATISTICS["ImageNet"], 1_281_167, 128_000, 50_000, ()),
}


def kind_of(settings: Settings) -> Kind:
    """The kind of images that a run sees; those of the smoke tier are small."""
    kind = KINDS[settings.data]
    return kind if settings.tier == "paper" else replace(kind, size=8 if kind.size <= 32 else 32)


def check_sizes(settings: Settings) -> None:
    """Check batches and known labels against the data set, which need not be there.

    Raises:
        ValueError: more than there are training images, or labels not as many of each class.
    """
    kind = KINDS[settings.data]
    count = kind.count - kind.validation * settings.validate
    for name in ("batch_size", "unlabelled_batch_size", "labels"):
        value = getattr(settings, name)
        require(
            value <= count,
            f"{name} must be at most {count}, the training images of {settings.data}, got {value}",
        )
    require(
        settings.labels % kind.classes == 0,
        f"labels must be a multiple of the {kind.classes} classes, got {settings.labels}",
    )


def read(settings: Settings, split: str, place: Place) -> Pair | FolderImages:
    """Images and labels of a split, on the device, or the files of a set that is too large.

    Raises:
        FileNotFoundError: they are not there; the message says how to get them.
    """
    if settings.tier == "smoke":
        kind, draw = kind_of(settings), stream(0, "noise images", split)
        images = torch.randn(8, kind.channels, kind.size, kind.size, generator=draw)
        return images.to(place.device), torch.arange(8, device=place.device) % kind.classes
    if settings.data == "imagenet":
        return FolderImages(place.data / "imagenet", split)
    images, labels = _tensors(settings.data, split, place.data, place.download)
    return images.to(place.device), labels.to(place.device)


@lru_cache(maxsize=2)  # a recipe's runs read the same splits
def _tensors(data: DataName, split: str, root: Path, download: bool) -> Pair:
    rest: dict[str, Any] = {"root": root, "download": download}
    match data:
        case "cifar-10" | "cifar-100":
            parts = [cifar(KINDS[data].classes, split, **rest)]
        case "svhn":
            parts = [svhn(split, **rest)]
        case "fashion-mnist" | "fashion-mnist-14":
            if not download and not (root / "FashionMNIST").exists():
                rest["root"] = None  # where else it may be
            parts = [fashion_mnist(part, source="full", **rest) for part in split.split("+")]
        case "mnist-14":
            parts = [mnist(split, **rest)]
        case _:
            parts = [fashion_mnist(part) for part in split.split("+")]
    images = torch.cat([part.images for part in parts])
    if data.endswith("-14"):
        before = STATISTICS["MNIST"][1][0] if data == "mnist-14" else STD
        images = avg_pool2d(images, 2) * (before / KINDS[data].std[0])
    return images, torch.cat([part.labels for part in parts])


def stack(data: Pair | FolderImages, place: Place) -> Stack:
    """Batches of images and labels to look at, again and again."""
    if not isinstance(data, FolderImages):
        pieces = (torch.split(part, AT_ONCE) for part in data)
        return [*zip(*pieces, strict=True)]
    return DataLoader(data, AT_ONCE, num_workers=place.workers)  # type: ignore[arg-type]
