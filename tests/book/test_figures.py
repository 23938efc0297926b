from _tools.figures import figures


def test_every_figure_leaves_its_notebook_with_its_data(tiny):
    tiny.chapter("part/01-one", tiny.plot)
    assert list(figures(tiny.book)) == []
    tiny.execute()
    (picture,) = figures(tiny.book)
    assert picture == tiny.root / "_build" / "figures" / "part" / "01-one" / "fig-line.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.with_suffix(".csv").read_text() == "x,y\n0,0\n1,2\n"
