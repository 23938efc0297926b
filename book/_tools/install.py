"""Install with pip, saying what comes and how large it is; never silent for long.

It runs before anything is installed, and so imports nothing but Python's own library.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import deque
from urllib.request import urlopen

_COMES = re.compile(r"(?:Downloading|Using cached) (?P<file>\S+) \((?P<size>[\d.]+ [kMG]?B)\)")
QUIET_SECONDS = 20
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def without_cuda() -> list[str]:
    """Return what has pip find PyTorch for processors, a tenth as large as the one for GPUs.

    Only Linux gets CUDA by default; and only where there is no GPU, and the place can be reached.
    """
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return []
    try:
        with urlopen(f"{CPU_WHEELS}/torch/", timeout=5):
            return ["--extra-index-url", CPU_WHEELS]
    except OSError:
        return []


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
    """Run ``pip install`` and return its exit status; if it fails, show the end of what it said."""
    place = without_cuda()
    size = "about 2 GB on disk" if place else "up to 6 GB on disk"
    print(
        f"Installing PyTorch and what the book needs: {size}, minutes the first time.", flush=True
    )
    environment = os.environ | {"PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    process = subprocess.Popen(
        [*command, "--progress-bar", "off", *place, *arguments],
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
    end = deque[str](maxlen=30)
    for line in process.stdout:
        end.append(line)
        if words := said(line):
            print(words, flush=True)
    done.set()
    status = process.wait()
    if status:
        print("".join(end), end="", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(install(sys.argv[1:]))
