import pytest
import torch
from compare import MISSING, same
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from flatmin.optim import IAMS

example = pytest.importorskip("lightning_module", reason=MISSING)

QUIET = {"enable_model_summary": False}


def test_it_is_the_hand_written_loop(tmp_path):
    module, loader = example.make()
    example.make_trainer(tmp_path, enable_checkpointing=False, **QUIET).fit(module, loader)

    other, loader = example.make()
    net = other.net
    sgd = {"lr": 0.1, "momentum": 0.9}
    optimizer = IAMS(other.parameters(), torch.optim.SGD, rho=0.02, module=net, **sgd)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for _ in range(6):
        for number, (x, y) in enumerate(loader, start=1):
            with optimizer.perturbed(lambda x=x: net(x)):
                (cross_entropy(net(x), y) / 2).backward()
            if number % 2 == 0:
                clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()
    same(module, other)


def test_a_checkpoint_goes_on(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=1, save_top_k=-1)
    whole, loader = example.make()
    whole.net[5].p = 0.0  # Lightning's checkpoints leave the state of random numbers out
    example.make_trainer(tmp_path, callbacks=[keep], **QUIET).fit(whole, loader)
    resumed, loader = example.make()
    resumed.net[5].p = 0.0
    trainer = example.make_trainer(tmp_path, enable_checkpointing=False, **QUIET)
    trainer.fit(resumed, loader, ckpt_path=tmp_path / "epoch=2.ckpt")
    same(whole, resumed)
