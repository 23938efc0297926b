"""An optimizer around another: settings in its groups, one state, copies, checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from torch import Generator
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from flatmin._check import require
from flatmin._together import Together
from flatmin._visit import targets

Base: TypeAlias = Callable[..., Optimizer] | Sequence[Optimizer]


class Setting:
    """An attribute that all parameter groups hold alike: read from the first, written to each."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
        return self if optimizer is None else optimizer.param_groups[0][self.name]

    def __set__(self, optimizer: Optimizer, value: Any) -> None:
        for group in optimizer.param_groups:
            group[self.name] = value


class Wrapper(Optimizer):
    """Groups and state are those of the base optimizer; the groups hold our settings as well.

    So schedulers, gradient scalers and checkpoints see one optimizer, and a checkpoint of the base
    optimizer alone lacks nothing but settings.
    """

    _settings: ClassVar[tuple[str, ...]] = ("rho",)
    _kept: ClassVar[tuple[str, ...]] = ("base_optimizer", "generator")  # in copies and pickles

    base_optimizer: Optimizer
    generator: Generator | None

    def _radius(self, *_: Any) -> Any:
        raise AttributeError('each group has its own radius, group["rho"] in param_groups')

    rho = property(_radius, _radius)  # set as an attribute it would be read by nobody

    def __init__(
        self, params: ParamsT, base: Base, settings: dict[str, Any], base_kwargs: dict[str, Any]
    ) -> None:
        if isinstance(base, Optimizer):
            raise TypeError(
                "base_optimizer must be a class, another callable that makes an optimizer of"
                f" params, or a list of ready optimizers, got an instance: {base}"
            )
        super().__init__(params, settings)
        self._check(self.param_groups)
        made = base(self.param_groups, **base_kwargs) if callable(base) else _joined(base)
        _check_steps_alone(made)
        unused = [] if callable(base) else [*base_kwargs]
        require(not unused, f"ready optimizers have their settings, got also {unused}")
        clash = [name for name in self._settings if name in made.defaults]
        require(not clash, f"{type(made).__name__} has settings of its own named {clash}")
        mine, its = (
            {id(p) for group in each.param_groups for p in group["params"] if p.requires_grad}
            for each in (self, made)
        )
        require(mine == its, "params and the base optimizer must hold the same parameters")
        for group in made.param_groups:
            for name in settings:
                group.setdefault(name, settings[name])
        self._check(made.param_groups)
        self.base_optimizer, self.generator = made, None
        self.defaults.update(made.defaults)
        self.param_groups, self.state = made.param_groups, made.state

    def _check(self, groups: Sequence[dict[str, Any]]) -> None:
        """Raise a ValueError if a setting is out of range."""
        targets(groups)
        for name in self._settings:
            values = [group[name] for group in groups]
            alike = name == "rho" or all(value == values[0] for value in values[1:])
            require(alike, f"{name} must be the same in all groups, got {values}")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as to any optimizer; it may have a "rho" of its own.

        Raises:
            ValueError: a setting out of range, or another than that of the other groups; a
                parameter that is there already. Then nothing is added.
        """
        if "base_optimizer" in self.__dict__:
            first = {**self.param_groups[0], "rho": self.defaults["rho"]}
            settings = {name: first[name] for name in self._settings}
            self.base_optimizer.add_param_group({**settings, **param_group})
            try:
                self._check(self.param_groups)
            except BaseException:
                del self.param_groups[-1]
                raise
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state; in the groups also the settings and the noise's state."""
        state: dict[str, Any] = super().state_dict()
        if self.generator is not None:
            # In a group, where torch.distributed.checkpoint keeps what it does not know.
            state["param_groups"][0]["generator"] = self.generator.get_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this optimizer or of its base optimizer's kind.

        Settings that the latter lacks stay as they are.

        Raises:
            ValueError: other groups, or a setting out of range; then nothing has changed.
        """
        held = [*state_dict]
        known = {"state", "param_groups"} <= {*held}
        require(known, f"state_dict must hold 'state' and 'param_groups', got {held}")
        super().load_state_dict(state_dict)  # runs the hooks, ends in __setstate__

    def __setstate__(self, state: dict[str, Any]) -> None:
        loading = "base_optimizer" in self.__dict__  # not unpickling
        groups = state["param_groups"]
        noise = groups[0].pop("generator", None)
        if loading:
            for group, present in zip(groups, self.param_groups, strict=True):
                for name in self._settings:
                    group.setdefault(name, present[name])
            self._check(groups)
            if noise is not None and self.generator is not None:
                self.generator.set_state(noise.cpu())  # refuses a bad one before anything changes
        super().__setstate__(state)
        shared = {"state": self.state, "param_groups": self.param_groups}
        self.base_optimizer.__setstate__(shared)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._kept}}


def _joined(optimizers: Sequence[Optimizer]) -> Together:
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"base_optimizer must list ready optimizers, got {optimizer!r}")
        _check_steps_alone(optimizer)
    return Together(optimizers)


def _check_steps_alone(optimizer: Optimizer) -> None:
    """Check that its step needs no closure: at that time the gradient is there, the climb over."""
    try:
        inspect.signature(optimizer.step).bind()
    except TypeError:
        kind = type(optimizer).__name__
        message = f"base_optimizer must step without a closure, which {kind} does not"
        raise ValueError(message) from None
