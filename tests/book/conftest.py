import functools
import http.server
import os
import shutil
import subprocess
import textwrap
import threading
from concurrent.futures import Executor, Future
from unittest.mock import patch

import pytest
from playwright.sync_api import sync_playwright

from _tools.chapters import HERE, Book, first_cell
from _tools.execute import execute

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
QUIET += ["--disable-component-update", "--no-first-run"]

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Title

What does this chapter ask?

```{code-cell} ipython3
:tags: [remove-cell]

BOOTSTRAP
```
"""

PLOT = """
```{code-cell} ipython3
---
mystnb:
  figure: {name: fig-line, caption: A line.}
  image: {alt: A rising line.}
---
import matplotlib.pyplot as plt
from flatbook import claim, figure_data
from tiny.rule import SLOPE

plt.plot([0, 1], [0, SLOPE])
figure_data("fig-line", x=[0, 1], y=[0, SLOPE])
plt.show()
```

```{code-cell} ipython3
claim("B.2-sharpness").check(0.0)
```
"""


class Tiny:
    """A book of its own in a temporary folder, with a library of one number."""

    plot = PLOT

    def __init__(self, root):
        self.root = root

    @property
    def book(self):
        return Book(self.root)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), "utf-8")
        return file

    def chapter(self, name, *cells, header=HEADER):
        body = "".join(
            cell if cell.startswith("\n```") else f"\n```{{code-cell}} ipython3\n{cell}\n```\n"
            for cell in cells
        )
        self.write(f"book/{name}.md", header.replace("BOOTSTRAP", first_cell()) + body)
        return next(chapter for chapter in self.book.chapters if chapter.name == name)

    def execute(self, *names, tier="ci", everything=False, jobs=2):
        return execute(self.book, list(names), tier=tier, everything=everything, jobs=jobs)

    def remote(self, address):
        """Let it be a clone of ``address``."""
        subprocess.run(["git", "config", "remote.origin.url", address], cwd=self.root, check=True)

    def git(self, *command):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(
            ["git", *who, *command], cwd=self.root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def track(self):
        self.git("add", "-A")

    def commit(self):
        self.track()
        self.git("commit", "-qm", "x")


def begun(root, monkeypatch):
    """A book without a chapter."""
    tiny = Tiny(root)
    monkeypatch.setenv("PYTHONPATH", str(root / "lib"))  # for the kernels
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    tiny.write("_toc.yml", "root: part/01-one.ipynb\n")
    tiny.write("README.md", "# Tiny\n")
    tiny.write("lib/tiny/__init__.py", "")
    tiny.write("lib/tiny/rule.py", "SLOPE = 2\n")
    tiny.write("lib/tiny/other.py", "")
    claim = HERE.claims["B.2-sharpness"] | {"chapter": "part/01-one"}
    tiny.write("book/claims.yml", f"B.2-sharpness: {claim}\n")
    tiny.git("init", "-q")
    tiny.remote("https://github.com/a/b.git")
    return tiny


class AtOnce(Executor):
    """Does here and now what is to be done."""

    def __init__(self, *_, **__):
        pass

    def submit(self, function, /, *args, **kwargs):
        done = Future()
        with patch.dict(os.environ):  # a run says in it where its numbers go
            done.set_result(function(*args, **kwargs))
        return done


@pytest.fixture
def at_once(monkeypatch):
    """Chapters run without worker processes, whose start takes longer than a small chapter."""
    monkeypatch.setattr("_tools.execute.ProcessPoolExecutor", AtOnce)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    return begun(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def make_tiny(tmp_path_factory):
    """Begin a book that the tests of a module share."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield lambda: begun(tmp_path_factory.mktemp("book"), monkeypatch)


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium found: install chromium to test pages in a browser")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield chromium
        chromium.close()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def serve():
    """Serve a folder on this machine, and return its address."""
    servers = []

    def served(folder):
        handler = functools.partial(Silent, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield served
    for server in servers:
        server.shutdown()
