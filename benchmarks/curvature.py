"""Time to λ_max(F) within 1 %: flatmin, curvlinops' Gauss–Newton operator, power iteration.

Run `python benchmarks/curvature.py [--images 200] [--rounds 3] [--device cuda]`. The network is the
six-layer CNN, 511,350 parameters, trained a little on Fashion-MNIST with a border that makes it
32 × 32. All methods start from the same vector, stop by their own criterion, and are compared with
λ_max to six digits; the rounds interleave them, and the medians are printed.

Power iteration stands for PyHessian's method: products by double backpropagation through one
retained graph, until the Rayleigh quotient changes by less than a thousandth (its default).
"""

import argparse
import os
import statistics
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread against one thread

import torch
from curvlinops import GGNLinearOperator
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn.functional import cross_entropy

from flatlab.data import fashion_mnist
from flatlab.models import cnn6
from flatmin.curvature import FisherOperator, top_fisher_eigenpairs


def padded(images: torch.Tensor, device: str) -> torch.Tensor:
    """28 × 28 to 32 × 32."""
    return nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min())).to(device)


def trained(device: str) -> nn.Module:
    """The network after 100 steps of SGD."""
    generator = torch.Generator().manual_seed(0)
    model = cnn6(1, 10, generator=generator).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = fashion_mnist("train")
    for _ in range(100):
        batch = torch.randint(len(data.labels), (64,), generator=generator)
        optimizer.zero_grad()
        logits = model(padded(data.images[batch], device))
        cross_entropy(logits, data.labels[batch].to(device)).backward()
        optimizer.step()
    return model


def ours(model, images):
    """Lanczos with products by one dual forward and one backward pass."""
    return float(top_fisher_eigenpairs(model, images, tol=1e-2).eigenvalues)


def curvlinops_gauss_newton(model, images):
    """The same matrix (the labels do not matter), the same solver with its default size."""
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    matrix = GGNLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [(images, labels)],
        check_deterministic=False,
    )
    start = torch.randn(matrix.shape[0], generator=torch.Generator().manual_seed(0)).numpy()
    return float(eigsh(matrix.to_scipy(), 1, which="LA", v0=start, tol=1e-2)[0][0])


def power_iteration(model, images):
    """On the Hessian of KL( f(θ) ‖ f(·) ) at θ, which is F."""
    params = list(model.parameters())
    log_p = model(images).log_softmax(1)
    kl = (log_p.detach().exp() * (log_p.detach() - log_p)).sum(1).mean()
    slope = torch.autograd.grad(kl, params, create_graph=True)
    flat = torch.randn(sum(p.numel() for p in params), generator=torch.Generator().manual_seed(0))
    pieces = flat.split([p.numel() for p in params])
    v = [c.view_as(p).to(p) for c, p in zip(pieces, params, strict=True)]
    old = value = 0.0
    for _ in range(100):
        norm = torch.stack(torch._foreach_norm(v)).norm()
        v = torch._foreach_div(v, norm)
        image = torch.autograd.grad(slope, params, v, retain_graph=True)
        value = float(sum((a * b).sum() for a, b in zip(v, image, strict=True)))
        if old and abs(value - old) < 1e-3 * abs(value):
            break
        old, v = value, list(image)
    return value


def seconds(work, device: str) -> tuple[float, float]:
    """Time and result."""
    start = perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start, result


def main() -> None:
    """Times all methods and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model = trained(args.device)
    images = padded(fashion_mnist("validation").images[: args.images], args.device)
    truth = top_fisher_eigenpairs(model, images, tol=1e-6)
    value = float(truth.eigenvalues)

    fisher, v = FisherOperator(model, images), truth.eigenvectors[0].float()
    methods = {
        "flatmin": ours,
        "curvlinops GGN + eigsh": curvlinops_gauss_newton,
        "power iteration (PyHessian)": power_iteration,
    }
    times, errors = {name: [] for name in methods}, {}
    product = []
    for _ in range(args.rounds):
        for name, method in methods.items():
            elapsed, result = seconds(lambda method=method: method(model, images), args.device)
            times[name].append(elapsed)
            errors[name] = abs(result / value - 1)
        product.append(seconds(lambda: fisher @ v, args.device)[0])
    print(f"{args.device}, {args.images} images, m = {fisher.size}, lambda_max(F) = {value:.4f}")
    print(f"one product with F: {statistics.median(product):.3f} s")
    fastest = statistics.median(times["flatmin"])
    for name in methods:
        median = statistics.median(times[name])
        print(f"{name:28} {median:7.2f} s  {median / fastest:5.2f} x  off by {errors[name]:.1e}")


if __name__ == "__main__":
    main()
