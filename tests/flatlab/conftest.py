"""`import by_hand` and `runs`; data sets as files."""

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from flatlab.data.images import MNIST_FILES

sys.path.insert(0, str(Path(__file__).parent))
RNG = np.random.default_rng(0)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def write_cifar(tmp_path, monkeypatch):
    """Writes 100 training and 40 test images as pickled batches; torchvision trusts their MD5."""

    def write(classes):
        torchvision = pytest.importorskip("torchvision")
        kind = getattr(torchvision.datasets, f"CIFAR{classes}")
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        key = "labels" if classes == 10 else "fine_labels"
        pixels = {}
        for part, count in (("train_list", 100), ("test_list", 40)):
            names = [name for name, _ in getattr(kind, part)]
            data = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
            labels = RNG.permutation(np.arange(count) % (5 if classes == 10 else 4))
            pixels[part] = dict(zip(map(bytes, data), labels.tolist(), strict=True))
            size = count // len(names)
            for i, name in enumerate(names):
                piece = slice(i * size, (i + 1) * size)
                batch = {"data": data[piece], key: labels[piece].tolist()}
                (folder / name).write_bytes(pickle.dumps(batch))
            monkeypatch.setattr(kind, part, [[name, md5(folder / name)] for name in names])
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["a"]}))
        meta = kind.meta | {"md5": md5(folder / kind.meta["filename"])}
        monkeypatch.setattr(kind, "meta", meta)
        return tmp_path, pixels

    return write


@pytest.fixture
def write_mnist(tmp_path, monkeypatch):
    """Writes 100 training and 40 test digits as idx files, whose MD5 is then trusted."""
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    written, rng = {}, np.random.default_rng(0)
    for part, count in (("train", 100), ("t10k", 40)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        digits = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", digits)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            path = folder / f"{part}-{kind}-ubyte"
            path.write_bytes(head + array.tobytes())
            monkeypatch.setitem(MNIST_FILES, path.name, md5(path))
        written[part] = images, digits
    return tmp_path, written


@pytest.fixture
def write_svhn(tmp_path, monkeypatch):
    """Writes 100 images for training and as many for tests as MATLAB files."""

    def write():
        torchvision = pytest.importorskip("torchvision")
        digits = RNG.permutation(np.repeat(np.arange(1, 11), 10))  # 10 stands for the digit 0
        images = RNG.integers(0, 256, (32, 32, 3, 100), dtype=np.uint8)
        lists = {}
        for part in ("train", "test"):
            path = tmp_path / f"{part}_32x32.mat"
            scipy.io.savemat(path, {"X": images, "y": digits[:, None].astype(np.uint8)})
            lists[part] = ["nowhere", path.name, md5(path)]
        monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
        return tmp_path, images, digits

    return write
