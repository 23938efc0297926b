import pytest
import torch
from compare import MISSING

example = pytest.importorskip("coming_from_sam", reason=MISSING)


@pytest.fixture
def exact():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_weights_are_those_of_the_other_library(exact):
    """But for 1e-12 that it adds to the norm; rounding in float32 grows beyond that."""
    torch.testing.assert_close(
        example.before().state_dict(), example.after().state_dict(), rtol=1e-6, atol=1e-8
    )
