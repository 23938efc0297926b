"""A few kills of the fastest commands; by hand: ``python tests/soak/kills.py --kills 100``."""

import subprocess
import sys
from pathlib import Path

import pytest
from soak.kills import Command, reference


@pytest.mark.parametrize("command", ["render", "run"])
def test_killed_filled_up_and_doubled_it_ends_with_the_same_bytes(command):
    script = [sys.executable, Path(__file__).with_name("kills.py"), command, "--kills", "1"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_regenerate_is_compared_by_its_report_too(tmp_path):
    files, _seconds = reference(Command("regenerate", tmp_path))
    assert "_build/regenerate/report.html" in files
    assert "_build/regenerate/book/part/01-one.ipynb" in files
