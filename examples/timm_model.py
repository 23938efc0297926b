"""timm: its model, optimizer, schedule, mixing of images and average of weights."""

from functools import partial

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, random_seed
from toy_data import stripes

from flatmin.optim import IAMS


def make():
    random_seed(0)
    model = timm.create_model("test_resnet", num_classes=3, drop_path_rate=0.1)
    lamb = partial(create_optimizer_v2, opt="lamb", lr=5e-3)  # makes the optimizer that steps
    optimizer = IAMS(param_groups_weight_decay(model, 0.05), lamb, rho=0.05)
    average = ModelEmaV3(model, decay=0.9)
    optimizer.attach(model)
    schedule = CosineLRScheduler(optimizer, t_initial=6, warmup_t=1, warmup_lr_init=1e-4)
    return model, optimizer, schedule, average


def train(model, optimizer, schedule, average, epochs=range(6)):
    batches = [*zip(*(part.split(32) for part in stripes()), strict=True)]
    mixup, criterion = Mixup(mixup_alpha=0.2, num_classes=3), SoftTargetCrossEntropy()
    for epoch in epochs:
        schedule.step(epoch)
        losses = []
        for x, target in (mixup(x.clone(), y) for x, y in batches):
            loss = criterion(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model)
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    print(f"loss {train(*make()):.4f}")
