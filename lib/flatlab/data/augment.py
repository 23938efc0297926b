"""Random augmentations of whole batches, on their device, from an explicit generator.

An *augmentation* is ``(images, generator) -> images`` on normalised images (n, C, height, width);
every image of the batch gets its own draw. :func:`on_pixels` makes one of *operations* of the same
form that know pixels in 0…1::

    weak = on_pixels(*WEAK, mean=0.286, std=0.353)

========  =====================================================================================
STANDARD  a shift by up to an eighth of the width, zeros moving in (4 pixels of 32), and a flip:
          that of the supervised experiments
WEAK      the same with reflection in place of zeros: FixMatch's (Sohn et al. 2020)
STRONG    WEAK, :func:`rand_augment`, :func:`cutout`: as FixMatch's but for the operation "equalize"
VIEW      a resized crop, a flip, :func:`colour_jitter`, grey for one in five: SimCLR's with the
          settings of Kim et al. 2026
GREY      ``GREY_STRONG`` and ``GREY_VIEW``, for small pictures without colour: STRONG with one
          operation of :func:`rand_augment`; VIEW with :func:`cutout` in place of the grey
========  =====================================================================================

Interpolation is bilinear, without antialiasing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

__all__ = [
    "GREY_STRONG",
    "GREY_VIEW",
    "STANDARD",
    "STRONG",
    "VIEW",
    "WEAK",
    "colour_jitter",
    "crop",
    "cutout",
    "flip",
    "grey",
    "on_pixels",
    "rand_augment",
    "resized_crop",
]

Augmentation: TypeAlias = Callable[[Tensor, Generator], Tensor]


def on_pixels(
    *operations: Augmentation, mean: float | Sequence[float], std: float | Sequence[float]
) -> Augmentation:
    """The augmentation of normalised images that does the operations one after the other.

    Args:
        *operations: on pixels in 0…1.
        mean: what was subtracted from the pixels, one number or one per channel.
        std: what they were then divided by.

    Returns:
        ``(images, generator) -> images``, both normalised.

    Raises:
        ValueError: a ``std`` that is not positive.

    Example:
        >>> images = torch.arange(8.0).view(2, 1, 2, 2) / 8
        >>> mirrored = on_pixels(flip, mean=0.5, std=0.5)(images, torch.Generator().manual_seed(0))
        >>> mirrored.flatten(1)
        tensor([[0.1250, 0.0000, 0.3750, 0.2500],
                [0.5000, 0.6250, 0.7500, 0.8750]])
    """
    shift, scale = (tuple(torch.as_tensor(v).view(-1).tolist()) for v in (mean, std))
    if not min(scale) > 0:
        raise ValueError(f"std must be positive, not {std}")

    def augment(images: Tensor, generator: Generator) -> Tensor:
        mu, sigma = (_constant(v, images).view(-1, 1, 1) for v in (shift, scale))
        pixels = images * sigma + mu
        for operation in operations:
            pixels = operation(pixels, generator)
        return (pixels - mu) / sigma

    return augment


def crop(images: Tensor, generator: Generator, *, mode: str = "constant") -> Tensor:
    """A shift by up to an eighth of the width each way; ``mode`` of ``pad`` says what moves in."""
    n, _, height, width = images.shape
    margin = width // 8
    padded = pad(images, [margin] * 4, mode=mode)
    corner = _integers(images, generator, 2 * margin + 1, 2)
    rows = corner[0][:, None] + torch.arange(height, device=images.device)
    columns = corner[1][:, None] + torch.arange(width, device=images.device)
    example = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[example, rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Left for right, for half of the images."""
    return torch.where(_uniform(images, generator) < 0.5, images.flip(3), images)


