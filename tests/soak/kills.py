"""Kill commands at random, fill or lock their disk, start two at once: nothing is half written.

``python tests/soak/kills.py --kills 100`` for a person; CI takes two or three of each. After every
kill each file holds its old or its new bytes, whole, and nothing runs on; the next run that is left
alone ends with the bytes of one that never was disturbed. Exit status 1 if anything else happens.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book"))

from _tools.chapters import first_cell  # noqa: E402

HEAD = """---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Title

```{code-cell} ipython3
:tags: [remove-cell]

BOOTSTRAP
```
"""
CELL = """
```{code-cell} ipython3
import os
from pathlib import Path

print("said", SAID)
for i in range(3):
    Path(os.environ["FLATBOOK_OUT"], f"fig-{i}.csv").write_text(f"x\\n{SAID}\\n" * 20_000)
```
"""
TOOL = """
import sys
from pathlib import Path
from _tools.chapters import Book
from _tools.execute import execute
from _tools.regenerate import regenerate
from _tools.render import render

if __name__ == "__main__":
    book, what = Book(Path(sys.argv[1])), sys.argv[2]
    if what == "execute":
        sys.exit(execute(book, [], tier="ci", everything=False, jobs=2))
    if what == "regenerate":
        sys.exit(bool(regenerate(book, [], jobs=2)))
    sys.exit(render(book, [sys.executable, str(book.root / "site.py")]))
"""
SITE = """
import time
from pathlib import Path

site = Path("_build/html")
site.mkdir(parents=True, exist_ok=True)
said = Path("book/part/01-one.md").read_text()
for i in range(40):
    (site / f"{i:02d}.html").write_text(said * 50)
    time.sleep(0.02)
(site / "index.html").write_text(said)
"""
RECIPE = """
tier = "smoke"
data = "cifar-10"
model = "cnn-bn"
epochs = 60
steps_per_epoch = 2
batch_size = 4

