import io
import random

import numpy as np
import pytest
import torch
from compare import MISSING, plain, same
from toy_data import stripes

from flatmin.optim import IAMS

timm = pytest.importorskip("timm", reason=MISSING)
example = pytest.importorskip("timm_model", reason=MISSING)


def test_it_is_the_hand_written_loop():
    model, optimizer, schedule, average = example.make()
    timm.utils.random_seed(1)
    example.train(model, optimizer, schedule, average, epochs=range(2))

    twin, _, _, mean = example.make()
    twin = plain(twin)
    groups = example.param_groups_weight_decay(twin, 0.05)
    lamb = {"opt": "lamb", "lr": 5e-3}
    other = IAMS(groups, lambda g: timm.optim.create_optimizer_v2(g, **lamb), rho=0.05, module=twin)
    schedule = example.CosineLRScheduler(other, t_initial=6, warmup_t=1, warmup_lr_init=1e-4)
    timm.utils.random_seed(1)
    mixup, loss = example.Mixup(mixup_alpha=0.2, num_classes=3), example.SoftTargetCrossEntropy()
    for epoch in range(2):
        schedule.step(epoch)
        for x, y in zip(*(part.split(32) for part in stripes()), strict=True):
            mixed, target = mixup(x.clone(), y)
            other.zero_grad()
            with other.perturbed(lambda mixed=mixed: twin(mixed)):
                loss(twin(mixed), target).backward()
            other.step()
            mean.update(twin)
    same(model, twin)
    same(average, mean)


def test_a_checkpoint_goes_on():
    whole, half, resumed = example.make(), example.make(), example.make()
    for made, epochs in ((whole, range(2)), (half, range(1))):
        timm.utils.random_seed(1)
        example.train(*made, epochs=epochs)
    file = io.BytesIO()
    model, optimizer, _, average = half
    torch.save([model.state_dict(), optimizer.state_dict(), average.state_dict()], file)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    file.seek(0)
    model, optimizer, _, average = resumed
    for thing, state in zip((model, optimizer, average), torch.load(file), strict=True):
        thing.load_state_dict(state)
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    example.train(*resumed, epochs=range(1, 2))
    same(whole[0], resumed[0])
