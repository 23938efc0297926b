"""A loop of your own: three ways to take a step of IAM-S.

They make the same passes in the same order, and end at the same weights, bit for bit.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from toy_data import stripes

from flatmin.optim import IAMS


def make():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 3))
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    # `module` keeps the statistics of batch norm at one update a step, at θ.
    optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.02, module=model, **sgd)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=18)
    return model, optimizer, schedule


def closure_step(model, optimizer, x, y):
    def closure():  # the forward pass, no backward
        logits = model(x)
        return cross_entropy(logits, y), logits

    optimizer.zero_grad()
    return optimizer.step(closure)


def perturbed_step(model, optimizer, x, y):
    optimizer.zero_grad()
    with optimizer.perturbed(lambda: model(x)):  # in this block the weights are θ + δ
        loss = cross_entropy(model(x), y)
        loss.backward()
    optimizer.step()
    return loss.detach()


def unchanged_step(model, optimizer, x, y):  # after optimizer.attach(model)
    optimizer.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def train(step, model, optimizer, schedule, epochs=6):
    batches = [*zip(*(part.split(32) for part in stripes()), strict=True)]
    for _ in range(epochs):
        losses = []
        for x, y in batches:
            losses.append(step(model, optimizer, x, y))
            schedule.step()
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    for step in (closure_step, perturbed_step, unchanged_step):
        model, optimizer, schedule = make()
        if step is unchanged_step:
            optimizer.attach(model)
        print(f"{step.__name__:15} loss {train(step, model, optimizer, schedule):.4f}")
