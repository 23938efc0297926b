"""Run chapters again beside the committed ones, and report whatever moved, pictures included.

The runs stand in ``_build/regenerate/book``, the report beside it in ``report.html``; the chapters
that moved in ``moved.txt``, the verdicts that changed in ``verdicts.txt``, each only if there are
any. The exit status is 1 if anything moved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import escape

from _tools import compare
from _tools.chapters import HERE, Book, Chapter, Refused, alone, at_least_one, write_whole
from _tools.compare import Moved
from _tools.execute import COMMITTED_TIER, Run, place, runs, store

_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>What moved</title>
<meta name="viewport" content="width=device-width"><style>
body { font: 1rem/1.5 sans-serif; max-width: 80rem; margin: auto; padding: 1rem }
figure { display: inline-block; width: 31%; margin: .5% } img { width: 100% }
pre { background: #f3f3f3; padding: .5rem; overflow: auto; white-space: pre-wrap }
</style>
"""


def moved(chapter: Chapter, result: Run) -> Iterator[Moved]:
    """Yield all in which a chapter's run differs from what is committed."""
    if result.notebook is None:
        yield Moved("the run", f"failed in {result.error}", verdict=True)
        return
    try:
        old = chapter.executed()
    except Refused as error:
        yield Moved("the chapter", str(error))
        return
    if old is None:
        yield Moved("the chapter", "was never executed before")
        return
    files = {path.stem: path.read_text("utf-8") for path in chapter.data.glob("*.csv")}
    for name in sorted(files.keys() | result.figures.keys()):
        yield from compare.data(name, files.get(name, ""), result.figures.get(name, ""))
    before, after = compare.pictures(old), compare.pictures(result.notebook)
    for name in sorted(before.keys() | after.keys()):
        yield from compare.picture(name, before.get(name, ""), after.get(name, ""))
    then, now = (nb.metadata.get("stamp", {}).get("claims", {}) for nb in (old, result.notebook))
    yield from compare.claims(then, now, chapter.book.claims)
    yield from compare.text(old, result.notebook)


def report(found: dict[str, list[Moved]]) -> str:
    """Return one page of HTML, whole in itself: what moved, chapter after chapter."""
    count = sum(map(len, found.values()))
    body = [_HEAD, f"<h1>{count} differences in {len(found)} chapters</h1>\n"]
    for name, differences in found.items():
        body.append(f"<h2>{escape(name)}</h2>\n")
        if not differences:
            body.append("<p>Nothing moved.</p>\n")
        for one in differences:
            body.append(f"<h3>{escape(one.what)}</h3>\n<pre>{escape(one.how)}</pre>\n")
            for label, png in zip(("before", "after", "difference"), one.pictures, strict=False):
                source = f"data:image/png;base64,{escape(png)}"
                image = f'<img src="{source}" alt="{escape(one.what)}, {label}">'
                body.append(f"<figure>{image}<figcaption>{label}</figcaption></figure>\n")
    return "".join(body)


def changed_since(book: Book, revision: str) -> list[str]:
    """Return the chapters of which any file differs from ``revision``; all if Git has no such."""
    git = ["git", "-C", str(book.root), "diff", "--name-only", "-z", "--end-of-options", revision]
    done = subprocess.run([*git, "--", "book"], capture_output=True, text=True, check=False)
    if done.returncode:
        return [chapter.name for chapter in book.chapters]
    paths = done.stdout.split("\0")
    return [
        chapter.name
        for chapter in book.chapters
        if any(
            path.startswith((f"book/{chapter.name}.", f"book/{chapter.name}-data/"))
            for path in paths
        )
    ]


def regenerate(book: Book, names: list[str], *, jobs: int) -> int:
    """Run chapters at their committed tier, write the report, and return how much moved.

    Args:
        book: The book.
        names: The chapters; none means all.
        jobs: How many at a time.
    """
    with alone(book, "regenerate"):
        return _regenerate(book, names, jobs)


def _regenerate(book: Book, names: list[str], jobs: int) -> int:
    folder = book.built / "regenerate"
    shutil.rmtree(folder, ignore_errors=True)
    chapters = {chapter.name: chapter for chapter in book.find(names)}
    found: dict[str, list[Moved]] = {}
    for result in runs(list(chapters.values()), COMMITTED_TIER, jobs):
        chapter = chapters[result.name]
        found[result.name] = list(moved(chapter, result))
        if result.notebook is not None:
            store(result, *place(chapter, folder / "book"))
        print(f"{result.name}: {len(found[result.name])} differences")
    found = dict(sorted(found.items()))
    write_whole(folder / "report.html", report(found))
    lists = {
        "moved": [f"{name}\n" for name, all_ in found.items() if all_],
        "verdicts": [
            f"{name}: {one.what} {one.how}\n"
            for name, all_ in found.items()
            for one in all_
            if one.verdict
        ],
    }
    for name, lines in lists.items():
        if lines:
            write_whole(folder / f"{name}.txt", "".join(lines))
    print(f"Open file://{folder / 'report.html'}")
    return sum(map(len, found.values()))


def main() -> None:
    """Run from the command line; ``--help`` tells how."""
    parser = argparse.ArgumentParser(prog="make regenerate", description=__doc__)
    parser.add_argument("chapters", nargs="*", help="such as iam/01-local-inconsistency")
    parser.add_argument("--since", metavar="REV", help="only chapters that changed since then")
    parser.add_argument("--jobs", type=at_least_one, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    names = asked.chapters
    if asked.since and not (names := changed_since(HERE, asked.since)):
        print(f"no chapter changed since {asked.since}")
        return
    sys.exit(bool(regenerate(HERE, names, jobs=asked.jobs)))


if __name__ == "__main__":
    main()
