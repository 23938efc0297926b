import penalty as example
import torch
from compare import read, same, written
from torch.nn.functional import cross_entropy
from toy_data import stripes

from flatmin.optim import IAMD


def test_it_is_the_optimizer():
    """Two forms of IAM-D: the same update, to rounding."""
    model, base, penalty = example.make()
    twin, _, _ = example.make()
    settings = {"rho": penalty.rho, "beta": penalty.beta, "lr": base.defaults["lr"]}
    optimizer = IAMD(twin.parameters(), torch.optim.SGD, module=twin, **settings)
    base = torch.optim.SGD(model.parameters(), lr=settings["lr"])
    example.train(model, base, penalty, epochs=1)
    for x, y in zip(*(part.split(32) for part in stripes()), strict=True):

        def closure(x=x, y=y):
            logits = twin(x)
            return cross_entropy(logits[:8], y[:8]), logits

        optimizer.zero_grad()
        optimizer.step(closure)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_goes_on():
    whole, half, resumed = example.make(), example.make(), example.make()
    example.train(*whole, epochs=4)
    example.train(*half, epochs=2)
    read(written(*half), *resumed)
    example.train(*resumed, epochs=2)
    same(whole[0], resumed[0])


def test_images_without_a_label_count():
    with_them, without = example.make(), example.make()
    with_them[2].beta = 0.0
    example.train(*with_them, epochs=1)
    example.train(*without, epochs=1)
    assert not torch.equal(with_them[0][0].weight, without[0][0].weight)
