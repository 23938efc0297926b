"""What decides the result of one run, and recipes, which list the runs of a table or figure.

A recipe is a TOML file. What stands at its top holds for all runs; each ``[[runs]]`` is one run,
or, where it has lists, one for each combination of their entries::

    data = "cifar-10"
    model = "wrn-16-8"
    epochs = 200

    [[runs]]
    method = "SGD"
    seed = [0, 1, 2]

    [[runs]]
    method = "IAM-D"
    beta = 1.0
    rho = 0.1
    seed = [0, 1, 2]

Names and values are those of :class:`Settings`.
"""

from __future__ import annotations

import math
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

from flatlab.checkpoint import read_whole
from flatlab.names import parts
from flatmin._check import require
from flatmin._extras import extra

RECIPES = Path(__file__).with_name("recipes")
MOST_RUNS, MOST_BYTES, MOST_DOTS = 10_000, 50_000, 250  # of a recipe; dots in one line
MOST = 1e30  # of a setting that is no whole number

Loop: TypeAlias = Literal["supervised", "fixmatch", "simclr"]
DataName: TypeAlias = Literal[
    "fashion-mnist-part",
    "fashion-mnist",
    "fashion-mnist-14",
    "mnist-14",
    "cifar-10",
    "cifar-100",
    "svhn",
    "imagenet",
]
MethodName: TypeAlias = Literal[
    "SGD", "SAM", "ASAM", "IAM-D", "IAM-S", "random-D", "random-S", "score-S"
]
ScheduleName: TypeAlias = Literal["drops", "cosine", "fixmatch", "constant"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the result of a run. A 0 that is a default means "none" or "all".

    Attributes:
        data: the data set.
        model: ``"cnn-bn"``, ``"cnn3"``, ``"cnn6"``, ``"vit"``, ``"resnet-18"``, ``"resnet-50"`` or
            ``"wrn-<depth>-<widen>"``; ``"cnn3-<width>"`` is another width, ``"-plain"`` behind
            either leaves out batch norm, ``"-group"`` puts group norm in its place, and
            ``"-flat"`` gives all pixels of the last convolution to the linear layer;
            ``"vit-<width>"`` has two blocks with a head for every 16 numbers, on 7 × 7 patches.
        method: the optimizer; ``"random-D"`` and ``"random-S"`` are IAM-D and IAM-S with a random
            direction, ``"score-S"`` is IAM-S with a sampled score as the direction.
        seed: of weights, order, augmentation and noise.
        loop: which of the loops of :mod:`flatlab.loops`.
        tier: ``"smoke"`` takes two steps on noise of the data's kind: does it run?
        validate: train on nine tenths of the training data and look at the last one, as a search
            does; else train on all and look at the test data.
        epochs: how long.
        steps_per_epoch: length of an epoch; by default the training data once.
        until: cross-entropy of the known training images at which a run ends; it is looked at with
            each record, which is after an epoch or 500 steps. The schedule does not know of it.
        look: epochs between two evaluations.
        batch_size: labelled images per step, over all processes.
        labels: how many training labels are known, as many of each class. SimCLR trains without
            any, and these are for its probe.
        label_noise: fraction of the known training labels that are wrong, from 0 to 1.
        unlabelled_batch_size: further images per step.
        augment: whether images are augmented.
        lr: learning rate.
        schedule: its course: ×0.2 after 3, 6 and 8 tenths; cosine; FixMatch's; or none.
        warmup: epochs of a linear start of the cosine.
        base: what steps: SGD with momentum, or AdamW.
        momentum: of SGD.
        weight_decay: of SGD.
        label_smoothing: of the supervised cross-entropy, from 0 up to 1.
        rho: radius ρ, of all methods but SGD.
        beta: weight β of IAM-D.
        climb: K of Algorithm 1.
        climb_batch: labelled images of each step, over all processes, on which SAM or IAM-S finds
            its direction, by default all: fewer make the climb cheaper.
        sigma: size σ of its noise.
        halve_rho: epoch after which ρ is half.
        threshold: FixMatch's, from 0 to 1.
        unlabelled_weight: FixMatch's λ_u.
        ema: decay of the average of weights that is evaluated, below 1.
        temperature: SimCLR's τ.
        probe: the linear classifier that judges SimCLR's features, trained on the known labels: 20
            epochs of AdamW, or L-BFGS (:func:`flatlab.probe.logistic_probe`).
        curvature: measure at the end what may tell of generalisation, see
            :func:`flatlab.measures.predictors`.
        bf16: bfloat16 autocast, on a GPU.
        compiled: ``torch.compile``, on a GPU.
    """

    data: DataName
    model: str
    method: MethodName
    seed: int
    loop: Loop = "supervised"
    tier: Literal["paper", "smoke"] = "paper"
    validate: bool = False
    epochs: int = 200
    steps_per_epoch: int = 0
    until: float = 0.0
    look: int = 1
    batch_size: int = 128
    labels: int = 0
    label_noise: float = 0.0
    unlabelled_batch_size: int = 0
    augment: bool = True
    lr: float = 0.1
    schedule: ScheduleName = "drops"
    warmup: int = 0
    base: Literal["SGD", "AdamW"] = "SGD"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    rho: float = 0.0
    beta: float = 1.0
    climb: int = 1
    climb_batch: int = 0
    sigma: float = 1.0
    halve_rho: int = 0
    threshold: float = 0.95
    unlabelled_weight: float = 1.0
    ema: float = 0.0
    temperature: float = 0.5
    probe: Literal["AdamW", "LBFGS"] = "AdamW"
    curvature: bool = False
    bf16: bool = True
    compiled: bool = True

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from plain values, checked.

        Raises:
            ValueError: a name that is unknown or missing, or a value of the wrong kind.

        Example:
            >>> Settings.of({"data": "svhn", "model": "cnn6", "method": "SGD", "seed": 0}).epochs
            200
        """
        hints = _kinds()
        for name in values:
            require(name in hints, f"{name!r:.80} is no setting; the settings are {[*hints]}")
        required = {f.name for f in fields(cls) if f.default is f.default_factory}
        missing = sorted(required - values.keys())
        require(not missing, f"settings must name {missing}")
        settings = cls(**{name: _of_kind(name, v, hints[name]) for name, v in values.items()})
        parts(settings.model)
        positive = ("epochs", "look", "batch_size", "climb", "lr", "sigma", "temperature")
        for name, value in vars(settings).items():
            if isinstance(value, int | float):
                require(math.isfinite(value), f"{name} must be finite, got {value}")
                require(value >= 0, f"{name} must not be negative, got {value}")
                require(value > 0 or name not in positive, f"{name} must be positive, got {value}")
            if isinstance(value, float):  # products of such are still float32's
                require(value <= MOST, f"{name} must be at most {MOST}, got {value}")
        for name in ("label_noise", "label_smoothing", "threshold"):
            value = getattr(settings, name)
            require(value <= 1, f"{name} must be at most 1, got {value}")
        require(settings.ema < 1, f"ema must be below 1, got {settings.ema}")
        climbs = settings.method != "SGD"
        require(settings.rho > 0 or not climbs, f"rho must be positive for {settings.method}")
        require(settings.rho == 0 or climbs, f"rho must be left out for SGD, got {settings.rho}")
        require(
            settings.climb_batch == 0
            or (climbs and not settings.method.endswith("D") and settings.loop == "supervised"),
            "climb_batch is for supervised runs of SAM and IAM-S only, got "
            f"{settings.method} in {settings.loop}",
        )
        require(
            settings.climb_batch <= settings.batch_size,
            f"climb_batch must be at most batch_size={settings.batch_size}, "
            f"got {settings.climb_batch}",
        )
        require(
            settings.loop != "fixmatch" or settings.unlabelled_batch_size > 0,
            "unlabelled_batch_size must be positive for fixmatch",
        )
        require(
            settings.loop != "simclr" or settings.until == 0,
            f"until must be left out for simclr, which has no labels, got {settings.until}",
        )
        return settings


def load_recipe(recipe: str | Path, /, **changes: Any) -> dict[str, Settings]:
    """The runs of a recipe, by name.

    Args:
        recipe: the name of a recipe that ships with the package, or the path of a file.
        **changes: settings that replace the recipe's, in all runs.

    Returns:
        Settings by name. A name is fit for a file; it holds the method, the values of the lists,
        the changes, and the seed.

    Raises:
        FileNotFoundError: no such recipe; the message lists those that ship.
        ValueError: a file that is no recipe or has no plain name, or two runs of one name.

    Example:
        >>> [*load_recipe("heatmap")][0]
        'IAM-D-cifar-10-beta0.1-rho0.01-seed0'
        >>> [*load_recipe("demo", epochs=1)][0]
        'SGD-epochs1-seed0'
    """
    path = Path(recipe) if str(recipe).endswith(".toml") else RECIPES / f"{recipe}.toml"
    if not path.exists():
        raise FileNotFoundError(f"no recipe {recipe}; there are {recipes()}, or give a .toml file")
    # Its records lie in a folder of that name, and the stem of "...toml" is "..".
    plain = re.fullmatch(r"\w[\w .+-]*", path.stem)
    require(
        plain is not None, f"a recipe's file must be named like my-runs.toml, got {path.name!r}"
    )
    raw = read_whole(path, MOST_BYTES)
    # A key lies in one line, and the parser takes time and memory by its parts squared.
    dots = max(line.count(b".") for line in raw.split(b"\n"))
    require(dots <= MOST_DOTS, f"{path} must hold at most {MOST_DOTS} dots in a line, got {dots}")
    try:
        content = _toml(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    groups = content.pop("runs", [])
    require(
        isinstance(groups, list) and all(isinstance(group, dict) for group in groups),
        f"runs must be tables, written [[runs]], got {groups!r:.80}",
    )
    require(bool(groups), f"{path} must hold at least one [[runs]]")
    runs: dict[str, Settings] = {}
    for group in groups:
        axes = [name for name, value in group.items() if isinstance(value, list)]
        for axis in axes:
            require(bool(group[axis]), f"{axis} must list at least one value, got []")
        count = len(runs) + math.prod(len(group[axis]) for axis in axes)
        require(count <= MOST_RUNS, f"{path} must list at most {MOST_RUNS} runs, got {count}")
        for values in product(*(group[axis] for axis in axes)):
            row = content | group | dict(zip(axes, values, strict=True)) | changes
            settings = Settings.of(row)
            name = _name(settings, [*axes, *changes])
            require(name not in runs, f"{path} has two runs of the name {name}")
            runs[name] = settings
    return runs


def recipes() -> list[str]:
    """The names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def parse(assignment: str) -> tuple[str, Any]:
    """``"lr=0.1"`` as ``("lr", 0.1)``.

    Example:
        >>> parse("rho=0.1"), parse("method=IAM-D"), parse("validate=true")
        (('rho', 0.1), ('method', 'IAM-D'), ('validate', True))
    """
    name, equals, text = assignment.partition("=")
    one_line = not {*assignment} & {*"\r\n"}  # else TOML takes what follows for more settings
    require(
        bool(name and equals and text) and one_line,
        f"expected name=value in one line, got {assignment!r}",
    )
    try:
        return name, _toml(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return name, text


def smoke(settings: Settings) -> Settings:
    """The same run at its smallest: two steps, a few images."""
    return replace(
        settings,
        tier="smoke",
        epochs=2,
        steps_per_epoch=1,
        look=1,
        warmup=0,
        batch_size=4,
        unlabelled_batch_size=min(settings.unlabelled_batch_size, 4),
    )


def _name(settings: Settings, told: Iterable[str]) -> str:
    """The method, what is told, and the seed."""
    values = vars(settings)
    own = [
        values[name] if isinstance(values[name], str) else f"{name}{values[name]:g}"
        for name in dict.fromkeys(told)
        if name not in ("method", "seed")
    ]
    return "-".join([settings.method, *own, f"seed{settings.seed}"])


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with extra("lab"):
            import tomli as tomllib
    content: dict[str, Any] = tomllib.loads(text)
    return content


@cache  # for many runs it takes longer than all the rest
def _kinds() -> dict[str, Any]:
    return typing.get_type_hints(Settings)


def _of_kind(name: str, value: Any, hint: Any) -> Any:
    """The value if it is of the kind that a field wants."""
    if allowed := typing.get_args(hint):
        require(value in allowed, f"{name} must be one of {allowed}, got {value!r:.80}")
        return value
    if isinstance(value, int):
        require(abs(value) < 2**63, f"{name} must be below 2**63, got {value!r:.40}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    good = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    require(good, f"{name} must be of type {hint.__name__}, got {value!r:.80}")
    return value
