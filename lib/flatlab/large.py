"""The large networks of :mod:`flatlab.models`: wide ResNets, ResNets and the Vision Transformer.

torchvision is imported only where a network of its is built.
"""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor, nn

from flatlab.initial import convolution, drawing_from
from flatmin._check import check_count, whole
from flatmin._extras import extra


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
        ValueError: ``depth`` is not 10, 16, 22, 28 …, or ``widen`` no whole number.

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
        if not whole(depth) >= 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6 n + 4 with n ≥ 1 (10, 16, 22, 28, …), not {depth!r}")
        blocks, widen = (depth - 4) // 6, check_count("widen", widen)
        channels = 16
        layers: list[nn.Module] = []
        with drawing_from(generator):
            layers.append(convolution(in_channels, channels))
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
            convolution(channels, width, stride=stride),
            *(nn.BatchNorm2d(width), nn.ReLU()),
            convolution(width, width),
        )
        self.shortcut = None if channels == width else convolution(channels, width, 1, stride)

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
    if whole(depth) not in (18, 50):
        raise ValueError(f"depth must be 18 or 50, not {depth!r}")
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"stem must be 'cifar' or 'imagenet', not {stem!r}")
    networks = _torchvision()
    with drawing_from(generator):
        model: nn.Module = getattr(networks, f"resnet{depth}")(num_classes=num_classes)
        model.conv1 = convolution(in_channels, 64, *((3, 1) if stem == "cifar" else (7, 2)))
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
        ValueError: a size is no whole number, patches do not tile the image, or heads do not divide
            the width.
        ImportError: torchvision is missing.

    Examples:
        >>> net = vit(8, 4, width=12, depth=2, heads=3)
        >>> net(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 10])
    """
    sizes = {"image_size": image_size, "patch_size": patch_size}
    for name, value in {**sizes, "width": width, "depth": depth, "heads": heads}.items():
        check_count(name, value)
    if image_size % patch_size:
        raise ValueError(f"image_size must be a multiple of {patch_size}, not {image_size}")
    if width % heads:
        raise ValueError(f"width must be a multiple of the {heads} heads, not {width}")
    networks = _torchvision()
    with drawing_from(generator):
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
