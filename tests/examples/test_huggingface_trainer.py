import pytest
import torch
from compare import MISSING, plain, same
from torch.nn.utils import clip_grad_norm_

from flatmin.optim import IAMS

example = pytest.importorskip("huggingface_trainer", reason=MISSING)


def test_it_is_the_hand_written_loop(tmp_path):
    trainer = example.make_trainer(str(tmp_path), save_strategy="no")
    trainer.train()

    other = example.make_trainer(str(tmp_path), save_strategy="no")
    model, schedule = plain(other.model), other.create_scheduler(12)
    optimizer = IAMS(model.parameters(), torch.optim.AdamW, rho=0.05, lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.lr_lambdas)
    model.train()
    loader = other.get_train_dataloader()
    for _ in range(3):
        for number, batch in enumerate(loader, start=1):
            with optimizer.perturbed(lambda batch=batch: model(**batch)):
                # The Trainer leaves the mean over micro-batches to models that take **kwargs, and
                # those for classification take it not.
                model(**batch).loss.backward()
            if number % 2 == 0:
                clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    same(trainer.model, model)


def test_a_checkpoint_goes_on(tmp_path):
    whole = example.make_trainer(str(tmp_path), save_strategy="epoch")
    whole.train()
    resumed = example.make_trainer(str(tmp_path), save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    same(whole.model, resumed.model)
