"""The scoreboard: every claim of ``book/claims.yml`` beside the verdict of its chapter."""

from __future__ import annotations

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
    why: str = "its chapter was not executed"

    @property
    def ours(self) -> str:
        """The measured number and what it had to be, or why there is none."""
        if self.value is None:
            return self.why
        tolerance = required(self.entry["tolerance"])
        shown = f"{self.value:.3g}"
        if self.interval is not None:
            shown += " [{:.3g}, {:.3g}]".format(*self.interval)
        return f"{shown} ({tolerance}): {self.entry['check']}"


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
        why = record.get("why", entry.get("planned", Row.why))
        verdict = record.get("verdict", PLANNED)
        board.append(Row(id_, entry, chapter_name, verdict, value, interval, why))
    return board


def count(board: list[Row]) -> dict[str, int]:
    """Return how many claims earned each verdict, in the order of :data:`VERDICTS`."""
    counted = Counter(row.verdict for row in board)
    return {verdict: counted[verdict] for verdict in VERDICTS}
