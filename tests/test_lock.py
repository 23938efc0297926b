"""The pinned versions with their hashes: whole, the same as those without, and audited weekly."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rehearse import ROOT, jobs

STEPS = [step["run"] for step in jobs()["weekly.audit"][1]["steps"] if "run" in step]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
rehearsed = pytest.mark.skipif(
    shutil.which("pip-audit", path=PATH) is None,
    reason="no pip-audit found: pip install pip-audit in an environment of its own",
)


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
        assert re.fullmatch(r"[\w.]+", version), name
        assert rest, name
        # And nothing else: where a marker said no, the audit would leave the package out.
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in rest), name


def test_locked_and_pinned_versions_are_the_same():
    lock, constraints = locked(), pinned()
    assert {n: v for n, (v, _) in lock.items() if n in constraints and constraints[n] != v} == {}
    assert {"torch", "numpy", "scipy", "jupyter-book", "pytest", "nbval"} <= lock.keys()
    assert len(lock.keys() & constraints.keys()) > 200


def audit(advisories, status=200):
    """Run the weekly command against a stand-in for OSV; say what came of it, and what it asked."""
    asked = []

    class Osv(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert query["package"].pop("ecosystem") == "PyPI"
            pin = query["package"]["name"], query["version"]
            asked.append(pin)
            found = [{"id": advisories[pin], "affected": []}] if pin in advisories else []
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": found} if found else {}).encode())

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever).start()
        where = {"PIP_AUDIT_OSV_URL": f"http://127.0.0.1:{server.server_port}/v1/query"}
        where |= {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "NO_PROXY": "127.0.0.1", "PATH": PATH}
        run = ["bash", "-e", "-c", STEPS[-1]]
        done = subprocess.run(run, cwd=ROOT, env=os.environ | where, capture_output=True, text=True)
        server.shutdown()
    return done, asked


def test_the_audit_is_rehearsed_before_it_is_believed():
    assert STEPS[-2] == "pytest -q --confcutdir=tests tests/test_lock.py"
    assert "--strict" in STEPS[-1]  # what this rehearsal cannot see: OSV answers for every version


@rehearsed
def test_the_audit_asks_about_every_pin_once_and_passes():
    done, asked = audit({})
    assert done.returncode == 0, done.stderr
    assert sorted(asked) == sorted((name, version) for name, (version, _) in locked().items())


@rehearsed
def test_an_advisory_for_a_pin_fails_the_audit_with_its_name():
    pin = "pillow", locked()["pillow"][0]
    done, _ = audit({pin: "PYSEC-0000-1"})
    assert done.returncode == 1, done.stderr
    assert [*pin, "PYSEC-0000-1"] in [line.split() for line in done.stdout.splitlines()]


@rehearsed
def test_a_service_that_fails_does_not_pass_for_one_that_knows_nothing():
    done, asked = audit({}, status=500)
    assert asked
    assert done.returncode != 0
