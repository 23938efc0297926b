"""Networks and optimizers by the names that settings give them."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from runs import SMALL

from flatlab.build import build_forward, build_model
from flatlab.models import WideResNet, cnn3, cnn6, cnn_bn, resnet, vit
from flatlab.sets import kind_of
from flatlab.settings import load_recipe, recipes
from flatlab.streams import stream


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match=r"model must be cnn-bn, .* got 'lenet'"):
        build_model(replace(SMALL, model="lenet"))
    with pytest.raises(ValueError, match="model must be convolutional for simclr, got 'vit'"):
        build_model(replace(SMALL, model="vit", loop="simclr"))


@pytest.mark.parametrize(("data", "size"), [("imagenet", 7), ("cifar-10", 3)])
def test_a_resnet_begins_as_its_images_want(data, size):
    model = build_model(replace(SMALL, data=data, model="resnet-18", tier="paper"))
    assert model.conv1.kernel_size == (size, size)


def test_the_small_networks_go_by_their_names():
    settings = replace(SMALL, data="fashion-mnist-part", tier="paper")
    # 9 weights a pair of channels, 2 of batch norm a channel, and the last layer.
    sizes = {"cnn-bn": 3778, "cnn3": 24_058, "cnn3-6": 54 + 648 + 2592 + 84 + 250}
    sizes |= {"cnn3-6-plain": sizes["cnn3-6"] - 84, "cnn3-plain": 24_058 - 224}
    sizes |= {"cnn3-24-group": 53_362, "cnn3-24-flat": 53_362 + 960 * 15}  # 16 pixels are left
    # Patches and a class, places of 49 + 1, two blocks, and the last norm and layer.
    block = 128 + 4 * 32 * 33 + 2 * 32 * 128 + 160
    sizes |= {"vit-32": 16 * 32 + 64 + 50 * 32 + 2 * block + 64 + 330}
    for name, size in sizes.items():
        model = build_model(replace(settings, model=name))
        assert sum(p.numel() for p in model.parameters()) == size


#: For grey images of 28 × 28 in ten classes.
NETWORKS = {
    "cnn-bn": lambda g: cnn_bn(1, 10, generator=g),
    "cnn3": lambda g: cnn3(1, 10, width=16, norm="batch", generator=g),
    "cnn3-8-plain-flat": lambda g: cnn3(1, 10, width=8, norm=None, flat=28, generator=g),
    "cnn3-8-group": lambda g: cnn3(1, 10, width=8, norm="group", generator=g),
    "cnn6": lambda g: cnn6(1, 10, image_size=28, generator=g),
    "wrn-16-2": lambda g: WideResNet(16, 2, 10, 1, generator=g),
    "resnet-50": lambda g: resnet(50, 10, 1, stem="cifar", generator=g),
    "vit": lambda g: vit(28, 4, 192, 12, 3, 10, 1, generator=g),
    "vit-32": lambda g: vit(28, 4, 32, 2, 2, 10, 1, generator=g),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_name_builds_the_network_that_it_says(name):
    """Not of its size alone: heads and the kind of norm do not tell in the number of weights."""
    settings = replace(SMALL, data="fashion-mnist-part", tier="paper", model=name, seed=3)
    pair = build_model(settings).eval(), NETWORKS[name](stream(3, "init")).eval()
    torch.testing.assert_close(*(dict(model.state_dict()) for model in pair), rtol=0, atol=0)
    images, outputs = torch.randn(2, 1, 28, 28, generator=stream(0)), []
    for model in pair:
        draw = stream(1)
        with torch.no_grad():
            for p in model.parameters():  # the vit's last layer starts at zero
                p.add_(0.1 * torch.randn(p.shape, generator=draw))
            outputs.append(model(images))
    assert outputs[0].std() > 0
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_builds_its_network_at_full_size(recipe):
    for settings in {s.model: s for s in load_recipe(recipe).values()}.values():
        kind = kind_of(settings)
        with torch.device("meta"):
            model = build_model(settings).to("meta")
            outputs = model(torch.empty(2, kind.channels, kind.size, kind.size))
        projected = 64 if settings.model.startswith("cnn") else 128
        assert outputs.shape == (2, projected if settings.loop == "simclr" else kind.classes)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_gpu_it_is_compiled_and_in_bfloat16(bf16, compiled, device, monkeypatch):
    casts, compilations = [], []

    def autocast(device_type, dtype, *, enabled):
        casts.append((device_type, dtype, enabled))
        return nullcontext()

    def compile_(model):
        compilations.append(model)
        return lambda images: model(images).bfloat16()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch, "compile", compile_)
    model = torch.nn.Linear(2, 2)
    forward = build_forward(replace(SMALL, bf16=bf16, compiled=compiled), model, device)
    assert forward(torch.zeros(1, 2)).dtype == torch.float32
    assert casts == [(device, torch.bfloat16, bf16 and device == "cuda")]
    assert compilations == [model] * (compiled and device == "cuda")
