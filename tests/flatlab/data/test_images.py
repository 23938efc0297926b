"""Each loader on small files in the published format."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST

from flatlab.data.images import (
    MNIST_FILES,
    STATISTICS,
    FolderImages,
    balanced,
    cifar,
    mnist,
    svhn,
    with_wrong,
)


def pixels_of(data, name):
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in STATISTICS[name])
    scaled = (data.images * std + mean) * 255
    torch.testing.assert_close(scaled, scaled.round(), atol=1e-3, rtol=0)
    return scaled.round().byte()


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_splits_keep_labels_and_cover_the_files(classes, write_cifar):
    root, files = write_cifar(classes)
    name = f"CIFAR-{classes}"
    splits = {s: cifar(classes, s, root=root) for s in ("train", "validation", "test")}
    splits["both"] = cifar(classes, "train+validation", root=root)
    found = {}
    for split, data in splits.items():
        assert data.images.dtype == torch.float32
        assert data.labels.dtype == torch.int64
        found[split] = {
            bytes(x.flatten().numpy()): int(y)
            for x, y in zip(pixels_of(data, name), data.labels, strict=True)
        }
    assert found["test"] == files["test_list"]
    assert found["both"] == files["train_list"]
    assert found["train"] | found["validation"] == files["train_list"]
    assert len(found["validation"]) == 2 * len(set(files["train_list"].values()))
    kinds = len(set(files["train_list"].values()))
    assert torch.equal(
        splits["train"].labels, torch.arange(kinds).repeat(len(found["train"]) // kinds)
    )
    other = cifar(classes, "validation", root=root, seed=1)
    assert other.sha256 != splits["validation"].sha256
    assert cifar(classes, "validation", root=root).sha256 == splits["validation"].sha256
    assert splits["test"].source == f"{name}, split by seed 0: 40 test images"


def test_cifar_images_stand_upright(write_cifar):
    root, files = write_cifar(10)
    data = cifar(10, "test", root=root)
    first = next(iter(files["test_list"]))
    expected = torch.from_numpy(np.frombuffer(first, np.uint8).reshape(3, 32, 32).copy())
    assert any(torch.equal(x, expected) for x in pixels_of(data, "CIFAR-10"))


def test_svhn(write_svhn):
    tmp_path, images, digits = write_svhn()
    data = svhn("test", root=tmp_path)
    pairs = {
        (x.numpy().tobytes(), int(y))
        for x, y in zip(pixels_of(data, "SVHN"), data.labels, strict=True)
    }
    expected = {(images[..., i].transpose(2, 0, 1).tobytes(), d % 10) for i, d in enumerate(digits)}
    assert pairs == expected
    train, validation = (svhn(s, root=tmp_path) for s in ("train", "validation"))
    assert torch.equal(validation.labels, torch.arange(10))
    assert len(train.labels) == 90


def test_mnist(write_mnist):
    root, written = write_mnist
    splits = {s: mnist(s, root=root) for s in ("train", "validation", "train+validation", "test")}
    for split, part in (("train+validation", "train"), ("test", "t10k")):
        data = splits[split]
        assert data.images.shape[1:] == (1, 28, 28)
        pairs = {
            (x.numpy().tobytes(), int(y))
            for x, y in zip(pixels_of(data, "MNIST"), data.labels, strict=True)
        }
        assert pairs == {(x.tobytes(), int(y)) for x, y in zip(*written[part], strict=True)}
    assert torch.equal(splits["validation"].labels, torch.arange(10))
    assert len(splits["train"].labels) == 90
    assert splits["test"].source == "MNIST, split by seed 0: 40 test images"


@pytest.fixture
def folders(tmp_path):
    """Ten 40 × 60 images of each of two classes for training, two for testing."""
    for part, count in (("train", 10), ("val", 2)):
        for k, kind in enumerate(("n01", "n02")):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(count):
                ramp = np.linspace(0, 100, 60).astype(np.uint8)
                image = np.broadcast_to(ramp[None, :, None], (40, 60, 3)) + np.uint8(10 * i + k)
                Image.fromarray(image).save(tmp_path / part / kind / f"{i}.png")
    return tmp_path


def test_folders(folders):
    sizes = {s: len(FolderImages(folders, s, size=14)) for s in ("train", "validation", "test")}
    assert sizes == {"train": 18, "validation": 2, "test": 4}
    images = FolderImages(folders, "train+validation", size=14)
    assert torch.equal(images.labels, torch.tensor([0, 1]).repeat(10))
    middle, label = images[3]
    assert (middle.shape, middle.dtype, label) == ((3, 14, 14), torch.float32, 1)
    slope = (middle[0, 7, 13] - middle[0, 7, 0]) * 0.229 * 255 / 13
    assert slope == pytest.approx(100 / 59 * 40 / 16, abs=0.15)  # the shorter side, 40, became 16
    assert torch.equal(images[3, 8][0], images[3, 8][0])
    parts = [images[3, seed][0] for seed in range(60)]
    slopes = torch.stack([(x[0, 7, 13] - x[0, 7, 0]) * 0.229 * 255 / 13 for x in parts])
    assert 0.3 < (slopes > 0).double().mean() < 0.7  # mirrored or not
    assert slopes.abs().max() <= 100 / 59 * 60 / 14 + 0.2
    assert slopes.abs().max() > 2 * slopes.abs().min()


def test_balanced_draws_nest():
    labels = torch.randint(4, (200,), generator=torch.Generator().manual_seed(0))
    few, more = balanced(labels, 2, seed=3), balanced(labels, 9, seed=3)
    assert torch.equal(more[:8], few)
    assert len(more.unique()) == 36
    assert torch.equal(labels[more], torch.arange(4).repeat(9))
    assert not torch.equal(few, balanced(labels, 2, seed=4))
    for per_class in (0, 100):
        with pytest.raises(ValueError, match="per_class must lie in 1 … "):
            balanced(labels, per_class, seed=3)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda root: cifar(10, "train", root=root), "CIFAR-10, .*download=True.*batches-py"),
        (lambda root: cifar(100, "test", root=root), "CIFAR-100, .*download=True.*100-python"),
        (lambda root: mnist("test", root=root), "MNIST, .*MNIST/raw/t10k.*download=True"),
        (lambda root: svhn("test", root=root), r"SVHN, .*download=True.*test_32x32\.mat"),
        (lambda root: FolderImages(root, "train"), "root must hold train and val; ImageNet"),
    ],
)
def test_missing_sets_say_how_to_get_them(load, message, tmp_path):
    with pytest.raises(FileNotFoundError, match=message) as info:
        load(tmp_path)
    assert "\n" not in str(info.value)
    assert str(tmp_path) in str(info.value)


def test_damaged_cifar_is_refused(write_cifar):
    root, _ = write_cifar(10)
    path = root / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match="damaged"):
        cifar(10, "train", root=root)


def test_bad_arguments(tmp_path):
    for load in (
        lambda: cifar(10, "valid", root=tmp_path),
        lambda: svhn("extra", root=tmp_path),
        lambda: FolderImages(tmp_path, "val"),
    ):
        with pytest.raises(ValueError, match="split must be one of"):
            load()
    with pytest.raises(ValueError, match="classes must be 10 or 100, not 20"):
        cifar(20, "train", root=tmp_path)


def test_torchvision_is_imported_late_and_missed_in_words(tmp_path, monkeypatch):
    check = "import sys, flatlab.data.images; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"torchvision is missing: pip install \"flatmin\[lab\]"):
        cifar(10, "train", root=tmp_path)


def test_wrong_labels_are_as_many_as_said_and_any_other_class():
    labels = torch.arange(4).repeat(2500)
    before = labels.clone()
    draws = [torch.Generator().manual_seed(s) for s in (0, 0, 1)]
    one, same, other = (with_wrong(labels, 0.3, classes=4, generator=g) for g in draws)
    assert torch.equal(labels, before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert int((one != labels).sum()) == 3000
    pairs = torch.stack([labels, one])[:, one != labels]
    counts = torch.zeros(4, 4).index_put_((*pairs,), torch.ones(3000), accumulate=True)
    assert counts.diagonal().sum() == 0
    off_diagonal = counts[~torch.eye(4, dtype=torch.bool)]
    assert (off_diagonal - 250).abs().max() < 5 * 250**0.5  # five standard deviations
    assert torch.equal(with_wrong(labels, 0.0, classes=4, generator=draws[0]), labels)
    assert bool((with_wrong(labels, 1.0, classes=4, generator=draws[0]) != labels).all())
    with pytest.raises(ValueError, match=r"fraction must lie between 0 and 1, not 1\.5"):
        with_wrong(labels, 1.5, classes=4, generator=draws[0])
    with pytest.raises(ValueError, match="classes must be an integer of at least 2, not 1"):
        with_wrong(labels, 0.5, classes=1, generator=draws[0])


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize(("split", "part"), [("validation", "train"), ("test", "t10k")])
def test_damaged_digits_are_refused(split, part, kind, write_mnist):
    root, _ = write_mnist
    path = root / "MNIST/raw" / f"{part}-{kind}-ubyte"
    raw = path.read_bytes()
    for damaged in (b"", raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(FileNotFoundError, match="damaged") as caught:
            mnist(split, root=root)
        assert str(path) in str(caught.value)


def test_the_digits_files_are_those_of_torchvision():
    """It publishes the MD5 of the packed files; ours are those of what they hold."""
    names = {name.removesuffix(".gz") for name, _ in MNIST.resources}
    assert {*MNIST_FILES} == names
