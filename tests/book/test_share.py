"""What previews, search engines and programs read of the site."""

import json
import re
from types import SimpleNamespace

from bs4 import BeautifulSoup

from _tools.chapters import HERE
from _tools.share import describe, lost_page, papers, summary, write_sitemap

ADDRESS = "https://a.github.io/b/"


def book(tmp_path, address=ADDRESS):
    config = SimpleNamespace(
        html_baseurl=address, project="Book", html_title="The book", root_doc="intro"
    )
    return SimpleNamespace(
        config=config,
        srcdir=HERE.pages,
        outdir=tmp_path,
        builder=SimpleNamespace(format="html"),
        env=SimpleNamespace(found_docs={"intro", "iam/01-one"}),
    )


def head(app, page, body, title="T"):
    context = {"body": body, "title": title, "metatags": "<meta name='old'>"}
    describe(app, page, "page.html", context, None)
    return BeautifulSoup(context["metatags"], "html.parser")


def said(soup, name):
    (found,) = soup.select(f"meta[property='{name}'], meta[name='{name}']")
    return found["content"]


def test_a_page_has_a_preview(tmp_path):
    body = '<h1>T</h1><p class="x">no</p><p>How &amp; "why"?</p><img src="../_images/a.png">'
    soup = head(book(tmp_path), "iam/01-one", body, title="A <em>b</em> &amp; c")
    assert said(soup, "og:title") == "A b & c"
    assert said(soup, "og:url") == f"{ADDRESS}iam/01-one.html"
    assert said(soup, "og:description") == said(soup, "description") == 'How & "why"?'
    assert said(soup, "og:image") == f"{ADDRESS}_images/a.png"
    assert soup.select("script") == []
    assert soup.select("meta[name='old']")


def test_without_an_address_nothing_is_said_of_one(tmp_path):
    soup = head(book(tmp_path, ""), "iam/01-one", '<p>Why?</p><img src="_images/a.png">')
    assert said(soup, "og:title") == "T"
    assert not soup.select("meta[property='og:url'], meta[property='og:image']")
    write_sitemap(book(tmp_path, ""), None)
    assert not (tmp_path / "sitemap.xml").exists()


def test_the_introduction_tells_of_both_papers(tmp_path):
    (script,) = head(book(tmp_path), "intro", "<p>Why?</p>").select("script")
    told = json.loads(script.string)
    assert told == papers(HERE.pages / "references.bib")
    assert [article["@type"] for article in told] == ["ScholarlyArticle"] * 2
    assert all("Kim" in str(article["author"]) for article in told)
    assert all(article["name"] and article["datePublished"] == "2026" for article in told)


def test_the_lost_page_works_from_any_address(tmp_path):
    ((name, context, _),) = lost_page(book(tmp_path))
    assert name == "404"
    for page in re.findall(r'href="([\w/]+)\.html"', context["body"]):
        assert (HERE.pages / f"{page}.md").exists()
    assert head(book(tmp_path), "404", context["body"]).base["href"] == ADDRESS


def test_the_sitemap_lists_every_page(tmp_path):
    write_sitemap(book(tmp_path), None)
    listed = re.findall("<loc>(.*?)</loc>", (tmp_path / "sitemap.xml").read_text())
    assert listed == [f"{ADDRESS}iam/01-one.html", f"{ADDRESS}intro.html"]


def test_a_long_description_is_cut_after_a_word():
    cut = summary(f"<p>{'word ' * 100}</p>")
    assert cut.endswith("word …")
    assert len(cut) <= 202
