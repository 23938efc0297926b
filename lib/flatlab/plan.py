"""What a run will take, counted before it is started: steps and passes."""

from __future__ import annotations

from dataclasses import dataclass

from flatlab.sets import KINDS
from flatlab.settings import Settings


@dataclass(frozen=True)
class Plan:
    """The size of a run.

    Attributes:
        steps: in all.
        images: in one pass, over all processes.
        forwards: passes of a step.
        backwards: passes of a step.
    """

    steps: int
    images: int
    forwards: int
    backwards: int


def plan(settings: Settings) -> Plan:
    """Count what a run will do. The data need not be there.

    Example:
        >>> given = {"data": "cifar-10", "model": "wrn-16-2", "method": "SAM", "rho": 0.1}
        >>> plan(Settings.of(given | {"seed": 0}))
        Plan(steps=78000, images=128, forwards=2, backwards=2)
    """
    labelled, unlabelled = settings.batch_size, settings.unlabelled_batch_size
    twice = {"fixmatch": unlabelled, "simclr": labelled}.get(settings.loop, 0)  # of two views
    kind = KINDS[settings.data]
    count = kind.count - kind.validation * settings.validate
    forwards, backwards = passes(settings)
    return Plan(
        steps=settings.epochs * (settings.steps_per_epoch or max(1, count // labelled)),
        images=labelled + unlabelled + twice,
        forwards=forwards,
        backwards=backwards,
    )


def passes(settings: Settings) -> tuple[int, int]:
    """Forward and backward passes of one step, as :mod:`flatmin.optim` counts them.

    With ``climb_batch`` those of the climb, all but the last of each kind, hold fewer images.
    """
    climb = settings.climb
    own = {
        "SGD": (1, 1),
        "SAM": (2, 2),
        "ASAM": (2, 2),
        "IAM-S": (climb + 2, climb + 1),
        "IAM-D": (climb + 3, climb + 2),
        "random-S": (2, 1),
        "score-S": (2, 2),
        "random-D": (3, 2),
    }[settings.method]
    # Under SAM, FixMatch takes the unlabelled loss at θ in a pass of its own.
    more = settings.loop == "fixmatch" and settings.method in ("SAM", "ASAM")
    return own[0] + more, own[1] + more
