"""Lightning with automatic optimization: `configure_optimizers` is the only place that changes."""

import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from toy_data import stripes

from flatmin.optim import IAMS


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
        self.net = nn.Sequential(*body, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 3))

    def training_step(self, batch, _):
        x, y = batch
        loss = cross_entropy(self.net(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = IAMS(self.parameters(), torch.optim.SGD, rho=0.02, lr=0.1, momentum=0.9)
        optimizer.attach(self.net)  # what training_step calls
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def make():
    lightning.seed_everything(0, verbose=False)
    return Classifier(), DataLoader(TensorDataset(*stripes()), batch_size=16)


def make_trainer(folder, epochs=6, **arguments):
    return lightning.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        **arguments,
    )


if __name__ == "__main__":
    trainer = make_trainer("/tmp/lightning_module", enable_checkpointing=False)
    trainer.fit(*make())
    print(f"loss {trainer.callback_metrics['loss'].item():.4f}")
