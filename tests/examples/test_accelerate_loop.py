import pytest
import torch
from compare import MISSING, plain, same
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from flatmin.optim import IAMS

example = pytest.importorskip("accelerate_loop", reason=MISSING)


def test_it_is_the_hand_written_loop():
    made = example.make()
    example.train(*made)

    _, model, _, _, loader = example.make()
    model = plain(model)
    sgd = {"lr": 0.1, "momentum": 0.9}
    optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.02, module=model, **sgd)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=18)
    for _ in range(6):
        for number, (x, y) in enumerate(loader, start=1):
            with optimizer.perturbed(lambda x=x: model(x)):
                (cross_entropy(model(x), y) / 2).backward()
            if number % 2 == 0:
                clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    same(made[1], model)


def test_a_checkpoint_goes_on(tmp_path):
    whole, half, resumed = example.make(), example.make(), example.make()
    for made, epochs in ((whole, 4), (half, 2)):
        torch.manual_seed(1)
        example.train(*made, epochs=epochs)
    half[0].save_state(tmp_path)
    resumed[0].load_state(tmp_path)
    example.train(*resumed, epochs=2)
    same(whole[1], resumed[1])


def test_a_closure_would_leave_batches_out():
    accelerator, model, _, _, loader = example.make()
    model = plain(model)
    optimizer = accelerator.prepare(IAMS(model.parameters(), torch.optim.SGD, rho=0.02, lr=0.1))
    x, y = next(iter(loader))
    with accelerator.accumulate(model), pytest.raises(RuntimeError, match="attach"):
        optimizer.step(lambda: (cross_entropy(z := model(x), y), z))
