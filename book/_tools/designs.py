"""The limits of claims as they stood when the runs that decide them were made."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from _tools.chapters import Book, Chapter, Refused


def _commits(chapter: Chapter, names: list[str]) -> set[str]:
    """The commits that the records of a chapter's runs carry."""
    found = set()
    for name in names:
        path = chapter.book.pages / "results" / name
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        match content:
            case {"provenance": {"commit": str(commit)}}:
                found.add(commit.removesuffix("-dirty"))
    return {commit for commit in found if re.fullmatch("[0-9a-f]{40}", commit)}


def _git(book: Book, *command: str) -> str:
    done = subprocess.run(
        ["git", *command], cwd=book.root, capture_output=True, text=True, check=False
    )
    return done.stdout


def design(chapter: Chapter, names: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the newest commit of a chapter's records that this clone has, and its claims then.

    Args:
        chapter: The chapter.
        names: The files of records that it read, below ``book/results``.

    Returns:
        An empty commit and no claims if there is none, as in a shallow clone.
    """
    commits = _commits(chapter, names)
    if not commits:
        return "", {}
    newest = _git(
        chapter.book, "log", "--no-walk", "--ignore-missing", "-1", "--format=%H", *sorted(commits)
    ).strip()
    then = _git(chapter.book, "show", f"{newest}:book/claims.yml") if newest else ""
    return newest, yaml.safe_load(then) or {}


def stamped(chapter: Chapter) -> dict[str, Any]:
    """Return a chapter's stamp; an empty one if it has none, or its notebook is refused."""
    try:
        executed = chapter.executed()
    except Refused:
        return {}
    return executed.metadata.get("stamp", {}) if executed else {}


def design_problems(book: Book) -> Iterator[str]:
    """Yield the claims whose limit is another one than when their runs were made."""
    for chapter in book.chapters:
        stamp = stamped(chapter)
        # What lies in a recipe's folder; the others are measurements of time, without a design.
        records = [name for name in stamp.get("data", {}) if re.fullmatch(r".+/.+\.json", name)]
        commit, then = design(chapter, records)
        for id_ in stamp.get("claims", {}):
            was = then.get(id_, {}).get("tolerance")
            now = book.claims.get(id_, {}).get("tolerance")
            if was is not None and was != now:
                yield (
                    f"{id_}: its limit is {now}, but was {was} at {commit[:8]}, when the runs of"
                    f" {chapter.name} were made; put it back, or run the new design"
                )
