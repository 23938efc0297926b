"""The pinned versions with their hashes: whole, and the same as those without."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    """Version and hashes by package."""
    text = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines()]
    return {
        plain(line[0].partition("==")[0]): (line[0].partition("==")[2], line[1:]) for line in lines
    }


def pinned():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    return {plain(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", text)}


def test_every_locked_package_has_one_version_and_hashes_of_its_files():
    for name, (version, rest) in locked().items():
        hashes = [word for word in rest if word.startswith("--hash=")]
        assert re.fullmatch(r"[\w.]+", version), name
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes), name


def test_locked_and_pinned_versions_are_the_same():
    lock, constraints = locked(), pinned()
    assert {n: v for n, (v, _) in lock.items() if n in constraints and constraints[n] != v} == {}
    assert {"torch", "numpy", "scipy", "jupyter-book", "pytest", "nbval"} <= lock.keys()
    assert len(lock.keys() & constraints.keys()) > 200
