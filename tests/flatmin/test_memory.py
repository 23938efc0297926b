"""What a step takes of memory where the logits are most of it, counted in bytes."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from flatmin import divergences
from flatmin.inconsistency import local_inconsistency
from flatmin.penalty import InconsistencyPenalty

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "vocabulary.py"))

# The plain step is 1, and has four tensors as large as the logits. With a fifth it would be 1.25.
# A penalty on logits that the loop holds needs it: its gradient has to wait for that of the loss.
MOST = {
    **{"plain": 1.0, "measuring S": 1.05, "SAM": 0.85, "SAM, attached": 1.1},
    **{"IAM-S": 0.95, "IAM-S, attached": 1.1, "IAM-S, perturbed": 1.1},
    **{"IAM-D": 1.15, "IAM-D, attached": 1.3, "IAM-D, penalty": 1.3},
}


@pytest.fixture(scope="module")
def figures():
    # At a vocabulary of 50,257 and 1,024 tokens there are as many pieces, but it takes minutes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divergences, "_AT_ONCE", 2 * 1500)
        return BENCHMARK["peaks"](tokens=200, vocabulary=1500, width=2)


@pytest.mark.parametrize("name", MOST)
def test_a_step_holds_no_more_tensors_like_the_logits_than_it_must(name, figures):
    assert figures.keys() == MOST.keys()
    assert figures["plain"] > 4 * 4 * 200 * 1500
    assert figures[name] <= MOST[name] * figures["plain"]


def test_a_piece_is_small_where_the_vocabulary_is_large():
    vocabulary, width = 50_257, 8
    body, head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary, bias=False)
    head.weight = body.weight
    model, x = nn.Sequential(body, nn.Tanh(), head), torch.arange(128).view(2, 64)
    penalty = InconsistencyPenalty(model, rho=0.1)

    def step(penalized: bool) -> None:
        logits = model(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten())
        (loss + penalty(x, logits) if penalized else loss).backward()

    def peak(run) -> int:
        model.zero_grad()
        with BENCHMARK["Bytes"]() as memory:
            run()
        return memory.peak

    plain = peak(lambda: step(False))
    assert peak(lambda: step(True)) < 1.4 * plain
    assert peak(lambda: local_inconsistency(model, x, rho=0.1)) < 1.2 * plain
