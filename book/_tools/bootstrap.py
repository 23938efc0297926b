"""Write the first code cell of every chapter as ``_config.yml`` has it."""

from __future__ import annotations

import re

from _tools.chapters import HERE, Book, write_whole

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
        renewed = text[: found.start("cell")] + book.bootstrap() + text[found.end("cell") :]
        if write_whole(chapter.path, renewed):
            changed.append(chapter.name)
    return changed


if __name__ == "__main__":
    for name in bootstrap(HERE):
        print(f"{name}: first cell renewed")
