"""Penalty and measuring over two processes: of what each holds, and of what all hold together."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import Case, build, flat
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from flatmin.curvature import top_eigenpairs, top_fisher_eigenpairs, trace
from flatmin.fisher import FisherOperator
from flatmin.inconsistency import local_inconsistency, worst_case_perturbation
from flatmin.penalty import InconsistencyPenalty


def _half(rank: int) -> Case:
    """What one of two ranks holds."""
    whole = build("mlp")
    rows = slice(0, 4) if rank == 0 else slice(4, 8)
    return Case("half", whole.model, whole.inputs[rows], whole.targets[rows])


def _penalized(case: Case, model: nn.Module, penalty: InconsistencyPenalty) -> Tensor:
    """The gradient of a step."""
    model.zero_grad()
    logits = model(case.inputs)
    loss = nn.functional.cross_entropy(logits, case.targets)
    (loss + penalty(case.inputs, logits)).backward()
    return flat(p.grad for p in model.parameters())


def _alone(rank: int) -> list[Tensor]:
    case = _half(rank)
    penalty = InconsistencyPenalty(case.model, rho=0.2)
    return [_penalized(case, case.model, penalty) for _ in range(3)]


def _penalised_and_refused(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    expected = [sum(pair) / 2 for pair in zip(_alone(0), _alone(1), strict=True)]
    for static in (False, True):
        for inner in (False, True):
            case = _half(rank)
            ddp = DistributedDataParallel(case.model, static_graph=static)
            penalty = InconsistencyPenalty(case.model if inner else ddp, rho=0.2)
            found = [_penalized(case, ddp, penalty) for _ in range(3)]
            torch.testing.assert_close(found, expected)
            measured = local_inconsistency(ddp, case.inputs, rho=0.2)
            assert measured.value == local_inconsistency(case.model, case.inputs, rho=0.2).value
            _penalized(case, ddp, penalty)  # and training goes on

    case = _half(rank)
    sharded = fully_shard(case.model)
    for use in (
        lambda: local_inconsistency(sharded, case.inputs, rho=0.1),
        lambda: InconsistencyPenalty(sharded, rho=0.1),
        lambda: top_fisher_eigenpairs(sharded, case.inputs),
    ):
        with pytest.raises(NotImplementedError, match=r"sharded .*get_model_state_dict"):
            use()
    options = StateDictOptions(full_state_dict=True)
    copied = build("mlp").model
    copied.load_state_dict(get_model_state_dict(sharded, options=options))
    if rank == 0:  # the way out that the error names
        assert local_inconsistency(copied, case.inputs, rho=0.1).value > 0
    dist.destroy_process_group()


def test_penalty_and_measuring_of_ones_own_over_two_processes(tmp_path):
    # A spawned process imports the function by name; pytest has its own name for this file.
    from test_processes import _penalised_and_refused

    mp.spawn(_penalised_and_refused, args=(f"file://{tmp_path / 'rendezvous'}",), nprocs=2)


def _measured(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    whole = build("mlp")
    part = whole.inputs[:3] if rank else [*whole.inputs[3:].split(2)]  # one batch, three batches
    for sigma in (None, 0.1):
        arguments = {"rho": 0.2, "restarts": 2, "sigma": sigma}
        expected = local_inconsistency(whole.model, whole.inputs, **arguments)
        found = local_inconsistency(whole.model, part, sync=True, **arguments)
        for name in ("value", "delta", "history"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        del arguments["restarts"]
        expected = worst_case_perturbation(whole.model, whole.inputs, **arguments)
        found = worst_case_perturbation(whole.model, part, sync=True, **arguments)
        torch.testing.assert_close(found, expected)
        alone = worst_case_perturbation(whole.model, part, **arguments)
        assert (alone - expected).norm() > 0.01 * 0.2
    one, both = (
        FisherOperator(whole.model, whole.inputs),
        FisherOperator(whole.model, part, sync=True),
    )
    torch.testing.assert_close(top_eigenpairs(both).eigenvalues, top_eigenpairs(one).eigenvalues)
    torch.testing.assert_close(trace(both).value, trace(one).value)
    dist.destroy_process_group()


def test_measuring_over_two_processes_is_measuring_in_one(tmp_path):
    from test_processes import _measured

    mp.spawn(_measured, args=(f"file://{tmp_path / 'rendezvous'}",), nprocs=2)


@pytest.mark.parametrize("measure", [local_inconsistency, worst_case_perturbation])
def test_one_process_has_no_others_to_measure_with(measure):
    case = build("mlp")
    with pytest.raises(ValueError, match="sync=True needs an initialised process group"):
        measure(case.model, case.inputs, rho=0.2, sync=True)
