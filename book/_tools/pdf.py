"""Make the book a PDF: Jupyter Book writes LaTeX, XeLaTeX sets it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from _tools.chapters import HERE, Book, alone

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
    if lacking := missing():
        sys.exit(lacking)
    os.environ["PYTHONPATH"] = str(HERE.pages)
    with alone(HERE, "pdf"):
        if status := write_latex(HERE) or typeset(HERE):
            sys.exit(status)
    print(f"Open {HERE.built / f'{NAME}.pdf'}")


if __name__ == "__main__":
    main()
