"""The Sphinx extension: facts, cards and data for chapters; what the site ships."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from _tools import cards, loading, paper, policy, share, stills
from _tools.address import repository
from _tools.chapters import Chapter, Refused
from _tools.directives import Chapters, Live, Scoreboard, book_of, facts, label
from _tools.opening import open_chapter
from _tools.render import machinery
from _tools.scoreboard import as_json, by_source, found, rows


def _chapter(app: Sphinx, docname: str) -> Chapter | None:
    return next((c for c in book_of(app).chapters if c.name == docname), None)


def provenance(chapter: Chapter, stamp: dict[str, Any]) -> str:
    """Return where the numbers of a chapter come from, in one line."""
    parameters = ", ".join(f"{key} {value}" for key, value in stamp["parameters"].items())
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    seconds = f"{stamp['seconds']:.0f} s"
    return f"{chapter.name}: {parameters}; {versions}; {stamp['device']}, {seconds}"


def add_facts(app: Sphinx, doctree: nodes.document) -> None:
    """Put the time to read and to run under a chapter's title, and data under its figures."""
    page = app.env.docname
    chapter = _chapter(app, page)
    if chapter is None and app.env.doc2path(page).endswith(".ipynb"):
        raise Refused(f"{page}: a notebook without its .md, which nothing checks, is not shown")
    executed = chapter.executed() if chapter else None
    if chapter is None or executed is None:
        return
    stamp = executed.metadata["stamp"]
    title = next(doctree.findall(nodes.title))
    below = nodes.paragraph("", facts(chapter), classes=["chapter-facts"])
    title.parent.insert(title.parent.index(title) + 1, below)
    if app.builder.format != "html":  # nothing to download
        return
    for figure in doctree.findall(nodes.figure):
        for name in set(figure["names"]) & set(stamp["figures"]):
            file = chapter.data / f"{name}.csv"
            link = addnodes.download_reference(
                "",
                "",
                nodes.inline("", f"Data of this figure ({file.name})"),
                reftarget=file.relative_to(chapter.path.parent).as_posix(),
                refdoc=chapter.name,
            )
            said = nodes.Text(f" · {provenance(chapter, stamp)}")
            figure += nodes.legend("", nodes.paragraph("", "", link, said), classes=["figure-data"])


def add_cards(app: Sphinx, doctree: nodes.document) -> None:
    """Turn each printed verdict into a card, and open the chapter with all of them."""
    page, on_screen = app.env.docname, app.builder.format == "html"
    board = f"{'../' * page.count('/')}scoreboard.html"
    of_page = {row.id: row for row in rows(book_of(app)) if row.chapter == page}
    for output in list(doctree.findall(nodes.literal_block)):
        if "output" not in output["classes"]:
            continue
        pieces: list[nodes.Node] = []
        plain: list[str] = []
        for line in output.astext().splitlines():
            row = of_page.get(line.partition(": ")[0])
            if row is None or not line.startswith(f"{row.id}: {row.verdict}. "):
                plain.append(line)
                continue
            pieces += [
                _printed(output, plain),
                nodes.raw("", cards.card(row, board), format="html")
                if on_screen
                else paper.verdict(row),
            ]
            plain = []
            app.env.get_domain("std").note_hyperlink_target(  # type: ignore[attr-defined]
                label(row.id), page, row.id, row.id
            )
        if pieces:
            output.replace_self([n for n in [*pieces, _printed(output, plain)] if n.astext()])
    if on_screen and _chapter(app, page):
        open_chapter(doctree, cards.overview([*of_page.values()], board) if of_page else "")


def _printed(like: nodes.literal_block, lines: list[str]) -> nodes.Element:
    text = "\n".join(lines).strip("\n")
    block = like.copy()
    block.rawsource = text
    block += nodes.Text(text)
    return block if text else nodes.Element()


def _mathjax() -> Path:
    files = metadata.files("sphinx-mathjax-offline") or []
    script = next(file for file in files if file.name == "tex-mml-chtml.js")
    return Path(str(script.locate()))


