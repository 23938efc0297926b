"""How long λ_max(F) and S_ρ of a ResNet-50 take, on images of ImageNet's size.

Run `python benchmarks/resnet.py --device cuda`. The weights are the initial ones and the images are
noise: neither matters for the time. Batch norm gets the statistics of the images first, as it would
have them after training.
"""

import argparse
import os
from collections.abc import Callable
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread on a processor

import torch
from torch import Tensor, nn

from flatlab.models import resnet
from flatmin.curvature import top_fisher_eigenpairs
from flatmin.inconsistency import local_inconsistency


def settled(depth: int, classes: int, images: list[Tensor]) -> nn.Module:
    """The network, on the images' device, its batch norm with their statistics."""
    model = resnet(depth, classes, stem="imagenet", generator=torch.Generator().manual_seed(0))
    model.to(images[0].device)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in images:
            model(batch)
    return model.eval()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--depth", type=int, default=50, help="18 or 50")
    parser.add_argument("--size", type=int, default=224, help="pixels of an image's edge")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    shape = (options.images, 3, options.size, options.size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(options.device)
    images = list(noise.split(options.batch))
    model = settled(options.depth, options.classes, images)

    def timed(measure: Callable[[], Tensor | float]) -> tuple[float, float]:
        start = perf_counter()
        value = float(measure())  # waits for a GPU
        return value, perf_counter() - start

    top = timed(lambda: top_fisher_eigenpairs(model, images, tol=1e-2).eigenvalues)
    said = [(f"lambda_max(F) to 1 %: {top[0]:.4g}", top[1])]
    rho = 0.1 / top[0] ** 0.5  # where S is about 0.005 nats, and near its second order
    for steps in (1, 3, 10):
        s, seconds = timed(
            lambda steps=steps: local_inconsistency(model, images, rho=rho, steps=steps).value
        )
        said.append((f"S, K = {steps}: {s / (0.5 * rho**2 * top[0]):.3f} of ρ² λ / 2", seconds))
    for words, seconds in said:
        print(f"{words:44}{seconds:8.2f} s")
    if options.device == "cuda":
        print(f"{'most memory at one time':44}{torch.cuda.max_memory_allocated() / 1e9:7.2f} GB")


if __name__ == "__main__":
    main()
