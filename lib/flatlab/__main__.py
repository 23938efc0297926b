"""Train what a recipe lists: ``python -m flatlab table1-cifar10``.

Stopped, in whatever way, the same command goes on from the last checkpoint; what has its record is
left alone. Under torchrun all processes share each run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from flatlab.conduct import conduct
from flatlab.plan import plan
from flatlab.sets import Place, check_sizes
from flatlab.settings import Settings, load_recipe, parse, recipes, smoke
from flatmin._check import require
from flatmin._extras import extra


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    # PyTorch's own: of forward-mode derivatives, and of convolutions on a CPU.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    warnings.filterwarnings("ignore", message="grad and param do not obey")
    try:
        runs = _chosen(options)
        require(options.workers >= 0, f"workers must not be negative, got {options.workers}")
        _prepare(options.device)
        if options.dry_run:
            _print_plan(runs, options.data)
            return 0
        with _processes(options.device) as (device, part):
            place = Place(options.data, options.download, device, part, options.workers)
            for name, settings in runs.items():
                record = options.out / Path(options.recipe).stem / f"{name}.json"
                _train(name, settings, record, place)
    except (ValueError, OSError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flatlab",
        description="Train what a recipe lists; go on where it was left.",
        epilog=f"Recipes: {', '.join(recipes())}.",
    )
    parser.add_argument("recipe", help="the name of a recipe, or the path of a .toml file")
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="run",
        help="names of runs, or settings that they must have, such as method=IAM-D seed=0 seed=1; "
        "by default all",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings that replace the recipe's, such as epochs=10",
    )
    parser.add_argument(
        "--tier",
        choices=["paper", "smoke"],
        default="paper",
        help="smoke: two steps of each run on a few images of noise",
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the records")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--download", action="store_true", help="fetch data that are not there")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu"
    )
    parser.add_argument("--workers", type=int, default=8, help="processes that decode ImageNet")
    parser.add_argument(
        "--dry-run", action="store_true", help="print runs, passes and data, and stop"
    )
    return parser


def _chosen(options: argparse.Namespace) -> dict[str, Settings]:
    """The runs that the command line asks for."""
    runs = load_recipe(options.recipe, **dict(map(parse, options.set)))
    names = [word for word in options.runs if "=" not in word]
    wanted: dict[str, list[Any]] = {}
    for key, value in (parse(word) for word in options.runs if "=" in word):
        wanted.setdefault(key, []).append(value)
    chosen = {
        name: settings
        for name, settings in runs.items()
        if (not names or name in names)
        and all(asdict(settings).get(key) in values for key, values in wanted.items())
    }
    unknown = [name for name in names if name not in runs]
    require(
        bool(chosen) and not unknown,
        f"{options.recipe} has no such run: {unknown or options.runs}; it has {[*runs]}",
    )
    for settings in chosen.values():
        check_sizes(settings)
    if options.tier == "smoke":
        return {name: smoke(settings) for name, settings in chosen.items()}
    return chosen


def _prepare(device: str) -> None:
    """Check the device, and set how PyTorch computes on it."""
    known = re.fullmatch(r"cpu|cuda(:\d{1,3})?", device)
    require(known is not None, f"device must be cpu or cuda, got {device!r}")
    if device == "cpu":
        torch.set_num_threads(1)  # so that a run repeats; several runs use several cores
        return
    require(torch.cuda.is_available(), f"device {device!r} needs a GPU, and PyTorch sees none")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


@contextmanager
def _processes(device: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """This process's device and share: all, or under torchrun a part."""
    on_gpu, shared = torch.device(device).type == "cuda", "RANK" in os.environ
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}" if shared else device
        torch.cuda.set_device(device)
    if not shared:
        yield device, (0, 1)
        return
    # The others wait while the first one evaluates.
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(hours=1))
    try:
        yield device, (dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _train(name: str, settings: Settings, record: Path, place: Place) -> None:
    """One run, with a bar in a terminal, else a line for each record, in the first process."""
    with extra("lab"):
        from tqdm import tqdm
    first = place.part[0] == 0
    if record.exists() and first:
        print(f"{name}: {record} is there")
    bar, said = None, dict[str, str]()
    for point in conduct(settings, record, place):
        if not first:
            continue
        said |= {key: f"{point[key]:.4f}" for key in ("loss", "error", "S") if key in point}
        said["images/s"] = f"{point['images_per_second']:.0f}"
        step, steps = int(point["step"]), int(point["steps"])
        if sys.stderr.isatty():
            bar = bar or tqdm(total=steps, initial=step, desc=name, unit="step")
            bar.set_postfix(said, refresh=False)
            bar.update(step - bar.n)
        else:
            text = ", ".join(f"{key} {value}" for key, value in said.items())
            print(f"{name}: step {step} of {steps}, {text}", flush=True)
    if bar:
        bar.close()


def _print_plan(runs: Mapping[str, Settings], folder: Path) -> None:
    width = max(map(len, runs))
    print(f"{'run':{width}}     steps  images  forward + backward")
    for name, settings in runs.items():
        found = plan(settings)
        print(
            f"{name:{width}} {found.steps:9,} {found.images:7} {found.forwards:9} + "
            f"{found.backwards}"
        )
    data = " and ".join(dict.fromkeys(settings.data for settings in runs.values()))
    print(f"{len(runs)} runs; they read {data} from {folder}")


if __name__ == "__main__":
    sys.exit(main())
