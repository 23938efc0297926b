"""The limits of claims as they stood when they were designed, and when their runs were made."""

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


def _claims_at(book: Book, commit: str) -> dict[str, Any]:
    then = _git(book, "show", f"{commit}:book/claims.yml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # there are many commits to read
    return yaml.load(then, loader) or {}


def first_words(book: Book) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return, by claim, the commit that first had its present statement and check, and how."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    claims = book.claims
    history = _git(book, "log", "--reverse", "--topo-order", "--format=%H", "--", "book/claims.yml")
    for commit in history.split():
        then = _claims_at(book, commit)
        for id_, entry in claims.items():
            was = then.get(id_, {})
            if all(was.get(key) == entry.get(key) for key in ("statement", "check")) and was:
                found.setdefault(id_, (commit, was))
    return found


def _moved(id_: str, entry: dict[str, Any], was: dict[str, Any], since: str) -> Iterator[str]:
    for key, name in (("tolerance", "limit"), ("scale", "scale")):
        if "tolerance" in was and was.get(key) != entry.get(key):
            now, then = entry.get(key), was.get(key)
            yield f"{id_}: its {name} is {now}, but was {then} at {since}"


def stamped(chapter: Chapter) -> dict[str, Any]:
    """Return a chapter's stamp; an empty one if it has none, or its notebook is refused."""
    try:
        executed = chapter.executed()
    except Refused:
        return {}
    return executed.metadata.get("stamp", {}) if executed else {}


def no_history(book: Book) -> str:
    """Return why limits cannot be compared with their designs here, or nothing if they can."""
    shallow = _git(book, "rev-parse", "--is-shallow-repository").strip()
    said = {"false": "", "true": "this clone holds a part of the history; git fetch --unshallow"}
    return said.get(shallow, "there is no history here")


def design_problems(book: Book) -> Iterator[str]:
    """Yield the claims whose limit or scale is another one than when they were designed.

    That is the commit that first had their words, and the newest one of the records that decide
    them. Nothing where :func:`no_history` says why.
    """
    if no_history(book):
        return
    claims = book.claims
    for id_, (commit, was) in first_words(book).items():
        for said in _moved(id_, claims[id_], was, commit[:8]):
            yield f"{said}, when its check was first written; put it back, or write another check"
    for chapter in book.chapters:
        stamp = stamped(chapter)
        # What lies in a recipe's folder; the others are measurements of time, without a design.
        records = [name for name in stamp.get("data", {}) if re.fullmatch(r".+/.+\.json", name)]
        if not (commits := _commits(chapter, records)):
            continue
        known = _git(book, "rev-list", "--no-walk", "--ignore-missing", *sorted(commits)).split()
        for commit in sorted(commits - {*known}):
            yield (
                f"{chapter.name}: a record names the commit {commit[:8]}, which this history does"
                " not have; push it, or run its recipe again"
            )
        if not known:
            continue
        then = _claims_at(book, known[0])
        for id_ in stamp.get("claims", {}):
            for said in _moved(id_, claims.get(id_, {}), then.get(id_, {}), known[0][:8]):
                yield (
                    f"{said}, when the runs of {chapter.name} were made; put it back, or run the"
                    " new design"
                )
