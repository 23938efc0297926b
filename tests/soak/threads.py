"""Run chapters with 1, 2 and 4 threads and compare what they print, and their verdicts, exactly.

``python tests/soak/threads.py pathways/01-sharpness iam/02-one-step``; without a name all chapters,
which takes an hour and more. Exit status 1 if a printed number or a verdict depends on the threads:
then print fewer digits of that number, as many as are the same.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book"))

from _tools import compare
from _tools.chapters import HERE
from _tools.execute import COMMITTED_TIER, run


def with_threads(chapter, threads):
    """The chapter's notebook, run in a kernel of so many threads."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    done = run(chapter, COMMITTED_TIER)
    if done.notebook is None:
        sys.exit(f"{chapter.name} with {threads} threads: {done.error}")
    return done.notebook


def differences(first, other):
    """What differs between two runs, as sentences: printed text, then verdicts."""
    yield from (f"{one.what}: {one.how}" for one in compare.text(first, other))
    said = [notebook.metadata["stamp"]["claims"] for notebook in (first, other)]
    for id_ in sorted(said[0].keys() | said[1].keys()):
        then, now = (claims.get(id_, {}).get("verdict") for claims in said)
        if then != now:
            yield f"{id_} is {then!r} with the first number of threads, else {now!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="*")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    asked = parser.parse_args()
    failed = 0
    for chapter in HERE.find(asked.chapters):
        first, *others = asked.threads
        one = with_threads(chapter, first)
        for threads in others:
            found = list(differences(one, with_threads(chapter, threads)))
            failed += bool(found)
            print(f"{chapter.name}: {first} and {threads} threads, {len(found)} differences")
            print("".join(f"  {sentence}\n" for sentence in found), end="", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
