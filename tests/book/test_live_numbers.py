"""The mathematics of the live figures, run by Node, against the library."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from _tools.chapters import HERE
from _tools.toy import METHODS, Toy, column
from flatlab.models import mlp
from flatmin.divergences import divergence_named
from flatmin.fisher import FisherOperator
from flatmin.inconsistency import local_inconsistency, outputs_at
from flatmin.pathways import flow_landing, simulate_modes, theory

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node found: install nodejs to run modules")
LIVE = HERE.pages / "_static" / "live"
KL = divergence_named("categorical")
# Infinity and NaN are not JSON: they go as text. So do functions, by their name.
CALL = """
import * as all from "./MODULE";
const odd = (value) => typeof value === "number" && !Number.isFinite(value);
const text = (key, value) => (odd(value) ? `${value}` : value);
const back = (key, value) => value === "Infinity" ? Infinity : all[value] ?? value;
const read = [];
for await (const piece of process.stdin) read.push(piece);
const calls = JSON.parse(Buffer.concat(read), back);
console.log(JSON.stringify(calls.map(([call, args]) => call(...args)), text));
"""

PRINT = 'import { DATA } from "./toy.mjs"; console.log(JSON.stringify(DATA));'


def node(module, calls):
    """The results of a list of calls (name, arguments), in one process."""
    code = CALL.replace("MODULE", module)
    command = [NODE, "--input-type=module", "--eval", code]
    sent = json.dumps(calls).replace("Infinity", '"Infinity"')
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


def test_spectra_and_flattest_splits_are_the_theory_s():
    cases = []
    for depths, target, _, draw in settings(25, seed=9):
        cases.append(("flattestSplit", [depths, target], theory.flattest_split(depths, target)))
        strengths = draw.uniform(0, 1, (3, len(depths)))
        spectrum = theory.cross_mode_sharpness(depths, strengths)
        cases.append(("crossModeSharpness", [depths, strengths.tolist()], spectrum))
    compare("modes.mjs", cases)


def toys(count, seed):
    """Weights, a second pair, data, and the radius of random settings of the toy."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        theta, other = draw.uniform(-3, 3, (2, 2))
        x, yes = draw.normal(size=7), draw.uniform(size=7)
        yield theta.tolist(), other.tolist(), x, yes, float(draw.uniform(0.05, 0.8)), draw


def test_the_toy_is_a_network_of_torch_s():
    cases = []
    for theta, other, x, yes, _, _ in toys(20, seed=1):
        here, data = Toy(*theta), {"x": x.tolist(), "y": yes.tolist()}
        loss = here.loss(column(*x), column(*yes))
        cases.append(("loss", [theta, data], loss.item()))
        cases.append(("lossGradient", [theta, data], torch.autograd.grad(loss, here.theta)[0]))
        moved = Toy(*other)
        kl = KL.total(here(column(*x)), moved(column(*x))) / len(x)
        first, second = torch.autograd.grad(kl, (here.theta, moved.theta))
        cases.append(("divergence", [theta, other, x.tolist()], kl.item()))
        cases.append(("from", [theta, other, x.tolist()], first))
        cases.append(("towards", [theta, other, x.tolist()], second))
        fisher = FisherOperator(here, column(*x))
        F = torch.stack([fisher @ column for column in torch.eye(2, dtype=torch.float64)])
        cases.append(("fisher", [theta, x.tolist()], F))
        cases.append(("top", [F.tolist()], torch.linalg.eigvalsh(F)[-1].item()))
    compare("toy.mjs", cases)


def test_algorithm_1_and_sam_s_direction_are_the_library_s():
    cases = []
    for theta, _, x, yes, rho, draw in toys(20, seed=2):
        here, seed, steps = Toy(*theta), int(draw.integers(1000)), int(draw.integers(1, 6))
        options = {"rho": rho, "sigma": 0.3, "generator": torch.Generator().manual_seed(seed)}
        found = local_inconsistency(here, column(*x), steps=steps, **options)
        noise = drawn(seed, 0.3, 1)[0]
        deltas = node("toy.mjs", [("climb", [theta, x.tolist(), noise, rho, steps])])[0]
        assert np.abs(np.array(deltas[-1]) - found.delta.numpy()).max() < 1e-10
        cases += [
            ("divergence", [theta, np.add(theta, delta).tolist(), x.tolist()], value.item())
            for delta, value in zip(deltas, found.history[0], strict=True)
        ]
        slope = torch.autograd.grad(here.loss(column(*x), column(*yes)), here.theta)[0]
        data = {"x": x.tolist(), "y": yes.tolist()}
        cases.append(("ascent", [theta, data, rho], rho * slope / slope.norm()))
    compare("toy.mjs", cases)


