"""Execute stale chapters: jupytext reads them, papermill runs them, the twin is written whole."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from tqdm import tqdm

from _tools.chapters import (
    HERE,
    Book,
    Chapter,
    Refused,
    alone,
    at_least_one,
    read_notebook,
    write_whole,
)
from _tools.stamp import differences, digest, inputs, outputs, versions

COMMITTED_TIER = "ci"
TIERS = ("smoke", COMMITTED_TIER, "paper")


@dataclass(frozen=True)
class Run:
    """What came of one chapter's run.

    Attributes:
        name: The chapter.
        notebook: The executed notebook, stamped; None if the run failed.
        figures: The figures' data, CSV text by figure name.
        error: What went wrong and in which cell; empty if nothing did.
    """

    name: str
    notebook: NotebookNode | None = None
    figures: dict[str, str] = field(default_factory=dict)
    error: str = ""


def stale(chapter: Chapter) -> list[str]:
    """Say why a chapter must run again; nothing said means it need not."""
    try:
        twin = chapter.executed()
    except Refused as error:
        return [str(error)]
    if twin is None:
        return ["it was never executed"]
    return differences(twin.metadata.get("stamp", {}), chapter)


def with_outputs(source: NotebookNode, ran: NotebookNode) -> NotebookNode:
    """Give the cells of ``source`` the outputs and counts of an earlier run of the same code."""
    before = iter([cell for cell in ran.cells if cell.cell_type == "code"])
    for cell in source.cells:
        if cell.cell_type == "code":
            twin = next(before)
            cell.outputs, cell.execution_count = twin.outputs, twin.execution_count
    return source


def _cleaned(notebook: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run or from machine to machine."""
    for key in ("papermill", "language_info"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.get("metadata", NotebookNode()).pop("needs_background", None)
    return notebook


def _where(error: Any) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    first = next((line for line in error.source.splitlines() if line.strip()), "")
    return f"cell {error.exec_count} ({first.strip()!r}): {error.ename}: {error.evalue}\n{plain}"


_VECTOR = ["--InlineBackend.figure_formats={'png', 'pdf'}"]


class _Asked(AsyncKernelManager):
    """Ends a kernel by asking it to.

    The manager's own way interrupts it first. One that is still busy with what it answered, such as
    the question for its language after the last cell, then tells the reader of an error.
    """

    async def shutdown_kernel(  # type: ignore[override]
        self, now: bool = False, restart: bool = False
    ) -> None:
        if self.has_kernel and not now:
            await self.request_shutdown(restart)
            await self.finish_shutdown(restart=restart)
        await super().shutdown_kernel(now, restart)


def run(chapter: Chapter, tier: str, *, vector: bool = False) -> Run:
    """Run one chapter in its own folder and kernel; nothing is written beside it.

    Args:
        chapter: The chapter.
        tier: Its ``tier`` parameter.
        vector: Whether figures are kept as PDF beside their PNG, which paper wants.

    Returns:
        The run, failed or not: an error is part of the result, never raised.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    started, source = inputs(chapter), chapter.source()
    with tempfile.TemporaryDirectory() as folder:
        before, after, out = (Path(folder, name) for name in ("in.ipynb", "out.ipynb", "out"))
        out.mkdir()
        nbformat.write(source, before)
        os.environ["FLATBOOK_OUT"] = str(out)
        clock = time.perf_counter()
        try:
            notebook = papermill.execute_notebook(
                before,
                after,
                parameters={} if tier == COMMITTED_TIER else {"tier": tier},
                cwd=chapter.path.parent,
                progress_bar=False,
                extra_arguments=["--log-level=ERROR", *(_VECTOR if vector else [])],
                kernel_manager_class=_Asked,
                coalesce_streams=True,  # else their number depends on timing
            )
        except PapermillExecutionError as error:
            return Run(chapter.name, error=_where(error))
        except Exception as error:  # a kernel can die in many ways, and the others must go on
            return Run(chapter.name, error=f"its kernel, {type(error).__name__}: {error}")
        finally:
            del os.environ["FLATBOOK_OUT"]
        seconds = round(time.perf_counter() - clock, 1)
        figures = {path.stem: path.read_text("utf-8") for path in sorted(out.glob("*.csv"))}
        verdicts = {
            path.name.removesuffix(".claim.json"): json.loads(path.read_text("utf-8"))
            for path in sorted(out.glob("*.claim.json"))
        }
    notebook = _cleaned(notebook)
    if tier == COMMITTED_TIER:
        notebook = with_outputs(source, notebook)
    notebook.metadata["stamp"] = {
        **started,
        "outputs": outputs(notebook),
        "parameters": {**chapter.parameters(), "tier": tier},
        "claims": verdicts,
        "figures": {name: digest(figures[name]) for name in sorted(figures)},
        "versions": versions(),
        "device": _device(),
        "seconds": seconds,
    }
    return Run(chapter.name, nbformat.from_dict(notebook), figures)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"


def _same(new: NotebookNode, old: NotebookNode | None) -> bool:
    def timeless(notebook: NotebookNode) -> dict[str, Any]:
        copy: dict[str, Any] = json.loads(nbformat.writes(notebook))
        copy["metadata"].get("stamp", {}).pop("seconds", None)
        return copy

    return old is not None and timeless(new) == timeless(old)


def store(result: Run, twin: Path, data: Path) -> bool:
    """Write a finished run and return whether any file changed.

    Args:
        result: The run, which succeeded.
        twin: The notebook to write.
        data: The folder for the numbers behind its figures.
    """
    changed = False
    for name, content in result.figures.items():
        changed |= write_whole(data / f"{name}.csv", content)
    for leftover in data.glob("*.csv"):
        if leftover.stem not in result.figures:
            leftover.unlink()
            changed = True
    old = None
    with suppress(FileNotFoundError, Refused):
        old = read_notebook(twin)
    if not _same(result.notebook, old):
        changed |= write_whole(twin, nbformat.writes(result.notebook) + "\n")
    return changed


def place(chapter: Chapter, folder: Path) -> tuple[Path, Path]:
    """Return where in ``folder`` a run's notebook and data stand when not beside the chapter."""
    twin = folder / f"{chapter.name}.ipynb"
    return twin, twin.with_name(chapter.data.name)


def _die_with_parent() -> None:
    """End this worker and its kernel when the tool that started it is killed."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None, "a worker has a parent"
        wait([parent.sentinel])
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def runs(chapters: list[Chapter], tier: str, jobs: int, *, vector: bool = False) -> Iterator[Run]:
    """Run chapters, ``jobs`` at a time, and yield each as it ends."""
    if not chapters:
        return
    # Two threads on two cores are ten times slower than one each.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(
        min(jobs, len(chapters)), mp_context=get_context("spawn"), initializer=_die_with_parent
    ) as pool:
        waiting = {
            pool.submit(run, chapter, tier, vector=vector): chapter.name for chapter in chapters
        }
        quiet = not sys.stderr.isatty()
        for finished in tqdm(
            as_completed(waiting), total=len(waiting), unit="chapter", disable=quiet
        ):
            try:
                yield finished.result()
            except BrokenProcessPool:
                yield Run(waiting[finished], error="its process, which was killed")


def execute(book: Book, names: list[str], *, tier: str, everything: bool, jobs: int) -> int:
    """Execute chapters and write what changed.

    Args:
        book: The book.
        names: The chapters; none means all.
        tier: ``smoke``, ``ci`` (committed) or ``paper``.
        everything: Run fresh chapters too.
        jobs: How many at a time.

    Returns:
        The number of chapters that failed.
    """
    with alone(book, "execute"):
        return _execute(book, names, tier, everything, jobs)


def _execute(book: Book, names: list[str], tier: str, everything: bool, jobs: int) -> int:
    chapters = {chapter.name: chapter for chapter in book.find(names)}
    forced = everything or tier != COMMITTED_TIER
    due = [chapter for chapter in chapters.values() if forced or stale(chapter)]
    for chapter in chapters.values():
        if chapter in due:
            continue
        executed = chapter.executed()
        assert executed is not None, "a chapter without a twin is stale"
        renewed = with_outputs(chapter.source(), executed)
        renewed.metadata["stamp"] = executed.metadata["stamp"]
        text = nbformat.writes(renewed) + "\n"
        if write_whole(chapter.twin, text):
            print(f"{chapter.name}: prose renewed, the run still holds")
    failed = 0
    for result in runs(due, tier, jobs):
        if result.error:
            failed += 1
            print(f"{result.name}: FAILED in {result.error}", file=sys.stderr)
            continue
        chapter = chapters[result.name]
        beside = chapter.twin, chapter.data
        home = beside if tier == COMMITTED_TIER else place(chapter, book.built / tier)
        changed = store(result, *home)
        assert result.notebook is not None
        seconds = result.notebook.metadata["stamp"]["seconds"]
        print(f"{result.name}: executed in {seconds} s, {'written' if changed else 'unchanged'}")
    print(f"{len(due) - failed} executed, {failed} failed, {len(chapters) - len(due)} fresh")
    return failed


def main() -> None:
    """Run from the command line; ``--help`` tells how."""
    parser = argparse.ArgumentParser(prog="make execute", description=__doc__)
    parser.add_argument("chapters", nargs="*", help="such as iam/01-local-inconsistency")
    parser.add_argument("--tier", choices=TIERS, default=COMMITTED_TIER)
    parser.add_argument("--all", action="store_true", help="run fresh chapters too")
    parser.add_argument("--jobs", type=at_least_one, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    failed = execute(HERE, asked.chapters, tier=asked.tier, everything=asked.all, jobs=asked.jobs)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
