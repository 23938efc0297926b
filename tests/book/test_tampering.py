"""What was changed by hand, and which command notices it: one line of the table is one kind.

``check`` reads, ``nbval`` runs the committed cells and compares what they print, ``regenerate``
runs the chapter and compares pictures, data and verdicts too. A kind that only a new run can tell
is one whose every hash was renewed with it; the last lines are what no command can notice.
"""

import base64
import copy
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import matplotlib.image
import nbformat
import numpy as np
import pytest

from _tools import stamp
from _tools.chapters import HERE
from _tools.check import problems
from _tools.execute import Run, run
from _tools.regenerate import moved

# One worker, as all of them share a book that takes a minute to make.
pytestmark = pytest.mark.xdist_group("tampering")
ONE, TWO, RECORD = "part/01-one", "part/02-two", "book/results/run/one.json"
TABLE = """
import pandas as pd

pd.DataFrame({"slope": [SLOPE]})
"""
READS = """
import json
from pathlib import Path
from flatbook.claims import Claim

record = json.loads(Path("../results/run/one.json").read_text())
print("error", record["final"]["error"])
"""
DECIDES = """# As claim("A.T3") does it, by the claims of this book.
entry = json.loads(Path("../claims.yml").read_text())["A.T3"]
Claim("A.T3", entry).check(record["final"]["error"])
"""


@pytest.fixture(scope="module")
def honest(make_tiny):
    """A book of two chapters, executed and committed; the second decides by a record."""
    tiny = make_tiny()
    claims = {"B.2-sharpness": HERE.claims["B.2-sharpness"] | {"chapter": ONE}}
    claims["A.T3"] = HERE.claims["A.T3"] | {"chapter": TWO}
    tiny.write("book/claims.yml", json.dumps(claims, indent=1, ensure_ascii=False))
    tiny.write("_toc.yml", f"root: {ONE}.ipynb\nchapters:\n- file: {TWO}.ipynb\n")
    tiny.commit()
    record = {"provenance": {"commit": tiny.git("rev-parse", "HEAD")}, "final": {"error": 0.01}}
    tiny.write(RECORD, json.dumps(record))
    tiny.chapter(ONE, tiny.plot, "print('slope', SLOPE)", TABLE)
    tiny.chapter(TWO, READS, DECIDES)
    assert tiny.execute() == 0
    tiny.commit()
    assert problems(tiny.book) == []
    return tiny


class Forger:
    """Changes a copy of the book, and can make its stamps agree."""

    def __init__(self, tiny):
        self.tiny, self.root = tiny, tiny.root

    def chapter(self, name):
        return next(chapter for chapter in self.tiny.book.chapters if chapter.name == name)

    def text(self, path, old, new):
        file = self.root / path
        good = file.read_text("utf-8")
        assert re.search(old, good), old
        file.write_text(re.sub(old, new, good), "utf-8")

    def notebook(self, name, change, renew=False):
        twin = self.chapter(name).twin
        notebook = nbformat.read(twin, as_version=4)
        change(notebook)
        if renew:
            self.renew(name, notebook)
        else:
            nbformat.write(notebook, twin)

    def renew(self, name, notebook=None):
        """Make the stamp say what is there now: all its hashes."""
        chapter = self.chapter(name)
        notebook = notebook or chapter.executed()
        told = notebook.metadata["stamp"]
        told |= {**stamp.inputs(chapter), "outputs": stamp.outputs(notebook)}
        for figure in told["figures"]:
            file = chapter.data / f"{figure}.csv"
            told["figures"][figure] = stamp.digest(file.read_bytes())
        nbformat.write(notebook, chapter.twin)

    def printed(self, name, old, new, renew):
        def change(notebook):
            texts = [o for c in notebook.cells for o in c.get("outputs", []) if "text" in o]
            assert any(re.search(old, o.text) for o in texts)
            for output in texts:
                output["text"] = re.sub(old, new, output.text)

        self.notebook(name, change, renew)

    def shown(self, kind, change, renew=False):
        def all_(notebook):
            for cell in notebook.cells:
                for output in cell.get("outputs", []):
                    if kind in output.get("data", {}):
                        output["data"][kind] = change(output["data"][kind])

        self.notebook(ONE, all_, renew)

    def claim(self, name, id_, **change):
        self.notebook(name, lambda nb: nb.metadata["stamp"]["claims"][id_].update(change))


