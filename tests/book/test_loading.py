"""Pictures have their size before they come; what no page needs is not asked for."""

import struct
from types import SimpleNamespace

import pytest

from _tools.loading import lean, load, with_sizes

HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 840, 360)


def test_a_picture_has_its_size_and_keeps_one_that_it_has(tmp_path):
    (tmp_path / "a.png").write_bytes(HEAD)
    pictures = {"a.png": tmp_path / "a.png"}
    plain = '<p>x</p><img alt="a &gt; b" src="../_images/a.png" /><img src="_images/b.png" />'
    sized = with_sizes(plain, pictures)
    assert sized == plain.replace("<img alt", '<img width="840" height="360" alt')
    assert with_sizes(sized, pictures) == sized
    assert with_sizes('<img src="_static/a.png" />', pictures) == '<img src="_static/a.png" />'


def test_what_is_needless_or_there_twice_is_dropped(tmp_path):
    def file(name, body=None):
        return SimpleNamespace(filename=name, attributes={"body": body})

    scripts = [file("_static/fit.js"), file("_static/fit.js"), file(None, "a"), file(None, "a")]
    scripts += [file("../mathjax/tex-mml-chtml.js?v=1"), file(None, "b")]
    context = {"script_files": scripts, "css_files": [file("sphinx-thebe.css"), file("book.css")]}
    app = SimpleNamespace(srcdir=tmp_path, builder=SimpleNamespace(images={}))
    load(app, "page", "page.html", context, None)
    assert [s.filename or s.attributes["body"] for s in context["script_files"]] == [
        *("_static/fit.js", "a", "b")
    ]
    assert [s.filename for s in context["css_files"]] == ["book.css"]


@pytest.mark.parametrize(
    ("css", "kept"),
    [
        ("p{x:y}", "p{x:y}"),
        (".a.b{x:y}.a>.c,.a p{x:y}", ".a p{x:y}"),
        (".a:not(.c,.d) p{x:y}", ".a:not(.c,.d) p{x:y}"),
        ('.a::before{content:"}\\"{;"}.c{x:y}', '.a::before{content:"}\\"{;"}'),
        ("@media (min-width:1px){.c{x:y}.a{x:y}}", "@media (min-width:1px){.a{x:y}}"),
        ("@media print{@media (x){.c{x:y}}}.a{b:c}", ".a{b:c}"),
        ('@import "x.css";.c{x:y}', '@import "x.css";'),
        ("@font-face{src:url(data:x;y,z)}", "@font-face{src:url(data:x;y,z)}"),
        ("@keyframes c{from{x:y}to{x:z}}", "@keyframes c{from{x:y}to{x:z}}"),
        ("/* a, { */.c\\:d{x:y}", ".c\\:d{x:y}"),  # an escape is not judged
        (":root{--a:{};}.a{x:y}", ":root{--a:{};}.a{x:y}"),
    ],
)
def test_a_style_sheet_loses_only_rules_that_nothing_can_match(css, kept):
    assert lean(css, {"a", "e"}) == kept
    assert lean(kept, {"a", "e"}) == kept