def drawn(seed, sigma, count):
    """The noises that an optimizer of two parameters draws."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return [(torch.randn(2, **options) * (sigma / 2**0.5)).tolist() for _ in range(count)]


def test_the_worst_direction_is_the_best_of_all():
    for theta, _, x, _, rho, _ in toys(5, seed=3):
        found = node("toy.mjs", [("worst", [theta, x.tolist(), rho, 720])])[0]
        assert np.hypot(*found["delta"]) == pytest.approx(rho)
        S = local_inconsistency(Toy(*theta), column(*x), rho=rho, steps=50, restarts=8).value
        assert found["value"] == pytest.approx(S, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_walk_is_the_optimizer_s(method):
    cases, steps = [], 12
    for theta, _, x, yes, rho, draw in toys(6, seed=4):
        setting = {
            "eta": float(draw.uniform(0.05, 0.5)),
            "rho": rho,
            "beta": float(draw.uniform(0, 5)),
        }
        parts = [slice(None, 4), slice(4, None)]
        batches = [(column(*x[part]), column(*yes[part])) for part in parts]
        path = Toy(*theta).walk(method, batches, steps, sigma=0.1, seed=7, **setting)
        shipped = [{"x": a.tolist(), "y": b.tolist()} for a, b in batches]
        noises = drawn(7, 0.1, steps)
        cases.append(("walk", [method, theta, shipped, noises, setting, steps], path))
    compare("toy.mjs", cases)


def test_the_picture_shows_the_data_of_the_figure():
    data = json.loads(
        subprocess.run(
            [NODE, "--input-type=module", "--eval", PRINT],
            cwd=LIVE,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )
    assert data == {"x": Toy.x.tolist(), "y": Toy.yes.tolist()}


def test_the_map_of_a_layer_is_a_step_of_descent():
    cases, draw = [], np.random.default_rng(8)
    for depth in (2, 3, 5, 20, 50):
        start, ratio = float(draw.uniform(0.2, 0.9)), float(draw.uniform(0.5, 1.9))
        strengths = simulate_modes([depth], 1.0, ratio / depth, [start**depth], 40).strengths[:, 0]
        cases.append(("orbit", ["layer", start, depth, ratio, 40], strengths ** (1 / depth)))
        cases.append(("orbit", ["signal", start**depth, depth, ratio, 40], strengths))
    compare("map.mjs", cases)


def test_the_map_of_infinite_depth_is_the_limit():
    y, ratio = 0.4, 2.5
    cases = [("signal", [y, float("inf"), ratio], y * np.exp(ratio * y * (1 - y)))]
    compare("map.mjs", cases)
    compare("map.mjs", [("signal", [y, 10**9, ratio], cases[0][2])], tolerance=1e-6)


def test_the_worst_case_return_is_the_theory_s():
    depths = [2, 3, 4, 5, 7, 10, 20, 50, 100, 1000]
    compare("map.mjs", [("wcrRatio", [d], theory.wcr_ratio(d)) for d in depths])


def test_periods():
    cycle = [0.5, 1.2, 0.8]
    cases = [("period", [(states * 40)[:80]], p) for p, states in ((1, [1.0]), (3, cycle))]
    compare("map.mjs", [*cases, ("period", [list(np.random.default_rng(0).random(80))], 0)])


def test_the_perceptron_is_torch_s():
    cases, widths = [], [2, 5, 4, 3]
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        model = mlp(widths, torch.nn.Tanh, generator=generator).double()
        theta = parameters_to_vector(model.parameters()).detach()
        x = torch.randn(9, 2, generator=generator).double()
        noise = 0.3 * torch.randn(len(theta), generator=generator).double()
        given = [widths, theta.tolist()]
        cases.append(("logits", [*given, x[0].tolist()], model(x[:1]).detach()[0]))
        delta = noise.clone().requires_grad_()
        kl = KL.total(model(x), outputs_at(model, x, delta)) / len(x)
        (slope,) = torch.autograd.grad(kl, delta)
        other = (theta + noise).tolist()
        cases.append(("divergence", [*given, other, x.tolist()], kl.item()))
        cases.append(("towards", [*given, other, x.tolist()], slope))
        step = 0.5 * slope / slope.norm()
        cases.append(("firstStep", [*given, x.tolist(), noise.tolist(), 0.5], step))
    compare("mlp.mjs", cases)


def test_normal_numbers():
    draws = np.array(node("mlp.mjs", [("normals", [seed, 4000]) for seed in (1, 2)]))
    assert abs(draws.mean()) < 0.05
    assert draws.std() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(draws)[0, 1]) < 0.05


def test_iam_d_on_two_chains_goes_through_both_sides():
    cases, draw = [], np.random.default_rng(12)
    for depth in (3, 4, 6, 9):
        layers = column(*draw.uniform(0.3, 1.0, 2)).requires_grad_()
        eta, rho, beta, sign = 0.1, 0.2, 1.7, (-1) ** depth
        weights = layers.expand(depth, 2)  # every layer has a copy of its own
        (slope,) = torch.autograd.grad(weights.prod(0).sum(), weights)
        there = weights + sign * rho * (slope / slope.norm()).detach()
        f, g = weights.prod(0).sum(), there.prod(0).sum()
        objective = (f - 1) ** 2 / 2 + beta * (g - f) ** 2 / 2
        (pull,) = torch.autograd.grad(objective, weights)
        moved = layers.detach() - eta * pull[0]
        setting = {"eta": eta, "rho": rho, "beta": beta}
        cases.append(("move", [layers.tolist(), depth, setting, sign], moved))
    compare("chained.mjs", cases)


def test_without_a_radius_the_chains_take_plain_steps():
    start, setting = [0.05, 0.02], {"eta": 0.12, "rho": 0, "beta": 1}
    run = simulate_modes([6, 6], 1.0, 0.12, start, 200).strengths[1:].numpy()
    means = run.reshape(10, 20, 2).mean(1)
    compare("chained.mjs", [("train", [start, 6, setting, 200, 20], means)])
