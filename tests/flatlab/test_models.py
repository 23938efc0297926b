import importlib
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import batch_norm, conv2d, linear

from flatlab.models import WideResNet, cnn3, cnn6, cnn_bn, mlp, resnet, vit


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


def shaken(model):
    """In float64, all values, batch norm's among them, away from where they start."""
    for tensor in model.double().state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=seeded(3), dtype=tensor.dtype) / 5)
    return model.eval()


def normalised(x, norm):
    return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)


@pytest.mark.parametrize(("depth", "widen"), [(10, 2), (16, 1)])
def test_wide_resnet_by_hand(depth, widen):
    """He et al. 2016b: normalise and activate before each convolution, and before the shortcut's
    where the shape changes; else the input goes on as it is."""
    model = shaken(WideResNet(depth, widen, 4, 2, generator=seeded()))
    convolutions = iter([m for m in model.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    images = torch.randn(3, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    x = conv2d(images, next(convolutions).weight, padding=1)
    for stage in range(3):
        for block in range((depth - 4) // 6):
            stride = 2 if stage and not block else 1
            active = normalised(x, next(norms)).relu()
            inside = conv2d(active, next(convolutions).weight, stride=stride, padding=1)
            inside = normalised(inside, next(norms)).relu()
            inside = conv2d(inside, next(convolutions).weight, padding=1)
            if x.shape != inside.shape:
                x = conv2d(active, next(convolutions).weight, stride=stride)
            x = x + inside
    x = normalised(x, next(norms)).relu().mean((2, 3))
    assert not [*convolutions, *norms]
    torch.testing.assert_close(model(images), linear(x, model.fc.weight, model.fc.bias))


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
    importlib.import_module("torchvision")  # with the oldest PyTorch not on that device
    with torch.device("meta"):
        model = resnet(depth, classes, stem=stem)
    assert count(model) == size
    on_path = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert sum("downsample" not in name for name in on_path) + 1 == depth


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_resnet_by_hand(stem):
    """He et al. 2016: the shortcut is normalised, and what is activated is the sum."""
    model = shaken(resnet(18, 4, 2, stem=stem, generator=seeded()))
    images = torch.randn(2, 2, 32, 32, generator=seeded(), dtype=torch.float64)
    stride, padding = (1, 1) if stem == "cifar" else (2, 3)
    x = conv2d(images, model.conv1.weight, stride=stride, padding=padding)
    x = normalised(x, model.bn1).relu()
    if stem == "imagenet":
        x = nn.functional.max_pool2d(x, 3, 2, 1)
    for stage in range(4):
        for index, block in enumerate(model.get_submodule(f"layer{stage + 1}")):
            stride = 2 if stage and not index else 1
            y = conv2d(x, block.conv1.weight, stride=stride, padding=1)
            y = conv2d(normalised(y, block.bn1).relu(), block.conv2.weight, padding=1)
            if stride == 2:
                convolution, norm = block.downsample
                x = normalised(conv2d(x, convolution.weight, stride=2), norm)
            x = (x + normalised(y, block.bn2)).relu()
    logits = linear(x.mean((2, 3)), model.fc.weight, model.fc.bias)
    torch.testing.assert_close(model(images), logits)


def test_resnet_first_layer_starts_with_he_normal():
    weight = resnet(18, in_channels=1, generator=seeded()).conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("width", "heads", "size"), [(192, 3, 5_717_416), (384, 6, 22_050_664)])
def test_vision_transformer_has_the_published_size(width, heads, size):
    with torch.device("meta"):
        assert count(vit(224, 16, width, 12, heads, 1000)) == size


def test_vision_transformer_by_hand():
    """Dosovitskiy et al. 2021, equations 1 to 4, for images of two channels."""
    model = shaken(vit(8, 4, 12, 2, 3, 5, 2, generator=seeded()))
    images = torch.randn(3, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(3, 4, 32)
    tokens = linear(patches, model.conv_proj.weight.flatten(1), model.conv_proj.bias)
    tokens = torch.cat([model.class_token.expand(3, 1, 12), tokens], 1)
    tokens = tokens + model.encoder.pos_embedding
    for block in model.encoder.layers:
        attention, mlp_ = block.self_attention, block.mlp
        z = linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = z.view(3, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)  # of 3 heads of 4 numbers
        mixed = (q @ k.mT / 4**0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(3, 5, 12)
        tokens = tokens + linear(mixed, attention.out_proj.weight, attention.out_proj.bias)
        hidden = linear(block.ln_2(tokens), mlp_[0].weight, mlp_[0].bias)
        tokens = tokens + linear(nn.functional.gelu(hidden), mlp_[3].weight, mlp_[3].bias)
    head = model.heads.head
    logits = linear(model.encoder.ln(tokens)[:, 0], head.weight, head.bias)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(images), logits)


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("width", [16, 5])
def test_cnn3_by_hand(width, norm):
    model = shaken(cnn3(2, 4, width=width, norm=norm, generator=seeded()))
    layers = range(0, 9, 3) if norm else range(0, 6, 2)
    assert [model[i].out_channels for i in layers] == [width, 2 * width, 4 * width]
    x = torch.randn(3, 2, 28, 28, generator=seeded(), dtype=torch.float64)
    z = x
    for i in layers:
        z = conv2d(z, model[i].weight, stride=2, padding=1)
        z = (normalised(z, model[i + 1]) if norm else z).relu()
    logits = linear(z.mean((2, 3)), model[-1].weight, model[-1].bias)
    torch.testing.assert_close(model(x), logits)


@pytest.mark.parametrize("flat", [None, 14])
@pytest.mark.parametrize("norm", ["batch", "group", None])
def test_cnn3_with_another_norm_and_end_by_hand(norm, flat):
    model = shaken(cnn3(2, 4, width=8, norm=norm, flat=flat, generator=seeded()))
    layers = [m for m in model if list(m.parameters())]
    z = x = torch.randn(3, 2, 14, 14, generator=seeded(), dtype=torch.float64)
    for width in (8, 16, 32):
        z = conv2d(z, layers.pop(0).weight, stride=2, padding=1)
        if norm == "batch":
            z = normalised(z, layers.pop(0))
        elif norm == "group":
            groups, layer = z.view(3, 8, -1), layers.pop(0)
            mean, var = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, correction=0)
            z = ((groups - mean) / (var + 1e-5).sqrt()).view_as(z)
            z = z * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
        assert z.shape[1] == width
        z = z.relu()
    z = z.mean((2, 3)) if flat is None else z.flatten(1)
    torch.testing.assert_close(model(x), linear(z, layers[0].weight, layers[0].bias))
    assert len(layers) == 1


def test_cnn_bn_by_hand():
    model = shaken(cnn_bn(2, 4, generator=seeded()))
    x = torch.randn(3, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    z = x
    for i, stride in ((0, 1), (3, 2), (6, 2)):
        z = normalised(conv2d(z, model[i].weight, stride=stride, padding=1), model[i + 1]).relu()
    logits = linear(z.mean((2, 3)), model[-1].weight, model[-1].bias)
    torch.testing.assert_close(model(x), logits)


def test_cnn_bn_size():
    model = cnn_bn(1, 10)
    assert count(model) == 72 + 16 + 1152 + 32 + 2304 + 32 + 170
    x = torch.randn(4, 1, 14, 14, generator=seeded())
    assert model[:-3](x).shape == (4, 16, 4, 4)
    assert model(x).shape == (4, 10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: resnet(34), "depth must be 18 or 50, not 34"),
        (lambda: resnet(18, stem="tiny"), "stem must be .*'tiny'"),
        (lambda: cnn3(norm=True), "norm must be 'batch', 'group' or None, not True"),
        (lambda: cnn3(width=0), "width must be an integer >= 1, got 0"),
        (lambda: cnn3(width=12, norm="group"), "width must be a multiple of 8 for group norm"),
        (lambda: vit(30, 4), "image_size must be a multiple of 4, not 30"),
        (lambda: vit(32, 4, 100, 2, 3), "width must be a multiple of the 3 heads"),
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
        lambda g: resnet(18, generator=g),
        lambda g: vit(8, 4, 12, 1, generator=g),
    ],
    ids=["mlp", "cnn6", "cnn_bn", "cnn3", "WideResNet", "resnet", "vit"],
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
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert not all(torch.equal(p, q) for p, q in pairs)
