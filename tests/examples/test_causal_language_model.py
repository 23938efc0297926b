import pytest
import torch
from compare import MISSING, read, same, written
from torch.utils.data import DataLoader
from toy_data import manual

example = pytest.importorskip("causal_language_model", reason=MISSING)


def batch():
    found = next(iter(DataLoader(manual(), batch_size=16)))
    return found | {"labels": found["input_ids"].masked_fill(found["attention_mask"] == 0, -100)}


def test_the_climb_goes_by_the_tokens_that_count():
    model, _ = example.make()
    model.eval()
    found, labels = batch(), batch()["labels"]
    logits = model(**found).logits
    rows = [
        logits[i, t - 1]
        for i in range(len(labels))
        for t in range(1, labels.shape[1])
        if labels[i, t] != -100
    ]
    torch.testing.assert_close(example.predictions(model, found), torch.stack(rows))
    own = torch.nn.functional.cross_entropy(torch.stack(rows), labels[:, 1:][labels[:, 1:] != -100])
    torch.testing.assert_close(model(**found).loss, own)


def test_it_is_the_loop_with_a_closure():
    model, optimizer = example.make()
    torch.manual_seed(1)
    example.train(model, optimizer, epochs=2)
    twin, other = example.make()
    torch.manual_seed(1)
    twin.train()
    for _ in range(2):
        for part in DataLoader(manual(), batch_size=16, shuffle=True):
            labels = part["input_ids"].masked_fill(part["attention_mask"] == 0, -100)

            def closure(part=part, labels=labels):
                out = twin(**part, labels=labels)
                return out.loss, out.logits[:, :-1][labels[:, 1:] != -100]

            del part["labels"]
            other.step(closure)
            other.zero_grad()
    same(model, twin)


def test_a_checkpoint_goes_on():
    whole, half, resumed = example.make(), example.make(), example.make()
    for made, epochs in ((whole, 4), (half, 2)):
        torch.manual_seed(1)
        example.train(*made, epochs=epochs)
    read(written(*half), *resumed)
    example.train(*resumed, epochs=2)
    same(whole[0], resumed[0])
