import pytest
import torch
from compare import MISSING

example = pytest.importorskip("coming_from_sam", reason=MISSING)


def test_the_weights_are_those_of_the_other_library():
    """To rounding: the other library adds 1e-12 to the norm."""
    torch.testing.assert_close(
        example.before().state_dict(), example.after().state_dict(), rtol=1e-4, atol=1e-6
    )
