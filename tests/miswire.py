"""Would the tests notice a runner that is wired wrongly? ``python tests/miswire.py``.

Puts each wrong wiring of ``flatlab/wrong_wirings.toml`` into a copy of the library, by itself, and
runs the test that must fail. Further arguments are words that a wiring must have in its name.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def wirings() -> Iterator[tuple[Path, str, str, str, str]]:
    """The file under ``lib``, what goes wrong in it, the text, what it becomes, and the test."""
    table = Path(__file__).with_name("flatlab") / "wrong_wirings.toml"
    for name, entries in tomllib.loads(table.read_text("utf-8")).items():
        for what, text, other, test in entries:
            yield Path("flatlab", name), what, text, other, test


def passes(library: Path, test: str) -> None:
    """End this process with the status of the test, given that library."""
    sys.path[:] = [str(library), *(p for p in sys.path if Path(p) != ROOT / "lib")]
    os.environ["PYTHONPATH"] = str(library)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    options = ["-x", "-p", "no:cacheprovider", "--tb=no"]
    os._exit(pytest.main([*options, str(ROOT / "tests" / "flatlab" / test)]))


def status(test: str, path: Path = Path(), text: str = "", other: str = "") -> int:
    """Of the test in a process of its own; the text in the file is replaced, if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "lib"
        shutil.copytree(ROOT / "lib", library, ignore=shutil.ignore_patterns("__pycache__"))
        if text:
            source = (library / path).read_text("utf-8")
            (library / path).write_text(source.replace(text, other), "utf-8")
        run = multiprocessing.get_context("fork").Process(target=passes, args=(library, test))
        run.start()
        run.join()
    return run.exitcode or 0


def main() -> int:
    """Try each; the exit status says whether all are noticed."""
    import hypothesis  # noqa: F401  before the fork, once for all
    import scipy.optimize  # noqa: F401
    import torchvision.models  # noqa: F401

    unnoticed, good = 0, dict[str, bool]()
    for path, what, text, other, test in wirings():
        if not all(word in what for word in sys.argv[1:]):
            continue
        if test not in good:
            good[test] = status(test) == pytest.ExitCode.OK
        noticed = good[test] and status(test, path, text, other) == pytest.ExitCode.TESTS_FAILED
        unnoticed += not noticed
        print("noticed  " if noticed else "UNNOTICED", path, what, flush=True)
    return min(unnoticed, 1)


if __name__ == "__main__":
    sys.exit(main())
