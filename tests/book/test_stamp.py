import pytest

from _tools.stamp import data_files, differences, inputs, library


def test_the_library_of_a_chapter_is_what_it_imports_directly_or_not(tiny):
    tiny.write("lib/tiny/deep/__init__.py", "from .inner import X\n")
    tiny.write("lib/tiny/deep/inner.py", "def f():\n    from tiny import other\nX = 1\n")
    direct = tiny.chapter("part/01-one", "import numpy\nfrom tiny import deep\n%time x = 1")
    assert list(library(direct)) == ["tiny", "tiny.deep", "tiny.deep.inner", "tiny.other"]
    assert list(library(tiny.chapter("part/02-two", "import tiny.rule as r"))) == [
        "tiny",
        "tiny.rule",
    ]


def test_data_count_only_where_their_package_is_imported(tiny):
    tiny.write("lib/tiny/images/__init__.py", "")
    tiny.write("lib/tiny/images/part.npz", "pixels")
    chapter = tiny.chapter("part/01-one", "import tiny.images")
    assert list(data_files(chapter, library(chapter))) == ["part.npz"]
    stamp = inputs(chapter)
    assert differences(stamp, chapter) == []
    tiny.write("lib/tiny/images/part.npz", "other pixels")
    assert differences(stamp, chapter) == ["part.npz changed"]
    other = tiny.chapter("part/02-two", "import tiny.rule; open('../results/a-run.json')")
    tiny.write("book/results/a-run.json", "{}")
    tiny.write("book/results/no-run.json", "{}")
    assert list(data_files(other, library(other))) == ["a-run.json"]


def test_files_in_a_folder_that_a_module_names_count(tiny):
    tiny.write("lib/tiny/read.py", 'FOLDER = Path(__file__).with_name("lists")\n')
    tiny.write("lib/tiny/lists/one.toml", "x = 1\n")
    chapter = tiny.chapter("part/01-one", "import tiny.read")
    other = tiny.chapter("part/02-two", "import tiny.rule")
    before, before_other = inputs(chapter), inputs(other)
    tiny.write("lib/tiny/lists/one.toml", "x = 2\n")
    assert differences(before, chapter) == ["one.toml changed"]
    assert differences(before_other, other) == []


@pytest.mark.parametrize(
    "asked",
    [
        "recorded('a-table', '../results')",
        "for recipe in ('a-table', 'no-table'): recorded(recipe)",
        "recorded(*{'a-table': 1})",
    ],
)
def test_the_records_that_a_chapter_asks_for_by_recipe_are_its_data(asked, tiny):
    chapter = tiny.chapter("part/01-one", f"def recorded(*_): ...\n{asked}")
    other = tiny.chapter("part/02-two", "x = 'a-table'")
    tiny.write("book/results/a-table/SGD-seed0.json", "{}")
    tiny.write("book/results/a-table-search/SGD-seed0.json", "{}")
    assert [*inputs(chapter)["data"]] == ["a-table/SGD-seed0.json"]
    assert inputs(other)["data"] == {}


def test_a_pattern_stands_for_the_records_of_all_runs(tiny):
    code = "from pathlib import Path; print(*Path('../results').glob('*/*.json'))"
    chapter = tiny.chapter("part/01-one", code)
    tiny.write("book/results/alone.json", "{}")
    before = inputs(chapter)
    assert before["data"] == {}
    tiny.write("book/results/table/SGD-seed0.json", "{}")
    assert differences(before, chapter) == ["table/SGD-seed0.json changed"]
    for seed in range(1, 3):
        tiny.write(f"book/results/table/SGD-seed{seed}.json", "{}")
    assert len(differences(before, chapter)) == 3
    tiny.write("book/results/table/SGD-seed3.json", "{}")
    tiny.write("book/results/other/SGD-seed0.json", "{}")
    assert differences(before, chapter) == [
        "other/SGD-seed0.json changed",
        "4 files of table changed",
    ]


@pytest.mark.parametrize("id_", ['"B.2-sharpness"', 'f"B.{2}-sharpness"'])
def test_only_the_rules_of_claims_that_a_chapter_reports_concern_it(id_, tiny):
    chapter = tiny.chapter("part/01-one", f"claim({id_}).check(0)")
    other = tiny.chapter("part/02-two", "x = 1")
    before, before_other = inputs(chapter), inputs(other)
    claims = tiny.root / "book" / "claims.yml"
    claims.write_text(claims.read_text().replace("'below'", "'above'"))
    assert differences(before, chapter) == [
        "what one of its claims says, compares or allows changed in book/claims.yml"
    ]
    assert differences(before_other, other) == []
