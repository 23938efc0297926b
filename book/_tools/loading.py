"""What a page asks for as it loads, and that nothing moves while it comes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx

_PICTURE = re.compile(
    r'<img\b(?![^>]*\b(?:width|height)=)[^>]*?\bsrc="(?:\.\./)*_images/([^"]+\.png)"'
)
# Nothing here runs by Thebe or stands in tabs; MathJax is asked for by typeset.js.
_NEEDLESS = ("sphinx-thebe.js", "sphinx-thebe.css", "design-tabs.js", "tex-mml-chtml.js")


def with_sizes(body: str, pictures: dict[str, Path]) -> str:
    """Give each picture of a page its size in pixels, so that its room is there before it is.

    Args:
        body: HTML.
        pictures: Where the pictures are, by their names in the site.
    """

    def sized(tag: re.Match[str]) -> str:
        if tag[1] not in pictures:
            return tag[0]
        with Image.open(pictures[tag[1]]) as picture:
            width, height = picture.size
        return f'<img width="{width}" height="{height}"{tag[0][4:]}'

    return _PICTURE.sub(sized, body)


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