[[runs]]
method = "IAM-D"
rho = 0.1
seed = 0
"""
CHANGING = {"seconds", "images_per_second", "peak_megabytes", "provenance"}  # of a record


KEPT = {  # what is compared
    "execute": ["book/part/*.ipynb", "book/part/*/*.csv"],
    "regenerate": ["_build/regenerate/*.*", "_build/regenerate/book/part/**/*.*"],
    "render": ["_build/html/*", "_build/html.made-of"],
    "run": ["out/mine/*"],
}


class Command:
    """One of the book's commands in a folder of its own."""

    def __init__(self, what, folder):
        self.what, self.folder = what, folder
        for number, said in (("01-one", 1), ("02-two", 2)):
            self.write(f"book/part/{number}.md", self.chapter(said))
        self.write("book/claims.yml", "{}\n")
        self.write("_toc.yml", "root: part/01-one.ipynb\n")
        self.write("tool.py", TOOL)
        self.write("site.py", SITE)
        self.write("mine.toml", RECIPE)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)

    @staticmethod
    def chapter(said):
        return HEAD.replace("BOOTSTRAP", first_cell()) + CELL.replace("SAID", str(said))

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def start(self, **options):
        words = ["-m", "flatlab", "mine.toml", "--device", "cpu", "--out", "out"]
        if self.what != "run":
            words = ["tool.py", str(self.folder), self.what]
        paths = {"PYTHONPATH": f"{ROOT / 'book'}:{ROOT / 'lib'}", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env=os.environ | paths,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            **{"stderr": subprocess.DEVNULL} | options,
        )

    def files(self):
        """The hash of every file that counts; of a record without what differs each time."""
        found = {}
        for pattern in KEPT[self.what]:
            for path in sorted(filter(Path.is_file, self.folder.glob(pattern))):
                if path.name.endswith((".part", ".lock", ".pt")):
                    continue
                raw = path.read_bytes()
                if path.suffix in (".json", ".ipynb"):
                    raw = json.dumps(self.timeless(json.loads(raw))).encode()
                found[str(path.relative_to(self.folder))] = hashlib.sha256(raw).hexdigest()
        return found

    def timeless(self, content):
        content.get("metadata", {}).get("stamp", {}).pop("seconds", None)
        return {key: value for key, value in content.items() if key not in CHANGING}

    def leftovers(self):
        return [str(path) for path in self.folder.rglob("*.part")]

    def forget(self):
        """Take away what was made, as it was before the first run."""
        for name in ("_build", "out"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in [*self.folder.glob("book/part/*.ipynb"), *self.folder.glob("book/part/*-data")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def running(folder):
    """The processes that work in a folder, or for it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if str(folder) in words or process.cwd().startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def reference(command):
    started = time.monotonic()
    moved = command.what == "regenerate"  # what was never executed before
    assert command.start().wait() == moved, f"{command.what} fails when it is left alone"
    return command.files(), time.monotonic() - started


def mixed(now, allowed):
    """Files that are neither as one undisturbed run left them nor as another did."""
    return [name for name, content in now.items() if content not in {a.get(name) for a in allowed}]


def soak(what, folder, kills, draw):
    """Return what went wrong with one command, one sentence each."""
    command, wrong = Command(what, folder), []
    old = {}
    if what != "run":
        old, _ = reference(command)
        command.write("book/part/01-one.md", command.chapter(3))  # there is something to do
    new, seconds = reference(command)
    whole = what in ("execute", "run")  # the others build in a folder of their own, unfinished
    for _ in range(kills):
        command.forget()
        process = command.start()
        time.sleep(draw.uniform(0.0, 1.1 * seconds))
        alone = draw.random() < 0.5
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        if what != "render":  # its child ends by itself, and the next command waits for it
            _gone, alive = psutil.wait_procs(running(folder), timeout=60)
            wrong += [f"{p.pid} runs on" for p in alive]
        if whole:
            wrong += [f"{n} is half written" for n in mixed(command.files(), [old, new])]
    disturbances = {"a full disk": full, "a read-only disk": locked, "two at once": twice}
    for name, disturb in disturbances.items():
        command.forget()
        wrong += disturb(command) or []
        if whole:
            found = mixed(command.files(), [old, new])
            wrong += [f"{n} is half written after {name}" for n in found]
    assert command.start().wait() in (0, 1)
    if command.files() != new:
        wrong.append("the run after all of them ends with other bytes")
    if left := command.leftovers():
        wrong.append(f"left over: {left}")
    return wrong


def told(command, limit):
    """What is wrong with the answer to a disk that nothing can be written to: it is one line."""
    process = command.start(preexec_fn=limit, stderr=subprocess.PIPE, text=True)
    said = process.communicate()[1]
    if process.returncode != 1 or len(said.splitlines()) != 1:
        yield f"exit status {process.returncode}, and it says {said!r}"


def full(command):
    """No file can grow beyond a kilobyte, as if the disk were full."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    found = list(told(command, limit))
    return found if command.what != "render" else []  # it fills up what another program writes


def locked(command):
    """Nothing in the folder can be written; root, who may write everywhere, gives that up."""

    def limit():
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP of CAP_DAC_OVERRIDE; exec obeys

    modes = {path: path.stat().st_mode for path in [command.folder, *command.folder.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    wrong = list(told(command, limit))
    for path, mode in modes.items():
        path.chmod(mode)
    return wrong


def twice(command):
    for process in [command.start(), command.start()]:
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commands", nargs="*", default=[*KEPT], help="by default all")
    parser.add_argument("--kills", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    failed = 0
    for what in asked.commands:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            wrong = soak(what, Path(folder), asked.kills, random.Random(asked.seed))
            print(
                f"{what}: {asked.kills} kills, {len(wrong)} wrong, {time.monotonic() - began:.0f} s"
            )
            for sentence in wrong:
                print(f"  {sentence}")
            failed += bool(wrong)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
