"""The scoreboard: every claim of ``book/claims.yml`` beside the verdict of its chapter."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from _tools.chapters import Book
from flatbook.claims import FAILED, INCONCLUSIVE, REDUCED, REPRODUCED, UNTESTABLE, required

PLANNED = "not attempted"
VERDICTS = (REPRODUCED, REDUCED, FAILED, INCONCLUSIVE, UNTESTABLE, PLANNED)
SOURCES = {"kim2026iam": "IAM", "kim2026dln": "Pathways", "ours": "Ours"}


@dataclass(frozen=True)
class Row:
    """One line of the scoreboard.

    Attributes:
        id: The claim.
        entry: Its fields in ``book/claims.yml``.
        chapter: The page that decides it, or will; empty where none is named.
        verdict: One of :data:`VERDICTS`.
        value: The number that was measured; None while there is none.
        interval: Its 95 % interval, if it is an estimate.
        why: Why there is no number.
    """

    id: str
    entry: dict[str, Any]
    chapter: str
    verdict: str
    value: float | None
    interval: tuple[float, float] | None = None
    why: str = ""

    @property
    def number(self) -> str:
        """The measured number with its interval; empty while there is none."""
        if self.value is None:
            return ""
        ends = "" if self.interval is None else " [{:.3g}, {:.3g}]".format(*self.interval)
        return f"{self.value:.3g}{ends}"

    @property
    def ours(self) -> str:
        """The measured number and what it had to be, or why there is none."""
        if self.value is None:
            return self.why
        return f"{self.number} ({required(self.entry['tolerance'])}): {self.entry['check']}"

    @property
    def scale(self) -> str:
        """How the claim was tested: as stated, on a reduced network or data, or at paper scale."""
        if self.verdict == PLANNED:
            return "none yet"
        if self.entry.get("scale") == "reduced":
            return "reduced"
        return "paper" if self.entry["tier"] == "paper" else "as stated"

    @property
    def part(self) -> str:
        """The part of the book that tests it, such as ``"iam"``."""
        return self.chapter.partition("/")[0]


def rows(book: Book) -> list[Row]:
    """Return one row for each claim, in the order of ``book/claims.yml``."""
    reported: dict[str, tuple[str, dict[str, Any]]] = {}
    for chapter in book.chapters:
        executed = chapter.executed()
        stamp = executed.metadata.get("stamp", {}) if executed else {}
        for id_, record in stamp.get("claims", {}).items():
            reported[id_] = (chapter.name, record)
    board = []
    for id_, entry in book.claims.items():
        chapter_name, record = reported.get(id_, (entry.get("chapter", ""), {}))
        value = float(record["value"]) if "value" in record else None
        interval = None
        if "interval" in record:
            low, high = map(float, record["interval"])
            interval = low, high
        waits = entry.get("planned", "its chapter was not executed")
        verdict = record.get("verdict", PLANNED)
        told = verdict == UNTESTABLE and record.get("why")
        why = told or entry.get("why", "" if record else waits)
        board.append(Row(id_, entry, chapter_name, verdict, value, interval, why))
    return board


def sign(verdict: str) -> str:
    """Return a verdict as the name of a CSS class."""
    return re.sub(r"[^a-z]+", "-", verdict.lower())


def count(board: list[Row]) -> dict[str, int]:
    """Return how many claims earned each verdict, in the order of :data:`VERDICTS`."""
    counted = Counter(row.verdict for row in board)
    return {verdict: counted[verdict] for verdict in VERDICTS}


def by_source(board: list[Row]) -> dict[str, dict[str, int]]:
    """Return the counts of each paper's claims and of our own, which are never pooled."""
    return {
        source: count([row for row in board if row.entry["source"]["paper"] == key])
        for key, source in SOURCES.items()
    }


def found(counts: dict[str, int]) -> str:
    """Say one source's counts in a sentence.

    Examples:
        >>> found({"reproduced": 2, "not reproduced": 1, "inconclusive": 0})
        'Of 3 claims: 2 reproduced, 1 not reproduced.'
    """
    parts = [f"{number} {verdict}" for verdict, number in counts.items() if number]
    return f"Of {sum(counts.values())} claims: {', '.join(parts)}."


def as_json(board: list[Row]) -> str:
    """Return the whole scoreboard for machines.

    One object with ``counts`` (by source and verdict) and ``claims``, each with its id, statement,
    source, chapter, check, tolerance, the paper's value, ours, interval, scale, verdict and why.
    Numbers that are not finite stand as text.
    """

    def number(x: float | None) -> float | str | None:
        return x if x is None or math.isfinite(x) else str(x)

    claims = [
        {
            "id": row.id,
            **{key: row.entry.get(key) for key in ("statement", "source", "check", "tolerance")},
            "chapter": row.chapter,
            "paper": row.entry.get("paper"),
            "value": number(row.value),
            "interval": row.interval and [number(x) for x in row.interval],
            "scale": row.scale,
            "verdict": row.verdict,
            "why": row.why or None,
        }
        for row in board
    ]
    return json.dumps({"counts": by_source(board), "claims": claims}, ensure_ascii=False, indent=1)
