"""The network and the optimizer that a run's settings name, and how the network is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from flatlab.models import Norm, WideResNet, cnn3, cnn6, cnn_bn, mlp, resnet, vit
from flatlab.names import parts
from flatlab.sets import Place, kind_of
from flatlab.settings import Settings
from flatlab.streams import stream
from flatmin.optim import IAMD, IAMS, SAM


def build_model(settings: Settings) -> nn.Module:
    """The network of a run; for SimCLR its features with a projector behind them.

    Raises:
        ValueError: an unknown name, or SimCLR with a network that is not convolutional.

    Example:
        >>> given = {"data": "svhn", "model": "wrn-16-2", "method": "SGD", "seed": 0}
        >>> type(build_model(Settings.of(given))).__name__
        'WideResNet'
    """
    kind, name = kind_of(settings), settings.model
    shape = {"num_classes": kind.classes, "in_channels": kind.channels}
    rest: dict[str, Any] = {**shape, "generator": stream(settings.seed, "init")}
    model: nn.Module
    said = parts(name)
    if said["depth"] and said["widen"]:
        model = WideResNet(int(said["depth"]), int(said["widen"]), **rest)
    elif name.startswith("resnet"):
        stem = "imagenet" if kind.size > 64 else "cifar"
        model = resnet(int(name[-2:]), stem=stem, **rest)
    elif name == "cnn-bn":
        model = cnn_bn(**rest)
    elif name.startswith("cnn3"):
        norms: dict[str | None, Norm] = {None: "batch", "-group": "group", "-plain": None}
        flat, norm = kind.size if said["flat"] else None, norms[said["norm"]]
        model = cnn3(width=int(said["width"] or 16), norm=norm, flat=flat, **rest)
    elif said["tokens"]:
        width = int(said["tokens"])
        model = vit(kind.size, kind.size // 7, width, depth=2, heads=width // 16, **rest)
    else:
        model = (cnn6 if name == "cnn6" else vit)(image_size=kind.size, **rest)
    if settings.loop != "simclr":
        return model
    draw = stream(settings.seed, "projector")
    if isinstance(model, nn.Sequential) and isinstance(model[-1], nn.Linear):
        return nn.Sequential(model[:-1], mlp([model[-1].in_features, 128, 64], generator=draw))
    last = getattr(model, "fc", None)
    if not isinstance(last, nn.Linear):
        raise ValueError(f"model must be convolutional for simclr, got {name!r}")
    width, model.fc = last.in_features, nn.Identity()
    return nn.Sequential(model, mlp([width, width, 128], generator=draw))


def build_optimizer(
    settings: Settings, model: nn.Module, wrapped: nn.Module, place: Place
) -> Optimizer:
    """The optimizer of a run; climbs are common to all processes."""
    base: type[Optimizer] = {"SGD": SGD, "AdamW": AdamW}[settings.base]
    rest: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.base == "SGD":
        rest["momentum"] = settings.momentum
    method = settings.method
    if method == "SGD":
        return base(model.parameters(), **rest)
    rest |= {"rho": settings.rho, "module": wrapped, "sync": place.part[1] > 1}
    if method in ("SAM", "ASAM"):
        return SAM(model.parameters(), base, adaptive=method == "ASAM", **rest)
    rest["generator"] = stream(settings.seed, "noise", device=place.device)
    if method.startswith(("random", "score")):
        rest["direction"] = method.split("-")[0]
    else:
        rest |= {"sigma": settings.sigma, "steps": settings.climb}
    if method.endswith("D"):
        return IAMD(model.parameters(), base, beta=settings.beta, **rest)
    return IAMS(model.parameters(), base, **rest)


def build_forward(
    settings: Settings, model: nn.Module, device_type: str
) -> Callable[[Tensor], Tensor]:
    """How a run calls its model: on a GPU compiled, unless processes share it, and in bfloat16."""
    on_gpu = device_type == "cuda"
    compiled = on_gpu and settings.compiled and not isinstance(model, DistributedDataParallel)
    called = torch.compile(model) if compiled else model

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device_type, torch.bfloat16, enabled=on_gpu and settings.bf16):
            outputs: Tensor = called(images)
        return outputs.float() if outputs.dtype == torch.bfloat16 else outputs

    return forward
