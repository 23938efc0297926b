"""Training loops, short and resumable: many small models at once, or one model of any size."""

from flatmin.training.ensemble import Ensemble, ensemble_batches, train_ensemble
from flatmin.training.randomness import shuffled, stream
from flatmin.training.schedules import constant, cosine, drops, seven_sixteenths

__all__ = [
    "Ensemble",
    "constant",
    "cosine",
    "drops",
    "ensemble_batches",
    "seven_sixteenths",
    "shuffled",
    "stream",
    "train_ensemble",
]
