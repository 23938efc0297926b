import mixed_precision as example
import torch
from compare import read, same, written
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from toy_data import stripes

from flatmin.optim import IAMS


def make():
    made = example.make()
    made[1].attach(made[0])
    return made


def test_it_is_the_hand_written_loop():
    made = make()
    example.train(*made)
    model, _, scaler = example.make()
    optimizer = IAMS(model.parameters(), torch.optim.AdamW, rho=0.02, lr=1e-2, module=model)
    batches = [*zip(*(part.to(example.DEVICE).split(24) for part in stripes()), strict=True)]
    for _ in range(6):
        for first in (0, 2):
            for x, y in batches[first : first + 2]:
                half = torch.autocast(example.DEVICE, torch.float16)
                with half, optimizer.perturbed(lambda x=x: model(x)):
                    scaler.scale(cross_entropy(model(x), y) / 2).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    same(made[0], model)


def test_a_checkpoint_goes_on():
    whole, half, resumed = make(), make(), make()
    example.train(*whole, epochs=4)
    example.train(*half, epochs=2)
    read(written(*half), *resumed)
    example.train(*resumed, epochs=2)
    same(whole[0], resumed[0])
