"""How many small errors would the tests notice? ``make mutate``; it takes hours.

mutmut breaks one line at a time, in a copy of the tree, and runs the tests that reach it. Messages
of errors are left alone, and so is what stands outside of functions: tables, defaults.
``--package flatlab`` breaks the runner. ``--sample`` takes some of the mutants, drawn from a seed;
survivors are listed with what was changed, for a person to judge.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from math import sqrt
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "_build" / "mutation"
KILLED, SURVIVED, NO_TEST = 1, 0, 33
#: Left out for the runner: each recipe and setting once more, and what starts other processes,
#: in which no mutant lives.
SLOW = "recipe_by_hand recipe_takes decides processes snakemake killed one_bar"
TESTS = {
    "flatmin": ["tests/flatmin/"],
    "flatlab": ["tests/flatlab/", "-k", f"not ({' or '.join(SLOW.split())})"],
}
SETTINGS = """
[tool.mutmut]
source_paths = ["src/"]
only_mutate = {sources}
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {tests}
also_copy = ["benchmarks/", "book/", "conftest.py", "tests/"]
do_not_mutate_patterns = ['raise \\w+', 'f"', '^\\s*"', 'require\\(']
process_isolation = "forkserver"
"""


def prepare(sources: list[str], tests: list[str]) -> None:
    """Copy the tracked tree, with ``lib`` where mutmut looks for source."""
    shutil.rmtree(WORK, ignore_errors=True)
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, tracked.split("\0")):
        target = WORK / ("src" + name[3:] if name.startswith("lib/") else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    with (WORK / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(SETTINGS.format(sources=json.dumps(sources), tests=json.dumps(tests)))


def mutmut(*arguments: str) -> str:
    """Run a command of mutmut in the copy."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    run = subprocess.run(command, cwd=WORK, env=environment, capture_output=True, text=True)
    return run.stdout


def results() -> dict[str, int | None]:
    """The exit status of the tests under each mutant, None where they were not run."""
    found: dict[str, int | None] = {}
    for path in sorted(WORK.glob("mutants/**/*.meta")):
        found |= json.loads(path.read_text("utf-8"))["exit_code_by_key"]
    return found


def main() -> None:
    """Make mutants, run a sample of them, list what survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", help="globs under lib/; by default the package")
    parser.add_argument("--package", choices=TESTS, default="flatmin")
    parser.add_argument("--tests", nargs="+", help="by default those of the package")
    parser.add_argument("--sample", type=int, default=0, help="how many mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    sources = given.sources or [f"lib/{given.package}/*"]
    tests = given.tests or TESTS[given.package]
    prepare([source.replace("lib/", "src/", 1) for source in sources], tests)
    mutmut("run", "no such mutant")  # makes them, and notes which test reaches which
    names = sorted(results())
    if 0 < given.sample < len(names):
        names = sorted(random.Random(given.seed).sample(names, given.sample))
    print(f"{len(names)} of {len(results())} mutants", flush=True)
    mutmut("run", "--max-children", str(given.jobs), *names)
    status = {name: code for name, code in results().items() if name in set(names)}
    survivors = [name for name, code in status.items() if code in (SURVIVED, NO_TEST)]
    for name in survivors:
        changed = [line for line in mutmut("show", name).splitlines() if line[:1] in "+-"][2:]
        print(f"\n{name}" + (" (no test reaches it)" if status[name] == NO_TEST else ""))
        print("\n".join(changed))
    run = sum(code is not None for code in status.values())
    if not run:
        sys.exit("no mutant was run: do the tests pass in _build/mutation/mutants?")
    share = len(survivors) / max(run, 1)
    error = 1.96 * sqrt(share * (1 - share) / max(run, 1))
    print(f"\n{len(survivors)} of {run} survive: {share:.1%} ± {error:.1%}")


if __name__ == "__main__":
    main()
