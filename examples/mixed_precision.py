"""Half precision with a gradient scaler, accumulation and clipping: the loop stays as it is."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from toy_data import stripes

from flatmin.optim import IAMS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 3)).to(DEVICE)
    optimizer = IAMS(model.parameters(), torch.optim.AdamW, rho=0.02, lr=1e-2)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0)
    return model, optimizer, scaler


def train(model, optimizer, scaler, epochs=6, accumulate=2):
    batches = [*zip(*(part.to(DEVICE).split(24) for part in stripes()), strict=True)]
    for _ in range(epochs):
        losses = []
        for number, (x, y) in enumerate(batches, start=1):
            with torch.autocast(DEVICE, torch.float16):
                loss = cross_entropy(model(x), y)  # climbs by these 24 images
            scaler.scale(loss / accumulate).backward()
            losses.append(loss.detach())
            if number % accumulate == 0:
                scaler.unscale_(optimizer)
                clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    model, optimizer, scaler = make()
    optimizer.attach(model)
    print(f"loss {train(model, optimizer, scaler):.4f}")
