"""Runs assembled by hand from torch and flatmin: what an experiment must do, step by step.

Nothing here goes through the runner, its loops, its schedules or its streams. Augmentations and
the initial values of a network come from the library: they have tests of their own.
"""

import copy
import math
from functools import partial
from hashlib import sha256

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.optim import SGD, AdamW

from flatlab.data.augment import colour_jitter, crop, cutout, flip, grey, rand_augment, resized_crop
from flatlab.models import WideResNet, cnn3, cnn_bn, mlp
from flatmin.curvature import (
    fisher_trace,
    hessian_trace,
    top_fisher_eigenpairs,
    top_hessian_eigenpairs,
)
from flatmin.inconsistency import local_inconsistency
from flatmin.optim import IAMD, IAMS, SAM

RECORD_EVERY = 500
AT_ONCE, LOOK_AT = 5, 10  # in place of 250 and 1000
FLOAT = torch.float64


def stream(*key):
    digest = sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def order(n, size, *key):
    """Batches of indices: one permutation after the other, cut into pieces."""
    epoch, ahead = 0, []
    while True:
        while len(ahead) < size:
            ahead += torch.randperm(n, generator=stream(*key, "order", epoch)).tolist()
            epoch += 1
        yield torch.tensor(ahead[:size])
        ahead = ahead[size:]


def factor_of(settings, step, steps, epoch):
    if settings.schedule == "drops":
        return 0.2 ** sum(step >= steps * tenths // 10 for tenths in (3, 6, 8))
    if settings.schedule == "cosine":
        warm = settings.warmup * epoch
        if step < warm:
            return (step + 1) / warm
        return (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))) / 2
    if settings.schedule == "fixmatch":
        return math.cos(7 / 16 * math.pi * step / steps)
    return 1.0


def network(settings, kind):
    generator = stream(settings.seed, "init")
    if settings.model == "cnn-bn":
        model = cnn_bn(kind.channels, kind.classes, generator=generator)
    elif settings.model == "cnn3-8-flat":
        model = cnn3(kind.channels, kind.classes, width=8, flat=kind.size, generator=generator)
        if settings.loop == "simclr":
            projector = mlp([32, 128, 64], generator=stream(settings.seed, "projector"))
            return nn.Sequential(model[:-1], projector).to(FLOAT)
    else:
        model = WideResNet(10, 1, kind.classes, kind.channels, generator=generator)
    if settings.loop == "simclr":
        model.fc = nn.Identity()
        projector = mlp([64, 64, 128], generator=stream(settings.seed, "projector"))
        model = nn.Sequential(model, projector)
    return model.to(FLOAT)


def optimizer_of(settings, model):
    base = SGD if settings.base == "SGD" else AdamW
    kwargs = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if base is SGD:
        kwargs["momentum"] = settings.momentum
    if settings.method == "SGD":
        return base(model.parameters(), **kwargs)
    kwargs |= {"rho": settings.rho, "module": model}
    noise = {"generator": stream(settings.seed, "noise")}
    climb = {"steps": settings.climb, "sigma": settings.sigma, **noise}
    params = model.parameters()
    match settings.method:
        case "SAM":
            return SAM(params, base, **kwargs)
        case "ASAM":
            return SAM(params, base, adaptive=True, **kwargs)
        case "IAM-S":
            return IAMS(params, base, **climb, **kwargs)
        case "IAM-D":
            return IAMD(params, base, beta=settings.beta, **climb, **kwargs)
        case "random-S":
            return IAMS(params, base, direction="random", **noise, **kwargs)
        case "score-S":
            return IAMS(params, base, direction="score", **noise, **kwargs)
        case "random-D":
            return IAMD(params, base, direction="random", beta=settings.beta, **noise, **kwargs)


def through(operations, images, generator, kind):
    """On pixels in 0…1."""
    mean, std = (torch.tensor(v, dtype=FLOAT).view(-1, 1, 1) for v in (kind.mean, kind.std))
    pixels = images * std + mean
    for operation in operations:
        pixels = operation(pixels, generator)
    return (pixels - mean) / std


