"""Optimizers over two processes: DistributedDataParallel and fully_shard."""

import math
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import Case, build
from optimizers import KINDS, RHO, Labelled, closure_of, goes_by, grads_of, make, parts, theta_of
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from flatmin.curvature import top_eigenpairs, trace
from flatmin.fisher import FisherOperator
from flatmin.inconsistency import local_inconsistency, worst_case_perturbation
from flatmin.penalty import InconsistencyPenalty

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


# Attached, inside DistributedDataParallel


class InADict(Labelled):
    """Neither wrapper finds tensors in any object."""

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return vars(super().forward(x, labels))


def _attached(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    for kind in KINDS:
        for static in (False, True):
            case = _half(rank)
            ddp = DistributedDataParallel(InADict(case.model), static_graph=static)
            reductions = []

            def count(_state, bucket, reductions=reductions):
                reductions.append(bucket.index())
                future = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
                return future.then(lambda f: f.value()[0])

            ddp.register_comm_hook(None, count)
            if static:
                with pytest.raises(ValueError, match="static_graph=True"):
                    make(kind, ddp)
            optimizer = make(kind, ddp, module=None)
            optimizer.attach(ddp)
            for step in range(3):
                ddp(case.inputs, case.targets)["loss"].backward()
                if step == 0:
                    torch.testing.assert_close(grads_of(case), _mean_of_ranks(kind))
                optimizer.step()
                optimizer.zero_grad()
                assert len(reductions) == step + 1, (kind, static, reductions)
            assert case.model[1].num_batches_tracked == 3

            # Accumulation
            first, second = parts(case, 2)
            with ddp.no_sync():
                ddp(first.inputs, first.targets)["loss"].backward()
            ddp(second.inputs, second.targets)["loss"].backward()
            others = [torch.empty_like(grads_of(case)) for _ in range(2)]
            dist.all_gather(others, grads_of(case))
            assert torch.equal(*others)
            assert len(reductions) == 4
    dist.destroy_process_group()


def test_an_attached_model_in_distributed_data_parallel(tmp_path):
    from test_distributed import _attached

    mp.spawn(_attached, args=(f"file://{tmp_path / 'rendezvous'}",), nprocs=2)


# Measuring


def _measured(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    whole = build("mlp")
    part = whole.inputs[:3] if rank else [*whole.inputs[3:].split(2)]  # one batch, three batches
    for sigma in (None, 0.1):
        arguments = {"rho": RHO, "restarts": 2, "sigma": sigma}
        expected = local_inconsistency(whole.model, whole.inputs, **arguments)
        found = local_inconsistency(whole.model, part, sync=True, **arguments)
        for name in ("value", "delta", "history"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        del arguments["restarts"]
        expected = worst_case_perturbation(whole.model, whole.inputs, **arguments)
        found = worst_case_perturbation(whole.model, part, sync=True, **arguments)
        torch.testing.assert_close(found, expected)
        alone = worst_case_perturbation(whole.model, part, **arguments)
        assert (alone - expected).norm() > 0.01 * RHO
    one, both = (
        FisherOperator(whole.model, whole.inputs),
        FisherOperator(whole.model, part, sync=True),
    )
    torch.testing.assert_close(top_eigenpairs(both).eigenvalues, top_eigenpairs(one).eigenvalues)
    torch.testing.assert_close(trace(both).value, trace(one).value)
    dist.destroy_process_group()


def test_measuring_over_two_processes_is_measuring_in_one(tmp_path):
    from test_distributed import _measured

    mp.spawn(_measured, args=(f"file://{tmp_path / 'rendezvous'}",), nprocs=2)


@pytest.mark.parametrize("measure", [local_inconsistency, worst_case_perturbation])
def test_one_process_has_no_others_to_measure_with(measure):
    case = build("mlp")
    with pytest.raises(ValueError, match="sync=True needs an initialised process group"):
        measure(case.model, case.inputs, rho=RHO, sync=True)


# fully_shard


def _piecewise(params, sigma, generator):
    """Noise as sharded parameters draw it."""
    size = sum(p.numel() for p in params)
    return [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * (sigma / size**0.5)
        for p in params
    ]


def _flattened(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    refused = pytest.raises(NotImplementedError, match="fully_shard")
    for original in (False, True):
        case = _half(rank)
        early = make("SAM", case.model, module=None)
        model = FullyShardedDataParallel(
            case.model, use_orig_params=original, device_id=torch.device("cpu")
        )
        for kind in KINDS:
            with refused:
                make(kind, model)
        if original:  # else the optimizer holds parameters that are not the model's any more
            with refused:
                early.step(closure_of(case, model))
        with refused:
            local_inconsistency(model, case.inputs, rho=RHO)
        with refused:
            InconsistencyPenalty(model, rho=RHO)
    dist.destroy_process_group()


def test_flattened_parameters_are_refused_by_name(tmp_path):
    from test_distributed import _flattened

    mp.spawn(_flattened, args=(f"file://{tmp_path / 'rendezvous'}",), nprocs=2)


SHARDED = {**{kind: {} for kind in KINDS}, "ASAM": {"adaptive": True}, "K=2": {"steps": 2}}
SHARDED["in sync"] = {"sync": True}  # as they are anyway


def _sharded(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    rows = slice(4 * rank, 4 * rank + 4)
    for name, arguments in SHARDED.items():
        kind = {"ASAM": "SAM", "K=2": "IAMS", "in sync": "IAMS"}.get(name, name)
        for way in (
            ("closure", "attached", "perturbed") if kind != "IAMD" else ("closure", "attached")
        ):
            whole, half = build("mlp"), build("mlp")
            model = InADict(half.model)
            fully_shard(half.model[0])
            fully_shard(model)
            if way == "closure":
                with pytest.raises(ValueError, match="give module="):
                    make(kind, model, module=None).step(lambda: None)
            optimizer = make(kind, model, momentum=0.9, **arguments)
            if way == "attached":
                optimizer.attach(model)
            reference = make(kind, whole.model, momentum=0.9, **arguments)

            def closure(model=model, half=half):
                outputs = model(half.inputs[rows], half.targets[rows])
                return outputs["loss"], outputs["logits"]

            for _ in range(3):
                if way == "attached":
                    closure()[0].backward()
                    optimizer.step()
                elif way == "closure":
                    optimizer.step(closure)
                else:
                    with optimizer.perturbed(lambda c=closure, k=kind: c()[k != "SAM"]):
                        closure()[0].backward()
                    optimizer.step()
                optimizer.zero_grad()
                with patch("flatmin._visit.noise", _piecewise):
                    reference.step(closure_of(whole))
                reference.zero_grad()
            for p, q in zip(model.parameters(), whole.model.parameters(), strict=True):
                torch.testing.assert_close(p.full_tensor(), q.detach())
            assert optimizer.stayed == optimizer.skipped == 0

            # A gradient that is not finite on one rank is none on both.
            before = [p.detach().full_tensor().clone() for p in model.parameters()]
            optimizer.param_groups[0]["momentum"] = 0.0
            half.inputs[0] = math.nan
            if way == "closure":
                optimizer.step(closure)
                assert optimizer.skipped == 1
                for p, q in zip(model.parameters(), before, strict=True):
                    assert torch.equal(p.detach().full_tensor(), q)

    late = InADict(build("mlp").model)
    optimizer = make("IAMS", late)
    optimizer.attach(late)
    fully_shard(late)
    with pytest.raises(RuntimeError, match="after fully_shard"):
        late(half.inputs[rows], half.targets[rows])
    dist.destroy_process_group()


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch shards on GPUs only"
)
def test_fully_sharded_over_two_processes_is_one_process(tmp_path):
    from test_distributed import _sharded

    mp.spawn(_sharded, args=(f"file://{tmp_path / 'rendezvous'}",), nprocs=2)
