"""The mathematics of the live figures, run by Node, against the library."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from _tools.chapters import HERE
from flatmin.pathways import flow_landing, simulate_modes, theory

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node found: install nodejs to run modules")
LIVE = HERE.pages / "_static" / "live"
# Infinity and NaN are not JSON: they come as text, which Python's float reads.
CALL = """
import * as all from "./MODULE";
const text = (key, value) => typeof value === "number" && !Number.isFinite(value) ? `${value}` : value;
const back = (key, value) => value === "Infinity" ? Infinity : value;
const read = [];
for await (const piece of process.stdin) read.push(piece);
const calls = JSON.parse(Buffer.concat(read), back);
console.log(JSON.stringify(calls.map(([name, args]) => all[name](...args)), text));
"""


def node(module, calls):
    """The results of a list of calls (name, arguments), in one process."""
    code = CALL.replace("MODULE", module)
    command = [NODE, "--input-type=module", "--eval", code]
    sent = json.dumps(calls)
    done = subprocess.run(command, cwd=LIVE, input=sent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compare(module, cases, tolerance=1e-10):
    """Compare calls with what the library gives: cases are (name, arguments, expected)."""
    answers = node(module, [(name, args) for name, args, _ in cases])
    assert len(answers) == len(cases) > 0
    for answer, (name, args, expected) in zip(answers, cases, strict=True):
        expected = np.asarray(expected, dtype=float)
        here = np.asarray(answer, dtype=float)
        assert here.shape == expected.shape, (name, args)
        assert np.abs(here - expected).max() < tolerance, (name, args)


def settings(count, seed):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        depths = draw.integers(2, 12, size=draw.integers(1, 5)).tolist()
        target = float(draw.uniform(0.5, 2))
        init = (draw.uniform(0.02, 0.3, size=len(depths)) * target / len(depths)).tolist()
        yield depths, target, init, draw


def test_descent_is_the_library_s():
    cases = []
    for depths, target, init, draw in settings(25, seed=3):
        step = float(draw.uniform(0.1, 0.9) / theory.single_path_sharpness(max(depths), target))
        there = simulate_modes(depths, target, step, init, 300).strengths
        cases.append(("descend", [depths, target, step, init, 300], there))
        cases.append(("ending", [there.tolist()], (there[-1] + there[-2]) / 2))
    compare("modes.mjs", cases)


def test_the_edge_of_stability_too():
    low, high = theory.stability_window(4, 2, 1.0)
    compare(
        "modes.mjs",
        [
            (
                "descend",
                [[4, 4], 1.0, step, [0.06, 0.05], 100],
                simulate_modes([4, 4], 1.0, step, [0.06, 0.05], 100).strengths,
            )
            for step in np.linspace(float(low), float(high), 5)
        ],
    )


def test_the_flow_lands_where_the_library_s_does():
    cases = [
        ("flowLanding", [depths, target, init], flow_landing(depths, target, init))
        for depths, target, init, _ in settings(25, seed=4)
    ]
    compare("modes.mjs", cases)


def test_the_way_of_the_flow_is_that_to_smaller_targets():
    given = [(d, t, i) for d, t, i, _ in settings(10, seed=6)]
    curves = node("modes.mjs", [("flowCurve", [*setting, 9]) for setting in given])
    for curve, (depths, target, init) in zip(curves, given, strict=True):
        assert np.abs(np.array(curve[0]) - init).max() < 1e-12
        assert sum(curve[-1]) == pytest.approx(target, abs=1e-10)
        for point in curve[1:]:
            there = flow_landing(depths, sum(point), init)
            assert np.abs(np.array(point) - there).max() < 1e-10


def test_sharpness_is_the_theory_s():
    cases = []
    for depths, target, init, _ in settings(25, seed=5):
        cases.append(("sharpness", [depths, init], theory.mode_sharpness(depths, init)))
        balanced = theory.balanced_sharpness(depths[0], len(depths), target)
        cases.append(("balancedSharpness", [depths[0], len(depths), target], balanced))
    compare("modes.mjs", cases)
