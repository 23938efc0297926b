import gzip
import hashlib
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

import flatlab.data
from flatlab.data import DEBIAN, FILES, PART, SHA256, fashion_mnist, read_split
from flatlab.data.make import write_part

needs_full = pytest.mark.skipif(
    not DEBIAN.exists(), reason="the full set is not here: apt install dataset-fashion-mnist"
)


def write_idx(path, array, compress):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture(params=[True, False], ids=["gzipped", "plain"])
def tiny(tmp_path, request):
    """A folder of four files in the published format: 20 images of each class each."""
    folder = tmp_path / "full"
    folder.mkdir()
    suffix = ".gz" if request.param else ""
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 20))
        images = rng.integers(0, 256, (200, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images, request.param)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels, request.param)
    return folder


def trust(monkeypatch, folder):
    """Take the hashes of ``folder`` for the true ones."""
    for split in ("train", "validation", "test"):
        images, labels = read_split(folder, split)
        sha256 = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        monkeypatch.setitem(SHA256, ("full", split), sha256)


@pytest.mark.parametrize(("split", "count"), [("train", 500), ("validation", 100), ("test", 200)])
def test_part_is_balanced_and_normalised(split, count):
    data = fashion_mnist(split)
    assert data.images.shape == (10 * count, 1, 28, 28)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert torch.equal(data.labels, torch.arange(10).repeat(count))
    pixels = (data.images * 0.353 + 0.286) * 255
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)
    assert pixels.round().min() == 0
    assert pixels.round().max() == 255
    assert abs(data.images.mean()) < 0.03
    assert abs(data.images.std() - 1) < 0.03


def test_no_image_is_in_two_splits_of_the_part():
    images = torch.cat([fashion_mnist(split).images for split in ("train", "validation", "test")])
    assert len(images.flatten(1).unique(dim=0)) == len(images) == 8000


def test_splits_of_files_are_disjoint_cover_all_and_nest(tiny):
    train, validation, test = (read_split(tiny, s)[0] for s in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (180, 20, 200)
    assert len(np.unique(np.concatenate([train, validation]), axis=0)) == 200
    for split in ("train", "validation", "test"):
        images, labels = read_split(tiny, split)
        few_images, few_labels = read_split(tiny, split, 2)
        np.testing.assert_array_equal(few_images, images[:20])
        np.testing.assert_array_equal(few_labels, labels[:20])


def test_images_keep_their_labels(tiny):
    all_images = flatlab.data._read_idx(tiny / "t10k-images-idx3-ubyte")
    all_labels = flatlab.data._read_idx(tiny / "t10k-labels-idx1-ubyte")
    pairs = {(x.tobytes(), y) for x, y in zip(all_images, all_labels, strict=True)}
    images, labels = read_split(tiny, "test")
    assert {(x.tobytes(), y) for x, y in zip(images, labels, strict=True)} == pairs


def test_full_set_is_found_in_root(tiny, monkeypatch):
    trust(monkeypatch, tiny)
    data = fashion_mnist("train", source="full", root=tiny)
    images, _ = read_split(tiny, "train")
    expected = (torch.from_numpy(images)[:, None].double() / 255 - 0.286) / 0.353
    torch.testing.assert_close(data.images.double(), expected, atol=1e-5, rtol=0)
    assert data.source == "Fashion-MNIST, the full set in the given root: 180 train images"


def test_full_set_prefers_debian_and_says_so(tiny, monkeypatch):
    trust(monkeypatch, tiny)
    monkeypatch.setattr(flatlab.data, "DEBIAN", tiny)
    assert "Debian" in fashion_mnist("test", source="full").source


def test_download_goes_through_torchvision(tiny, tmp_path, monkeypatch):
    trust(monkeypatch, tiny)
    root = tmp_path / "root"

    def download(folder, download):
        assert download
        (root / "FashionMNIST").mkdir(parents=True)
        tiny.rename(root / "FashionMNIST/raw")

    datasets = types.ModuleType("torchvision.datasets")
    datasets.FashionMNIST = download
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    first = fashion_mnist("test", source="full", root=root, download=True)
    again = fashion_mnist("test", source="full", root=root)
    assert first.sha256 == again.sha256
    assert "torchvision" in again.source


def test_missing_full_set_says_how_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"download=True .* root, or install Debian"
    ) as info:
        fashion_mnist("train", source="full", root=tmp_path)
    assert str(tmp_path) in str(info.value)
    assert "\n" not in str(info.value)


def test_missing_torchvision_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ImportError, match=r"torchvision.* is missing: pip install \"flatmin\[lab\]"
    ):
        fashion_mnist("train", source="full", root=tmp_path, download=True)


def test_other_data_are_refused(tiny):
    with pytest.raises(ValueError, match="SHA-256"):
        fashion_mnist("train", source="full", root=tiny)


def test_cut_file_is_refused(tiny):
    path = next(tiny.glob("train-images*"))
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    (tiny / FILES[0]).write_bytes(content[:-1])
    with pytest.raises(ValueError, match="not a whole idx file"):
        read_split(tiny, "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "split must be"),
        ({"split": "train", "source": "all"}, "source must be"),
        ({"split": "train", "root": "."}, "root and download go with"),
        ({"split": "train", "download": True}, "root and download go with"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fashion_mnist(**arguments)


def test_part_is_made_with_the_same_bytes_twice(tiny, tmp_path, monkeypatch):
    counts = {"train": 3, "validation": 1, "test": 2}
    hashes = write_part(tiny, tmp_path / "a.npz", counts)
    assert write_part(tiny, tmp_path / "b.npz", counts) == hashes
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))
    for split, count in counts.items():
        monkeypatch.setitem(SHA256, ("part", split), hashes[split])
        monkeypatch.setattr(flatlab.data, "PART", tmp_path / "a.npz")
        assert len(fashion_mnist(split).labels) == 10 * count


def test_failure_leaves_the_old_part(tiny, tmp_path):
    target = tmp_path / "part.npz"
    target.write_bytes(b"old")
    next(tiny.glob("t10k-labels*")).unlink()
    with pytest.raises(FileNotFoundError):
        write_part(tiny, target)
    assert target.read_bytes() == b"old"


@needs_full
def test_shipped_part_is_what_the_script_makes(tmp_path):
    hashes = write_part(DEBIAN, tmp_path / "part.npz")
    for split, sha256 in hashes.items():
        assert sha256 == SHA256["part", split]


@needs_full
def test_full_set():
    data = fashion_mnist("validation", source="full")
    part = fashion_mnist("validation")
    assert data.images.shape == (6000, 1, 28, 28)
    assert torch.equal(data.images[:1000], part.images)


def test_part_is_small_and_licensed():
    assert PART.stat().st_size < 5e6
    assert "MIT License" in PART.with_name("LICENSE.fashion-mnist").read_text()


def test_torchvision_is_not_imported():
    check = "import sys, flatlab.data; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
