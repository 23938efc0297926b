"""A model that returns its loss, to attach an optimizer to, and a loop around it."""

import torch
from cases import Case, build
from optimizers import Labelled, make
from torch import Tensor, nn

CONV, DROPOUT = "conv", "dropout"


def start(kind: str, name: str = CONV, dtype: torch.dtype = torch.float32, **arguments):
    """A model that returns its loss, and its optimizer."""
    case = build(name, dtype)
    model = Labelled(case.model)
    return case, model, make(kind, model, **arguments)


def run(case: Case, model: nn.Module) -> Tensor:
    """What a loop does for one batch."""
    loss = model(case.inputs, case.targets).loss
    loss.backward()
    return loss.detach()


def train(case: Case, model: nn.Module, optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        run(case, model)
        optimizer.step()
        optimizer.zero_grad()


def by_hand(kind: str, case: Case, model: nn.Module, optimizer) -> None:
    """The same step by `perturbed`, or by a closure."""

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(case.inputs, case.targets)
        return outputs.loss, outputs.logits

    if kind == "IAMD":
        optimizer.step(closure)
    else:
        with optimizer.perturbed(lambda: closure()[kind != "SAM"]):
            closure()[0].backward()
        optimizer.step()
    optimizer.zero_grad()


def same_weights(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
