"""Training loops: one model of any size, resumable, or many small ones at once.

- :class:`Run` with :func:`supervised`, :func:`fixmatch`, :func:`simclr`: one model
- :func:`train_ensemble`: many small models of one architecture at once, for the same result
- :func:`stream`, :func:`shuffled`: randomness by name, which both draw from
"""

from flatmin.training.ensemble import Ensemble, ensemble_batches, train_ensemble
from flatmin.training.loops import (
    error,
    fixmatch,
    linear_probe,
    simclr,
    similarities,
    supervised,
)
from flatmin.training.randomness import shuffled, stream
from flatmin.training.run import Batches, BatchSource, LoadedBatches, Run, descend
from flatmin.training.schedules import constant, cosine, drops, seven_sixteenths

__all__ = [
    "BatchSource",
    "Batches",
    "Ensemble",
    "LoadedBatches",
    "Run",
    "constant",
    "cosine",
    "descend",
    "drops",
    "ensemble_batches",
    "error",
    "fixmatch",
    "linear_probe",
    "seven_sixteenths",
    "shuffled",
    "simclr",
    "similarities",
    "stream",
    "supervised",
    "train_ensemble",
]
