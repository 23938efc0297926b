"""What a page asks for as it loads, and that nothing moves while it comes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_PICTURE = re.compile(
    r'<img\b(?![^>]*\b(?:width|height)=)[^>]*?\bsrc="(?:\.\./)*_images/([^"]+\.png)"'
)
_TOKEN = r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|[][(){};,]'
# Nothing here runs by Thebe or stands in tabs; MathJax is asked for by typeset.js.
_NEEDLESS = ("sphinx-thebe.js", "sphinx-thebe.css", "design-tabs.js", "tex-mml-chtml.js")


def _size(png: Path) -> tuple[int, int]:
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    return width, height


def with_sizes(body: str, pictures: dict[str, Path]) -> str:
    """Give each picture of a page its size in pixels, so that its room is there before it is.

    Args:
        body: HTML.
        pictures: Where the pictures are, by their names in the site.
    """

    def sized(tag: re.Match[str]) -> str:
        if tag[1] not in pictures:
            return tag[0]
        width, height = _size(pictures[tag[1]])
        return f'<img width="{width}" height="{height}"{tag[0][4:]}'

    return _PICTURE.sub(sized, body)


def _split(text: str, ends: str) -> Iterator[tuple[str, str]]:
    """Yield what stands before each end that is in no bracket and no quotes, and the end."""
    start = depth = 0
    for token in re.finditer(_TOKEN, text):
        mark = token[0]
        depth -= mark in "])}"
        if mark in ends and depth == 0:
            yield text[start : token.end() - 1], mark
            start = token.end()
        depth += mark in "[({"
    yield text[start:], ""


def _may_match(selector: str, known: set[str]) -> bool:
    plain = re.sub(r":(?:not|is|where|has)\(.*?\)", "", selector)
    return "\\" in plain or {*re.findall(r"\.([A-Za-z_][\w-]*)", plain)} <= known


def lean(css: str, known: set[str]) -> str:
    """Drop the rules of a style sheet that ask for a class which the site does not know.

    Args:
        css: The style sheet.
        known: Every word that could be a class.

    Examples:
        >>> lean(".a,.b .c{x:y}@media print{.b{x:y}}p{x:y}", {"a"})
        '.a{x:y}p{x:y}'
    """
    kept, head = [], ""
    for text, end in _split(re.sub(r"(?s)/\*.*?\*/", "", css), "{};"):
        if end == "{":
            head = text.strip()
        elif end == "}":
            if head.startswith(("@media", "@supports", "@layer")):
                body = lean(text, known)
            else:
                body = text
                if not head.startswith("@"):
                    parts = [part for part, _ in _split(head, ",") if _may_match(part, known)]
                    head = ",".join(parts)
            kept += [f"{head}{{{body}}}"] if head and body else []
        elif end == ";":
            kept.append(f"{text.strip()};")  # such as @import
    return "".join(kept)


def whole_styles(app: Sphinx) -> None:
    """Have the style sheets copied again: an earlier build left them lean."""
    for path in Path(app.outdir, "_static").rglob("*.css"):
        path.unlink()


def lean_styles(app: Sphinx, error: Exception | None) -> None:
    """Keep of the themes' style sheets, 0.5 MB, what the pages and their scripts can use."""
    if error is None and app.builder.format == "html":
        site = Path(app.outdir)
        words: set[str] = set()
        for path in [*site.rglob("*.html"), *(site / "_static").rglob("*.*js")]:
            words |= {*re.findall(r"[A-Za-z_][\w-]*", path.read_text("utf-8"))}
        for path in (site / "_static").rglob("*.css"):
            path.write_text(lean(path.read_text("utf-8"), words), "utf-8")


def load(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Size a page's pictures; drop what no page needs, and scripts that were added twice.

    Thebe's constants cannot be declared again.
    """
    pictures = {name: Path(app.srcdir, path) for path, name in app.builder.images.items()}
    if "body" in context:
        context["body"] = with_sizes(context["body"], pictures)
    scripts = {(s.filename or "", s.attributes.get("body")): s for s in context["script_files"]}
    for kind, files in (("script_files", scripts.values()), ("css_files", context["css_files"])):
        needed = [
            f for f in files if not str(f.filename or "").partition("?")[0].endswith(_NEEDLESS)
        ]
        context[kind] = needed
