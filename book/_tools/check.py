"""Find whatever in the book is out of step, and say which command puts it right."""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import yaml
from nbformat import NotebookNode

from _tools.address import repository
from _tools.chapters import HERE, Book, Chapter, Refused, first_cell
from _tools.designs import design_problems, no_history
from _tools.execute import COMMITTED_TIER
from _tools.shape import VECTOR
from _tools.stamp import differences, digest, outputs
from flatbook.claims import (
    FAILED,
    INCONCLUSIVE,
    REDUCED,
    REPRODUCED,
    UNTESTABLE,
    Claim,
    verdict,
)

# All that nbval obeys, of old too.
_LOOK_AWAY = re.compile(r"(?i)(nbval|pytest[-_]validate)[-_][\w-]+|raises-exception")

_REMOVED = re.compile(r"remove[-_](cell|output|code_outputs)")


def _cells_differ(chapter: Chapter, executed: NotebookNode) -> bool:
    def bare(notebook: NotebookNode) -> tuple[Any, ...]:
        whole = {key: value for key, value in notebook.metadata.items() if key != "stamp"}
        return whole, [(c.id, c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]

    return bare(chapter.source()) != bare(executed)


def _output_problems(executed: NotebookNode) -> Iterator[str]:
    for cell in executed.cells:
        if cell.cell_type != "code":
            continue
        first = cell.source.partition("\n")[0]
        if asks := _LOOK_AWAY.search(f"{cell.metadata.get('tags', [])} {cell.source}"):
            yield f"code cell {first!r} asks nbval to look away ({asks[0]}); take that out"
        if cell.outputs and (hides := _REMOVED.search(f"{dict(cell.metadata)}")):
            yield f"code cell {first!r} takes its output off the page ({hides[0]}); take that out"
        if cell.execution_count is None:
            yield f"code cell {first!r} was not executed; run make execute"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {first!r} holds the error {output.ename}; mend it"
            if output.get("name") == "stderr":
                yield f"code cell {first!r} wrote to stderr ({output.text[:60]!r}); mend it"
            if VECTOR in output.get("data", {}):
                yield f"code cell {first!r} put out a PDF, which only paper wants; take that out"
            if "image/png" in output.get("data", {}):
                described = cell.metadata.get("mystnb", {})
                if not described.get("image", {}).get("alt"):
                    yield f"the figure of {first!r} has no alt text; give mystnb: image: alt"
                name = described.get("figure", {}).get("name")
                if name not in executed.metadata.get("stamp", {}).get("figures", []):
                    yield f"the figure {name!r} keeps no data; call figure_data({name!r}, …)"


def printed(executed: NotebookNode) -> dict[str, str]:
    """Return the verdict lines that an executed chapter printed, by claim."""
    said = "".join(
        output.text
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )
    words = "|".join((REPRODUCED, REDUCED, FAILED, INCONCLUSIVE, UNTESTABLE))
    return {m[1]: m[0] for m in re.finditer(rf"(?m)^(\S+): (?:{words})\. .*$", said)}


def _line(id_: str, entry: dict[str, Any], record: dict[str, Any]) -> str:
    """The line that the library prints for a stamped claim."""
    said = io.StringIO()
    with redirect_stdout(said):
        if "why" in record:
            Claim(id_, entry).untestable(record["why"])
        else:
            ends = record.get("interval")
            interval = (float(ends[0]), float(ends[1])) if ends else None
            Claim(id_, entry).check(float(record["value"]), interval=interval)
    return said.getvalue().rstrip("\n")


def _verdict_problems(chapter: Chapter, executed: NotebookNode) -> Iterator[str]:
    stamped, said = executed.metadata.get("stamp", {}).get("claims", {}), printed(executed)
    for id_ in sorted(stamped.keys() ^ said.keys()):
        yield f"{id_} stands in the stamp or in the printed lines, not in both; run make execute"
    for id_ in sorted(stamped.keys() & said.keys() & chapter.book.claims.keys()):
        record, entry = stamped[id_], chapter.book.claims[id_]
        stated = said[id_].removeprefix(f"{id_}: ").partition(". ")[0]
        if stated != record["verdict"]:
            yield f"{id_}: printed is {stated!r}, stamped {record['verdict']!r}; run make execute"
            continue
        if verdict_of(record, entry) == stated and said[id_] != _line(id_, entry, record):
            line = _line(id_, entry, record)
            yield f"{id_}: printed is {said[id_]!r}, its stamp gives {line!r}; run make execute"


def verdict_of(record: dict[str, Any], entry: dict[str, Any]) -> str:
    """Return the verdict that a stamped number, with its interval, earns under its claim today."""
    if "why" in record:
        return UNTESTABLE
    ends = record.get("interval")
    interval = (float(ends[0]), float(ends[1])) if ends else None
    return verdict(float(record["value"]), entry, interval)


def chapter_problems(chapter: Chapter) -> Iterator[str]:
    """Yield what is wrong with one chapter and its executed twin."""
    first = next((c for c in chapter.source().cells if c.cell_type == "code"), None)
    if first is None or first.source != first_cell():
        yield "its first code cell is not the common one; run make bootstrap"
    try:
        executed = chapter.executed()
    except Refused as error:
        yield str(error).removeprefix(f"{chapter.name}: ")
        return
    if executed is None:
        yield "it was never executed; run make execute"
        return
    stamp = executed.metadata.get("stamp", {})
    changed = differences(stamp, chapter)
    for reason in changed:
        yield f"it is stale: {reason}; run make execute"
    if not changed and _cells_differ(chapter, executed):
        yield "its .md and .ipynb are out of step; run make execute"
    if not changed and stamp.get("outputs") != outputs(executed):
        yield "the outputs in its .ipynb were changed by hand; run make execute --all"
    told = json.dumps({**chapter.parameters(), "tier": COMMITTED_TIER}, sort_keys=True)
    if not changed and json.dumps(stamp.get("parameters"), sort_keys=True) != told:
        yield "the parameters in its stamp are not those of its cell; run make execute --all"
    for name in stamp.get("figures", {}):
        if not (file := chapter.data / f"{name}.csv").exists():
            yield f"the data of {name} are missing; run make execute"
        elif not changed and digest(file.read_bytes()) != stamp["figures"][name]:
            yield f"the data of {name} were changed by hand; run make execute --all"
    yield from _verdict_problems(chapter, executed)
    yield from _output_problems(executed)


def claim_problems(book: Book) -> Iterator[str]:
    """Yield claims that no chapter decides, and verdicts that no longer hold."""
    reported: dict[str, tuple[str, Any]] = {}
    unread = set()
    for chapter in book.chapters:
        try:
            executed = chapter.executed()
        except Refused:
            unread.add(chapter.name)  # said already, and of its claims nothing is known
            continue
        stamp = executed.metadata.get("stamp", {}) if executed else {}
        for id_, record in stamp.get("claims", {}).items():
            if id_ in reported:
                yield f"{id_}: both {reported[id_][0]} and {chapter.name} report it; keep one"
            reported[id_] = (chapter.name, record)
    for id_, entry in book.claims.items():
        name, record = reported.pop(id_, ("", {}))
        if not name and ("planned" in entry or entry.get("chapter") in unread):
            continue
        if "planned" in entry and entry.get("tier") != "paper":
            yield f"{id_}: {name} reports it, yet it is planned; delete planned in claims.yml"
            continue
        if not name:
            yield f"{id_}: no chapter reports it; use it in {entry.get('chapter')}, or plan it"
        elif name != entry["chapter"]:
            yield f"{id_}: {name} reports it, claims.yml names {entry['chapter']}; correct one"
        elif (now := verdict_of(record, entry)) != record["verdict"]:
            shown = f"{float(record['value']):.3g}" if "value" in record else "no number"
            yield (
                f"{id_}: the stored verdict is {record['verdict']!r}, but {shown} "
                f"under {entry['tolerance']} is {now!r}; run make execute and look"
            )
        elif now in (FAILED, INCONCLUSIVE) and not entry.get("why"):
            yield f"{id_}: its verdict is {now!r}; give it a why, one sentence, in claims.yml"
        elif now in (REPRODUCED, REDUCED) and "why" in entry:
            yield f"{id_}: its verdict is {now!r}; delete its why in claims.yml"
    for id_, (name, _) in reported.items():
        yield f"{id_}: {name} reports it, but book/claims.yml has no such claim; add it"


def link_problems(book: Book) -> Iterator[str]:
    """Yield pages missing from the table of contents and Colab links that open nothing."""
    toc = yaml.safe_load((book.root / "_toc.yml").read_text("utf-8"))
    listed = set(re.findall(r"'file': '([^']+)'", str(toc))) | {toc["root"]}
    for page in sorted(listed):
        if not (book.pages / page).exists():
            yield f"_toc.yml: {page} does not exist; run make execute, or correct the entry"
        elif page.endswith(".ipynb") and not (book.pages / page).with_suffix(".md").exists():
            yield f"_toc.yml: {page} has no .md, which is what is checked; add it, or list none"
    for chapter in book.chapters:
        if f"{chapter.name}.ipynb" not in listed:
            yield f"_toc.yml: {chapter.name}.ipynb is not listed; add it"
    git = subprocess.run(
        ["git", "ls-files"], cwd=book.root, capture_output=True, text=True, check=True
    )
    tracked = set(git.stdout.splitlines())
    for chapter in book.chapters:
        if (path := chapter.twin.relative_to(book.root).as_posix()) not in tracked:
            yield f"{path}: Colab's button would open nothing, git does not track it; git add it"
    here = repository(book.root)
    opened = f"{here.url}/blob/{here.branch}/" if here else ""
    opened = opened.replace("https://github.com", "https://colab.research.google.com/github")
    for page in [book.root / "README.md", *sorted(book.pages.rglob("*.md"))]:
        for link in re.findall(
            r"https://colab\.research\.google\.com/[^\s)\"'>]+", page.read_text("utf-8")
        ):
            if link.removeprefix(opened) not in tracked:
                where = page.relative_to(book.root)
                yield f"{where}: the Colab link {link} points to no tracked file; correct it"


def problems(book: Book) -> list[str]:
    """Return all that is out of step in a book, one sentence each."""
    found = [
        f"{chapter.name}: {problem}"
        for chapter in book.chapters
        for problem in chapter_problems(chapter)
    ]
    return [*found, *claim_problems(book), *design_problems(book), *link_problems(book)]


def main() -> None:
    """Print every problem; exit with 1 if there is any."""
    argparse.ArgumentParser(prog="make check", description=__doc__).parse_args()
    found = problems(HERE)
    for problem in found:
        print(problem, file=sys.stderr)
    if why := no_history(HERE):
        print(f"the limits of claims were compared with no design: {why}", file=sys.stderr)
    print(f"{len(HERE.chapters)} chapters, {len(HERE.claims)} claims, {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
