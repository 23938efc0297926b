"""Optimizers over two processes: DistributedDataParallel and fully_shard."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import Case, build
from optimizers import KINDS, RHO, closure_of, goes_by, grads_of, make, parts, theta_of
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from flatmin.inconsistency import InconsistencyPenalty

# DistributedDataParallel


def _half(rank: int, dtype: torch.dtype = torch.float64) -> Case:
    whole = build("conv", dtype)
    rows = slice(4 * rank, 4 * rank + 4)
    return Case("half", whole.model, whole.inputs[rows], whole.targets[rows])


def _mean_of_ranks(kind: str) -> Tensor:
    """The gradient that ranks with δ of their own should agree on."""
    grads = []
    for rank in range(2):
        case = _half(rank)
        make(kind, case.model).step(closure_of(case))
        grads.append(grads_of(case))
    return sum(grads) / 2


def _rank(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)

    def equal_on_all_ranks(vector: Tensor) -> bool:
        others = [torch.empty_like(vector) for _ in range(2)]
        dist.all_gather(others, vector)
        return torch.equal(*others)

    for kind in KINDS:
        for sync in (False, True):
            case = _half(rank)
            ddp = DistributedDataParallel(case.model, find_unused_parameters=not sync)
            optimizer = make(kind, ddp, sync=sync)
            reductions = []

            def count(_state, bucket, reductions=reductions):
                reductions.append(bucket.index())
                future = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
                return future.then(lambda f: f.value()[0])

            ddp.register_comm_hook(None, count)
            with optimizer.perturbed(goes_by(kind, case, ddp)):
                moved = theta_of(case)
            assert equal_on_all_ranks(moved) == sync, (kind, sync)
            assert not reductions  # the climb is silent

            case = _half(rank)
            ddp = DistributedDataParallel(case.model, find_unused_parameters=not sync)
            optimizer = make(kind, ddp, sync=sync)
            ddp.register_comm_hook(None, count)
            for step in range(2):
                optimizer.zero_grad()
                optimizer.step(closure_of(case, ddp))
                assert len(reductions) == step + 1, (kind, sync, reductions)
                if not sync and step == 0:
                    torch.testing.assert_close(grads_of(case), _mean_of_ranks(kind))
            assert equal_on_all_ranks(theta_of(case)), (kind, sync)

    case = _half(rank)
    ddp = DistributedDataParallel(case.model)
    penalty = InconsistencyPenalty(case.model, rho=RHO)
    loss, logits = closure_of(case, ddp)()
    (loss + penalty(case.inputs, logits)).backward()
    torch.testing.assert_close(grads_of(case), _mean_of_ranks("IAMD"))

    # Accumulation: no_sync has to cover the forward passes too.
    case = _half(rank)
    ddp = DistributedDataParallel(case.model)
    optimizer = make("IAMS", ddp)
    first, second = parts(case, 2)
    with ddp.no_sync(), optimizer.perturbed(goes_by("IAMS", first, ddp)):
        closure_of(first, ddp)()[0].backward()
    with optimizer.perturbed(goes_by("IAMS", second, ddp)):
        closure_of(second, ddp)()[0].backward()
    optimizer.step()
    assert equal_on_all_ranks(theta_of(case))
    dist.destroy_process_group()


def test_distributed_data_parallel_over_two_processes(tmp_path):
    # A spawned process imports the function by name; pytest has its own name for this file.
    from test_distributed import _rank

    mp.spawn(_rank, args=(f"file://{tmp_path / 'rendezvous'}",), nprocs=2)
