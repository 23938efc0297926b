"""Small networks of several kinds, in float64, on which the fast paths meet brute force.

Every network has few enough parameters (m < 400) to write out its Jacobian. `build` makes a case
anew each time, always with the same weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.func import functional_call, jacrev


class Attention(nn.Module):
    """One block of self-attention over 3 tokens, mean-pooled."""

    def __init__(self, classes: int):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x)).mean(1))


class TwoInputs(nn.Module):
    """Takes two tensors by position or by name; its two branches share one weight matrix."""

    def __init__(self, classes: int):
        super().__init__()
        self.left = nn.Linear(4, 5)
        self.right = nn.Linear(4, 5)
        self.right.weight = self.left.weight
        self.head = nn.Linear(5, classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(x)) * torch.tanh(self.right(y)))


class Frozen(nn.Module):
    """A frozen layer below a trainable one."""

    def __init__(self, classes: int):
        super().__init__()
        self.body = nn.Linear(5, 4).requires_grad_(False)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


def _mlp(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, classes))


def _conv(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def _dropout(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, classes))


@dataclass(frozen=True)
class Case:
    """A network, inputs for it (tensor, tuple or dict, 8 examples) and labels."""

    name: str
    model: nn.Module
    inputs: Any
    targets: Tensor

    def __call__(self, model: nn.Module | None = None) -> Tensor:
        """The logits, (8, classes)."""
        return call(model or self.model, self.inputs)


CLASSES, EXAMPLES = 3, 8
_MAKERS: dict[str, tuple[Callable[[int], nn.Module], Any]] = {
    "mlp": (_mlp, (5,)),
    "conv": (_conv, (1, 7, 7)),
    "attention": (Attention, (3, 3)),
    "shared-tuple": (TwoInputs, ((4,), (4,))),
    "shared-dict": (TwoInputs, {"x": (4,), "y": (4,)}),
    "frozen": (Frozen, (5,)),
    "dropout": (_dropout, (5,)),
}
NAMES = list(_MAKERS)


def build(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """The case of that name, in training mode."""
    maker, shape = _MAKERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = maker(CLASSES).to(dtype)

        def draw(s: tuple[int, ...]) -> Tensor:
            return torch.randn(EXAMPLES, *s).to(dtype)

        if isinstance(shape, dict):
            inputs: Any = {key: draw(s) for key, s in shape.items()}
        elif isinstance(shape[0], tuple):
            inputs = tuple(draw(s) for s in shape)
        else:
            inputs = draw(shape)
        targets = torch.randint(CLASSES, (EXAMPLES,))
    return Case(name, model, inputs, targets)


def call(model: nn.Module, inputs: Any) -> Tensor:
    """Model on one batch."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flat(tensors: Any) -> Tensor:
    """Tensors as one vector."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def outputs_at(model: nn.Module, inputs: Any, vector: Tensor) -> Tensor:
    """The outputs with `vector` (m,) in place of the trainable parameters."""
    params = trainable(model)
    pieces = vector.split([p.numel() for p in params.values()])
    weights = {n: v.view_as(p) for (n, p), v in zip(params.items(), pieces, strict=True)}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    args, kwargs = (), {}
    if isinstance(inputs, dict):
        kwargs = inputs
    else:
        args = inputs if isinstance(inputs, tuple) else (inputs,)
    return functional_call(model, {**weights, **buffers}, args, kwargs)


def jacobian(model: nn.Module, inputs: Any) -> Tensor:
    """∂z/∂θ written out, (n, classes, m)."""
    theta = flat(trainable(model).values())
    return jacrev(lambda v: outputs_at(model, inputs, v))(theta)


def fisher(model: nn.Module, inputs: Any) -> Tensor:
    """F = (1/n) Σ Jᵀ (diag p − p pᵀ) J written out, (m, m)."""
    jac, p = jacobian(model, inputs), call(model, inputs).detach().softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nca,ncd,ndb->ab", jac, middle, jac) / len(p)


def seeded(seed: int = 3) -> torch.Generator:
    """A generator of that seed."""
    return torch.Generator().manual_seed(seed)


def draw(model: nn.Module, sigma: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """δ₀ as the library draws it."""
    m = flat(trainable(model).values()).numel()
    return (
        sigma / math.sqrt(m) * torch.randn(m, generator=generator or seeded(), dtype=torch.float64)
    )


def kl(z: Tensor, z_moved: Tensor) -> Tensor:
    """Mean KL between softmax distributions, by torch.distributions."""
    p = torch.distributions.Categorical(logits=z)
    return torch.distributions.kl_divergence(
        p, torch.distributions.Categorical(logits=z_moved)
    ).mean()


def value_at(case: Case, delta: Tensor) -> Tensor:
    """KL( f(θ) ‖ f(θ + δ) )."""
    theta = flat(trainable(case.model).values())
    return kl(case().detach(), outputs_at(case.model, case.inputs, theta + delta))


def algorithm_1(
    case: Case, rho: float, steps: int, sigma: float, generator: torch.Generator | None = None
) -> list[Tensor]:
    """δ₀ … δ_K of Kim et al. 2026, Algorithm 1, by autograd on the written-out objective."""
    deltas = [draw(case.model, sigma, generator)]
    for _ in range(steps):
        delta = deltas[-1].clone().requires_grad_()
        (g,) = torch.autograd.grad(value_at(case, delta), delta)
        deltas.append(rho * g / g.norm())
    return deltas


class Counted(nn.Module):
    """A model that counts the passes through it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        self.forwards += 1
        outputs = self.model(*args, **kwargs)
        if outputs.requires_grad:
            outputs.grad_fn.register_hook(self._count)
        return outputs

    def _count(self, *_: Any) -> None:
        self.backwards += 1


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64, the same every time."""
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def size(model: nn.Module) -> int:
    """m."""
    return sum(p.numel() for p in trainable(model).values())


#: The oldest PyTorch has no forward-mode derivative of a checkpointed layer.
pushes_through_checkpoints = pytest.mark.skipif(
    hasattr(torch.utils.checkpoint, "_NoopSaveInputs"), reason="this PyTorch needs a sigma"
)


def evaluated(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """The case in evaluation mode."""
    case = build(name, dtype)
    case.model.eval()
    return case


def parts(inputs: Any, sizes: list[int]) -> list[Any]:
    """One batch as several of the given sizes."""
    if isinstance(inputs, dict):
        pieces = zip(*(x.split(sizes) for x in inputs.values()), strict=True)
        return [dict(zip(inputs, values, strict=True)) for values in pieces]
    if isinstance(inputs, tuple):
        return list(zip(*(x.split(sizes) for x in inputs), strict=True))
    return list(inputs.split(sizes))
