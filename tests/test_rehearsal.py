"""A fork's workflows, rehearsed: what they push, and that nothing had to be edited for it."""

import os
import shutil
import subprocess

import nbformat
from rehearse import FORK, INSTALLS, ROOT, clone, jobs, rehearse

from _tools.chapters import Book, first_cell

CHAPTER = "pathways/01-sharpness"
ARTIFACT = "_build/regenerated-pinned"


def git(folder, *words):
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=True)
    return done.stdout.decode().strip()


def pushed(folder, branch):
    """The commit that a bare repository has on a branch, and the files it changed."""
    bare = folder / "fork.git"
    changed = git(bare, "diff", "--name-only", f"{branch}~1", branch).splitlines()
    return git(bare, "rev-parse", f"{branch}~1"), changed


def test_no_step_makes_the_borrowed_environment_anew_or_installs_a_lock_or_the_audit_into_it():
    steps = [step.get("run", "") for _, job in jobs().values() for step in job["steps"]]
    adds = "-m venv", "pip install -q --require", "pip install -q pip-audit"
    made = [run for run in steps if any(word in run for word in adds)]
    assert len(made) > 1
    assert all(map(INSTALLS.search, made))


def test_the_clone_s_targets_use_the_clone_s_library():
    seen = os.environ | {"PYTHONPATH": "clone/lib"}
    done = subprocess.run(["make", "-n", "check"], cwd=ROOT, env=seen, capture_output=True)
    assert "PYTHONPATH=book:clone/lib " in done.stdout.decode()


def test_launched_notebooks_install_the_fork_s_own_commit(tmp_path):
    assert rehearse("test.launch", tmp_path) == []
    parent, changed = pushed(tmp_path, "launch")
    executed = [c for c in Book(tmp_path / "clone").chapters if c.twin.exists()]
    assert changed == [f"book/{chapter.name}.ipynb" for chapter in executed]
    source = f"git+https://github.com/{FORK}@{parent}"
    for chapter in executed:
        assert chapter.executed().cells[1].source == first_cell(source)


def test_what_moved_becomes_a_pull_request_and_a_verdict_an_issue(tmp_path, capfd):
    checkout, _ = clone(tmp_path)
    folder, chapter = checkout / ARTIFACT, Book(checkout).find([CHAPTER])[0]
    home = folder / "book" / "pathways"
    home.mkdir(parents=True)
    shutil.copytree(chapter.data, home / chapter.data.name)
    notebook = chapter.executed()
    notebook.cells[-1].source += " "
    nbformat.write(notebook, home / chapter.twin.name)
    (folder / "moved.txt").write_text(f"{CHAPTER}\niam/02-one-step\n")  # one failed, and has none
    (folder / "verdicts.txt").write_text(f"{CHAPTER}: B.1 was 'reproduced', is 'nothing'\n")
    assert rehearse("weekly.tell", tmp_path) == []
    assert pushed(tmp_path, "regenerated")[1] == [f"book/{CHAPTER}.ipynb"]
    said = capfd.readouterr().out
    assert said.count("gh issue create --title Verdicts changed, pinned versions") == 1
    assert "gh pr create --head regenerated" in said
    assert f"https://github.com/{FORK}/actions/runs/1" in said


def test_a_week_in_which_every_chapter_failed_tells_without_a_pull_request(tmp_path, capfd):
    checkout, _ = clone(tmp_path)
    folder = checkout / ARTIFACT
    folder.mkdir(parents=True)
    (folder / "moved.txt").write_text(f"{CHAPTER}\n")
    assert rehearse("weekly.tell", tmp_path) == []
    assert "gh pr" not in capfd.readouterr().out