def mirrored(picture):
    out, read = io.BytesIO(), matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)), "png")
    matplotlib.image.imsave(out, np.ascontiguousarray(read[:, ::-1]), format="png")
    return base64.b64encode(out.getvalue()).decode()


def whole_verdict(f):
    """Every number of a verdict, consistently: printed line, value, hash."""
    f.claim(TWO, "A.T3", value=0.001)
    f.printed(TWO, r"reproduced\. 0\.01 ", "reproduced. 0.001 ", renew=True)


def flipped_verdict(f):
    f.claim(TWO, "A.T3", verdict="not reproduced")
    f.printed(TWO, r"A\.T3: reproduced", "A.T3: not reproduced", renew=True)


def limit(f, renew):
    """A limit of 0.02 is 0.2 after the result, in the printed line too."""
    f.text("book/claims.yml", r'"below": 0\.02\b', '"below": 0.2')
    if renew:
        f.printed(TWO, r"must be below 0\.02", "must be below 0.2", renew=True)


def limit_printed(f):
    f.printed(TWO, r"must be below 0\.02", "must be below 0.2", renew=True)


def scale(f):
    f.text("book/claims.yml", '"tier": "ci"', '"scale": "reduced", "tier": "ci"')
    f.claim(TWO, "A.T3", verdict="reproduced at reduced scale")
    f.printed(TWO, r"A\.T3: reproduced\.", "A.T3: reproduced at reduced scale.", True)


def newer(f):
    """The limit is committed and the record says that it was made then."""
    f.tiny.commit()
    commit = f.tiny.git("rev-parse", "HEAD")
    f.text(RECORD, '"commit": "[0-9a-f]+"', f'"commit": "{commit}"')


def redesigned(f):
    """Limit and words of a claim, the words as a reviewer may read them, and a later record."""
    limit(f, False)
    f.text("book/claims.yml", '"check": "distance', '"check": "mean distance')
    newer(f)
    f.printed(TWO, r"below 0\.02\), distance", "below 0.2), mean distance", renew=True)


def pictured(notebook):
    return next(
        c
        for c in notebook.cells
        if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))
    )


def noted(notebook):
    pictured(notebook).outputs[0]["metadata"] = {"reviewed": True}


def doubled(notebook):
    (shown,) = (cell := pictured(notebook)).outputs
    false = copy.deepcopy(shown)
    false.data["image/png"] = mirrored(shown.data["image/png"])
    cell.outputs = [false, shown]


def removed(f):
    """By a tag, in both twins, hash renewed."""
    f.text("book/part/02-two.md", "ipython3\n# As", "ipython3\n:tags: [remove-output]\n\n# As")
    f.notebook(TWO, lambda nb: nb.cells[-1].metadata.update(tags=["remove-output"]), True)


def swap(f, what):
    chapters = [f.chapter(name) for name in (ONE, TWO)]
    one, two = (nbformat.read(chapter.twin, as_version=4) for chapter in chapters)
    if what == "files":
        one, two = two, one
    else:
        pairs = [(one.cells[-1], two.cells[-1])] if what == "outputs" else []
        pairs += [(one.cells[-1], one.cells[-2])] if what == "cells" else []
        for a, b in pairs:
            a["outputs"], b["outputs"] = b.outputs, a.outputs
    for chapter, notebook in zip(chapters, (one, two), strict=True):
        nbformat.write(notebook, chapter.twin)


def hidden(f):
    """A cell that asks nbval to look away, in both twins, with another number."""
    f.text("book/part/01-one.md", r"```\{code-cell\} ipython3\nprint", f"{SKIP}print")
    f.printed(ONE, "slope 2", "slope 3", renew=False)

    def change(notebook):
        notebook.cells[-2].metadata["tags"] = ["nbval-ignore-output"]

    f.notebook(ONE, change, renew=True)


