"""The networks of the experiments: multilayer perceptron, small CNNs, ResNets, Vision Transformer.

All return logits (n, classes) without a softmax. Initial values come from ``generator``; without
one from torch's global generator, as in any torch module. Residual networks end in a linear layer
``fc``: with ``model.fc = nn.Identity()`` they return features. torchvision is imported only where
a network of its is built. The large ones live in :mod:`flatlab.large`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Literal, TypeAlias

from torch import Generator, nn

from flatlab.initial import convolution, drawing_from
from flatlab.large import WideResNet, resnet, vit
from flatmin._check import check_count, whole

GROUPS = 8  # of group norm
Norm: TypeAlias = Literal["batch", "group"] | None

__all__ = ["WideResNet", "cnn3", "cnn6", "cnn_bn", "mlp", "resnet", "vit"]


def mlp(
    widths: Sequence[int],
    activation: type[nn.Module] = nn.ReLU,
    *,
    generator: Generator | None = None,
) -> nn.Sequential:
    """Multilayer perceptron on flattened inputs.

    Args:
        widths: Inputs, hidden units of each layer, outputs.
        activation: Class of the layer between two linear ones.
        generator: Source of the initial values.

    Returns:
        A network from (n, …) with ``widths[0]`` numbers per example to (n, ``widths[-1]``).

    Raises:
        ValueError: fewer than two widths.

    Examples:
        >>> net = mlp([196, 64, 64, 10], generator=torch.Generator().manual_seed(0))
        >>> net(torch.zeros(5, 1, 14, 14)).shape
        torch.Size([5, 10])
    """
    if len(widths) < 2:
        raise ValueError(f"widths must hold at least inputs and outputs, not {list(widths)}")
    layers: list[nn.Module] = [nn.Flatten()]
    with drawing_from(generator):
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def cnn6(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    image_size: int = 32,
    generator: Generator | None = None,
) -> nn.Sequential:
    """The six-layer CNN of Kim et al. 2026, Figure 1: four convolutions, no batch norm.

    511,926 parameters for 3 × 32 × 32 images and ten classes.

    Args:
        in_channels: Channels of the images.
        num_classes: Outputs.
        image_size: Height and width of the images, a multiple of 4.
        generator: Source of the initial values.

    Returns:
        A network from (n, in_channels, image_size, image_size) to (n, num_classes).

    Raises:
        ValueError: ``image_size`` is no positive multiple of 4.

    Examples:
        >>> cnn6(1, 10, image_size=28)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    if not whole(image_size) >= 4 or image_size % 4:
        raise ValueError(f"image_size must be a positive multiple of 4, not {image_size}")
    with drawing_from(generator):
        return nn.Sequential(
            *(nn.Conv2d(in_channels, 32, 3, padding=1, bias=False), nn.ReLU()),
            *(nn.Conv2d(32, 32, 4, stride=2, padding=1, bias=False), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.ReLU()),
            *(nn.Conv2d(64, 64, 4, stride=2, padding=1, bias=False), nn.ReLU()),
            nn.Flatten(),
            *(nn.Linear(64 * (image_size // 4) ** 2, 100), nn.ReLU()),
            nn.Linear(100, num_classes),
        )


def cnn_bn(
    in_channels: int = 1,
    num_classes: int = 10,
    *,
    generator: Generator | None = None,
) -> nn.Sequential:
    """A CNN with batch norm small enough for hundreds of runs: three convolutions of 8, 16, 16.

    The last two halve the image; the mean over what is left of it goes into a linear layer. 3,778
    parameters for one channel and ten classes. ``model[:-1]`` returns features (n, 16).

    Args:
        in_channels: Channels of the images.
        num_classes: Outputs.
        generator: Source of the initial values.

    Returns:
        A network from (n, in_channels, height, width) to (n, num_classes).

    Examples:
        >>> cnn_bn()(torch.zeros(5, 1, 14, 14)).shape
        torch.Size([5, 10])
    """
    with drawing_from(generator):
        return _averaged(in_channels, num_classes, (8, 16, 16), (1, 2, 2))


def cnn3(
    in_channels: int = 1,
    num_classes: int = 10,
    *,
    width: int = 16,
    norm: Norm = "batch",
    flat: int | None = None,
    generator: Generator | None = None,
) -> nn.Sequential:
    """A CNN that learns a thousand images by heart, however they are labelled.

    Three convolutions, by default of 16, 32 and 64 channels with batch norm, each of which halves
    the image; the mean over what is left of it goes into a linear layer. 24,058 parameters for one
    channel and ten classes. ``model[:-1]`` returns features, (n, 4 ``width``) unless ``flat``.

    Args:
        in_channels: Channels of the images.
        num_classes: Outputs.
        width: Channels of the first convolution, at least 1; the others have 2 and 4 times as many.
        norm: What follows each convolution: batch norm, group norm in eight groups, or nothing.
        flat: Height and width of the images, if the linear layer is to see every pixel that the
            last convolution leaves in place of their mean.
        generator: Source of the initial values.

    Returns:
        A network from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        ValueError: ``norm`` is unknown; ``width`` is below 1, or no multiple of 8 for group norm.

    Examples:
        >>> net = cnn3()
        >>> sum(p.numel() for p in net.parameters()), net(torch.zeros(5, 1, 28, 28)).shape
        (24058, torch.Size([5, 10]))
    """
    if norm not in ("batch", "group", None):
        raise ValueError(f"norm must be 'batch', 'group' or None, not {norm!r}")
    check_count("width", width)
    if norm == "group" and width % GROUPS:
        raise ValueError(f"width must be a multiple of {GROUPS} for group norm, not {width}")
    with drawing_from(generator):
        widths = (width, 2 * width, 4 * width)
        return _averaged(in_channels, num_classes, widths, (2, 2, 2), norm=norm, flat=flat)


def _averaged(
    channels: int,
    num_classes: int,
    widths: Sequence[int],
    strides: Sequence[int],
    *,
    norm: Norm = "batch",
    flat: int | None = None,
) -> nn.Sequential:
    """3 × 3 convolutions, each with a norm or without, and ReLU; mean over the image; linear."""
    layers: list[nn.Module] = []
    for width, stride in zip(widths, strides, strict=True):
        layers += [convolution(channels, width, stride=stride)]
        if norm:
            layers += [nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(GROUPS, width)]
        layers += [nn.ReLU()]
        channels = width
    if flat is None:
        layers += [nn.AdaptiveAvgPool2d(1)]
    else:
        side = reduce(lambda side, stride: -(-side // stride), strides, flat)
        channels *= side * side
    layers += [nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers)
