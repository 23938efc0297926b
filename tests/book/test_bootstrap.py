from _tools.bootstrap import bootstrap


def test_the_first_cell_follows_the_repository_and_nothing_else_changes(tiny):
    chapter = tiny.chapter("part/01-one", "x = 1")
    before = chapter.path.read_text()
    assert bootstrap(tiny.book) == []
    tiny.write("_config.yml", "repository: {url: https://github.com/new/home, branch: main}\n")
    assert bootstrap(tiny.book) == ["part/01-one"]
    after = chapter.path.read_text()
    assert after == before.replace("https://github.com/a/b", "https://github.com/new/home")
    assert chapter.source().cells[1].source == tiny.book.bootstrap()