def resized_crop(
    images: Tensor,
    generator: Generator,
    *,
    scale: tuple[float, float] = (0.4, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """A window of random area and aspect, stretched to the size of the image.

    A side that would be longer than the image is cut to it.
    """
    area = _between(images, generator, *scale)
    aspect = _between(images, generator, *map(math.log, ratio)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = _between(images, generator, -1, 1), _between(images, generator, -1, 1)
    x, y = x * (1 - width), y * (1 - height)
    return _warp(images, xx=width, yy=height, x=x, y=y, outside="border")


def colour_jitter(
    images: Tensor,
    generator: Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    probability: float = 0.8,
) -> Tensor:
    """Random brightness, contrast, saturation and hue, in this order, for most of the images.

    Factors are drawn from 1 ± strength, the turn of the hue from ± ``hue`` of the circle. Hue turns
    the chrominance at fixed luma (in YIQ), not in HSV. On images of one channel saturation and hue
    do nothing.
    """
    chosen = _uniform(images, generator) < probability
    factors = [
        _between(images, generator, 1 - s, 1 + s) for s in (brightness, contrast, saturation)
    ]
    turn = _between(images, generator, -hue, hue)
    jittered = (images * factors[0]).clamp(0, 1)
    jittered = _blend(jittered, _luma(jittered).mean((2, 3), keepdim=True), factors[1])
    jittered = _turn_hue(_blend(jittered, _luma(jittered), factors[2]), turn)
    return torch.where(chosen, jittered, images)


def grey(images: Tensor, generator: Generator, *, probability: float = 0.2) -> Tensor:
    """The luma in all channels, for some of the images."""
    chosen = _uniform(images, generator) < probability
    return torch.where(chosen, _luma(images).expand_as(images), images)


def cutout(images: Tensor, generator: Generator, *, largest: float = 0.5) -> Tensor:
    """A grey square of side up to ``largest`` of the width, its centre anywhere."""
    half = _between(images, generator, 0, largest) * images.shape[3] / 2
    centre = [_uniform(images, generator) * size for size in images.shape[2:]]
    y, x = (torch.arange(size, device=images.device) + 0.5 for size in images.shape[2:])
    inside = ((y[:, None] - centre[0]).abs() < half) & ((x - centre[1]).abs() < half)
    return torch.where(inside, 0.5, images)


def rand_augment(images: Tensor, generator: Generator, *, times: int = 2) -> Tensor:
    """RandAugment as FixMatch has it: operations drawn at random, of random strength.

    The operations: none, autocontrast, brightness, contrast, saturation, sharpness, posterise,
    solarise, rotation by up to 30°, shears by up to 0.3, shifts by up to 0.3 of the side.
    """
    tones = len(_TONES)
    for _ in range(times):
        which = _integers(images, generator, tones + 5)[0].view(-1, 1, 1, 1)
        strength = _uniform(images, generator)
        result = _move(images, which - tones, strength)
        for index, operation in enumerate(_TONES):
            result = torch.where(which == index, operation(images, strength), result)
        images = result
    return images


def _autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low), images)


def _fainter(images: Tensor, towards: Tensor | float, strength: Tensor) -> Tensor:
    """Between 5 and 95 % of what tells the image from a duller one."""
    return _blend(images, towards, 0.05 + 0.9 * strength)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    kernel = images.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = 5
    smooth = images.clone()  # but for its border
    planes = images.flatten(0, 1)[:, None]
    smooth[:, :, 1:-1, 1:-1] = conv2d(planes, kernel / 13).view_as(images[:, :, 1:-1, 1:-1])
    return _fainter(images, smooth, strength)


def _posterise(images: Tensor, strength: Tensor) -> Tensor:
    """8 to 4 bits per channel."""
    step = (4 * strength).round().exp2()
    return ((images * 255).round() / step).floor() * step / 255


_TONES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, strength: x,
    _autocontrast,
    lambda x, strength: _fainter(x, 0.0, strength),  # brightness
    lambda x, strength: _fainter(x, _luma(x).mean((2, 3), keepdim=True), strength),  # contrast
    lambda x, strength: _fainter(x, _luma(x), strength),  # saturation
    _sharpness,
    _posterise,
    lambda x, strength: torch.where(x >= strength, 1 - x, x),  # solarise
]


