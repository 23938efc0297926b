"""Two processes end where one ends with all the images."""

import distributed as example
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

WAYS = ["ddp", "fsdp"]
WHOLE = StateDictOptions(full_state_dict=True)


def states(made):
    return get_state_dict(*made, options=WHOLE)


def go_through(way):
    """The weights after two epochs; and those of a run that was stopped after one."""
    whole, half, resumed = example.make(way), example.make(way), example.make(way)
    example.train(*whole, epochs=2)
    example.train(*half, epochs=1)
    model, optimizer = states(half)
    set_state_dict(*resumed, model_state_dict=model, optim_state_dict=optimizer, options=WHOLE)
    example.train(*resumed, epochs=1)
    return states(whole)[0], states(resumed)[0]


def rank(number, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/ranks{ranks}", rank=number, world_size=ranks
    )
    found = {way: go_through(way) for way in WAYS}
    if number == 0:
        torch.save(found, f"{folder}/{ranks}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    # A spawned process imports the function by name; pytest has its own name for this file.
    from test_two_processes import rank

    folder = tmp_path_factory.mktemp("ranks")
    rank(0, 1, folder)
    mp.spawn(rank, (2, folder), nprocs=2)
    return {ranks: torch.load(folder / f"{ranks}.pt") for ranks in (1, 2)}


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_are_one(found, way):
    torch.testing.assert_close(found[2][way][0], found[1][way][0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_goes_on(found, way, ranks):
    whole, resumed = found[ranks][way]
    torch.testing.assert_close(whole, resumed, rtol=0, atol=0)
