"""The networks of the experiments: multilayer perceptron, small CNNs, ResNets, Vision Transformer.

All return logits (n, classes) without a softmax. Initial values come from ``generator``; without
one from torch's global generator, as in any torch module. Residual networks end in a linear layer
``fc``: with ``model.fc = nn.Identity()`` they return features. torchvision is imported only where
a network of its is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from flatmin._extras import extra

__all__ = ["WideResNet", "cnn3", "cnn6", "cnn_bn", "mlp", "resnet", "vit"]


@contextmanager
def _drawing_from(generator: Generator | None) -> Iterator[None]:
    """Let modules built here start from ``generator``; leave torch's global generator untouched."""
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), device=generator.device, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield


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
    with _drawing_from(generator):
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
    if image_size < 4 or image_size % 4:
        raise ValueError(f"image_size must be a positive multiple of 4, not {image_size}")
    with _drawing_from(generator):
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
    with _drawing_from(generator):
        return _averaged(in_channels, num_classes, (8, 16, 16), (1, 2, 2))


def cnn3(
    in_channels: int = 1,
    num_classes: int = 10,
    *,
    generator: Generator | None = None,
) -> nn.Sequential:
    """A CNN with batch norm that learns a thousand images by heart, however they are labelled.

    Three convolutions of 16, 32 and 64 channels, each of which halves the image; the mean over what
    is left of it goes into a linear layer. 24,058 parameters for one channel and ten classes.
    ``model[:-1]`` returns features (n, 64).

    Args:
        in_channels: Channels of the images.
        num_classes: Outputs.
        generator: Source of the initial values.

    Returns:
        A network from (n, in_channels, height, width) to (n, num_classes).

    Examples:
        >>> net = cnn3()
        >>> sum(p.numel() for p in net.parameters()), net(torch.zeros(5, 1, 28, 28)).shape
        (24058, torch.Size([5, 10]))
    """
    with _drawing_from(generator):
        return _averaged(in_channels, num_classes, (16, 32, 64), (2, 2, 2))


def _averaged(
    channels: int, num_classes: int, widths: Sequence[int], strides: Sequence[int]
) -> nn.Sequential:
    """3 × 3 convolutions with batch norm and ReLU, the mean over the image, a linear layer."""
    layers: list[nn.Module] = []
    for width, stride in zip(widths, strides, strict=True):
        layers += [_convolution(channels, width, stride=stride)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers)


class WideResNet(nn.Module):
    """WRN-d-k as published (Zagoruyko and Komodakis 2016): (d − 4) / 6 blocks in each of 3 stages.

    The code released with Kim et al. 2026 has one block more per stage: its "WRN-16-8" is 22
    layers deep and is not this network.

    Args:
        depth: d = 6 n + 4 for n ≥ 1 blocks per stage.
        widen: k; the stages have 16 k, 32 k and 64 k channels.
        num_classes: Outputs.
        in_channels: Channels of the images.
        generator: Source of the initial values.

    Raises:
        ValueError: ``depth`` is not 10, 16, 22, 28 …

    Examples:
        >>> net = WideResNet(16, 2)
        >>> sum(p.numel() for p in net.parameters())
        691674
        >>> net(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth must be 6 n + 4 with n ≥ 1 (10, 16, 22, 28, …), not {depth}")
        channels = 16
        layers: list[nn.Module] = []
        with _drawing_from(generator):
            layers.append(_convolution(in_channels, channels))
            for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
                for block in range(blocks):
                    stride = 2 if stage > 0 and block == 0 else 1
                    layers.append(_Block(channels, width, stride))
                    channels = width
            self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
            self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, height, width)."""
        logits: Tensor = self.fc(self.features(images).mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Pre-activation residual block; its shortcut is a convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.residual = nn.Sequential(
            _convolution(channels, width, stride=stride),
            *(nn.BatchNorm2d(width), nn.ReLU()),
            _convolution(width, width),
        )
        self.shortcut = None if channels == width else _convolution(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out: Tensor = shortcut + self.residual(activated)
        return out


def resnet(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    stem: str = "cifar",
    generator: Generator | None = None,
) -> nn.Module:
    """ResNet-18 or ResNet-50 (He et al. 2016) of torchvision, perhaps with another first layer.

    11,173,962 parameters for ResNet-18 with the stem of CIFAR and ten classes; 25,557,032 for
    ResNet-50 with that of ImageNet and a thousand.

    Args:
        depth: 18 or 50.
        num_classes: Outputs.
        in_channels: Channels of the images.
        stem: ``"cifar"``, a 3×3 convolution, or ``"imagenet"``, a 7×7 one and max-pooling.
        generator: Source of the initial values.

    Returns:
        A network from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        ValueError: ``depth`` or ``stem`` is unknown.
        ImportError: torchvision is missing.

    Examples:
        >>> net = resnet(18)
        >>> sum(p.numel() for p in net.parameters())
        11173962
        >>> net.fc = nn.Identity()
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 512])
    """
    if depth not in (18, 50):
        raise ValueError(f"depth must be 18 or 50, not {depth}")
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"stem must be 'cifar' or 'imagenet', not {stem!r}")
    networks = _torchvision()
    with _drawing_from(generator):
        model: nn.Module = getattr(networks, f"resnet{depth}")(num_classes=num_classes)
        model.conv1 = _convolution(in_channels, 64, *((3, 1) if stem == "cifar" else (7, 2)))
    if stem == "cifar":
        model.maxpool = nn.Identity()
    return model


def vit(
    image_size: int = 32,
    patch_size: int = 4,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    generator: Generator | None = None,
) -> nn.Module:
    """The Vision Transformer (Dosovitskiy et al. 2021) of torchvision, for any number of channels.

    By default the "tiny" width of Touvron et al. 2021 for images of CIFAR; with ``image_size=224,
    patch_size=16, width=384, heads=6, num_classes=1000`` their DeiT-S of 22,050,664 parameters.
    The last layer starts at zero.

    Args:
        image_size: Height and width of the images, a multiple of ``patch_size``.
        patch_size: Height and width of a patch.
        width: Numbers per token, a multiple of ``heads``.
        depth: Blocks.
        heads: Attention heads.
        num_classes: Outputs.
        in_channels: Channels of the images.
        generator: Source of the initial values.

    Returns:
        A network from (n, in_channels, image_size, image_size) to (n, num_classes).

    Raises:
        ValueError: patches do not tile the image, or heads do not divide the width.
        ImportError: torchvision is missing.

    Examples:
        >>> net = vit(8, 4, width=12, depth=2, heads=3)
        >>> net(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 10])
    """
    if image_size % patch_size:
        raise ValueError(f"image_size must be a multiple of {patch_size}, not {image_size}")
    if width % heads:
        raise ValueError(f"width must be a multiple of the {heads} heads, not {width}")
    networks = _torchvision()
    with _drawing_from(generator):
        model: nn.Module = networks.VisionTransformer(
            image_size, patch_size, depth, heads, width, 4 * width, num_classes=num_classes
        )
        if in_channels != 3:
            model.conv_proj = nn.Conv2d(in_channels, width, patch_size, patch_size)
    return model


def _torchvision() -> Any:
    with extra("lab"):
        from torchvision import models
    return models


def _convolution(channels: int, width: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
