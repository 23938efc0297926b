"""IAM-D with images that have no label: a term more in the loss, and any optimizer."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from toy_data import stripes

from flatmin.penalty import InconsistencyPenalty


def make():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 3))
    return (
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-2),
        InconsistencyPenalty(model, rho=0.1, beta=1.0),
    )


def train(model, optimizer, penalty, epochs=6, labelled=8):
    batches = [*zip(*(part.split(32) for part in stripes()), strict=True)]
    for _ in range(epochs):
        losses = []
        for x, y in batches:
            logits = model(x)
            loss = cross_entropy(logits[:labelled], y[:labelled])
            optimizer.zero_grad()
            (loss + penalty(x, logits)).backward()  # with dropout: penalty(x) alone
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    print(f"loss of the labelled images {train(*make()):.4f}")
