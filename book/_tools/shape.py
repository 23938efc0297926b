"""What an executed notebook may look like: whatever execution writes, and nothing that acts.

A notebook may come from a stranger. What is refused here is not rendered: the policy of a page lets
every script run that stands in it, so none may get there.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from typing import Any

from nbformat import NotebookNode

VECTOR = "application/pdf"  # what a figure is drawn as for paper, in a copy of the book
KINDS = {"text/plain", "text/html", "image/png", VECTOR}
LARGEST = 20_000_000
"""Pixels of a picture: more take gigabytes once they are unpacked."""

_METADATA = {"kernelspec", "language_info", "stamp"}
_CELL = {"id", "cell_type", "source", "metadata", "outputs", "execution_count"}
_TEXTS = ("code", "rules", "outputs", "device")
_NAMED_TEXTS = ("library", "data", "figures", "versions")
_STAMP = {*_TEXTS, *_NAMED_TEXTS, "parameters", "claims", "seconds"}
_SHOWN = ("parameters", "figures", "versions", "device", "seconds")
_NAME = re.compile(r"[\w-]+")

# A table as pandas writes it. No other tag, attribute or rule of style: they could run something,
# ask another server for something, or change how the verdicts of the page look.
_STYLE = r"<style scoped>(?:\s*\.dataframe [a-z\s:-]+\{[a-z\s:;-]*\})*\s*</style>"
_ATTRIBUTE = (
    r'(?: (?:border|rowspan|colspan)="\d+"| class="dataframe"| v?h?align="[a-z]+"'
    r'| style="text-align: [a-z]+;")'
)
_TAG = rf"</?(?:div|table|thead|tbody|tr|th|td){_ATTRIBUTE}*>"
_TABLE = re.compile(rf"(?:{_STYLE}|{_TAG}|[^<])*")


def _number(found: Any) -> bool:
    """Say whether it is a number as a claim stores it: those that are not finite as text."""
    if isinstance(found, str):
        return found in ("nan", "inf", "-inf")
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False
    try:
        float(found)
    except OverflowError:
        return False
    return True


def _claim(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("verdict"), str):
        return False
    if "why" in record:
        return isinstance(record["why"], str) and "value" not in record
    if not _number(record.get("value")):
        return False
    ends = record.get("interval", ["-inf", "inf"])
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(_number, ends)):
        return False
    low, value, high = float(ends[0]), float(record["value"]), float(ends[1])
    return not (low > value or value > high)


def _of_stamp(stamp: Any) -> Iterator[str]:
    if not isinstance(stamp, dict):
        yield "its stamp is no mapping" if stamp else "it has no stamp"
        return
    yield from (f"its stamp says {key!r}" for key in stamp.keys() - _STAMP)
    yield from (f"its stamp does not say {key!r}" for key in _SHOWN if key not in stamp)
    for key in _TEXTS:
        if not isinstance(stamp.get(key, ""), str):
            yield f"{key} of its stamp is no text"
    for key in (*_NAMED_TEXTS, "parameters", "claims"):
        if not isinstance(stamp.get(key, {}), dict):
            yield f"{key} of its stamp is no mapping"
            return
    if "tier" not in stamp.get("parameters", {}):
        yield "its stamp does not say its tier"
    for key in _NAMED_TEXTS:
        if not all(isinstance(value, str) for value in stamp.get(key, {}).values()):
            yield f"{key} of its stamp maps to what is no text"
    if any(".." in name or name.startswith("/") for name in stamp.get("data", {})):
        yield "its stamp names data elsewhere"
    yield from (
        f"a figure of its stamp is named {n!r}"
        for n in stamp.get("figures", {})
        if not _NAME.fullmatch(n)
    )
    seconds = stamp.get("seconds", 0)
    if not (_number(seconds) and math.isfinite(float(seconds))):
        yield "seconds of its stamp are no number"
    for id_, record in stamp.get("claims", {}).items():
        if not _claim(record):
            yield f"its stamp says of {id_} what no check stores"


def picture_problem(picture: str) -> str:
    """Say what its first bytes tell of a picture, PNG in base64, if it is none or too large."""
    try:
        head = base64.b64decode("".join(picture[:64].split())[:44], validate=True)
    except ValueError:
        head = b""
    if not head.startswith(b"\x89PNG\r\n\x1a\n") or head[12:16] != b"IHDR":
        return "no PNG"
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    return f"one of {width} × {height} pixels" if width * height > LARGEST else ""


def _of_output(output: NotebookNode) -> Iterator[str]:
    if output.get("metadata"):
        yield "an output with metadata"
    for kind, shown in output.get("data", {}).items():
        if kind not in KINDS:
            yield f"an output of the kind {kind}"
        elif not isinstance(shown, str):
            yield f"an output of the kind {kind} that is no text"
        elif kind == "text/html" and not _TABLE.fullmatch(shown):
            yield "an output of the kind text/html that is more than a table"
        elif kind == "image/png" and (said := picture_problem(shown)):
            yield f"a picture that is {said}"


def _of_cell(cell: NotebookNode) -> Iterator[str]:
    for key in cell.keys() - _CELL:
        yield f"a cell with {key}"
    options = cell.metadata.get("mystnb", {})
    for found in (
        options,
        *(options.get(key, {}) for key in ("figure", "image") if isinstance(options, dict)),
    ):
        if not isinstance(found, dict):
            yield "a cell whose mystnb options are no mapping"
            return
    name = options.get("figure", {}).get("name", "none")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"a figure named {name!r}"
    for output in cell.get("outputs", []):
        yield from _of_output(output)


def shape_problem(notebook: NotebookNode) -> str:
    """Return the first thing in an executed notebook that execution does not write, or nothing."""

    def all_() -> Iterator[str]:
        for key in notebook.metadata.keys() - _METADATA:
            yield f"its metadata say {key!r}"
        yield from _of_stamp(notebook.metadata.get("stamp"))
        for cell in notebook.cells:
            yield from (f"it has {said}" for said in _of_cell(cell))

    return next(all_(), "")
