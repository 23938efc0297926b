"""Many small networks of one architecture trained at once, each with its own seed and settings.

The weights of all networks are the rows of one matrix θ (models, m). One vmapped forward pass gives
all logits, and since no network sees another, the gradient of the sum of their losses holds each
one's own gradient in its row. What remains of SGD, SAM, ASAM, IAM-D and IAM-S is row arithmetic
and the directions of :mod:`flatmin.directions`.
"""

from flatlab.ensemble.batches import ensemble_batches
from flatlab.ensemble.stacked import Ensemble
from flatlab.ensemble.train import Method, train_ensemble

__all__ = ["Ensemble", "Method", "ensemble_batches", "train_ensemble"]
