"""From the usual two-step SAM to flatmin's: the same weights, and no second pass in the loop."""

import torch
from pytorch_optimizer import SAM as TwoStepSAM
from torch import nn
from torch.nn.functional import cross_entropy
from toy_data import stripes

from flatmin.optim import SAM


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3))


def before(epochs=6):
    model = make()
    optimizer = TwoStepSAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for x, y in zip(*(part.split(32) for part in stripes()), strict=True):
            cross_entropy(model(x), y).backward()
            optimizer.first_step(zero_grad=True)
            cross_entropy(model(x), y).backward()
            optimizer.second_step(zero_grad=True)
    return model


def after(epochs=6):
    model = make()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for x, y in zip(*(part.split(32) for part in stripes()), strict=True):
            optimizer.zero_grad()
            optimizer.step(lambda: cross_entropy(model(x), y))
    return model


if __name__ == "__main__":
    pairs = zip(before().parameters(), after().parameters(), strict=True)
    print(f"largest difference {max((p - q).abs().max().item() for p, q in pairs):.1e}")