SKIP = "```{code-cell} ipython3\n:tags: [nbval-ignore-output]\n\n"
C, N, R = "check", "nbval", "regenerate"
KINDS = {
    "number in an output": ({C, N, R}, lambda f: f.printed(ONE, "slope 2", "slope 3", False)),
    "number in an output, hash renewed": (
        {N, R},
        lambda f: f.printed(ONE, "slope 2", "slope 3", True),
    ),
    "number in a table": ({C, N, R}, lambda f: f.shown("text/html", lambda t: t.replace("2", "5"))),
    "number in a table, hash renewed": (
        {N, R},
        lambda f: f.shown("text/html", lambda t: t.replace("<td>2", "<td>5"), True),
    ),
    "number in a figure's CSV": (
        {C, R},
        lambda f: f.text("book/part/01-one-data/fig-line.csv", "1,2", "1,3"),
    ),
    "number in a figure's CSV, hash renewed": (
        {R},
        lambda f: (f.text("book/part/01-one-data/fig-line.csv", "1,2", "1,3"), f.renew(ONE)),
    ),
    "a figure's CSV deleted": (
        {C, R},
        lambda f: (f.root / "book/part/01-one-data/fig-line.csv").unlink(),
    ),
    "picture mirrored": ({C, R}, lambda f: f.shown("image/png", mirrored)),
    "picture mirrored, hash renewed": ({R}, lambda f: f.shown("image/png", mirrored, True)),
    "number in a record": ({C, N, R}, lambda f: f.text(RECORD, r"0\.01", "0.011")),
    "number in a record, hash renewed": (
        {N, R},
        lambda f: (f.text(RECORD, r"0\.01", "0.011"), f.renew(TWO)),
    ),
    "verdict flipped in the stamp": (
        {C, R},
        lambda f: f.claim(TWO, "A.T3", verdict="not reproduced"),
    ),
    "verdict flipped in stamp and print, hash renewed": ({C, N, R}, flipped_verdict),
    "number of a verdict in the stamp": ({C, R}, lambda f: f.claim(TWO, "A.T3", value=0.0105)),
    "number of a verdict everywhere, hash renewed": ({N, R}, whole_verdict),
    "verdict taken out of the stamp": (
        {C, R},
        lambda f: f.notebook(TWO, lambda nb: nb.metadata["stamp"]["claims"].clear()),
    ),
    "limit changed after the result": ({C, N, R}, lambda f: limit(f, False)),
    "limit changed, print and hash renewed": ({C}, lambda f: limit(f, True)),
    "a claim's scale changed, print and hash renewed": ({C}, scale),
    "a limit changed, and a record of a later commit": (
        {C},
        lambda f: (limit(f, False), newer(f), limit_printed(f)),
    ),
    "a record of a commit that never was": (
        {C},
        lambda f: (
            f.text(RECORD, '"commit": "[0-9a-f]+"', f'"commit": "{"0" * 40}"'),
            f.renew(TWO),
        ),
    ),
    "parameters in the stamp": (
        {C},
        lambda f: f.notebook(
            ONE, lambda nb: nb.metadata["stamp"]["parameters"].update(seed=7, tier="paper")
        ),
    ),
    "another kernel in the notebook": (
        {C},
        lambda f: f.notebook(ONE, lambda nb: nb.metadata.kernelspec.update(name="other")),
    ),
    "what else Sphinx obeys in the notebook's metadata": (
        {C, R},
        lambda f: f.notebook(
            ONE, lambda nb: nb.metadata.update(mystnb={"execution_mode": "force"})
        ),
    ),
    "metadata of an output, hash renewed": ({C, R}, lambda f: f.notebook(ONE, noted, True)),
    "an attachment of a text": (
        {C, R},
        lambda f: f.notebook(ONE, lambda nb: nb.cells[0].update(attachments={"a": {"b": "c"}})),
    ),
    "a false picture before the true one, hash renewed": (
        {N, R},
        lambda f: f.notebook(ONE, doubled, True),
    ),
    "a script in an output, hash renewed": (
        {C, N, R},
        lambda f: f.shown("text/html", lambda t: f"{t}<script>alert(1)</script>", True),
    ),
    "a verdict taken off the page": ({C}, lambda f: removed(f)),
    "a claim's text changed": ({C}, lambda f: f.text("book/claims.yml", "approaches", "equals")),
    "what a claim compares changed": (
        {C, N, R},
        lambda f: f.text("book/claims.yml", '"check": "distance', '"check": "mean distance'),
    ),
    "a claim's scale changed": (
        {C, N, R},
        lambda f: f.text("book/claims.yml", '"tier": "ci"', '"scale": "reduced", "tier": "ci"'),
    ),
    "a claim taken out": (
        {C, N, R},
        lambda f: f.text("book/claims.yml", r'"A\.T3": \{', '"A.T3-other": {'),
    ),
    "outputs of two chapters exchanged": ({C, N, R}, lambda f: swap(f, "outputs")),
    "notebooks of two chapters exchanged": ({C, R}, lambda f: swap(f, "files")),
    "outputs of two cells exchanged": ({C, N, R}, lambda f: swap(f, "cells")),
    "code of a cell": ({C}, lambda f: f.text("book/part/01-one.md", "'slope'", "'SLOPE'")),
    "code of a cell in the notebook alone": (
        {C, N},
        lambda f: f.text("book/part/01-one.ipynb", "print\\('slope'", "print('SLOPE'"),
    ),
    "the library": ({C}, lambda f: f.text("lib/tiny/rule.py", "2", "2.0001")),
    "a cell that nbval shall skip": ({C, R}, hidden),
    "a cell without a count, which nbval skips": (
        {C},
        lambda f: f.text(
            "book/part/01-one.ipynb", '"execution_count": 3', '"execution_count": null'
        ),
    ),
    "the whole stamp taken out": (
        {C, R},
        lambda f: f.notebook(TWO, lambda nb: nb.metadata.pop("stamp")),
    ),
    # Nothing notices: told, not checked.
    "device, versions and seconds in the stamp": (
        set(),
        lambda f: f.notebook(
            ONE, lambda nb: nb.metadata["stamp"].update(device="a GPU", seconds=1, versions={})
        ),
    ),
    # Text that a reviewer reads: a limit is compared as long as the claim's words are the same.
    "a claim's limit with its words, and a record of a later commit": (set(), redesigned),
    "a whole run made up before its chapter first ran": (set(), lambda f: None),
}


