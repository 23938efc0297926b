import pytest
import torch
from compare import MISSING, plain, same, written
from torch.utils.data import DataLoader
from toy_data import manual

from flatmin.optim import IAMS

peft = pytest.importorskip("peft", reason=MISSING)
example = pytest.importorskip("lora", reason=MISSING)


def test_it_is_the_hand_written_loop():
    model, optimizer = example.make()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    torch.manual_seed(1)
    example.train(model, optimizer)

    twin = plain(example.make()[0])
    adapters = [p for p in twin.parameters() if p.requires_grad]
    other = IAMS(adapters, torch.optim.AdamW, rho=0.05, lr=1e-2)
    torch.manual_seed(1)
    twin.train()
    for _ in range(4):
        for batch in DataLoader(manual(), batch_size=16, shuffle=True):
            with other.perturbed(lambda batch=batch: twin(**batch)):
                twin(**batch).loss.backward()
            other.step()
            other.zero_grad()
    same(model, twin)
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())


def test_a_checkpoint_of_the_adapters_goes_on():
    whole, half, resumed = example.make(), example.make(), example.make()
    for made, epochs in ((whole, 4), (half, 2)):
        torch.manual_seed(1)
        example.train(*made, epochs=epochs)
    adapters = peft.get_peft_model_state_dict(half[0])
    (state,), random = written(half[1])
    peft.set_peft_model_state_dict(resumed[0], adapters)
    resumed[1].load_state_dict(state)
    torch.set_rng_state(random)
    example.train(*resumed, epochs=2)
    same(whole[0], resumed[0])
