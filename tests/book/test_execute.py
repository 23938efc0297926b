import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from _tools.chapters import HERE
from _tools.check import problems
from _tools.execute import execute, stale


def run(tiny, *names, tier="ci", everything=False, jobs=2):
    return execute(tiny.book, list(names), tier=tier, everything=everything, jobs=jobs)


def contents(tiny):
    return {
        path: path.read_bytes() for path in sorted(tiny.book.pages.rglob("*")) if path.is_file()
    }


def test_a_chapter_lives_from_its_first_run_to_a_change_of_the_library(tiny, capsys):
    chapter = tiny.chapter("part/01-one", tiny.plot)
    assert run(tiny) == 0
    executed = chapter.executed()
    stamp = executed.metadata["stamp"]
    assert stamp["claims"] == {"B.2-sharpness": {"value": 0.0, "verdict": "reproduced"}}
    assert stamp["figures"] == ["fig-line"]
    assert set(stamp["library"]) == {"tiny", "tiny.rule"}
    assert (chapter.data / "fig-line.csv").read_text() == "x,y\n0,0\n1,2\n"
    assert not (set(executed.metadata) - {"kernelspec", "language_info", "stamp"})

    # Nothing changed: nothing runs. Forced to run: nothing is written.
    before = contents(tiny)
    assert run(tiny) == 0
    assert "0 executed, 0 failed, 1 fresh" in capsys.readouterr().out
    assert run(tiny, everything=True) == 0
    assert "unchanged" in capsys.readouterr().out
    assert contents(tiny) == before

    # Prose is renewed without a run.
    chapter.path.write_text(chapter.path.read_text().replace("What does", "What, then, does"))
    assert not stale(chapter)
    assert run(tiny) == 0
    assert "prose renewed" in capsys.readouterr().out
    assert "What, then, does" in chapter.executed().cells[0].source
    assert chapter.executed().metadata["stamp"] == stamp

    # Another module of the library does not concern it, its own does.
    tiny.write("lib/tiny/other.py", "X = 1\n")
    assert stale(chapter) == []
    tiny.write("lib/tiny/rule.py", "SLOPE = 3\n")
    assert stale(chapter) == ["tiny.rule changed"]
    assert run(tiny) == 0
    assert (chapter.data / "fig-line.csv").read_text() == "x,y\n0,0\n1,3\n"


def test_a_failing_chapter_is_named_and_the_rest_stays_intact(tiny, capsys):
    good = tiny.chapter("part/01-good", "print(1)")
    bad = tiny.chapter("part/02-bad", "print(1)", "x = 2")
    dies = tiny.chapter("part/03-dies", "print(1)")
    assert run(tiny) == 0
    old = bad.twin.read_bytes(), dies.twin.read_bytes()
    tiny.chapter("part/01-good", "print(2)")
    tiny.chapter("part/02-bad", "print(1)", "x = 1 / 0")
    tiny.chapter("part/03-dies", "import os; os._exit(1)")
    assert run(tiny) == 2
    said = capsys.readouterr()
    assert "part/02-bad: FAILED in cell 3 ('x = 1 / 0'): ZeroDivisionError" in said.err
    assert "part/03-dies: FAILED in its kernel, DeadKernelError" in said.err
    assert "1 executed, 2 failed" in said.out
    assert (bad.twin.read_bytes(), dies.twin.read_bytes()) == old
    assert "2" in good.executed().cells[2].outputs[0].text


def test_killed_at_any_moment_the_old_notebook_stays(tiny):
    chapter = tiny.chapter("part/01-one", "print(1)")
    assert run(tiny) == 0
    old = contents(tiny)
    tiny.chapter(
        "part/01-one",
        "import pathlib, time; pathlib.Path('started').touch(); time.sleep(60)",
    )
    text = chapter.path.read_bytes()
    code = (
        "from pathlib import Path\n"
        "from _tools.chapters import Book\n"
        "from _tools.execute import execute\n"
        "if __name__ == '__main__':\n"
        f"    execute(Book(Path({str(tiny.root)!r})), [], tier='ci', everything=False, jobs=1)\n"
    )
    script = tiny.write("go.py", code)
    environment = {**os.environ, "PYTHONPATH": str(HERE.pages)}
    process = subprocess.Popen([sys.executable, script], env=environment, start_new_session=True)
    started = tiny.book.pages / "part" / "started"
    for _ in range(300):
        if started.exists():
            break
        time.sleep(0.1)
    assert started.exists(), "the kernel never came up"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    started.unlink()
    assert contents(tiny) == {**old, chapter.path: text}


