"""What a step takes of memory where the logits are most of it: a large vocabulary.

Run `python benchmarks/vocabulary.py`. Counted are the bytes of all tensors that are alive at one
time in a step, parameters left out, on the CPU in float32. Beside the ratio to the plain step it
says how many tensors as large as the logits (tokens, vocabulary) that is. The plain step has four:
the logits, which its loop holds, their logarithms, and the gradients of both. A penalty's gradient
by the logits has to wait for that of the loss, a fifth: where the loop holds the logits too, as
with InconsistencyPenalty and an attached IAM-D, no less than 5/4 can be. IAM-D's closure gives its
logits up, and has four like the plain step.
"""

import argparse
import os
import weakref
from collections.abc import Callable
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for all

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flatmin.inconsistency import local_inconsistency
from flatmin.optim import IAMD, IAMS, SAM, Climber
from flatmin.penalty import InconsistencyPenalty


class Bytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, of those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.alive:
                    self.alive[key] = weakref.ref(storage, lambda _, k=key, n=size: self.free(k, n))
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return out

    def free(self, key, size):
        """A storage is gone."""
        del self.alive[key]
        self.now -= size


class LanguageModel(nn.Module):
    """The smallest: what follows a token is said by the token; returns its loss given labels."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Embedding(vocabulary, width), nn.Tanh())
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        """Logits (…, vocabulary) for tokens (…)."""
        logits = self.head(self.body(tokens))
        loss = None if labels is None else cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def peaks(tokens: int, vocabulary: int, width: int) -> dict[str, int]:
    """Bytes at the peak of a step, by method."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randint(vocabulary, (2, 2, tokens // 2), generator=draw)

    def peak(step: Callable[[nn.Module, torch.optim.Optimizer], object], make) -> int:
        model = LanguageModel(vocabulary, width)
        optimizer = make(model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        with Bytes() as memory:
            step(model, optimizer)
        return memory.peak

    def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        outputs = model(x, y)
        outputs.loss.backward()
        optimizer.step()

    def closure(model: nn.Module, optimizer: Climber) -> None:
        def once() -> tuple[Tensor, Tensor]:
            outputs = model(x, y)
            return outputs.loss, outputs.logits

        optimizer.step(once)

    def perturbed(model: nn.Module, optimizer: Climber) -> None:
        with optimizer.perturbed(lambda: model(x)):
            outputs = model(x, y)
            outputs.loss.backward()
        optimizer.step()

    def penalised(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        outputs = model(x, y)
        (outputs.loss + InconsistencyPenalty(model, rho=0.1)(x, outputs)).backward()
        optimizer.step()

    def measured(model: nn.Module, _optimizer: torch.optim.Optimizer) -> None:
        local_inconsistency(model, x, rho=0.1)

    def sgd(model: nn.Module) -> torch.optim.Optimizer:
        return SGD(model.parameters(), lr=0.1)

    def by(kind: type[Climber], attached: bool = False) -> Callable[[nn.Module], Climber]:
        def make(model: nn.Module) -> Climber:
            optimizer = kind(model.parameters(), SGD, rho=0.1, lr=0.1)
            if attached:
                optimizer.attach(model)
            return optimizer

        return make

    return {
        "plain": peak(plain, sgd),
        "SAM": peak(closure, by(SAM)),
        "SAM, attached": peak(plain, by(SAM, True)),
        "IAM-S": peak(closure, by(IAMS)),
        "IAM-S, attached": peak(plain, by(IAMS, True)),
        "IAM-S, perturbed": peak(perturbed, by(IAMS)),
        "IAM-D": peak(closure, by(IAMD)),
        "IAM-D, attached": peak(plain, by(IAMD, True)),
        "IAM-D, penalty": peak(penalised, sgd),
        "measuring S": peak(measured, sgd),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--width", type=int, default=32)
    options = parser.parse_args()
    figures = peaks(options.tokens, options.vocabulary, options.width)
    logits = 4 * options.tokens * options.vocabulary
    print(f"{'':18s}{'ratio':>8s}{'logits':>8s}{'MB':>8s}")
    for name, peak in figures.items():
        print(f"{name:18s}{peak / figures['plain']:8.3f}{peak / logits:8.2f}{peak / 1e6:8.0f}")


if __name__ == "__main__":
    main()
