"""Weights compared bit for bit, and states that went through a file."""

import copy
import io

import torch

MISSING = "pip install 'flatmin[integrations]'"


def same(model, other):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def plain(model):
    """The model without the optimizer that is attached to it."""
    return copy.deepcopy(model)


def written(*objects):
    """The states of all, and of the random numbers, as a file gives them back."""
    file = io.BytesIO()
    torch.save([[o.state_dict() for o in objects], torch.get_rng_state()], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def read(checkpoint, *objects):
    states, random = checkpoint
    for o, state in zip(objects, states, strict=True):
        o.load_state_dict(state)
    torch.set_rng_state(random)
