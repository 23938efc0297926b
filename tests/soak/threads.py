"""Run chapters with 1, 2 and 4 threads and compare what they print, and their verdicts, exactly.

``python tests/soak/threads.py pathways/01-sharpness iam/02-one-step``; without a name all chapters,
which takes an hour and more. ``--committed`` compares with the committed notebooks instead of the
first run: in an environment with an older or newer torch it tells what depends on the version.
Exit status 1 if a printed number or a verdict depends on either.
Then the rule says how many digits of that number to print: so many that the change is at most a
twentieth of the last one. A number that is printed so looks the same nineteen times of twenty.
"""

import argparse
import difflib
import math
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book"))

import nbformat

from _tools import compare
from _tools.chapters import HERE
from _tools.execute import COMMITTED_TIER, run

NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
MARGIN = 20  # changes of a number that fit into one step of its last digit


def with_threads(chapter, threads):
    """The chapter's notebook, run in a kernel of so many threads."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    # More threads than processors: one that spins while it waits takes the time of one that works.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    done = run(chapter, COMMITTED_TIER)
    if done.notebook is None:
        sys.exit(f"{chapter.name} with {threads} threads: {done.error}")
    return done.notebook


def digits(one, other):
    """How many significant digits of a number that is now one, now the other, to print."""
    change, size = abs(one - other), max(abs(one), abs(other))
    if not change:
        return math.inf
    return max(0, math.floor(math.log10(size)) + 1 - math.ceil(math.log10(MARGIN * change)))


def numbers(text):
    return [(found, float(found.replace("−", "-"))) for found in NUMBER.findall(text)]


def printed(first, other):
    """What two runs print differently, as sentences: number by number where the words agree."""
    notebooks = [[c for c in nb.cells if c.cell_type == "code"] for nb in (first, other)]
    for place, cells in enumerate(zip(*notebooks, strict=True), 1):
        then, now = map(compare.words, cells)
        if NUMBER.sub("#", then) != NUMBER.sub("#", now):
            lines = [*difflib.ndiff(then.splitlines(), now.splitlines())]
            one, two = (next((n[2:] for n in lines if n[0] == sign), "") for sign in "-+")
            yield f"code cell {place} says {one!r}, then {two!r}"
            continue
        for (one, a), (two, b) in zip(numbers(then), numbers(now), strict=True):
            if one != two:
                yield f"code cell {place}: {one}, then {two}; print {digits(a, b)} digits"


def differences(first, other):
    """What differs between two runs, as sentences: printed text, then verdicts."""
    yield from printed(first, other)
    said = [notebook.metadata["stamp"]["claims"] for notebook in (first, other)]
    for id_ in sorted(said[0].keys() | said[1].keys()):
        then, now = (claims.get(id_, {}).get("verdict") for claims in said)
        if then != now:
            yield f"{id_} is {then!r} first, then {now!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="*")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--committed", action="store_true")
    asked = parser.parse_args()
    failed = 0
    for chapter in HERE.find(asked.chapters):
        if asked.committed:
            first, others = "as committed", asked.threads
            one = nbformat.read(chapter.twin, as_version=4)
        else:
            first, *others = asked.threads
            one = with_threads(chapter, first)
        for threads in others:
            found = list(differences(one, with_threads(chapter, threads)))
            failed += bool(found)
            print(f"{chapter.name}: {first} and {threads} threads, {len(found)} differences")
            print("".join(f"  {sentence}\n" for sentence in found), end="", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
