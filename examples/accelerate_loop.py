"""accelerate with accumulation, clipping and a schedule: attach before `prepare`."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from toy_data import stripes

from flatmin.optim import IAMS


def make():
    set_seed(0)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 3))
    optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.02, lr=0.1, momentum=0.9)
    optimizer.attach(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=18)
    loader = DataLoader(TensorDataset(*stripes()), batch_size=16)

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    return accelerator, *accelerator.prepare(model, optimizer, schedule, loader)


def train(accelerator, model, optimizer, schedule, loader, epochs=6):
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    print(f"loss {train(*make()):.4f}")