def copy_scripts(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax with its fonts into the site, so that it needs no other server."""
    if error is None and app.builder.format == "html":
        script, site = _mathjax(), Path(app.outdir, "mathjax")
        fonts = Path("output", "chtml", "fonts", "woff-v2")
        site.mkdir(exist_ok=True)
        shutil.copy(script, site)
        shutil.copytree(script.parent / fonts, site / fonts, dirs_exist_ok=True)
        # The theme brings its icons twice; a font has them too, in a tenth of this script's size.
        Path(app.outdir, "_static", "scripts", "fontawesome.js").write_text("", "utf-8")
        stills.write(Path(app.outdir, "_static", "live"))


def write_board(app: Sphinx, error: Exception | None) -> None:
    """Write the scoreboard for machines, and a badge for each source of claims."""
    if error is None and app.builder.format == "html":
        board, site = rows(book_of(app)), Path(app.outdir)
        (site / "scoreboard.json").write_text(as_json(board), "utf-8")
        for source, counts in by_source(board).items():
            badge = site / f"badge-{source.lower()}.svg"
            badge.write_text(cards.badge(f"{source} claims", counts), "utf-8")


def tell_counts(app: Sphinx, config: Any) -> None:
    """Let pages say how the claims of each source stand, by ``{{ found_iam }}`` and the like."""
    counted = by_source(rows(book_of(app)))
    said = {f"found_{source.lower()}": found(counts) for source, counts in counted.items()}
    config.myst_substitutions = {**config.myst_substitutions, **said}


def escape_bars(*event: Any) -> None:
    """Let ``|w|`` in a docstring be an absolute value, not a substitution."""
    lines: list[str] = event[-1]
    lines[:] = [re.sub(r"(?<!`)\|(\w)\|", r"\\|\1\\|", line) for line in lines]


def lead_on(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Lead from the introduction to the first chapter."""
    if page == app.config.root_doc:
        name = next(c.name for c in book_of(app).chapters if c.name.startswith("iam/"))
        title = app.env.titles[name].astext()
        context["next"] = {"link": app.builder.get_relative_uri(page, name), "title": title}


def read_again(app: Sphinx, *_: Any) -> list[str]:
    """Have the pages that tell of other pages read again in every build."""
    telling = ("intro", "scoreboard", *(f"{part}/index" for part in ("iam", "pathways", "beyond")))
    return [page for page in telling if page in app.env.found_docs]


def set_address(app: Sphinx, *_: Any) -> None:
    """Link to the repository that this copy of the book lives in; to none if none is known."""
    here, theme = repository(Path(app.srcdir).parent), app.config["html_theme_options"]
    theme["use_repository_button"] = theme["use_issues_button"] = here is not None
    app.config["html_baseurl"] = (here and here.site) or ""
    if here is not None:
        theme.update(repository_url=here.url, repository_branch=here.branch, path_to_docs="book")
    if here is None or not here.launches:
        theme["launch_buttons"] = {}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it."""
    app.add_directive("chapters", Chapters)
    app.add_directive("live", Live)
    app.add_directive("scoreboard", Scoreboard)
    app.connect("config-inited", set_address, priority=100)
    # Before Sphinx collects the files to download, which it does at priority 500.
    app.connect("doctree-read", add_facts, priority=400)
    app.connect("doctree-read", add_cards)
    app.connect("config-inited", paper.set_up, priority=900)
    app.connect("doctree-read", paper.adapt)
    app.connect("config-inited", tell_counts, priority=100)
    app.connect("env-get-outdated", read_again)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("html-page-context", loading.load, priority=900)
    app.connect("html-page-context", lead_on)
    app.connect("html-page-context", share.describe, priority=901)
    app.connect("html-collect-pages", share.lost_page)
    app.connect("build-finished", copy_scripts)
    app.connect("build-finished", write_board)
    app.connect("build-finished", share.write_sitemap)
    app.connect("build-finished", paper.draw_stills)
    app.connect("build-finished", policy.write_policies, priority=900)
    app.config["mathjax_path"] = "../mathjax/tex-mml-chtml.js"
    made_by = machinery(book_of(app))
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": made_by}
