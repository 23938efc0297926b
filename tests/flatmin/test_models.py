from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flatmin.models import WideResNet, cnn6, mlp


def count(model):
    return sum(p.numel() for p in model.parameters())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def wide_resnet_count(depth, widen, classes, channels):
    """Parameters by the publication's table: convolutions, two numbers a channel for batch norm."""
    total, width = 9 * channels * 16, 16
    for stage in (16 * widen, 32 * widen, 64 * widen):
        for _ in range((depth - 4) // 6):
            total += 2 * width + 9 * width * stage + 2 * stage + 9 * stage * stage
            total += width * stage if width != stage else 0
            width = stage
    return total + 2 * width + (width + 1) * classes


@pytest.mark.parametrize(
    ("depth", "widen", "classes", "millions"),
    [(28, 10, 10, 36.5), (16, 8, 10, 11.0), (16, 2, 10, 0.7), (40, 4, 10, 8.9), (22, 8, 10, 17.2)],
)
def test_wide_resnet_has_the_published_size(depth, widen, classes, millions):
    with torch.device("meta"):
        model = WideResNet(depth, widen, classes)
    assert count(model) == wide_resnet_count(depth, widen, classes, 3)
    assert round(count(model) / 1e6, 1) == millions


@pytest.mark.parametrize(("depth", "widen"), [(10, 2), (16, 2), (28, 2), (16, 1)])
def test_wide_resnet_depth_counts_its_convolutions(depth, widen):
    with torch.device("meta"):
        model = WideResNet(depth, widen, 7, 1)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert convolutions == (depth if widen > 1 else depth - 1)  # 16 → 16 needs no shortcut
    assert count(model) == wide_resnet_count(depth, widen, 7, 1)


def test_wide_resnet_output_and_gradients():
    model = WideResNet(10, 2, num_classes=5, in_channels=1, generator=seeded())
    logits = model(torch.randn(4, 1, 16, 16, generator=seeded()))
    assert logits.shape == (4, 5)
    logits.logsumexp(1).sum().backward()
    for p in model.parameters():
        assert p.grad.isfinite().all()
        assert p.grad.abs().sum() > 0


def test_wide_resnet_block_is_preactivated():
    """With zero residual weights a block without a shortcut convolution passes its input on."""
    model = WideResNet(16, 2, generator=seeded())
    block = model.features[2]
    nn.init.zeros_(block.residual[-1].weight)
    x = torch.randn(2, 32, 8, 8, generator=seeded())
    assert torch.equal(block(x), x)


def test_wide_resnet_starts_with_he_normal():
    weight = WideResNet(10, 8, generator=seeded()).features[3].residual[3].weight
    assert weight.std().item() == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.01)


@pytest.mark.parametrize("depth", [4, 15, 17, 0])
def test_wide_resnet_refuses_other_depths(depth):
    with pytest.raises(ValueError, match=f"6 n \\+ 4 .* not {depth}"):
        WideResNet(depth, 2)


@pytest.mark.parametrize(("channels", "size", "classes"), [(3, 32, 10), (1, 28, 10), (1, 8, 4)])
def test_cnn6_by_hand(channels, size, classes):
    model = cnn6(channels, classes, image_size=size, generator=seeded()).double()
    x = torch.randn(2, channels, size, size, generator=seeded(), dtype=torch.float64)
    kernels = [p for p in model.parameters() if p.ndim == 4]
    z = x
    for kernel, stride in zip(kernels, (1, 2, 1, 2), strict=True):
        z = nn.functional.conv2d(z, kernel, stride=stride, padding=1).relu()
    first, last = model[9], model[11]
    z = (z.flatten(1) @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(model(x), z)
    assert [tuple(k.shape[2:]) for k in kernels] == [(3, 3), (4, 4), (3, 3), (4, 4)]
    assert [k.shape[0] for k in kernels] == [32, 32, 64, 64]


def test_cnn6_size():
    assert count(cnn6()) == 511_926


@pytest.mark.parametrize("size", [0, 2, 30, -4])
def test_cnn6_refuses_other_sizes(size):
    with pytest.raises(ValueError, match=f"multiple of 4, not {size}"):
        cnn6(image_size=size)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_mlp_has_its_widths(widths):
    model = mlp(widths, nn.Tanh)
    weights = [m.weight.shape for m in model if isinstance(m, nn.Linear)]
    assert weights == [(b, a) for a, b in pairwise(widths)]
    assert sum(isinstance(m, nn.Tanh) for m in model) == len(widths) - 2
    assert isinstance(model[-1], nn.Linear)
    assert model(torch.zeros(3, widths[0])).shape == (3, widths[-1])


def test_mlp_needs_two_widths():
    with pytest.raises(ValueError, match=r"not \[3\]"):
        mlp([3])


@pytest.mark.parametrize(
    "build",
    [
        lambda g: mlp([4, 8, 3], generator=g),
        lambda g: cnn6(1, 3, image_size=8, generator=g),
        lambda g: WideResNet(10, 1, generator=g),
    ],
    ids=["mlp", "cnn6", "WideResNet"],
)
def test_generator_decides_and_global_state_stays(build):
    before = torch.get_rng_state()
    a, b, c = build(seeded(1)), build(seeded(1)), build(seeded(2))
    assert torch.equal(torch.get_rng_state(), before)
    same = [torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    other = [torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True)]
    assert all(same)
    assert not all(other)
    generator = seeded(1)  # two networks from one generator differ
    first, second = build(generator), build(generator)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
