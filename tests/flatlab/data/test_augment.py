"""The operations against torchvision's, and against what each must keep."""

import math
from inspect import signature

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torchvision.transforms.v2 import functional as tv

from flatlab import stream
from flatlab.data import augment as ours
from flatlab.data.augment import STANDARD, STRONG, VIEW, WEAK, on_pixels

COLOUR = torch.rand(9, 3, 16, 16, generator=stream(0), dtype=torch.float64)
GREY = torch.rand(9, 1, 14, 14, generator=stream(1), dtype=torch.float64)
OPERATIONS = {
    **{f.__name__: f for f in (ours.crop, ours.flip, ours.resized_crop, ours.colour_jitter)},
    **{f.__name__: f for f in (ours.grey, ours.cutout, ours.rand_augment)},
}
#: Words of 32 bits that each draws for an image of float64.
WORDS = {"crop": 2, "flip": 2, "resized_crop": 8, "colour_jitter": 10, "grey": 2, "cutout": 6}
WORDS |= {"rand_augment": 2 * (1 + 2)}


def full(value):
    return torch.full((9, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize("images", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_repeat_differ_and_stay_in_range(name, images):
    before = torch.get_rng_state()
    draws = [OPERATIONS[name](images, stream(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    if not (name == "grey" and images is GREY):
        assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == images.shape
    assert draws[0].dtype == images.dtype
    assert draws[0].min() >= 0
    assert draws[0].max() <= 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_draw_as_much_as_ever(name):
    """A draw more would give all that follows other numbers, and no record could be repeated."""
    generator, twin = stream(0), stream(0)
    OPERATIONS[name](COLOUR, generator)
    torch.randint(1000, (WORDS[name], len(COLOUR)), generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


@pytest.mark.parametrize("recipe", [STANDARD, WEAK, STRONG, VIEW])
def test_recipes_take_normalised_images_on_their_own_scale(recipe):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    shift, scale = (torch.tensor(v).view(3, 1, 1).double() for v in (mean, std))
    found = on_pixels(*recipe, mean=mean, std=std)((COLOUR - shift) / scale, stream(2))
    generator, pixels = stream(2), COLOUR
    for operation in recipe:
        pixels = operation(pixels, generator)
    torch.testing.assert_close(found * scale + shift, pixels, atol=1e-6, rtol=0)
    single = on_pixels(*recipe, mean=0.286, std=0.353)(GREY.float(), stream(2))
    assert single.dtype == torch.float32


def test_bad_std():
    with pytest.raises(ValueError, match="std must be positive, not 0"):
        on_pixels(mean=0.0, std=0.0)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_is_a_window_of_the_padded_image(mode):
    images = COLOUR.repeat(40, 1, 1, 1)
    padded = torch.nn.functional.pad(images, [2] * 4, mode=mode)
    places = set()
    for x, whole in zip(ours.crop(images, stream(3), mode=mode), padded, strict=True):
        windows = {(i, j): whole[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)}
        places.add(next(key for key, window in windows.items() if torch.equal(window, x)))
    assert len(places) == 25


@pytest.mark.parametrize(("width", "furthest"), [(16, 2), (28, 3), (32, 4)])
def test_crop_shifts_by_up_to_an_eighth(width, furthest):
    point = torch.zeros(600, 1, width, width)
    point[:, :, width // 2, width // 2] = 1
    place = ours.crop(point, stream(4)).nonzero()[:, 2:] - width // 2
    assert place.amin(0).tolist() == [-furthest] * 2
    assert place.amax(0).tolist() == [furthest] * 2


def test_flip_is_torchvision_s_for_about_half():
    images = COLOUR[:1].expand(400, -1, -1, -1)
    flipped = ours.flip(images, stream(0))
    mirrored = (flipped == tv.hflip(images)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert abs(mirrored.double().mean() - 0.5) < 0.1


def test_the_whole_image_is_a_resized_crop_of_it():
    whole = ours.resized_crop(COLOUR, stream(0), scale=(1, 1), ratio=(1, 1))
    torch.testing.assert_close(whole, COLOUR)


def test_resized_crop_of_a_ramp_has_the_drawn_area():
    ramp = torch.arange(64.0).expand(500, 1, 64, 64) / 64
    side = math.sqrt(0.25)
    found = ours.resized_crop(ramp, stream(0), scale=(0.25, 0.25), ratio=(1, 1))
    slope = (found[..., 40] - found[..., 20]) / 20 * 64
    torch.testing.assert_close(slope, torch.full_like(slope, side), atol=1e-3, rtol=0)
    left = found[:, 0, 0, 0]
    assert left.min() < 0.02
    assert abs(left.max() - 0.5) < 0.02


def test_resized_crop_has_the_areas_and_aspects_of_simclr():
    """From 40 % of the area on, and aspects of 3/4 to 4/3, by default; measured on two ramps."""
    ramp = torch.arange(64.0, dtype=torch.float64) / 64
    across, down = ramp.expand(4000, 1, 64, 64), ramp[:, None].expand(4000, 1, 64, 64)
    width = (ours.resized_crop(across, stream(0))[:, 0, 32, [22, 42]].diff(dim=1) * 64 / 20)[:, 0]
    height = (ours.resized_crop(down, stream(0))[:, 0, [22, 42], 32].diff(dim=1) * 64 / 20)[:, 0]
    free = (width < 0.999) & (height < 0.999)
    area, aspect = (width * height)[free], (width / height)[free]
    assert area.min().item() == pytest.approx(0.4, abs=0.01)
    assert (width * height).max() > 0.95
    assert aspect.min().item() == pytest.approx(3 / 4, abs=0.01)
    assert aspect.max().item() == pytest.approx(4 / 3, abs=0.02)


def test_strengths_of_colour_jitter_are_those_of_the_paper():
    """Those of Kim et al. 2026 for SimCLR."""
    usual = {n: p.default for n, p in signature(ours.colour_jitter).parameters.items()}
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    assert usual.items() >= (strengths | {"probability": 0.8}).items()
    images = COLOUR[:1].expand(500, -1, -1, -1)
    changed = (ours.colour_jitter(images, stream(1)) != images).flatten(1).any(1)
    assert abs(changed.double().mean() - 0.8) < 0.06


def test_colour_jitter_is_torchvision_s_in_its_order():
    names = ("brightness", "contrast", "saturation")
    for name, adjust in zip(
        names, (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), strict=True
    ):
        strengths = dict.fromkeys([*names, "hue"], 0.0) | {name: 0.4}
        found = ours.colour_jitter(COLOUR, stream(5), probability=1.0, **strengths)
        generator = stream(5)
        draws = [torch.rand(9, generator=generator, dtype=torch.float64) for _ in range(4)]
        factors = 1 + 0.4 * (2 * draws[1 + names.index(name)] - 1)
        expected = [adjust(x, f.item()) for x, f in zip(COLOUR, factors, strict=True)]
        # torchvision's weights of red, green and blue have one digit more
        torch.testing.assert_close(found, torch.stack(expected), atol=2e-3, rtol=0)


def test_hue_keeps_the_luma_and_comes_full_circle():
    pale = 0.4 + 0.2 * COLOUR  # far enough from the corners of the cube not to be clamped
    turned = ours._turn_hue(pale, full(0.3))
    assert (turned - pale).abs().max() > 0.05
    torch.testing.assert_close(ours._luma(turned), ours._luma(pale))
    torch.testing.assert_close(ours._turn_hue(pale, full(1.0)), pale)
    torch.testing.assert_close(ours._turn_hue(turned, full(-0.3)), pale)


def test_grey_images_know_no_colour():
    jitter = {"brightness": 0.0, "contrast": 0.0, "probability": 1.0}
    torch.testing.assert_close(ours.colour_jitter(GREY, stream(0), **jitter), GREY)
    greyed = ours.grey(COLOUR, stream(0), probability=1.0)
    torch.testing.assert_close(greyed, tv.rgb_to_grayscale(COLOUR, 3), atol=1e-3, rtol=0)
    share = ours.grey(COLOUR[:1].expand(500, -1, -1, -1), stream(0))
    assert abs((share != COLOUR[:1]).flatten(1).any(1).double().mean() - 0.2) < 0.06


def test_cutout_is_one_grey_rectangle():
    images, sides = torch.zeros(200, 1, 16, 16), []
    for x in ours.cutout(images, stream(0))[:, 0]:
        rows, columns = (x != 0).any(1), (x != 0).any(0)
        assert torch.equal(x, 0.5 * (rows[:, None] & columns))
        sides.append(max(rows.sum(), columns.sum()))
    assert max(sides) == 8  # half of the width


def named(index, strength, images=COLOUR):
    if index < 8:
        return ours._TONES[index](images, full(strength))
    return ours._move(images, full(index - 8), full(strength))


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_operations_of_rand_augment_are_torchvision_s(strength):
    factor, signed = 0.05 + 0.9 * strength, 2 * strength - 1
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    bilinear = {"interpolation": tv.InterpolationMode.BILINEAR}
    expected = [
        COLOUR,
        tv.autocontrast(COLOUR),
        tv.adjust_brightness(COLOUR, factor),
        tv.adjust_contrast(COLOUR, factor),
        tv.adjust_saturation(COLOUR, factor),
        tv.adjust_sharpness(COLOUR, factor),
        tv.posterize((COLOUR * 255).round().byte(), 8 - round(4 * strength)) / 255,
        tv.solarize(COLOUR, strength),
        tv.rotate(COLOUR, 30 * signed, **bilinear),
        tv.affine(
            COLOUR,
            **(affine | {"shear": [math.degrees(math.atan(0.3 * signed)), 0.0]}),
            **bilinear,
            center=[8.0, 8.0],
        ),
    ]
    for index, result in enumerate(expected):
        torch.testing.assert_close(
            named(index, strength),
            result.double(),
            atol=3e-3,
            rtol=0,
            msg=lambda m, index=index: f"operation {index}: {m}",
        )
    sheared = named(10, strength, COLOUR.mT).mT
    torch.testing.assert_close(sheared, named(9, strength))
    moved = named(12, strength, COLOUR.mT).mT
    torch.testing.assert_close(moved, named(11, strength))


def test_shifts_are_by_up_to_three_tenths_of_the_side():
    moved = named(11, 0.5 + 0.5 * 3 / (0.3 * 16))  # by three pixels
    torch.testing.assert_close(moved[..., :-3], COLOUR[..., 3:])


def test_rand_augment_draws_twice():
    """As FixMatch does."""
    draws = [ours.rand_augment(COLOUR, stream(0), **times) for times in ({}, {"times": 2})]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], ours.rand_augment(COLOUR, stream(0), times=1))


def test_shift_by_whole_pixels():
    moved = ours._warp(COLOUR, x=full(2 * 3 / 16))
    torch.testing.assert_close(moved[..., :-3], COLOUR[..., 3:])
    assert moved[..., -3:].abs().max() == 0


def test_rand_augment_uses_each_operation_as_often(monkeypatch):
    marks = [lambda x, s, k=k: torch.full_like(x, k) for k in range(1, 9)]
    monkeypatch.setattr(ours, "_TONES", marks)
    images = torch.zeros(1300, 1, 1, 1)
    counts = ours.rand_augment(images, stream(0), times=1).flatten().long().bincount(minlength=9)
    assert (counts[1:] - 100).abs().max() < 50
    assert abs(counts[0] - 500) < 90  # five moves leave nothing as it is


class Crossings(TorchDispatchMode):
    """Lists what is copied from one device to another."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {
            t.device for t in tree_flatten((args, kwargs, result))[0] if hasattr(t, "device")
        }
        if len(devices) > 1:
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("operations", [STANDARD, WEAK, STRONG, VIEW])
def test_nothing_comes_from_the_processor_after_the_first_batch(operations):
    """Else a GPU would wait for it at every step; its place is taken by the device "meta"."""
    augment = on_pixels(*operations, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2))
    images = torch.empty(4, 3, 32, 32, device="meta")
    augment(images, None)
    with Crossings() as crossings:
        augment(images, None)
    assert crossings.found == []
