"""Write every figure of the executed chapters, with its data, into ``_build/figures``."""

from __future__ import annotations

import argparse
import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

from _tools.chapters import HERE, Book, in_one_line


def figures(book: Book) -> Iterator[Path]:
    """Write each figure as ``<chapter>/<name>.png`` beside ``<name>.csv`` and yield its path."""
    for chapter in book.chapters:
        executed = chapter.executed()
        folder = book.built / "figures" / chapter.name
        for cell in executed.cells if executed else []:
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            for output in cell.get("outputs", []):
                picture = output.get("data", {}).get("image/png")
                if name and picture:
                    folder.mkdir(parents=True, exist_ok=True)
                    path = folder / f"{name}.png"
                    path.write_bytes(base64.b64decode(picture))
                    shutil.copy(chapter.data / f"{name}.csv", folder)
                    yield path


def main() -> None:
    """Write them and print their paths."""
    argparse.ArgumentParser(prog="make figures", description=__doc__).parse_args()
    with in_one_line():
        for path in figures(HERE):
            print(path.relative_to(HERE.root))


if __name__ == "__main__":
    main()
