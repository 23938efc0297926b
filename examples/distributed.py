"""Several processes: DistributedDataParallel, or fully_shard where a model is to be split.

torchrun --nproc-per-node 2 examples/distributed.py ddp
torchrun --nproc-per-node 2 examples/distributed.py fsdp
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from toy_data import stripes

from flatmin.optim import IAMS


def make(way):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 3))
    model = DistributedDataParallel(model) if way == "ddp" else fully_shard(model)
    # All ranks climb in one direction, that of all their images. Sharded parameters have no other
    # way; with DistributedDataParallel and without `sync` each rank climbs by its own images.
    together, sgd = way == "ddp", {"lr": 0.1, "momentum": 0.9}
    optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.02, sync=together, **sgd)
    optimizer.attach(model)
    return model, optimizer


def train(model, optimizer, epochs=6):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    batches = [*zip(*(part.split(32) for part in stripes()), strict=True)]
    for _ in range(epochs):
        losses = []
        for x, y in batches:
            loss = cross_entropy(model(x.chunk(ranks)[rank]), y.chunk(ranks)[rank])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    loss = train(*make(sys.argv[1]))
    print(f"rank {dist.get_rank()}: loss {loss:.4f}")
    dist.destroy_process_group()