@pytest.fixture(scope="module")
def forged(honest, tmp_path_factory):
    """A copy of the book for each kind."""
    folder, copies = tmp_path_factory.mktemp("forged"), {}
    for number, (kind, (_, forge)) in enumerate(KINDS.items()):
        root = folder / f"kind-{number:02d}"
        shutil.copytree(honest.root, root)
        copies[kind] = type(honest)(root)
        forge(Forger(copies[kind]))
    return copies


def read_by_two(tiny):
    return [(tiny.root / name).read_text() for name in (RECORD, "book/claims.yml")]


def content(tiny, name):
    """What nbval runs and compares of a chapter, and what that reads."""
    notebook = nbformat.read(tiny.root / "book" / f"{name}.ipynb", as_version=4)
    cells = [(c.source, c.get("outputs"), c.metadata.get("tags")) for c in notebook.cells]
    data = read_by_two(tiny) if name == TWO else []
    return hashlib.sha256(repr((cells, data)).encode()).hexdigest()


@pytest.fixture(scope="module")
def failed_by_nbval(honest, forged):
    """The kinds of which nbval fails a notebook; one that is as it was is not run again."""
    files = {
        str(tiny.root / "book" / f"{name}.ipynb"): kind
        for kind, tiny in forged.items()
        for name in (ONE, TWO)
        if content(tiny, name) != content(honest, name)
    }
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", "--tb=no"]
    options = ["-p", "no:cacheprovider", "-o", "addopts=", "-rf", *files]
    environment = os.environ | {"PYTHONPATH": f"{honest.root / 'lib'}:{HERE.root / 'lib'}"}
    done = subprocess.run(
        [*command, *options],
        cwd=honest.root.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    failed = set(re.findall(r"(?m)^FAILED \S*?(kind-\d\d)/", done.stdout))
    assert failed, done.stdout
    return {kind for kind, tiny in forged.items() if tiny.root.name in failed}


def moves(tiny, honest):
    """Whether a new run differs from what is committed; the honest run stands for it if it can."""
    for chapter in tiny.book.chapters:
        if chapter.name == TWO and read_by_two(tiny) != read_by_two(honest):
            again = run(chapter, "ci")
        else:
            (before,) = (c for c in honest.book.chapters if c.name == chapter.name)
            files = {path.stem: path.read_text() for path in before.data.glob("*.csv")}
            again = Run(chapter.name, before.executed(), files)
        if list(moved(chapter, again)):
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_who_notices(kind, honest, forged, failed_by_nbval):
    tiny, noticed = forged[kind], set()
    noticed |= {C} if problems(tiny.book) else set()
    noticed |= {N} if kind in failed_by_nbval else set()
    noticed |= {R} if moves(tiny, honest) else set()
    assert noticed == KINDS[kind][0]


def test_there_are_enough_kinds():
    assert sum(bool(who) for who, _ in KINDS.values()) >= 20
