"""Run the workflows' own commands in a clean clone, as the runner of a fork would.

``python tests/rehearse.py test.launch`` runs one job, ``python tests/rehearse.py`` lists them, and
``--whole`` leaves out neither the PDF nor what ``.ci/run`` has run already. Nothing in the clone is
edited but what a step edits; its remote is a bare copy, which takes the pushes, and GitHub's words
name the repository ``fork/book``. ``gh`` is a stand-in that prints what it is asked for, and lists
nothing. The clone borrows this environment, so steps that install are named and left out, like
those that use an action; of an action that uploads, the files must be there. Where ``.ci/run`` is
left out, the site that it rendered here is lent too.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FORK = os.environ.get("GITHUB_REPOSITORY", "fork/book")
SAID = {"github.event.before": "HEAD~1", "github.server_url": "https://github.com"}
SAID |= {"github.repository": FORK, "github.run_id": "1", "github.token": "none"}
SAID |= {"matrix.versions": "pinned"}
INSTALLS = re.compile(
    r"pip install .*(-e |pip-audit)|-m venv|apt-get install|constraints\.txt$|\$\{\{ matrix"
)
COVERED = re.compile(r"\.ci/run$|pytest -q tests/flatmin|make pdf")


def jobs():
    """Every job of every workflow, as ``workflow.job``, with its environment."""
    found = {}
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text("utf-8"))
        for name, job in workflow["jobs"].items():
            found[f"{path.stem}.{name}"] = {**workflow.get("env", {}), **job.get("env", {})}, job
    return found


def clone(folder):
    """Clone this repository by way of a bare one, and lend the clone this environment."""
    bare, checkout, stubs = (folder / part for part in ("fork.git", "clone", "bin"))
    folder.mkdir(parents=True, exist_ok=True)
    for source, target, *options in ((ROOT, bare, "--bare"), (bare, checkout)):
        subprocess.run(["git", "clone", "-q", *options, str(source), str(target)], check=True)
    stubs.mkdir()
    (stubs / "gh").write_text('#!/bin/sh\ntest "$2" = list || echo "gh $*"\n')
    (stubs / "gh").chmod(0o755)
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / ".git" / "info" / "exclude").write_text(".venv\n")
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(checkout / name, (0, 0))  # so that make finds the environment ready
    return checkout, stubs


def lend_site(checkout):
    """Copy the site that is rendered here, and what tells that it is whole."""
    built, site = checkout / "_build", ROOT / "_build" / "html"
    whole = site.with_name("html.made-of")
    if whole.exists():
        shutil.copytree(site, built / "html")
        shutil.copy(whole, built)


def environment(checkout, stubs, words):
    """What a step sees: GitHub's words, the stand-ins, and the clone's own library."""
    pattern = re.compile(r"\$\{\{ *([\w.]+) *\}\}")
    said = {key: pattern.sub(lambda m: SAID[m[1]], str(value)) for key, value in words.items()}
    path = [str(stubs), str(Path(sys.prefix, "bin")), os.environ["PATH"]]
    own = {"PATH": os.pathsep.join(path), "PYTHONPATH": str(checkout / "lib")}
    github = {"GITHUB_REPOSITORY": FORK, "GITHUB_SERVER_URL": "https://github.com"}
    return {**os.environ, **own, **github, "GITHUB_REF_NAME": "v0", "CI": "true", **said}


def rehearse(name, folder, *, whole=False):
    """Run a job's commands in a clone in ``folder``, or in the one there; say what failed."""
    general, job = jobs()[name]
    checkout, stubs = folder / "clone", folder / "bin"
    if not checkout.exists():
        clone(folder)
    failed = []
    for step in job["steps"]:
        command = step.get("run", "").strip()
        if not command:
            path = step.get("with", {}).get("path", "")
            sends = "/upload-" in step["uses"] and "${{" not in path
            missing = sends and not any(checkout.glob(path))
            said = f"nothing at {path}" if missing else "left out, needs GitHub"
            print(f"-- {step['uses']}: {said}")
            failed += [said] * (missing and step["with"].get("if-no-files-found") != "ignore")
            continue
        print(f"-- {command.splitlines()[0]}", flush=True)
        if INSTALLS.search(command) or (COVERED.search(command) and not whole):
            print("   left out")
            if command == ".ci/run":
                lend_site(checkout)
            continue
        words = {**general, **step.get("env", {})}
        seen = environment(checkout, stubs, words)
        done = subprocess.run(["bash", "-e", "-c", command], cwd=checkout, env=seen, check=False)
        failed += [command] * bool(done.returncode)
    print(f"{name}: {len(failed)} steps failed", flush=True)
    return failed


if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if word != "--whole"]
    if not asked:
        sys.exit("\n".join(jobs()))
    with tempfile.TemporaryDirectory() as home:
        failed = [rehearse(name, Path(home, name), whole="--whole" in sys.argv) for name in asked]
    sys.exit(any(failed))
