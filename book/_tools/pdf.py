"""Make the book a PDF: Jupyter Book writes LaTeX, XeLaTeX sets it.

With ``--vector`` every chapter runs once more in a copy, where its figures are kept as PDF: in the
committed notebooks they would weigh too much.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from _tools.chapters import HERE, Book, alone
from _tools.execute import COMMITTED_TIER, runs

NAME = "flat-minima"
DEBIAN = (
    "latexmk texlive-xetex texlive-latex-extra texlive-fonts-recommended fonts-freefont-otf"
    " fonts-dejavu-core texlive-lang-greek"
)


def missing() -> str:
    """Say what has to be installed before a PDF can be made; nothing if all is there."""
    programs = [name for name in ("latexmk", "xelatex") if shutil.which(name) is None]
    if not programs:
        return ""
    return f"{' and '.join(programs)} not found: apt-get install --no-install-recommends {DEBIAN}"


def redraw(book: Book) -> Book:
    """Copy the book, run its chapters and put the runs with figures as PDF into the copy."""
    copy = Book(book.built / "vector")
    shutil.rmtree(copy.root, ignore_errors=True)
    left = shutil.ignore_patterns("_build", "node_modules", ".*")
    shutil.copytree(book.root, copy.root, ignore=left)
    for result in runs(book.chapters, COMMITTED_TIER, os.cpu_count() or 1, vector=True):
        if result.notebook is None:
            sys.exit(f"{result.name}: FAILED in {result.error}")
        nbformat.write(result.notebook, copy.pages / f"{result.name}.ipynb")
    return copy


def write_latex(book: Book) -> int:
    """Write the whole book as LaTeX, from nothing, and return the exit status."""
    work = book.built / "pdf"
    shutil.rmtree(work, ignore_errors=True)
    (book.built / f"{NAME}.pdf").unlink(missing_ok=True)  # never an old one for a new
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "book"]
    command += ["--builder", "latex", "--config", "_config.yml"]
    command += ["--toc", str(book.root / "_toc.yml")]
    command += ["--path-output", str(work), "-n", "--keep-going", "-q"]
    return subprocess.run(command, cwd=book.root, check=False).returncode


def typeset(book: Book) -> int:
    """Set the LaTeX, put the PDF in its place and return the exit status."""
    latex = book.built / "pdf" / "_build" / "latex"
    command = ["latexmk", "-xelatex", "-interaction=nonstopmode", "-halt-on-error", "-silent"]
    status = subprocess.run([*command, f"{NAME}.tex"], cwd=latex, check=False).returncode
    if status == 0:
        shutil.copy(latex / f"{NAME}.pdf", book.built / f"{NAME}.pdf")
    return status


def main() -> None:
    """Write and set this book; stop at the first step that fails."""
    parser = argparse.ArgumentParser(prog="make pdf", description=__doc__)
    parser.add_argument("--vector", action="store_true", help="run all chapters for their figures")
    asked = parser.parse_args()
    if lacking := missing():
        sys.exit(lacking)
    with alone(HERE, "pdf"):
        book = redraw(HERE) if asked.vector else HERE
        os.environ["PYTHONPATH"] = str(book.pages)
        if status := write_latex(book) or typeset(book):
            sys.exit(status)
        made = HERE.built / f"{NAME}.pdf"
        if book is not HERE:
            shutil.copy(book.built / made.name, made)
    print(f"Open {made}")


if __name__ == "__main__":
    main()
