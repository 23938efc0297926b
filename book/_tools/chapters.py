"""Where things are, and what a chapter is: one Markdown file beside its executed twin."""

from __future__ import annotations

import argparse
import ast
import errno
import fcntl
import glob
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import psutil
import yaml
from nbformat import NotebookNode

from _tools.shape import shape_problem

FIRST_CELL_TAG = "remove-cell"
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Refused(ValueError):
    """An executed notebook is broken, or holds what execution does not write."""


@dataclass(frozen=True)
class Book:
    """A checkout of the book.

    Attributes:
        root: The folder that holds ``_toc.yml``, ``book/`` and ``lib/``.
    """

    root: Path

    @property
    def pages(self) -> Path:
        """The folder of the pages."""
        return self.root / "book"

    @property
    def built(self) -> Path:
        """The folder of all that can be made again."""
        return self.root / "_build"

    @property
    def claims(self) -> dict[str, dict[str, Any]]:
        """``book/claims.yml``."""
        loaded: dict[str, dict[str, Any]] = yaml.safe_load(
            (self.pages / "claims.yml").read_text("utf-8")
        )
        return loaded

    @property
    def chapters(self) -> list[Chapter]:
        """Every chapter, in reading order."""
        return [Chapter(self, path) for path in sorted(self.pages.glob("*/[0-9][0-9]-*.md"))]

    def find(self, names: list[str]) -> list[Chapter]:
        """Return the named chapters, or all if none is named.

        Args:
            names: Such as ``iam/01-local-inconsistency``; ``book/`` before and ``.md`` or
                ``.ipynb`` behind are taken too.

        Raises:
            SystemExit: If a name is no chapter.
        """
        known = {chapter.name: chapter for chapter in self.chapters}
        asked = [re.sub(r"^(\./)?book/|\.(md|ipynb)$", "", name) for name in names]
        if unknown := [name for name in asked if name not in known]:
            sys.exit(f"no chapter named {', '.join(unknown)}; there are: {', '.join(known)}")
        return [known[name] for name in asked] or list(known.values())


@dataclass(frozen=True)
class Chapter:
    """One chapter of a book.

    Attributes:
        book: The book it belongs to.
        path: Its Markdown file, the only one that a person edits.
    """

    book: Book
    path: Path

    @property
    def name(self) -> str:
        """Its page, such as ``iam/01-local-inconsistency``."""
        return self.path.relative_to(self.book.pages).with_suffix("").as_posix()

    @property
    def twin(self) -> Path:
        """The executed notebook beside it."""
        return self.path.with_suffix(".ipynb")

    @property
    def data(self) -> Path:
        """The folder of the numbers behind its figures."""
        return self.path.with_suffix("").with_name(f"{self.path.stem}-data")

    def source(self) -> NotebookNode:
        """Return the notebook that the Markdown says: no outputs, ids that stay from run to run."""
        notebook = jupytext.read(self.path)
        notebook.nbformat, notebook.nbformat_minor = 4, 5
        notebook.metadata = NotebookNode(
            kernelspec=notebook.metadata["kernelspec"], language_info=NotebookNode(LANGUAGE)
        )
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number:02d}"
        return notebook

    def executed(self) -> NotebookNode | None:
        """Return the executed twin, or None where there is none yet.

        Raises:
            Refused: If it cannot be read, or :mod:`_tools.shape` finds something in it.
        """
        if not self.twin.exists():
            return None
        try:
            notebook = read_notebook(self.twin)
            said = shape_problem(notebook)
        except Refused as error:
            said = str(error)
        if said:
            raise Refused(f"{self.name}: its .ipynb is refused: {said}; run make execute")
        return notebook

    def code(self) -> str:
        """Return the chapter's code, cell after cell, without notebook magics.

        The first cell is not among it: how the library got here decides no number.
        """
        cells = [
            cell.source
            for cell in self.source().cells
            if cell.cell_type == "code" and FIRST_CELL_TAG not in cell.metadata.get("tags", [])
        ]
        return re.sub(r"(?m)^[%!].*$", "", "\n\n".join(cells))

    def parameters(self) -> dict[str, Any]:
        """Return the names and literal values of the cell tagged ``parameters``."""
        found: dict[str, Any] = {}
        for cell in self.source().cells:
            if "parameters" in cell.metadata.get("tags", []):
                for statement in ast.parse(cell.source).body:
                    if isinstance(statement, ast.Assign) and isinstance(
                        statement.targets[0], ast.Name
                    ):
                        found[statement.targets[0].id] = ast.literal_eval(statement.value)
        return found


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook; nbformat's own reading only warns of what is no notebook.

    Raises:
        Refused: If it is none.
    """
    try:
        text = path.read_text("utf-8")
        nbformat.validate(json.loads(text))
        return nbformat.reads(text, as_version=4)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise Refused(f"it is no notebook ({type(error).__name__})") from error
    except nbformat.ValidationError as error:
        raise Refused(f"it is no notebook ({error.message[:80]!r})") from error


def first_cell(source: str = "") -> str:
    """Return the first code cell of every chapter: it installs the library if need be.

    Args:
        source: Where from, such as ``git+https://github.com/owner/name@main``; empty: the reader
            is asked to say it.
    """
    return (
        "# On Colab, and wherever flatmin is missing: install it from its repository.\n"
        "import importlib, importlib.util, os, subprocess, sys\n"
        "\n"
        f'source = os.environ.get("FLATMIN_SOURCE", "{source}")\n'
        'if importlib.util.find_spec("flatbook") is None:\n'
        "    if not source:\n"
        '        how = "set FLATMIN_SOURCE to git+https://HOST/OWNER/NAME"\n'
        '        raise ModuleNotFoundError(f"flatmin is missing: {how}")\n'
        '    command = [sys.executable, "-m", "pip", "install", "-q"]\n'
        '    subprocess.run([*command, f"flatmin[chapter] @ {source}"], check=True)\n'
        "    importlib.invalidate_caches()"
    )


def at_least_one(text: str) -> int:
    """Return a number of processes from the command line."""
    if (found := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {found}")
    return found


def write_whole(path: Path, content: str) -> bool:
    """Write a text file whole or not at all, and only if it changes.

    Args:
        path: The file; its folder is made if need be.
        content: What it shall hold.

    Returns:
        Whether the file changed.
    """
    if path.exists() and path.read_text("utf-8") == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # by one that was killed
        if not psutil.pid_exists(int(left.name.split(".")[-2])):
            left.unlink(missing_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(content, "utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if error.errno in UNWRITABLE:
            error.filename = error.filename or str(path)  # a full disk does not say of which
        raise
    return True


@contextmanager
def in_one_line() -> Iterator[None]:
    """End the command with one line if a notebook is refused, or a file cannot be written."""
    try:
        yield
    except Refused as error:
        sys.exit(str(error))
    except OSError as error:
        if error.errno in UNWRITABLE:
            sys.exit(f"cannot write {error.filename or 'a file'}: {error.strerror}")
        raise


@contextmanager
def alone(book: Book, what: str) -> Iterator[int]:
    """Wait until no other command is at this work; one that is killed lets the next begin.

    Yields:
        The lock: a child that is given it keeps the next command waiting until it ends.
    """
    with in_one_line():
        book.built.mkdir(parents=True, exist_ok=True)
        with (book.built / f".{what}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()


HERE = Book(Path(__file__).resolve().parents[2])
