"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): a part that ships with the package, or all of it.

The part holds 5000 training, 1000 validation and 2000 test images, as many of each class, and
needs neither a download nor another package. The full set has 54000, 6000 and 10000. In both,
training and validation images are disjoint and come from the published training files, test images
from the published test files, and each split of the part is a subset of the full set's.

Images are licensed by Zalando SE under the MIT licence: ``LICENSE.fashion-mnist`` beside this file.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatmin._extras import extra

__all__ = ["ImageData", "fashion_mnist"]

Bytes = NDArray[np.uint8]

MEAN, STD = 0.286, 0.353
PART = Path(__file__).with_name("fashion_mnist_part.npz")
PER_CLASS = {"train": 500, "validation": 100, "test": 200}  # images of each class in the part
SHA256 = {
    ("part", "train"): "bd3f006ed2958bea4a6bddd43a131c77bbb73a59664709d3e2252d82f113bca2",
    ("part", "validation"): "0a90af9743c3db32c59f4c8f9d3d67661d9201d7c632fd13a0686bcc6cde37d8",
    ("part", "test"): "52a764f249eb91d46a54773c658b142cd12c7eef73dd22c475747f0419b44363",
    ("full", "train"): "177466488bbf5cd3fffcf2fde5846e25b1b44ce9643ef07c803ca931b6fd4e78",
    ("full", "validation"): "7201f12adee5072d2c948b3ef1fa358d4415ca7ceb2a727d4ccfcee5621d4ae8",
    ("full", "test"): "9a97b13005ea8ada72ae7158683dddd69bf9d614fb4bdbc2e342b574107d312f",
}
SEED = 2017
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = [
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
]


@dataclass(frozen=True, eq=False)
class ImageData:
    """One split of an image data set.

    Attributes:
        images: float32, (n, channels, height, width), normalised.
        labels: int64, (n,).
        source: which data these are, in words.
        sha256: hash of the n images followed by the n labels, as the unsigned bytes that were read.
    """

    images: Tensor
    labels: Tensor
    source: str
    sha256: str


def fashion_mnist(
    split: str, *, source: str = "part", root: str | Path | None = None, download: bool = False
) -> ImageData:
    """Load one split of Fashion-MNIST, its SHA-256 checked.

    The classes take turns: the first 10 k images are k of each class, so that
    ``images[:300]`` is itself balanced. Pixels x in 0…255 become (x / 255 − 0.286) / 0.353.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        source: ``"part"``, the images in this package, or ``"full"``.
        root: Folder of the full set: its four idx files, plain or gzipped, lie there or in
            ``FashionMNIST/raw`` below. Without it, Debian's package dataset-fashion-mnist is looked
            for, then an earlier download.
        download: Fetch the full set through torchvision (into ``root``, or torch's cache) if it
            is found nowhere.

    Returns:
        The split: images (n, 1, 28, 28), labels (n,) in 0…9.

    Raises:
        ValueError: ``split`` or ``source`` is unknown, or the data are not those of the hash.
        FileNotFoundError: the full set is nowhere and ``download`` is False.
        ImportError: ``download`` needs torchvision and it is missing.

    Examples:
        >>> validation = fashion_mnist("validation")
        >>> validation.images.shape, validation.labels[:10].unique().numel()
        (torch.Size([1000, 1, 28, 28]), 10)
        >>> validation.source
        'Fashion-MNIST, the part that ships with flatmin: 1000 validation images'
    """
    if split not in PER_CLASS:
        raise ValueError(f"split must be 'train', 'validation' or 'test', not {split!r}")
    if source == "part":
        if root is not None or download:
            raise ValueError("root and download go with source='full': the part ships with flatmin")
        with np.load(PART) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        origin = "the part that ships with flatmin"
    elif source == "full":
        folder, origin = _find(None if root is None else Path(root), download)
        images, labels = read_split(folder, split)
    else:
        raise ValueError(f"source must be 'part' or 'full', not {source!r}")

    sha256 = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if sha256 != SHA256[source, split]:
        raise ValueError(
            f"{split} split of {origin} has SHA-256 {sha256}, not {SHA256[source, split]}: "
            "the files are damaged or hold other data"
        )
    pixels = torch.from_numpy(images).unsqueeze(1).float().div_(255)
    return ImageData(
        images=pixels.sub_(MEAN).div_(STD),
        labels=torch.from_numpy(labels).long(),
        source=f"Fashion-MNIST, {origin}: {len(labels)} {split} images",
        sha256=sha256,
    )


def read_split(folder: Path, split: str, per_class: int | None = None) -> tuple[Bytes, Bytes]:
    """Images (n, 28, 28) and labels (n,) of a split, cut from the idx files in ``folder``.

    A tenth of each class of the training files, drawn at random once and for all, is the validation
    split. ``per_class`` keeps only so many of each class, always the same ones.
    """
    name = "t10k" if split == "test" else "train"
    images = _read_idx(folder / f"{name}-images-idx3-ubyte")
    labels = _read_idx(folder / f"{name}-labels-idx1-ubyte")
    # A bit generator's raw stream, unlike Generator.permutation, is the same in all NumPy versions.
    shuffled = np.argsort(np.random.PCG64(SEED).random_raw(len(labels)))
    rank = np.empty(len(labels), dtype=np.int64)  # place of each image within its class
    keep = []
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
        tenth = len(members) // 10
        parts = {"train": members[tenth:], "validation": members[:tenth], "test": members}
        keep.append(parts[split][:per_class])
    chosen = np.concatenate(keep)
    chosen = chosen[np.lexsort((labels[chosen], rank[chosen]))]
    return images[chosen], labels[chosen]


def _read_idx(path: Path) -> Bytes:
    """The array of unsigned bytes in an idx file, gzipped if only ``path``.gz exists."""
    zipped = path.with_name(path.name + ".gz")
    content = path.read_bytes() if path.exists() else gzip.decompress(zipped.read_bytes())
    ndim = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content[4 : 4 + 4 * ndim], ">u4").tolist()
    if not ndim or len(content) != 4 + 4 * ndim + prod(shape):
        raise ValueError(f"{path} is not a whole idx file of unsigned bytes")
    array: Bytes = np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)
    return array


def _find(root: Path | None, download: bool) -> tuple[Path, str]:
    """The folder with the four files of the full set, and what to call it."""
    base = Path(torch.hub.get_dir()) / "datasets" if root is None else root
    raw = base / "FashionMNIST/raw"  # where torchvision puts them
    places = {raw: "the full set as torchvision downloads it"}
    if root is None:
        places = {DEBIAN: "the full set of Debian's dataset-fashion-mnist"} | places
    else:
        places |= {base: "the full set in the given root"}
    for folder, origin in places.items():
        if all(any(folder.glob(f"{name}*")) for name in FILES):
            return folder, origin
    if not download:
        raise FileNotFoundError(
            f"no full Fashion-MNIST in {' or '.join(map(str, places))}: pass download=True (needs "
            "torchvision), give its folder as root, or install Debian's dataset-fashion-mnist"
        )
    with extra("lab"):
        from torchvision.datasets import FashionMNIST
    FashionMNIST(str(base), download=True)
    return raw, places[raw]
