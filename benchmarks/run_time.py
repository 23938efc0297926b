"""What the steps of recipes' methods take, as they are run: one run of each, epochs interleaved.

Run `python benchmarks/run_time.py supervised cheaper` on a machine that does nothing else. With
--json the figures and where they come from are written to book/results/.
"""

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for all

from flatlab.experiment import Experiment
from flatlab.record import provenance
from flatlab.sets import Place
from flatlab.settings import load_recipe

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Times the methods of the recipes named, and prints their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--rounds", type=int, default=25, help="epochs of each, after a first one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="write book/results/run-time-….json")
    options = parser.parse_args()
    place = Place(device=options.device)
    runs = {}
    for recipe in options.recipes:
        for name, settings in load_recipe(recipe).items():
            title = f"{recipe}/{name.rpartition('-seed')[0]}"
            if title not in runs:
                unseen = replace(settings, validate=True, look=10 * settings.epochs)
                assert options.rounds < settings.epochs, "the last epoch looks at images"
                runs[title] = Experiment(unseen, place).train()
    seconds = {title: [] for title in runs}
    for turn in range(options.rounds + 1):
        for title, run in runs.items():
            start = perf_counter()
            next(run)
            if turn:  # the first pays for what is set up once
                seconds[title].append(perf_counter() - start)
    first = next(iter(seconds))
    base = seconds[first]
    ratio = {
        title: statistics.median(t / b for t, b in zip(taken, base, strict=True))
        for title, taken in seconds.items()
    }
    for title, value in ratio.items():
        print(f"{title:28} {value:5.2f} x {first}")
    if options.json:
        target = ROOT / "book" / "results" / f"run-time-{'-'.join(options.recipes)}.json"
        content = {"provenance": provenance(place), "ratio": ratio}
        target.write_text(json.dumps(content, indent=1) + "\n")
        print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
