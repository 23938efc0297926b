"""Every optimizer of the library on the cases, and what tests ask of one."""

from types import SimpleNamespace

import torch
from cases import Case, flat, outputs_at, seeded, trainable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from flatmin.optim import IAMD, IAMS, SAM, Climber

LR, RHO, SIGMA, BETA = 0.3, 0.2, 0.1, 2.0
MAKERS = {
    "SAM": lambda params, **kw: SAM(params, SGD, **{"rho": RHO, "lr": LR, **kw}),
    "ASAM": lambda params, **kw: SAM(params, SGD, **{"rho": RHO, "lr": LR, "adaptive": True, **kw}),
    "IAMS": lambda params, **kw: IAMS(
        params, SGD, **{"rho": RHO, "lr": LR, "sigma": SIGMA, "generator": seeded(), **kw}
    ),
    "IAMD": lambda params, **kw: IAMD(
        params,
        SGD,
        **{"rho": RHO, "lr": LR, "sigma": SIGMA, "beta": BETA, "generator": seeded(), **kw},
    ),
    "score": lambda params, **kw: MAKERS["IAMS"](params, direction="score", **kw),
    "random": lambda params, **kw: MAKERS["IAMS"](params, direction="random", **kw),
}

KINDS = {"SAM": SAM, "IAMS": IAMS, "IAMD": IAMD}


def make(kind: str, model: nn.Module, **arguments) -> Climber:
    return KINDS[kind](
        model.parameters(), SGD, **{"rho": RHO, "lr": 0.1, "module": model, **arguments}
    )


def closure_of(case: Case, model: nn.Module | None = None):
    def closure() -> tuple[Tensor, Tensor]:
        logits = case(model)
        return cross_entropy(logits, case.targets), logits

    return closure


def theta_of(case: Case) -> Tensor:
    return flat(trainable(case.model).values())


def loss_gradient(case: Case, theta: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy at any weights."""

    def loss(vector: Tensor) -> Tensor:
        return cross_entropy(outputs_at(case.model, case.inputs, vector), case.targets)

    return torch.func.grad(loss)(theta)


def goes_by(kind: str, case: Case, model: nn.Module | None = None):
    """What `perturbed` is given."""
    return lambda: closure_of(case, model)()[kind != "SAM"]


def grads_of(case: Case) -> Tensor:
    return flat(p.grad for p in trainable(case.model).values())


def parts(case: Case, size: int = 4) -> list[Case]:
    pieces = zip(case.inputs.split(size), case.targets.split(size), strict=True)
    return [Case("part", case.model, x, y) for x, y in pieces]


class Labelled(nn.Module):
    """A model that computes its own loss, in the way of Hugging Face's."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, labels: Tensor) -> SimpleNamespace:
        logits = self.model(x)
        return SimpleNamespace(loss=cross_entropy(logits, labels), logits=logits)


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """The largest number of bytes that autograd held at one time."""

    def __init__(self):
        self.now = self.peak = 0
        meter = self

        class Held:
            def __init__(self, tensor: Tensor):
                self.tensor, self.size = tensor, tensor.nbytes
                meter.now += self.size
                meter.peak = max(meter.peak, meter.now)

            def __del__(self):
                meter.now -= self.size

        super().__init__(Held, lambda held: held.tensor)


def peak(run) -> int:
    meter = SavedBytes()
    with meter:
        run()
    return meter.peak
