"""What other programs read of the site: previews, the papers as linked data, a sitemap."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape as xml_escape

from pybtex.database import parse_file
from sphinx.application import Sphinx

PAPERS = ("kim2026iam", "kim2026dln")
LENGTH = 200  # letters of a description that previews show


def summary(body: str) -> str:
    """Return the first paragraph of prose on a page, without markup, cut after a word.

    Examples:
        >>> summary('<h1>T</h1><p class="chapter-facts">1 min</p><p>How <em>far</em>?</p>')
        'How far?'
    """
    for attributes, content in re.findall(r"<p\b([^>]*)>(.*?)</p>", body, flags=re.S):
        text = re.sub(r"\\[()]", "", unescape(re.sub(r"<[^>]+>", "", content)))
        text = " ".join(text.split())
        if text and "class" not in attributes:
            return text if len(text) <= LENGTH else f"{text[:LENGTH].rpartition(' ')[0]} …"
    return ""


def papers(bibliography: Path) -> list[dict[str, Any]]:
    """Return the two papers as schema.org articles, from the bibliography."""
    entries = parse_file(str(bibliography)).entries
    articles = []
    for key in PAPERS:
        fields = entries[key].fields
        article: dict[str, Any] = {
            "@context": "https://schema.org",
            "@type": "ScholarlyArticle",
            "name": re.sub(r"[{}]", "", fields["title"]),
            "author": [
                {"@type": "Person", "name": re.sub(r"[{}]", "", str(person))}
                for person in entries[key].persons["author"]
            ],
            "datePublished": fields["year"],
        }
        if number := re.search(r"arXiv:([\d.]+)", fields.get("note", "")):
            article["url"] = f"https://arxiv.org/abs/{number[1]}"
        articles.append(article)
    return articles


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Put a page's title, description and first picture where previews look for them."""
    body = str(context.get("body") or "")
    site = app.config.html_baseurl
    title = unescape(re.sub(r"<[^>]+>", "", context.get("title") or app.config.project))
    said = {
        "og:title": title,
        "og:type": "article",
        "og:url": site and f"{site}{page}.html",
        "og:site_name": app.config.html_title,
        "og:description": summary(body),
    }
    picture = re.search(r'<img\b[^>]*src="(?:\.\./)*(_images/[^"]+\.(?:png|jpg))"', body)
    if picture and site:  # previews take whole addresses only
        said["og:image"] = f"{site}{picture[1]}"
    lines = [f'<meta property="{k}" content="{escape(v)}">' for k, v in said.items() if v]
    if said["og:description"]:
        lines.append(f'<meta name="description" content="{escape(said["og:description"])}">')
    if page == app.config.root_doc:
        found = json.dumps(papers(Path(app.srcdir, "references.bib")), ensure_ascii=False)
        inert = found.replace("<", "\\u003c")
        lines.append(f'<script type="application/ld+json">{inert}</script>')
    if page == "404" and site:  # it is shown at any address
        lines.insert(0, f'<base href="{escape(site)}">')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def lost_page(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the page that a server shows where there is none."""
    body = (
        "<h1>Not here</h1><p>This page moved or never was. The search in the sidebar knows all"
        ' pages; <a href="intro.html">the introduction</a> and the'
        ' <a href="scoreboard.html">scoreboard</a> are good places to start.</p>'
    )
    yield "404", {"title": "Not here", "body": body}, "page.html"


def write_sitemap(app: Sphinx, error: Exception | None) -> None:
    """List all pages for search engines, if the site has an address."""
    site = app.config.html_baseurl
    if error is None and app.builder.format == "html" and site:
        lines = "".join(
            f"<url><loc>{xml_escape(f'{site}{page}.html')}</loc></url>\n"
            for page in sorted(app.env.found_docs)
        )
        head = '<?xml version="1.0" encoding="UTF-8"?>\n'
        space = "http://www.sitemaps.org/schemas/sitemap/0.9"
        sitemap = f'{head}<urlset xmlns="{space}">\n{lines}</urlset>\n'
        Path(app.outdir, "sitemap.xml").write_text(sitemap, "utf-8")
