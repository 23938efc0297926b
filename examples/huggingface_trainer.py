"""Hugging Face Trainer: give it the optimizer, attach the model, change nothing else."""

import torch
from toy_data import manual
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from flatmin.optim import IAMS


def make_trainer(folder, **arguments):
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=256, **sizes, **layers))

    optimizer = IAMS(model.parameters(), torch.optim.AdamW, rho=0.05, lr=2e-3)
    optimizer.attach(model)

    settings = TrainingArguments(
        folder,
        num_train_epochs=3,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,
        warmup_steps=2,
        logging_steps=4,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
        **arguments,
    )
    # The Trainer makes its usual schedule for the optimizer that it is given.
    return Trainer(model, settings, train_dataset=manual(), optimizers=(optimizer, None))


if __name__ == "__main__":
    trainer = make_trainer("/tmp/huggingface_trainer", save_strategy="no")
    trainer.train()
