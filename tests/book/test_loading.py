"""Pictures have their size before they come; what no page needs is not asked for."""

from types import SimpleNamespace

from PIL import Image

from _tools.loading import load, with_sizes


def test_a_picture_has_its_size_and_keeps_one_that_it_has(tmp_path):
    Image.new("1", (840, 360)).save(tmp_path / "a.png")
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
