"""The smallest run: six steps of four images of noise."""

from flatlab.settings import Settings

SMALL = Settings.of(
    {"data": "cifar-10", "model": "cnn-bn", "method": "IAM-D", "rho": 0.1, "seed": 3}
    | {"tier": "smoke", "epochs": 3, "steps_per_epoch": 2, "batch_size": 4}
)
