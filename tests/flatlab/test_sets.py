"""What a run reads, against torchvision's own reading and the published numbers."""

from inspect import signature

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms._presets import ImageClassification

from flatlab import sets
from flatlab.data import MEAN, STD, fashion_mnist
from flatlab.data.augment import GREY_STRONG, GREY_VIEW, STANDARD, STRONG, VIEW, WEAK, flip
from flatlab.data.images import STATISTICS, _window
from flatlab.sets import KINDS, Place, read, stack
from flatlab.settings import Settings
from flatlab.streams import stream

#: Classes, channels, size, images for training and tests, of them for validation.
PUBLISHED = {
    "fashion-mnist-part": (10, 1, 28, 6_000, 2_000, 1_000),
    "fashion-mnist": (10, 1, 28, 60_000, 10_000, 6_000),
    "fashion-mnist-14": (10, 1, 14, 60_000, 10_000, 6_000),
    "mnist-14": (10, 1, 14, 60_000, 10_000, 5_996),
    "cifar-10": (10, 3, 32, 50_000, 10_000, 5_000),
    "cifar-100": (100, 3, 32, 50_000, 10_000, 5_000),
    "svhn": (10, 3, 32, 73_257, 26_032, 7_320),
    "imagenet": (1000, 3, 224, 1_281_167, 50_000, 128_000),
}
#: Mean and standard deviation of the training pixels, in four to two digits.
PIXELS = {
    "mnist-14": ((0.1307,), (0.28,)),  # of the published files, each the mean of four: 0.2801
    "cifar-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


def settings_of(data, **changes):
    return Settings.of({"data": data, "model": "cnn6", "method": "SGD", "seed": 0} | changes)


@pytest.mark.parametrize("data", KINDS)
def test_kinds_are_as_published(data):
    kind = KINDS[data]
    sizes = (kind.classes, kind.channels, kind.size, kind.count, kind.test, kind.validation)
    assert sizes == PUBLISHED[data]
    small = data.endswith("-14")
    expected = [STANDARD, WEAK, *((GREY_STRONG, GREY_VIEW) if small else (STRONG, VIEW))]
    if data == "imagenet":
        expected[0] = ()
    if data in ("mnist-14", "svhn"):  # a mirrored digit is none
        assert all(flip in operations for operations in expected)
        expected = [tuple(op for op in operations if op is not flip) for operations in expected]
    assert [kind.standard, kind.weak, kind.strong, kind.view] == expected
    if data in PIXELS:
        assert (kind.mean, kind.std) == PIXELS[data]


def test_whole_digits_are_normalised_as_in_pytorchs_example():
    assert STATISTICS["MNIST"] == ((0.1307,), (0.3081,))


def test_imagenet_is_normalised_as_by_torchvision():
    preset = ImageClassification(crop_size=224)
    assert STATISTICS["ImageNet"] == (tuple(preset.mean), tuple(preset.std))
    assert (KINDS["imagenet"].mean, KINDS["imagenet"].std) == STATISTICS["ImageNet"]


def test_fashion_mnist_is_normalised():
    assert (KINDS["fashion-mnist"].mean, KINDS["fashion-mnist"].std) == ((0.286,), (0.353,))
    images = fashion_mnist("train").images * STD + MEAN  # pixels in 0…1
    assert images.mean().item() == pytest.approx(0.286, abs=2e-3)
    assert images.std().item() == pytest.approx(0.353, abs=2e-3)


def test_fashion_mnist_at_half_its_size_is_normalised_again(monkeypatch):
    monkeypatch.setattr(sets, "fashion_mnist", lambda split, **_: fashion_mnist(split))
    sets._tensors.cache_clear()
    images, labels = read(settings_of("fashion-mnist-14"), "train", Place())
    sets._tensors.cache_clear()
    whole = fashion_mnist("train")
    assert torch.equal(labels, whole.labels)
    pixels = (whole.images * STD + MEAN).view(5000, 1, 14, 2, 14, 2).mean((3, 5))
    kind = KINDS["fashion-mnist-14"]
    torch.testing.assert_close(images * kind.std[0] + kind.mean[0], pixels)
    assert images.mean().item() == pytest.approx(0, abs=0.01)
    assert images.std().item() == pytest.approx(1, abs=0.01)


def test_digits_at_half_their_size(write_mnist):
    root, written = write_mnist
    sets._tensors.cache_clear()
    images, labels = read(settings_of("mnist-14"), "test", Place(data=root))
    sets._tensors.cache_clear()
    kind = KINDS["mnist-14"]
    sums = (images * kind.std[0] + kind.mean[0]) * 4 * 255  # of four pixels
    torch.testing.assert_close(sums, sums.round(), atol=1e-2, rtol=0)
    found = {
        (x.round().short().numpy().tobytes(), int(y)) for x, y in zip(sums, labels, strict=True)
    }
    pixels, digits = written["t10k"]
    halved = pixels.astype(np.int16).reshape(40, 14, 2, 14, 2).sum((2, 4), dtype=np.int16)
    assert found == {(x.tobytes(), int(y)) for x, y in zip(halved, digits, strict=True)}


def test_windows_are_those_of_torchvision():
    """Area and aspect, as far as whole pixels and a square image let them be."""
    usual = signature(RandomResizedCrop).parameters
    (low, high), (flat, tall) = usual["scale"].default, usual["ratio"].default
    generator = stream(0)
    draws = np.array([_window(3000, 4000, generator) for _ in range(4000)], float)
    top, left, height, width = draws.T
    area, aspect = width * height / (3000 * 4000), width / height
    free = (height < 3000) & (width < 4000)
    assert area.min() == pytest.approx(low, abs=5e-3)
    assert area.max() == pytest.approx(high, abs=0.05)
    assert aspect[free].min() == pytest.approx(flat, abs=5e-3)
    assert aspect[free].max() == pytest.approx(tall, abs=5e-3)
    for place, side, whole in ((top, height, 3000), (left, width, 4000)):
        where = place[side < whole] / (whole - side[side < whole])
        assert where.min() < 0.01
        assert where.max() > 0.99


@pytest.mark.parametrize("data", ["cifar-10", "cifar-100", "svhn"])
def test_a_split_is_that_of_torchvision_normalised(data, write_cifar, write_svhn):
    """The mean of all its images, and how often each label stands there."""
    root = write_svhn()[0] if data == "svhn" else write_cifar(int(data[6:]))[0]
    place = Place(data=root)
    for split in ("train+validation", "test"):
        images, labels = read(settings_of(data), split, place)
        if data == "svhn":
            raw = datasets.SVHN(str(root), "test" if split == "test" else "train")
            pixels, wanted = raw.data.transpose(0, 2, 3, 1), raw.labels
        else:
            raw = getattr(datasets, data.replace("-", "").upper())(str(root), split != "test")
            pixels, wanted = raw.data, raw.targets
        mean, std = (torch.tensor(v) for v in PIXELS[data])
        expected = (torch.from_numpy(pixels.mean(0)) / 255 - mean) / std
        torch.testing.assert_close(
            images.mean(0).permute(1, 2, 0), expected.float(), atol=1e-4, rtol=0
        )
        assert torch.equal(labels.bincount(), torch.as_tensor(wanted).bincount())
    parts = [read(settings_of(data), split, place)[0] for split in ("train", "validation")]
    assert sum(map(len, parts)) == 100


def test_the_part_that_ships_in_its_splits():
    settings = settings_of("fashion-mnist-part")
    sizes = {split: len(read(settings, split, Place())[1]) for split in ("train", "test")}
    assert sizes == {"train": 5000, "test": 2000}
    images, labels = read(settings, "train+validation", Place())
    assert (images.shape, len(labels)) == ((6000, 1, 28, 28), 6000)
    assert torch.equal(images[:5000], fashion_mnist("train").images)
    assert torch.equal(images[5000:], fashion_mnist("validation").images)


def test_the_smoke_tier_reads_eight_images_of_noise():
    """Of the data's kind, but small; other ones for training than for tests."""
    settings = settings_of("svhn", tier="smoke")
    images, labels = read(settings, "train", Place())
    assert images.shape == (8, 3, 8, 8)
    assert labels.tolist() == [*range(8)]
    assert not torch.equal(images, read(settings, "test", Place())[0])
    assert read(settings_of("imagenet", tier="smoke"), "train", Place())[0].shape[2] == 32


def test_images_and_labels_lie_on_the_device():
    """Whose place is taken by the device "meta"."""
    for tier, data in (("smoke", "svhn"), ("paper", "fashion-mnist-part")):
        pair = read(settings_of(data, tier=tier), "test", Place(device="meta"))
        assert [part.device.type for part in pair] == ["meta", "meta"]


def test_a_stack_holds_all_images_in_order():
    images, labels = torch.arange(600.0)[:, None], torch.arange(600)
    batches = stack((images, labels), Place())
    assert [len(y) for _, y in batches] == [250, 250, 100]
    assert torch.equal(torch.cat([y for _, y in batches]), labels)
    assert all(torch.equal(x[:, 0].long(), y) for x, y in batches)
