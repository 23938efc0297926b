"""Render the site, unless it is whole already and nothing that it shows has changed since."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from _tools.address import repository
from _tools.chapters import HERE, Book, alone, write_whole
from _tools.stamp import digest, versions

_SHOWN = ("_config.yml", "_toc.yml", "constraints.txt", "book", "examples", "lib")


_EVERYWHERE = ("book/claims.yml", "book/_tools", "lib/flatbook")


def _files(book: Book, names: tuple[str, ...]) -> Iterator[Path]:
    for path in map(book.root.joinpath, names):
        yield from sorted(path.rglob("*")) if path.is_dir() else [path]


def _hashes(book: Book, names: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(book.root)} {digest(path.read_bytes())}"
        for path in _files(book, names)
        if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & {*path.parts}
    ]


def shown(book: Book) -> str:
    """Return the hash of all that the site is made of."""
    return digest("\n".join([*_hashes(book, _SHOWN), str(repository(book.root)), str(versions())]))


def machinery(book: Book) -> int:
    """Return a number that changes with what every page is made by: then none is kept."""
    return int(digest("\n".join(_hashes(book, _EVERYWHERE))), 16)


def render(book: Book, command: list[str]) -> int:
    """Render the site with ``command`` and return its exit status; a whole site is left as it is.

    A mark says what a finished site was made of. It is taken away before anything is written: a
    site without it was interrupted, and is made from nothing.
    """
    with alone(book, "render") as lock:
        return _render(book, command, lock)


def _render(book: Book, command: list[str], lock: int) -> int:
    site, mark, now = book.built / "html", book.built / "html.made-of", shown(book)
    made_of = mark.read_text("utf-8") if mark.exists() else ""
    if made_of == now and (site / "index.html").exists():
        print("the site is up to date")
        return 0
    mark.unlink(missing_ok=True)
    if not made_of:
        for unfinished in (site, book.built / ".doctrees", book.built / ".jupyter_cache"):
            shutil.rmtree(unfinished, ignore_errors=True)
    for chapter in book.chapters:
        chapter.executed()  # is refused before any page is made
    status = subprocess.run(command, cwd=book.root, check=False, pass_fds=[lock]).returncode
    if status == 0:
        write_whole(mark, now)
    return status


def main() -> None:
    """Render this book with Jupyter Book; warnings are errors."""
    argparse.ArgumentParser(prog="make html", description=__doc__).parse_args()
    os.environ["PYTHONPATH"] = str(HERE.pages)
    tool = str(Path(sys.executable).with_name("jupyter-book"))
    what = ["build", "book", "--config", "_config.yml", "--toc", str(HERE.root / "_toc.yml")]
    sys.exit(render(HERE, [tool, *what, "--path-output", ".", "-W", "-n", "--keep-going", "-q"]))


if __name__ == "__main__":
    main()