def weak(images, generator, mirrored):
    moved = crop(images, generator, mode="reflect")
    return flip(moved, generator) if mirrored else moved


def strong(images, generator, mirrored):
    return cutout(rand_augment(weak(images, generator, mirrored), generator), generator)


def grey_strong(images, generator, mirrored):
    return cutout(rand_augment(weak(images, generator, mirrored), generator, times=1), generator)


def view(images, generator, mirrored):
    window = resized_crop(images, generator)
    window = flip(window, generator) if mirrored else window
    return grey(colour_jitter(window, generator), generator)


def grey_view(images, generator, mirrored):
    window = resized_crop(images, generator, scale=(0.3, 1))
    window = flip(window, generator) if mirrored else window
    dimmed = colour_jitter(window, generator, saturation=0, hue=0)
    return cutout(dimmed, generator, largest=0.4)


def few_of_each(labels, count, seed):
    """The first ``count`` of each class in an order at random, the classes taking turns."""
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(labels)))
    classes = labels.unique().tolist()
    members = [[i for i in shuffled if labels[i] == c][:count] for c in classes]
    return torch.tensor([i for turn in zip(*members, strict=True) for i in turn])


def losses_of(settings, model, x, y, u, generator, kind):
    """Images in one pass, and from their logits the labelled loss, the other, what IAM sees."""
    small, mirrored = settings.data.endswith("-14"), settings.data not in ("mnist-14", "svhn")
    easiest, hardest, seen = (
        partial(operation, mirrored=mirrored)
        for operation in (weak, grey_strong if small else strong, grey_view if small else view)
    )
    if settings.loop == "simclr":
        images = torch.cat([through([seen], x, generator, kind) for _ in range(2)])

        def parts():
            z, n = normalize(model(images)), len(x)
            logits = (
                torch.stack([torch.cat([z[:i], z[i + 1 :]]) @ z[i] for i in range(2 * n)])
                / settings.temperature
            )
            partner = [*range(n - 1, 2 * n - 1), *range(n)]  # after the one that is left out
            return cross_entropy(logits, torch.tensor(partner)), 0.0, logits

    elif settings.loop == "fixmatch":
        images = [through([easiest], x, generator, kind), through([easiest], u, generator, kind)]
        images = torch.cat([*images, through([hardest], u, generator, kind)])

        def parts():
            logits = model(images)
            own, easy, hard = logits.split([len(x), len(u), len(u)])
            p, guess = easy.detach().softmax(1).max(1)
            sure = (p >= settings.threshold).to(FLOAT)
            unsure = (sure * cross_entropy(hard, guess, reduction="none")).sum() / len(u)
            return cross_entropy(own, y), settings.unlabelled_weight * unsure, logits

    else:
        images = x if u is None else torch.cat([x, u])
        if settings.augment:
            images = through(kind.standard, images, generator, kind)

        def parts(count=None):
            logits = model(images[:count])
            own, smooth = logits[: len(x)], settings.label_smoothing
            return cross_entropy(own, y[:count], label_smoothing=smooth), 0.0, logits

    return parts


def take_step(settings, optimizer, parts, y):
    """Returns the loss at θ."""
    if count := settings.climb_batch:
        part = 0 if "SAM" in settings.method else 2
        with optimizer.perturbed(lambda: parts(count)[part]) as there:
            parts()[0].backward()
        optimizer.step()
        smooth = settings.label_smoothing
        loss = cross_entropy(there, y[:count], label_smoothing=smooth) if part else there
        return loss.item()
    if settings.loop == "fixmatch" and "SAM" in settings.method:
        with optimizer.perturbed(lambda: parts()[0]) as loss:
            parts()[0].backward()
        unlabelled = parts()[1]
        unlabelled.backward()
        optimizer.step()
        return loss.item() + unlabelled.item()

    def closure():
        labelled, unlabelled, logits = parts()
        return labelled + unlabelled, logits

    if settings.method != "SGD":
        return optimizer.step(closure).item()
    loss = closure()[0]
    loss.backward()
    optimizer.step()
    return loss.item()


