"""MNIST, CIFAR-10, CIFAR-100, SVHN and folders of images such as ImageNet, through torchvision.

torchvision is imported only when a set is read, and compares the files of CIFAR and SVHN with their
published MD5; those of MNIST, which it unpacks, are compared here. As in
:func:`flatlab.data.fashion_mnist`, a tenth of each class of the training files is the validation
split, and the classes take turns.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import Dataset

from flatlab.data import Bytes, ImageData
from flatmin._check import whole
from flatmin._extras import extra

__all__ = ["STATISTICS", "FolderImages", "balanced", "cifar", "mnist", "svhn", "with_wrong"]

#: Mean and standard deviation of the pixels x/255 by channel, with which images are normalised.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MNIST": ((0.1307,), (0.3081,)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "SVHN": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
#: MD5 of MNIST's files, unpacked.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SPLITS = ("train", "validation", "train+validation", "test")


def balanced(labels: Tensor, per_class: int, *, seed: int) -> Tensor:
    """As many examples of each class, drawn at random: the few labels of an experiment.

    Args:
        labels: (n,).
        per_class: how many of each class.
        seed: of the draw; a smaller draw of the same seed is the start of a larger one.

    Returns:
        Indices (classes · per_class,), the classes taking turns.

    Raises:
        ValueError: no whole number, or a class has fewer examples.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> chosen = balanced(labels, 2, seed=0)
        >>> labels[chosen]
        tensor([0, 1, 0, 1])
    """
    fewest = int(torch.unique(labels, return_counts=True)[1].min())
    if not 0 < whole(per_class) <= fewest:
        raise ValueError(
            f"per_class must lie in 1 … {fewest}, the smallest class, not {per_class!r:.80}"
        )
    order, rank = _ranked(labels.cpu().numpy(), seed)
    return torch.from_numpy(order[rank[order] < per_class]).to(labels.device)


def with_wrong(labels: Tensor, fraction: float, *, classes: int, generator: Generator) -> Tensor:
    """Labels of which so many are wrong: another class, any of them as likely.

    Args:
        labels: (n,), in 0 … classes − 1.
        fraction: of the labels, rounded to whole ones, from 0 to 1.
        classes: at least 2.
        generator: decides which, and what they become.

    Returns:
        (n,), new.

    Raises:
        ValueError: ``labels``, ``fraction`` or ``classes`` out of range.

    Example:
        >>> labels = torch.arange(10)
        >>> int((with_wrong(labels, 0.4, classes=10, generator=Generator()) != labels).sum())
        4
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie between 0 and 1, not {fraction}")
    if not whole(classes) >= 2:
        raise ValueError(f"classes must be an integer of at least 2, not {classes!r:.80}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        found = f"{int(labels.min())} … {int(labels.max())}"
        raise ValueError(f"labels must lie in 0 … {classes - 1}, not in {found}")
    chosen = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    shift = torch.randint(1, classes, (len(chosen),), generator=generator).to(labels.device)
    wrong = labels.clone()
    wrong[chosen] = (labels[chosen] + shift) % classes
    return wrong


def cifar(
    classes: int, split: str, *, root: str | Path, seed: int = 0, download: bool = False
) -> ImageData:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50000 and 10000 images of 3 × 32 × 32.

    Args:
        classes: 10 or 100.
        split: ``"train"``, ``"validation"``, both as ``"train+validation"``, or ``"test"``.
        root: folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        seed: which tenth of each training class is for validation.
        download: let torchvision fetch it into ``root`` if it is not there.

    Returns:
        The split, normalised by :data:`STATISTICS`.

    Raises:
        ValueError: ``classes`` or ``split`` is unknown.
        FileNotFoundError: the files are missing or damaged.
        ImportError: torchvision is missing.
    """
    if classes not in (10, 100):
        raise ValueError(f"classes must be 10 or 100, not {classes}")
    name, files = f"CIFAR-{classes}", ("cifar-10-batches-py", "cifar-100-python")[classes > 10]
    _check_split(split)
    whole = _read(name, f"CIFAR{classes}", files, root, download, train=split != "test")
    return _cut(name, whole.data.transpose(0, 3, 1, 2), whole.targets, split, seed)


def mnist(split: str, *, root: str | Path, seed: int = 0, download: bool = False) -> ImageData:
    """MNIST (LeCun et al. 1998): 60000 and 10000 handwritten digits of 1 × 28 × 28.

    Args:
        split: as for :func:`cifar`.
        root: folder that holds ``MNIST/raw`` with the four idx files, unpacked.
        seed: as for :func:`cifar`.
        download: as for :func:`cifar`.

    Returns:
        The split, normalised by :data:`STATISTICS`; the label of a digit is the digit.

    Raises:
        ValueError: ``split`` is unknown.
        FileNotFoundError: the files are missing or damaged.
        ImportError: torchvision is missing.
    """
    _check_split(split)
    with extra("lab"):
        from torchvision.datasets.mnist import MNIST, read_image_file, read_label_file
        from torchvision.datasets.utils import check_integrity

    if download:
        MNIST(str(root), download=True)
    files = [name for name in MNIST_FILES if name.startswith("t10k") == (split == "test")]
    paths = [Path(root, "MNIST/raw", name) for name in files]
    for path in paths:
        if not check_integrity(path, MNIST_FILES[path.name]):
            raise FileNotFoundError(
                f"no MNIST, or a damaged one: {path} is missing or has another MD5; delete it and "
                "pass download=True, or put it there"
            )
    pixels, labels = read_image_file(str(paths[0])), read_label_file(str(paths[1]))
    return _cut("MNIST", pixels.unsqueeze(1).numpy(), labels, split, seed)


def svhn(split: str, *, root: str | Path, seed: int = 0, download: bool = False) -> ImageData:
    """SVHN (Netzer et al. 2011) without its extra images: 73257 and 26032 of 3 × 32 × 32.

    Args:
        split: as for :func:`cifar`.
        root: folder that holds ``train_32x32.mat`` and ``test_32x32.mat``.
        seed: as for :func:`cifar`.
        download: as for :func:`cifar`.

    Returns:
        The split, normalised by :data:`STATISTICS`; the label of a digit is the digit.

    Raises:
        ValueError: ``split`` is unknown.
        FileNotFoundError: the files are missing or damaged.
        ImportError: torchvision is missing.
    """
    _check_split(split)
    part = "test" if split == "test" else "train"
    whole = _read("SVHN", "SVHN", f"{part}_32x32.mat", root, download, split=part)
    return _cut("SVHN", whole.data, whole.labels, split, seed)


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Images in folders named for their classes, ImageNet above all, decoded one at a time.

    ``images[index]`` is the middle of the image: its shorter side resized to 8/7 of ``size``, the
    central square taken. ``images[index, seed]`` is a random part as in training: 8 to 100 % of the
    area, aspect 3/4 to 4/3, half of them mirrored.

    Args:
        root: folder with ``train/<class>/*`` and ``val/<class>/*``.
        split: as for :func:`cifar`; "test" is the folder ``val``.
        size: height and width of what is returned.
        seed: as for :func:`cifar`.

    Attributes:
        labels: (n,), the place of each class in alphabetical order.

    Raises:
        ValueError: ``split`` is unknown.
        FileNotFoundError: the folders are not there.
        ImportError: torchvision is missing.
    """

    def __init__(self, root: str | Path, split: str, *, size: int = 224, seed: int = 0) -> None:
        _check_split(split)
        folder = Path(root) / ("val" if split == "test" else "train")
        if not any(folder.glob("*/*")):
            raise FileNotFoundError(
                f"no images in {folder}/<class>/: root must hold train and val; ImageNet's are "
                "given out at image-net.org to whoever registers"
            )
        found = _torchvision().ImageFolder(str(folder))
        labels = np.asarray(found.targets)
        chosen = _members(labels, split, seed)
        self._files = [found.samples[i][0] for i in chosen]
        self._open, self._size = found.loader, size
        self.labels = torch.from_numpy(labels[chosen]).long()

    def __len__(self) -> int:
        """The number of images."""
        return len(self._files)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int]:
        """One normalised image (3, size, size) and its label."""
        from torchvision.transforms.v2 import functional as tv

        index, seed = item if isinstance(item, tuple) else (item, None)
        image = tv.pil_to_tensor(self._open(self._files[index]))
        if seed is None:
            image = tv.resize(image, [self._size * 8 // 7], antialias=True)
            image = tv.center_crop(image, [self._size])
        else:
            generator = Generator().manual_seed(seed)
            window = _window(image.shape[1], image.shape[2], generator)
            image = tv.resized_crop(image, *window, [self._size, self._size], antialias=True)
            if torch.rand((), generator=generator) < 0.5:
                image = image.flip(2)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in STATISTICS["ImageNet"])
        return (image / 255 - mean) / std, int(self.labels[index])


def _window(height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part, cut to the image where it is too long."""
    draw = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    area = height * width * (0.08 + 0.92 * draw[0])
    aspect = math.exp(math.log(4 / 3) * (2 * draw[1] - 1))
    h = max(1, min(height, round(math.sqrt(area / aspect))))
    w = max(1, min(width, round(math.sqrt(area * aspect))))
    return int(draw[2] * (height - h + 1)), int(draw[3] * (width - w + 1)), h, w


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")


def _torchvision() -> Any:
    with extra("lab"):
        from torchvision import datasets
    return datasets


def _read(
    name: str, class_name: str, files: str, root: str | Path, download: bool, **which: Any
) -> Any:
    """The data set as torchvision holds it."""
    try:
        return getattr(_torchvision(), class_name)(str(root), download=download, **which)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"no {name}, or a damaged one, in {root}: pass download=True, or put {files} there"
        ) from error


def _cut(name: str, pixels: Bytes, labels: Any, split: str, seed: int) -> ImageData:
    labels = np.asarray(labels, dtype=np.int64)
    chosen = _members(labels, split, seed)
    pixels, labels = np.ascontiguousarray(pixels[chosen]), labels[chosen]
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in STATISTICS[name])
    content = pixels.tobytes() + labels.astype(np.uint8).tobytes()
    return ImageData(
        images=torch.from_numpy(pixels).float().div_(255).sub_(mean).div_(std),
        labels=torch.from_numpy(labels),
        source=f"{name}, split by seed {seed}: {len(labels)} {split} images",
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _members(labels: NDArray[np.int64], split: str, seed: int) -> NDArray[np.int64]:
    """The indices of a split among the labels of its files, the classes taking turns."""
    order, rank = _ranked(labels, seed)
    tenth = np.bincount(labels)[labels] // 10
    keep = {"validation": rank < tenth, "train": rank >= tenth}.get(split, rank >= 0)
    return order[keep[order]]


def _ranked(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An order at random in which classes take turns, and each example's place in its class."""
    # A bit generator's raw stream, unlike Generator.permutation, is the same in all NumPy versions.
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(labels)))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank)), rank
