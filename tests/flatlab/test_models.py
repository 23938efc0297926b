from itertools import pairwise

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flatlab.models import ResNet, VisionTransformer, WideResNet, cnn3, cnn6, cnn_bn, mlp


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
    ("depth", "classes", "stem", "size"),
    [(18, 10, "cifar", 11_173_962), (50, 1000, "imagenet", 25_557_032)],
)
def test_resnet_has_the_published_size(depth, classes, stem, size):
    with torch.device("meta"):
        model = ResNet(depth, classes, stem=stem)
    assert count(model) == size
    on_path = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert sum("shortcut" not in name for name in on_path) + 1 == depth


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_torchvision_s(depth):
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    model = ResNet(depth, 7, stem="imagenet").eval()
    values = [v for name, v in reference.state_dict().items()]
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
    x = torch.randn(2, 3, 64, 64, generator=seeded())
    torch.testing.assert_close(model(x), reference(x))


def test_resnet_for_cifar_keeps_the_resolution():
    with torch.device("meta"):
        features = ResNet(18, in_channels=1).features
        assert features(torch.zeros(2, 1, 32, 32)).shape == (2, 512, 4, 4)


@pytest.mark.parametrize(("width", "heads", "size"), [(192, 3, 5_717_416), (384, 6, 22_050_664)])
def test_vision_transformer_has_the_published_size(width, heads, size):
    with torch.device("meta"):
        assert count(VisionTransformer(224, 16, width, 12, heads, 1000)) == size


@pytest.mark.parametrize("training", [True, False])
def test_vision_transformer_is_torchvision_s(training):
    sizes = {"image_size": 8, "patch_size": 4, "num_classes": 5}
    reference = torchvision.models.VisionTransformer(
        **sizes, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=48
    )
    nn.init.normal_(reference.heads.head.weight, generator=seeded())
    model = VisionTransformer(**sizes, width=12, depth=2, heads=3).train(training)
    renamed = {
        **{"class_token": "token", "encoder.pos_embedding": "position", "conv_proj": "patches"},
        **{"encoder.layers.encoder_layer_": "blocks.", "self_attention": "self_attn"},
        **{"ln_1": "norm1", "ln_2": "norm2", "mlp.0": "linear1", "mlp.3": "linear2"},
        **{"encoder.ln": "norm", "heads.head": "head"},
    }
    state = {}
    for name, value in reference.state_dict().items():
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        state[name] = value
    model.load_state_dict(state)
    x = torch.randn(3, 3, 8, 8, generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference.train(training)(x))


def test_cnn3_halves_the_image_three_times():
    model = cnn3(3, 7, generator=seeded())
    convolutions = [m for m in model if isinstance(m, nn.Conv2d)]
    shapes = [(m.in_channels, m.out_channels, m.stride, m.kernel_size) for m in convolutions]
    assert shapes == [(a, b, (2, 2), (3, 3)) for a, b in ((3, 16), (16, 32), (32, 64))]
    assert [type(m) for m in model[:9]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    x = torch.randn(4, 3, 28, 28, generator=seeded())
    features = model[:9](x)
    assert features.shape == (4, 64, 4, 4)
    expected = features.mean((2, 3)) @ model[-1].weight.T + model[-1].bias
    torch.testing.assert_close(model(x), expected)


def test_cnn_bn():
    model = cnn_bn(1, 10)
    assert count(model) == 72 + 16 + 1152 + 32 + 2304 + 32 + 170
    x = torch.randn(4, 1, 14, 14, generator=seeded())
    assert model[:-3](x).shape == (4, 16, 4, 4)
    assert model(x).shape == (4, 10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResNet(34), "depth must be 18 or 50, not 34"),
        (lambda: ResNet(18, stem="tiny"), "stem must be .*'tiny'"),
        (lambda: VisionTransformer(30, 4), "image_size must be a multiple of 4, not 30"),
        (lambda: VisionTransformer(32, 4, 100, 2, 3), "width must be a multiple of the 3 heads"),
    ],
)
def test_bad_sizes(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda g: mlp([4, 8, 3], generator=g),
        lambda g: cnn6(1, 3, image_size=8, generator=g),
        lambda g: cnn_bn(generator=g),
        lambda g: cnn3(generator=g),
        lambda g: WideResNet(10, 1, generator=g),
        lambda g: ResNet(18, generator=g),
        lambda g: VisionTransformer(8, 4, 12, 1, generator=g),
    ],
    ids=["mlp", "cnn6", "cnn_bn", "cnn3", "WideResNet", "ResNet", "VisionTransformer"],
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