def probe(settings, encoder, train, test):
    """The test error of a linear layer on frozen features; by AdamW in an order of its own."""
    (x, y), (x_test, y_test) = train, test
    with torch.no_grad():
        features, held_out = encoder(x).flatten(1), encoder(x_test).flatten(1)
    if settings.probe == "LBFGS":
        return logistic(features.numpy(), y.numpy(), held_out.numpy(), y_test.numpy())
    layer = mlp([features.shape[1], int(y.max()) + 1], generator=stream(0, "probe")).to(FLOAT)
    optimizer = AdamW(layer.parameters(), lr=1e-3)
    steps = max(1, 20 * len(y) // 256)
    for _, chosen in zip(range(steps), order(len(y), 256, 0), strict=False):
        optimizer.zero_grad()
        cross_entropy(layer(features[chosen]), y[chosen]).backward()
        optimizer.step()
    return (layer(held_out).argmax(1) != y_test).to(FLOAT).mean().item()


def logistic(x, y, x_test, y_test):
    """By SciPy, with the penalty that does best on a fifth; its test error."""
    mean, std = x.mean(0), np.maximum(x.std(0, ddof=1), 1e-6)
    x, x_test, fifth = (x - mean) / std, (x_test - mean) / std, len(y) // 5
    features, classes = x.shape[1], y.max() + 1

    def fitted(x, y, penalty):
        ones, rows = np.ones((len(y), 1)), np.arange(len(y))
        x = np.hstack([x, ones])
        penalties = penalty * np.append(np.ones(features), 0)[:, None]

        def loss(flat):
            w = flat.reshape(-1, y.max() + 1)
            error = softmax(x @ w, 1)
            error[rows, y] -= 1
            value = -log_softmax(x @ w, 1)[rows, y].mean() + (penalties * w**2).sum() / 2
            return value, (x.T @ error / len(y) + penalties * w).ravel()

        start = np.zeros((features + 1) * (y.max() + 1))
        options = {"maxiter": 5000, "ftol": 0, "gtol": 1e-8}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        return found.x.reshape(features + 1, -1)

    def missed(w, x, y):
        return np.mean((x @ w[:-1] + w[-1]).argmax(1) != y)

    assert classes == y[:-fifth].max() + 1
    grid = [0.1, 0.01, 0.001, 0.0001]
    held_out = [missed(fitted(x[:-fifth], y[:-fifth], p), x[-fifth:], y[-fifth:]) for p in grid]
    return float(missed(fitted(x, y, grid[int(np.argmin(held_out))]), x_test, y_test))


def wrong(model, x, y, guesses=1):
    with torch.no_grad():
        best = model(x).topk(min(guesses, model(x[:1]).shape[1])).indices
    return 1 - (best == y[:, None]).any(1).to(FLOAT).mean().item()


def mean_loss(model, x, y):
    with torch.no_grad():
        return -model(x).log_softmax(1)[range(len(y)), y].mean().item()


def run(settings, kind, data):
    """Parameters and buffers in the end, mean losses, looks, and what is measured last."""
    train = data["train" if settings.validate else "train+validation"]
    held_out = data["validation" if settings.validate else "test"]
    images, labels = train
    x, y = train
    if settings.labels:
        known = few_of_each(labels, settings.labels // kind.classes, settings.seed)
        x, y = images[known], labels[known]
    true, y = y, y.clone()
    if settings.label_noise:
        draw, count = stream(settings.seed, "label noise"), round(settings.label_noise * len(y))
        chosen = torch.randperm(len(y), generator=draw)[:count]
        shift = torch.randint(1, kind.classes, (count,), generator=draw)
        y[chosen] = (true[chosen] + shift) % kind.classes
    epoch = settings.steps_per_epoch or len(images) // settings.batch_size
    steps = settings.epochs * epoch
    model = network(settings, kind)
    optimizer = optimizer_of(settings, model)
    average, generator = None, stream(settings.seed, "augmentation")
    known_x, known_y = x, y
    if settings.loop == "simclr":
        x, y = train
    batches = order(len(y), settings.batch_size, settings.seed)
    pool = order(len(images), max(settings.unlabelled_batch_size, 1), settings.seed, "unlabelled")
    losses, looks, every = [], [], min(epoch, RECORD_EVERY)
    for step in range(steps):
        model.train()
        halved = settings.halve_rho and step // every * every >= settings.halve_rho * epoch
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * factor_of(settings, step, steps, epoch)
            if settings.method != "SGD":
                group["rho"] = settings.rho / (2 if halved else 1)
        optimizer.zero_grad()
        chosen = next(batches)
        u = images[next(pool)] if settings.unlabelled_batch_size else None
        parts = losses_of(settings, model, x[chosen], y[chosen], u, generator, kind)
        losses.append(take_step(settings, optimizer, parts, y[chosen]))
        if settings.ema and average is None:
            average = copy.deepcopy(model)
        elif settings.ema:
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.data = settings.ema * mean.data + (1 - settings.ema) * now.data
            for mean, now in zip(average.buffers(), model.buffers(), strict=True):
                mean.data = now.clone()
        done = step + 1
        if done % every and done != steps:
            continue
        shown = (average or model).eval()
        due = done == steps or done % (settings.look * epoch) < every
        look, ended = {"step": done, "loss": sum(losses) / len(losses)}, False
        if settings.until:
            look["train_loss"] = mean_loss(shown, x, y)
            ended = look["train_loss"] <= settings.until
            due = due or ended
        losses = []
        if due and settings.loop == "simclr":
            look["error"] = probe(settings, shown[0], (known_x, known_y), held_out)
        elif due:
            look |= {"error": wrong(shown, *held_out), "error_top5": wrong(shown, *held_out, 5)}
            S = local_inconsistency(shown, [*held_out[0][:LOOK_AT].split(AT_ONCE)], rho=0.1)
            look["S"] = S.value
            if settings.label_noise:
                look["memorised"] = 1 - wrong(shown, x[y != true], y[y != true])
        looks.append(look)
        if ended:
            break
    final = {}
    shown = (average or model).eval()
    if settings.loop == "simclr":
        rows = {"pixels": nn.Flatten(), "untrained": network(settings, kind).eval()[0]}
        for name, encoder in rows.items():
            final[f"error_{name}"] = probe(settings, encoder, (known_x, known_y), held_out)
    else:
        final["train_error"] = wrong(shown, x, y)
        if settings.curvature:
            few, others = [x[:LOOK_AT], y[:LOOK_AT]], held_out[0][:LOOK_AT]
            tops = {"H": top_hessian_eigenpairs(shown, cross_entropy, *few, tol=1e-2)}
            tops["F"] = top_fisher_eigenpairs(shown, others, tol=1e-2)
            for name, top in tops.items():
                value = float(top.eigenvalues[0]) if top.converged else math.nan
                final[f"lambda_max({name})"] = value
            final["Tr H"] = hessian_trace(shown, cross_entropy, *few, probes=20).value
            final["Tr F"] = fisher_trace(shown, others, probes=20).value
            for rho in (0.1, 0.01):
                S = local_inconsistency(shown, [*others.split(AT_ONCE)], rho=rho, steps=10)
                final[f"S_{rho}"] = S.value
            final["train_loss"] = mean_loss(shown, x, y)
            final["theta2"] = sum((p.detach() ** 2).sum().item() for p in shown.parameters())
    return {"model": model, "average": average, "looks": looks, "final": final}
