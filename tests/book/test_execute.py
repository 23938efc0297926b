import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from _tools.chapters import HERE
from _tools.execute import stale
from _tools.stamp import digest


def contents(tiny):
    return {
        path: path.read_bytes() for path in sorted(tiny.book.pages.rglob("*")) if path.is_file()
    }


def test_a_chapter_lives_from_its_first_run_to_a_change_of_the_library(tiny, capsys):
    chapter = tiny.chapter("part/01-one", tiny.plot)
    assert tiny.execute() == 0
    executed = chapter.executed()
    stamp = executed.metadata["stamp"]
    assert stamp["claims"] == {"B.2-sharpness": {"value": 0.0, "verdict": "reproduced"}}
    assert stamp["figures"] == {"fig-line": digest("x,y\n0,0\n1,2\n")}
    assert set(stamp["library"]) == {"tiny", "tiny.rule"}
    assert (chapter.data / "fig-line.csv").read_text() == "x,y\n0,0\n1,2\n"
    assert not (set(executed.metadata) - {"kernelspec", "language_info", "stamp"})

    # Nothing changed: nothing runs. Forced to run: nothing is written.
    before = contents(tiny)
    assert tiny.execute() == 0
    assert "0 executed, 0 failed, 1 fresh" in capsys.readouterr().out
    assert tiny.execute(everything=True) == 0
    assert "unchanged" in capsys.readouterr().out
    assert contents(tiny) == before

    # Prose is renewed without a run.
    chapter.path.write_text(chapter.path.read_text().replace("What does", "What, then, does"))
    assert not stale(chapter)
    assert tiny.execute() == 0
    assert "prose renewed" in capsys.readouterr().out
    assert "What, then, does" in chapter.executed().cells[0].source
    assert chapter.executed().metadata["stamp"] == stamp

    # Another module of the library does not concern it, its own does.
    tiny.write("lib/tiny/other.py", "X = 1\n")
    assert stale(chapter) == []
    tiny.write("lib/tiny/rule.py", "SLOPE = 3\n")
    assert stale(chapter) == ["tiny.rule changed"]
    assert tiny.execute() == 0
    assert (chapter.data / "fig-line.csv").read_text() == "x,y\n0,0\n1,3\n"


def test_a_failing_chapter_is_named_and_the_rest_stays_intact(tiny, capsys):
    good = tiny.chapter("part/01-good", "print(1)")
    bad = tiny.chapter("part/02-bad", "print(1)", "x = 2")
    dies = tiny.chapter("part/03-dies", "print(1)")
    assert tiny.execute() == 0
    old = bad.twin.read_bytes(), dies.twin.read_bytes()
    tiny.chapter("part/01-good", "print(2)")
    tiny.chapter("part/02-bad", "print(1)", "x = 1 / 0")
    tiny.chapter("part/03-dies", "import os; os._exit(1)")
    assert tiny.execute() == 2
    said = capsys.readouterr()
    assert "part/02-bad: FAILED in cell 3 ('x = 1 / 0'): ZeroDivisionError" in said.err
    assert "part/03-dies: FAILED in its kernel, DeadKernelError" in said.err
    assert "1 executed, 2 failed" in said.out
    assert (bad.twin.read_bytes(), dies.twin.read_bytes()) == old
    assert "2" in good.executed().cells[2].outputs[0].text


@pytest.mark.parametrize("killed", ["all", "the tool alone"])
def test_killed_at_any_moment_the_old_notebook_stays_and_nothing_runs_on(tiny, killed):
    chapter = tiny.chapter("part/01-one", "print(1)")
    assert tiny.execute() == 0
    old = contents(tiny)
    tiny.chapter(
        "part/01-one",
        "import os, pathlib, time\n"
        "pathlib.Path('part').write_text(f'{os.getpid()} {os.getppid()}')\n"
        "pathlib.Path('part').rename('started'); time.sleep(600)",
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
    for _ in range(1200):
        if started.exists():
            break
        time.sleep(0.1)
    assert started.exists(), "the kernel never came up"
    running = [psutil.Process(int(number)) for number in started.read_text().split()]
    (os.killpg if killed == "all" else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(running, timeout=60)[1] == [], "the kernel or its worker runs on"
    started.unlink()
    assert contents(tiny) == {**old, chapter.path: text}


@pytest.mark.usefixtures("at_once")
def test_other_tiers_leave_the_committed_notebook_alone(tiny):
    parameters = "\n```{code-cell} ipython3\n:tags: [parameters]\n\ntier = 'ci'\nseed = 0\n```\n"
    chapter = tiny.chapter("part/01-one", parameters, "print(tier)")
    assert tiny.execute(tier="smoke") == 0
    assert not chapter.twin.exists()
    smoke = nbformat.read(tiny.book.built / "smoke" / "part" / "01-one.ipynb", as_version=4)
    assert smoke.cells[-1].outputs[0].text == "smoke\n"
    assert smoke.metadata["stamp"]["parameters"] == {"tier": "smoke", "seed": 0}


def test_an_unknown_chapter_lists_the_known(tiny):
    tiny.chapter("part/01-one", "x = 1")
    with pytest.raises(SystemExit, match=r"no chapter named part/9; there are: part/01-one"):
        tiny.execute("book/part/9.md")


@pytest.mark.usefixtures("at_once")
def test_output_in_pieces_is_one_output(tiny):
    cell = "import time\nfor i in range(3):\n    print(i, flush=True); time.sleep(0.3)"
    chapter = tiny.chapter("part/01-one", cell)
    assert tiny.execute() == 0
    (output,) = chapter.executed().cells[-1].outputs
    assert output.text == "0\n1\n2\n"


BUSY = """
import time

kernel = get_ipython().kernel
answer = kernel.shell_handlers["kernel_info_request"]

async def slowly(*question):
    await answer(*question)
    time.sleep(1)

kernel.shell_handlers["kernel_info_request"] = slowly
"""


@pytest.mark.usefixtures("at_once")
def test_a_kernel_that_is_busy_with_its_last_answer_ends_without_a_word(tiny, capfd):
    tiny.chapter("part/01-one", BUSY)
    assert tiny.execute() == 0
    assert capfd.readouterr().err == ""
