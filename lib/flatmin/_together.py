"""Several optimizers as one, such as Muon for matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from flatmin._check import require


class Together(Optimizer):
    """Optimizers of different parameters, with one list of groups, one state and one step.

    Args:
        optimizers: at least one.

    Raises:
        ValueError: none, or a parameter that two of them have.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        require(bool(optimizers), "base_optimizer must hold at least one optimizer")
        self.optimizers = [*optimizers]
        self._complete = False
        super().__init__([g for o in self.optimizers for g in o.param_groups], {})
        self._complete = True
        for optimizer in self.optimizers:
            self.state.update(optimizer.state)
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while this is made."""
        require(not self._complete, "add the group to one of the optimizers before they are joined")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of each; no closure."""
        for optimizer in self.optimizers:
            optimizer.step()

    def __getstate__(self) -> dict[str, Any]:
        own = {"optimizers": self.optimizers, "_complete": True}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        rest = [*self.param_groups]
        for optimizer in self.optimizers:
            count = len(optimizer.param_groups)
            optimizer.__setstate__({"state": self.state, "param_groups": rest[:count]})
            del rest[:count]
