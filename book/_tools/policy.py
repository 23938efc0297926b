"""The Content-Security-Policy of each page: its own scripts by their hashes, no other server."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape, unescape
from pathlib import Path

from sphinx.application import Sphinx

_META = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>\n?')
_SCRIPT = re.compile(r"(?is)<script\b([^>]*)>(.*?)</script>")
_TAG = re.compile(r"(?s)<[a-zA-Z][^>]*>")
_HANDLER = re.compile(r'(?is)\son[a-z]+="([^"]*)"')
_INERT = re.compile(r'(?i)\bsrc=|\btype="(?!module"|text/javascript")')


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def policy(page: str, site: str = "") -> str:
    """Return what a page may load and run.

    Args:
        page: Its HTML.
        site: The address of the whole site, for the page that names it as its base; may be empty.

    Examples:
        >>> print(policy("<script>a()</script>").partition("; ")[2].partition("; ")[0])
        script-src 'self' file: 'sha256-qVpDBgj7bpq5hMAcGp3AOc79J3Y1Z4HvySTwKrWDoy4='
    """
    inline = [body for kind, body in _SCRIPT.findall(page) if body and not _INERT.search(kind)]
    tags = " ".join(_TAG.findall(_SCRIPT.sub("", page)))
    handlers = [unescape(found) for found in _HANDLER.findall(tags)]
    hashes = sorted({_hash(script) for script in [*inline, *handlers]})
    own = "'self' file:"  # a page that is opened from a folder is no origin of its own
    allowed = {
        "default-src": own,
        "script-src": " ".join([own, *["'unsafe-hashes'"] * bool(handlers), *hashes]),
        "style-src": f"{own} 'unsafe-inline'",
        "img-src": f"{own} data: blob:",
        "font-src": f"{own} data:",
        "object-src": "'none'",
        "frame-src": "'none'",
        "base-uri": f"{own} {site}".strip(),
        "form-action": own,
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def with_policy(page: str, site: str = "") -> str:
    """Return a page with its policy in its head, before any script."""
    page = _META.sub("", page)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy(page, escape(site))}">\n'
    head = re.search(r"(?i)<meta charset=[^>]*>\n?", page) or re.search(r"(?i)<head[^>]*>", page)
    return page if head is None else f"{page[: head.end()]}{meta}{page[head.end() :]}"


def write_policies(app: Sphinx, error: Exception | None) -> None:
    """Give every page of the site its policy."""
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text("utf-8")
            path.write_text(with_policy(text, app.config.html_baseurl), "utf-8")
