"""LoRA with peft: the climb moves the adapters alone, and ρ is a length in their space."""

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch.utils.data import DataLoader
from toy_data import manual
from transformers import DistilBertConfig, DistilBertForSequenceClassification, set_seed

from flatmin.optim import IAMS


def make():
    set_seed(0)
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
    config = DistilBertConfig(vocab_size=256, max_position_embeddings=32, num_labels=2, **sizes)
    model = get_peft_model(
        DistilBertForSequenceClassification(config),
        LoraConfig(TaskType.SEQ_CLS, r=4, lora_alpha=8, target_modules=["q_lin", "v_lin"]),
    )
    adapters = [p for p in model.parameters() if p.requires_grad]
    optimizer = IAMS(adapters, torch.optim.AdamW, rho=0.05, lr=1e-2)
    optimizer.attach(model)
    return model, optimizer


def train(model, optimizer, epochs=4):
    model.train()
    for _ in range(epochs):
        losses = []
        for batch in DataLoader(manual(), batch_size=16, shuffle=True):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    model, optimizer = make()
    model.print_trainable_parameters()
    print(f"loss {train(model, optimizer):.4f}")