def _move(images: Tensor, which: Tensor, strength: Tensor) -> Tensor:
    """Rotation (0), shears (1, 2), shifts (3, 4): one warp for all."""
    angle, shear_x, shear_y, x, y = ((which == k) * (2 * strength - 1) for k in range(5))
    cos, sin = (math.radians(30) * angle).cos(), (math.radians(30) * angle).sin()
    shear_x, shear_y, x, y = 0.3 * shear_x, 0.3 * shear_y, 0.6 * x, 0.6 * y  # a side spans −1…1
    return _warp(images, xx=cos, xy=shear_x - sin, x=x, yx=shear_y + sin, yy=cos, y=y)


_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_FROM_YIQ = tuple(map(tuple, torch.linalg.inv(torch.tensor(_TO_YIQ).double()).tolist()))

STANDARD = (crop, flip)
WEAK = (partial(crop, mode="reflect"), flip)
STRONG = (*WEAK, rand_augment, cutout)
VIEW = (resized_crop, flip, colour_jitter, grey)
GREY_STRONG = (*WEAK, partial(rand_augment, times=1), cutout)
GREY_VIEW = (
    partial(resized_crop, scale=(0.3, 1.0)),
    flip,
    partial(colour_jitter, saturation=0.0, hue=0.0),
    partial(cutout, largest=0.4),
)


def _uniform(images: Tensor, generator: Generator) -> Tensor:
    """One number in 0…1 per image, (n, 1, 1, 1)."""
    return torch.rand(
        (len(images), 1, 1, 1), generator=generator, device=images.device, dtype=images.dtype
    )


def _between(images: Tensor, generator: Generator, low: float, high: float) -> Tensor:
    return low + (high - low) * _uniform(images, generator)


def _integers(images: Tensor, generator: Generator, below: int, count: int = 1) -> Tensor:
    return torch.randint(below, (count, len(images)), generator=generator, device=images.device)


def _constant(values: Sequence[Any], images: Tensor) -> Tensor:
    return _on_device(tuple(values), images.dtype, images.device)


@lru_cache
def _on_device(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept, since a GPU waits for what comes from the processor's memory.
    return torch.tensor(values, dtype=dtype, device=device)


def _luma(images: Tensor) -> Tensor:
    """Brightness as seen, (n, 1, height, width)."""
    if images.shape[1] == 1:
        return images
    weights = _constant(_TO_YIQ[0], images).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _blend(images: Tensor, towards: Tensor | float, factor: Tensor) -> Tensor:
    """``towards`` at factor 0, the images at 1, beyond them above."""
    return (towards + factor * (images - towards)).clamp(0, 1)


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    y, i, q = torch.einsum("kc,nchw->knhw", _constant(_TO_YIQ, images), images)
    angle = 2 * math.pi * turn[:, 0]
    turned = torch.stack([y, angle.cos() * i - angle.sin() * q, angle.sin() * i + angle.cos() * q])
    return torch.einsum("ck,knhw->nchw", _constant(_FROM_YIQ, images), turned).clamp(0, 1)


def _warp(
    images: Tensor,
    *,
    xx: Tensor | float = 1.0,
    xy: Tensor | float = 0.0,
    x: Tensor | float = 0.0,
    yx: Tensor | float = 0.0,
    yy: Tensor | float = 1.0,
    y: Tensor | float = 0.0,
    outside: str = "zeros",
) -> Tensor:
    """The image seen at (xx·u + xy·v + x, yx·u + yy·v + y) for u, v in −1…1."""
    entries = [
        (v if isinstance(v, Tensor) else images.new_full((1, 1, 1, 1), v)).expand(
            len(images), 1, 1, 1
        )
        for v in (xx, xy, x, yx, yy, y)
    ]
    matrices = torch.cat(entries, 1).view(-1, 2, 3)
    grid = affine_grid(matrices, [*images.shape], align_corners=False)
    return grid_sample(images, grid, padding_mode=outside, align_corners=False)
