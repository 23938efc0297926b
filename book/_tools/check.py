"""Find whatever in the book is out of step, and say which command puts it right."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import yaml
from nbformat import NotebookNode

from _tools.chapters import HERE, Book, Chapter
from _tools.stamp import differences, outputs
from flatbook.claims import verdict


def _cells_differ(chapter: Chapter, executed: NotebookNode) -> bool:
    def bare(notebook: NotebookNode) -> list[tuple[Any, ...]]:
        return [(c.id, c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]

    return bare(chapter.source()) != bare(executed)


def _output_problems(executed: NotebookNode) -> Iterator[str]:
    for cell in executed.cells:
        if cell.cell_type != "code":
            continue
        first = cell.source.partition("\n")[0]
        if cell.execution_count is None:
            yield f"code cell {first!r} was not executed; run make execute"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {first!r} holds the error {output.ename}; mend it"
            if output.get("name") == "stderr":
                yield f"code cell {first!r} wrote to stderr ({output.text[:60]!r}); mend it"
            if "image/png" in output.get("data", {}):
                described = cell.metadata.get("mystnb", {})
                if not described.get("image", {}).get("alt"):
                    yield f"the figure of {first!r} has no alt text; give mystnb: image: alt"
                name = described.get("figure", {}).get("name")
                if name not in executed.metadata.get("stamp", {}).get("figures", []):
                    yield f"the figure {name!r} keeps no data; call figure_data({name!r}, …)"


def chapter_problems(chapter: Chapter) -> Iterator[str]:
    """Yield what is wrong with one chapter and its executed twin."""
    first = next((c for c in chapter.source().cells if c.cell_type == "code"), None)
    if first is None or first.source != chapter.book.bootstrap():
        yield "its first code cell is not the one that _config.yml gives; run make bootstrap"
    executed = chapter.executed()
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
    for name in stamp.get("figures", []):
        if not (chapter.data / f"{name}.csv").exists():
            yield f"the data of {name} are missing; run make execute"
    yield from _output_problems(executed)


def _decided(record: dict[str, Any], entry: dict[str, Any]) -> str:
    """The verdict of a stored number, and of its interval if it is an estimate."""
    interval = None
    if "interval" in record:
        low, high = map(float, record["interval"])
        interval = low, high
    return verdict(float(record["value"]), entry, interval)


def claim_problems(book: Book) -> Iterator[str]:
    """Yield claims that no chapter decides, and verdicts that no longer hold."""
    reported: dict[str, tuple[str, Any]] = {}
    for chapter in book.chapters:
        executed = chapter.executed()
        stamp = executed.metadata.get("stamp", {}) if executed else {}
        for id_, record in stamp.get("claims", {}).items():
            if id_ in reported:
                yield f"{id_}: both {reported[id_][0]} and {chapter.name} report it; keep one"
            reported[id_] = (chapter.name, record)
    for id_, entry in book.claims.items():
        name, record = reported.pop(id_, ("", {}))
        if "planned" in entry and not name:
            continue
        if "planned" in entry and entry.get("tier") != "paper":
            yield f"{id_}: {name} reports it, yet it is planned; delete planned in claims.yml"
            continue
        if not name:
            yield f"{id_}: no chapter reports it; use it in {entry.get('chapter')}, or plan it"
        elif name != entry["chapter"]:
            yield f"{id_}: {name} reports it, claims.yml names {entry['chapter']}; correct one"
        elif "value" in record and (now := _decided(record, entry)) != record["verdict"]:
            yield (
                f"{id_}: the stored verdict is {record['verdict']!r}, but {record['value']:.3g} "
                f"under {entry['tolerance']} is {now!r}; run make execute and look"
            )
    for id_, (name, _) in reported.items():
        yield f"{id_}: {name} reports it, but book/claims.yml has no such claim; add it"


def link_problems(book: Book) -> Iterator[str]:
    """Yield pages missing from the table of contents and Colab links that open nothing."""
    toc = yaml.safe_load((book.root / "_toc.yml").read_text("utf-8"))
    listed = set(re.findall(r"'file': '([^']+)'", str(toc))) | {toc["root"]}
    for page in sorted(listed):
        if not (book.pages / page).exists():
            yield f"_toc.yml: {page} does not exist; run make execute, or correct the entry"
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
    repository, branch = (book.config["repository"][key] for key in ("url", "branch"))
    opened = repository.replace("https://github.com", "https://colab.research.google.com/github")
    for page in [book.root / "README.md", *sorted(book.pages.rglob("*.md"))]:
        for link in re.findall(
            r"https://colab\.research\.google\.com/[^\s)\"'>]+", page.read_text("utf-8")
        ):
            if link.removeprefix(f"{opened}/blob/{branch}/") not in tracked:
                where = page.relative_to(book.root)
                yield f"{where}: the Colab link {link} points to no tracked file; correct it"


def problems(book: Book) -> list[str]:
    """Return all that is out of step in a book, one sentence each."""
    found = [
        f"{chapter.name}: {problem}"
        for chapter in book.chapters
        for problem in chapter_problems(chapter)
    ]
    return [*found, *claim_problems(book), *link_problems(book)]


def main() -> None:
    """Print every problem; exit with 1 if there is any."""
    found = problems(HERE)
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{len(HERE.chapters)} chapters, {len(HERE.claims)} claims, {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
