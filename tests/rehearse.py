"""Run the workflows' own commands in a clean clone with another remote, as a fork's runner would.

``python tests/rehearse.py test.launch`` runs one job, ``python tests/rehearse.py`` lists them.
Pushes go to a bare copy; ``gh`` is a stand-in that prints what it is asked for. Steps that use an
action are named and left out: those need GitHub.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def jobs():
    """Every job of every workflow, as ``workflow.job``."""
    return {
        f"{path.stem}.{name}": (yaml.safe_load(path.read_text("utf-8")).get("env", {}), job)
        for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
        for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items()
    }


def rehearse(name, folder):
    """Run a job's commands in a clone in ``folder``; return how many failed."""
    bare, clone, stubs = (folder / part for part in ("fork.git", "clone", "bin"))
    folder.mkdir(parents=True)
    for source, target, *options in ((ROOT, bare, "--bare"), (bare, clone)):
        subprocess.run(["git", "clone", "-q", *options, str(source), str(target)], check=True)
    stubs.mkdir()
    (stubs / "gh").write_text('#!/bin/sh\necho "gh $*"\n')
    (stubs / "gh").chmod(0o755)
    general, job = jobs()[name]
    environment = {
        **os.environ,
        **general,
        "CI": "true",
        "GITHUB_REPOSITORY": "fork/book",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REF_NAME": "main",
        "PATH": f"{stubs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    failed = 0
    for step in job["steps"]:
        if "run" not in step:
            print(f"-- left out: {step['uses']}")
            continue
        print(f"-- {step['run'].splitlines()[0]}", flush=True)
        if "${{ matrix" in step["run"]:
            print("   left out: it installs other versions")
            continue
        done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=clone, env=environment)
        failed += done.returncode != 0
    print(f"{name}: {failed} commands failed")
    return failed


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("\n".join(jobs()))
    with tempfile.TemporaryDirectory() as home:
        sys.exit(bool(sum(rehearse(name, Path(home, name)) for name in sys.argv[1:])))
