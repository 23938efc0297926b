"""Write the first code cell of every chapter: it installs the library where it is missing.

The committed cell holds no address, so that no fork has to edit it. ``--launch`` writes the address
of this repository and commit into the executed notebooks; a workflow pushes them to the branch that
Colab and Binder open.
"""

from __future__ import annotations

import argparse
import re
import sys

import nbformat

from _tools.address import source
from _tools.chapters import HERE, Book, first_cell, in_one_line, write_whole

_FIRST_CELL = re.compile(
    r"(?s)```\{code-cell\} ipython3\n:tags: \[remove-cell\]\n\n(?P<cell>.*?)\n```\n"
)


def bootstrap(book: Book) -> list[str]:
    """Rewrite the cell wherever it differs and return the names of the chapters it changed."""
    changed = []
    for chapter in book.chapters:
        text = chapter.path.read_text("utf-8")
        found = _FIRST_CELL.search(text)
        if found is None:
            continue
        renewed = text[: found.start("cell")] + first_cell() + text[found.end("cell") :]
        if write_whole(chapter.path, renewed):
            changed.append(chapter.name)
    return changed


def launch(book: Book) -> list[str]:
    """Write this commit's address into the executed notebooks, and return which have it now.

    Raises:
        SystemExit: If neither a workflow nor the remote ``origin`` tells the address.
    """
    address = source(book.root)
    if address is None:
        sys.exit("no address: run it in a workflow, or set the remote: git remote add origin …")
    changed = []
    for chapter in book.chapters:
        executed = chapter.executed()
        for cell in executed.cells if executed else []:
            if cell.source == first_cell():
                cell.source = first_cell(address)
                write_whole(chapter.twin, nbformat.writes(executed) + "\n")
                changed.append(chapter.name)
    return changed


def main() -> None:
    """Run from the command line; ``--help`` tells how."""
    parser = argparse.ArgumentParser(prog="make bootstrap", description=__doc__)
    parser.add_argument("--launch", action="store_true", help="write this commit's address")
    renew = launch if parser.parse_args().launch else bootstrap
    with in_one_line():
        for name in renew(HERE):
            print(f"{name}: first cell renewed")


if __name__ == "__main__":
    main()
