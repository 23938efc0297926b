import math

import plain_pytorch as example
import pytest
import torch
from compare import read, same, written
from torch.nn.functional import cross_entropy
from toy_data import stripes

STEPS = [example.closure_step, example.perturbed_step, example.unchanged_step]


def make(step):
    model, optimizer, schedule = example.make()
    if step is example.unchanged_step:
        optimizer.attach(model)
    return model, optimizer, schedule


@pytest.mark.parametrize("step", STEPS[1:])
def test_all_ways_end_at_the_same_weights(step):
    one, other = make(STEPS[0]), make(step)
    for way, made in ((STEPS[0], one), (step, other)):
        torch.manual_seed(1)
        example.train(way, *made)
    same(one[0], other[0])


@pytest.mark.parametrize("step", STEPS)
def test_a_checkpoint_goes_on(step):
    whole, half, resumed = make(step), make(step), make(step)
    for made, epochs in ((whole, 4), (half, 2)):
        torch.manual_seed(1)
        example.train(step, *made, epochs=epochs)
    read(written(*half), *resumed)
    example.train(step, *resumed, epochs=2)
    same(whole[0], resumed[0])


def iam_s_by_hand(model, base, x, y, *, rho, sigma, generator):
    """Algorithms 1 and 2 of the paper with nothing of flatmin."""
    params = [*model.parameters()]
    theta, mask = [p.detach().clone() for p in params], torch.get_rng_state()
    sizes = [p.numel() for p in params]

    def at(flat):
        with torch.no_grad():
            for p, t, d in zip(params, theta, flat.split(sizes), strict=True):
                p.copy_(t + d.view_as(t))
        torch.set_rng_state(mask)
        return model(x)

    noise = torch.randn(sum(sizes), generator=generator, dtype=x.dtype)
    log_p = at(torch.zeros_like(noise)).log_softmax(1).detach()
    log_q = at(noise * sigma / math.sqrt(sum(sizes))).log_softmax(1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    g = torch.cat([g.flatten() for g in torch.autograd.grad(divergence, params)])
    loss = cross_entropy(at(rho * g / g.norm()), y)
    base.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p, t in zip(params, theta, strict=True):
            p.copy_(t)
    base.step()


def test_it_is_the_algorithm_of_the_paper():
    model, optimizer, _ = make(example.unchanged_step)
    twin, _, _ = example.make()
    model.double(), twin.double()
    base = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    climb = {"rho": 0.02, "sigma": optimizer.sigma, "generator": torch.Generator().manual_seed(0)}
    for x, y in zip(*(part.split(32) for part in stripes()), strict=True):
        torch.manual_seed(1)
        example.unchanged_step(model, optimizer, x.double(), y)
        torch.manual_seed(1)
        iam_s_by_hand(twin, base, x.double(), y, **climb)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
