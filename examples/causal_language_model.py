"""A causal language model: the climb goes by the tokens that count, where the label is not -100."""

import torch
from torch.utils.data import DataLoader
from toy_data import manual
from transformers import GPT2Config, GPT2LMHeadModel, set_seed

from flatmin.optim import IAMS


def make():
    set_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config)
    optimizer = IAMS(model.parameters(), torch.optim.AdamW, rho=0.05, lr=5e-3)
    return model, optimizer


def predictions(model, batch):
    """Logits (tokens, vocabulary) of all tokens that are to be predicted."""
    counts = batch["labels"][:, 1:] != -100
    return model(**batch).logits[:, :-1][counts]


def train(model, optimizer, epochs=4):
    model.train()
    for _ in range(epochs):
        losses = []
        for batch in DataLoader(manual(), batch_size=16, shuffle=True):
            ids, present = batch["input_ids"], batch["attention_mask"]
            batch["labels"] = ids.masked_fill(present == 0, -100)
            with optimizer.perturbed(lambda: predictions(model, batch)):
                loss = model(**batch).loss
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    print(f"loss {train(*make()):.4f}")