def test_other_tiers_leave_the_committed_notebook_alone(tiny):
    parameters = "\n```{code-cell} ipython3\n:tags: [parameters]\n\ntier = 'ci'\nseed = 0\n```\n"
    chapter = tiny.chapter("part/01-one", parameters, "print(tier)")
    assert run(tiny, tier="smoke") == 0
    assert not chapter.twin.exists()
    smoke = nbformat.read(tiny.book.built / "smoke" / "part" / "01-one.ipynb", as_version=4)
    assert smoke.cells[-1].outputs[0].text == "smoke\n"
    assert smoke.metadata["stamp"]["parameters"] == {"tier": "smoke", "seed": 0}


def test_an_unknown_chapter_lists_the_known(tiny):
    tiny.chapter("part/01-one", "x = 1")
    with pytest.raises(SystemExit, match=r"no chapter named part/9; there are: part/01-one"):
        run(tiny, "book/part/9.md")


def test_what_check_finds_after_each_kind_of_damage(tiny):
    chapter = tiny.chapter("part/01-one", tiny.plot)
    assert any("never executed; run make execute" in problem for problem in problems(tiny.book))
    assert run(tiny) == 0
    assert problems(tiny.book) == [
        "book/part/01-one.ipynb: Colab's button would open nothing, git does not track it; "
        "git add it"
    ]
    tiny.track()
    assert problems(tiny.book) == []

    def found(path, old, new):
        file = tiny.root / path
        good = file.read_text("utf-8")
        assert old in good
        file.write_text(good.replace(old, new), "utf-8")
        said = problems(tiny.book)
        file.write_text(good, "utf-8")
        assert problems(tiny.book) == []
        return "\n".join(said)

    md, twin = "book/part/01-one.md", "book/part/01-one.ipynb"
    colab = "https://colab.research.google.com/github/a/b/blob/main/book/part/"
    assert "tiny.rule changed; run make execute" in found("lib/tiny/rule.py", "2", "2.5")
    assert "its code changed; run make execute" in found(md, "[0, SLOPE])", "[1, SLOPE])")
    assert "out of step; run make execute" in found(md, "What does", "What would")
    assert "run make bootstrap" in found("_config.yml", "a/b", "a/c")
    assert "run make bootstrap" in found(md, "# On Colab", "# At Colab")
    assert "changed by hand; run make execute --all" in found(twin, "B.2-sharpness: rep", "x rep")
    assert "was not executed; run make execute" in found(
        twin, '"execution_count": 2', '"execution_count": null'
    )
    assert "has no alt text" in found(twin, '"alt": "A rising line."', '"alt": ""')
    assert "keeps no data" in found(twin, '"figures": [\n    "fig-line"\n   ]', '"figures": []')
    assert "points to no tracked file" in found("README.md", "# Tiny", f"{colab}02-two.ipynb")
    assert "to no tracked" not in "\n".join(problems(tiny.book))
    assert "02-two.ipynb does not exist" in found("_toc.yml", "01-one", "02-two")
    data = chapter.data / "fig-line.csv"
    data.rename(data.with_suffix(".gone"))
    assert "the data of fig-line are missing" in "\n".join(problems(tiny.book))
    data.with_suffix(".gone").rename(data)

    claims = "book/claims.yml"
    tightened = found(claims, "'tolerance': {", "'tolerance': {'below': -1.0}, 'was': {")
    assert "the stored verdict is 'reproduced', but 0 under {'below': -1.0}" in tightened
    assert "its claims changed in book/claims.yml; run make execute" in tightened
    assert "yet it is planned" in found(claims, "'tier':", "'planned': 'later', 'tier':")
    assert "claims.yml names part/02-two" in found(claims, "part/01-one", "part/02-two")
    unused = found(claims, "B.2-sharpness:", "B.9: {chapter: part/01-one}\nB.2-sharpness:")
    assert "B.9: no chapter reports it" in unused
    assert "has no such claim" in found(claims, "B.2-sharpness:", "B.9: {planned: x}\nB.8:")


def test_a_hand_made_error_or_warning_in_an_output_is_found(tiny):
    chapter = tiny.chapter("part/01-one", "import warnings\nwarnings.warn('careful')")
    assert run(tiny) == 0
    assert any("wrote to stderr" in problem for problem in problems(tiny.book))
    notebook = json.loads(chapter.twin.read_text())
    notebook["cells"][-1]["outputs"] = [
        {"output_type": "error", "ename": "ValueError", "evalue": "x", "traceback": []}
    ]
    chapter.twin.write_text(json.dumps(notebook))
    assert any("holds the error ValueError; mend it" in problem for problem in problems(tiny.book))
