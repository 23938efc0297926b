"""One thread for every test and every kernel, whatever the caller's environment says.

Two threads on two cores are ten times slower than one, and change the last digits of sums.
"""

import os

import pytest

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


@pytest.fixture(autouse=True)
def _names_of_examples(doctest_namespace: dict[str, object]) -> None:
    """Docstrings' examples may say torch and nn without an import."""
    import torch

    doctest_namespace.update(torch=torch, nn=torch.nn)
