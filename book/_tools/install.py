"""Install with pip, saying what comes and how large it is; never silent for long.

It runs before anything is installed, and so imports nothing but Python's own library.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

_COMES = re.compile(r"(?:Downloading|Using cached) (?P<file>\S+) \((?P<size>[\d.]+ [kMG]?B)\)")
QUIET_SECONDS = 20


def said(line: str) -> str | None:
    """Return what a reader wants to know of a line of pip's; None for most of them.

    Examples:
        >>> said("  Downloading numpy-2.4.6-cp311-cp311-manylinux_x86_64.whl (16.6 MB)")
        '  numpy-2.4.6 (16.6 MB)'
        >>> said("Requirement already satisfied: pip")
    """
    line = line.strip()
    if found := _COMES.match(line):
        return f"  {'-'.join(found['file'].split('-')[:2])} ({found['size']})"
    if line.startswith("Installing collected packages: "):
        return f"  unpacking {line.count(',') + 1} packages"
    return line if line.startswith("ERROR") else None


def install(arguments: list[str]) -> int:
    """Run ``pip install`` and return its exit status."""
    print("Installing PyTorch and what the book needs: up to 6 GB on disk, minutes the first time.")
    environment = os.environ | {"PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    process = subprocess.Popen(
        [*command, "--progress-bar", "off", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    done = threading.Event()

    def beat() -> None:
        while not done.wait(QUIET_SECONDS):
            print("  …", flush=True)

    threading.Thread(target=beat, daemon=True).start()
    assert process.stdout is not None, "it is a pipe"
    for line in process.stdout:
        if words := said(line):
            print(words, flush=True)
    done.set()
    return process.wait()


if __name__ == "__main__":
    sys.exit(install(sys.argv[1:]))
