"""The networks of the experiments: a multilayer perceptron, the paper's small CNN, wide ResNets.

All return logits (n, classes) without a softmax. Initial values come from ``generator``; without
one from torch's global generator, as in any torch module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

__all__ = ["WideResNet", "cnn6", "mlp"]


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
            self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, height, width)."""
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
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


def _convolution(channels: int, width: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
