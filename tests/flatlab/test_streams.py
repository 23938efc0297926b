from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatlab import shuffled, stream


@given(n=st.integers(1, 12), size=st.integers(1, 30), seed=st.integers(0, 9), at=st.integers(0, 8))
def test_every_epoch_holds_each_example_once_and_resumes(n, size, seed, at):
    batches = list(islice(shuffled(n, size, seed), 12))
    assert all(len(batch) == size for batch in batches)
    drawn = torch.cat(batches)
    for epoch in drawn[: len(drawn) // n * n].view(-1, n):
        assert torch.equal(epoch.sort().values, torch.arange(n))
    for ours, theirs in zip(
        islice(shuffled(n, size, seed, start=at), 3), batches[at:], strict=False
    ):
        assert torch.equal(ours, theirs)


def test_orders_differ_between_epochs_seeds_and_purposes():
    one, two = islice(shuffled(50, 50, 0), 2)
    others = [two, next(shuffled(50, 50, 1)), next(shuffled(50, 50, 0, "unlabelled"))]
    assert not any(torch.equal(one, other) for other in others)


def test_streams_are_named():
    def draw(*key):
        return torch.rand(4, generator=stream(*key)).tolist()

    assert draw(1, "noise") == draw(1, "noise")
    assert len({tuple(draw(*key)) for key in [(1,), ("1",), (1, "a"), (1, "b"), (2, "a")]}) == 5


def test_numpy_s_whole_numbers_draw_what_python_s_do():
    """The key of an order holds the epoch: another number's repr would be another order."""
    ours = islice(shuffled(np.int64(5), np.int32(2), 1, start=np.int64(3)), 4)
    for batch, twin in zip(ours, islice(shuffled(5, 2, 1), 3, 7), strict=True):
        assert torch.equal(batch, twin)


@pytest.mark.parametrize(("n", "size", "message"), [(0, 2, "n must be"), (2, 0, "batch_size must")])
def test_nothing_to_draw(n, size, message):
    with pytest.raises(ValueError, match=message):
        next(shuffled(n, size, 0))
