// Local inconsistency of a network with two weights: the circle ‖δ‖ = ρ, what Algorithm 1 finds on
// it step by step, SAM's δ beside it, and the ball in the divergence that touches the circle.
import { axes, mark, panels, path, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { landscape, onGrid } from "./landscape.mjs";
import { DATA, ascent, climb, divergence, fisher, top, worst } from "./toy.mjs";

const NOISE = 0.1; // ‖δ₀‖
const FULL = 2 * Math.PI;
const TURN = Array.from({ length: 181 }, (_, i) => (FULL * i) / 180);
const add = (p, q) => [p[0] + q[0], p[1] + q[1]];
const polar = (radius, angle) => [radius * Math.cos(angle), radius * Math.sin(angle)];
const angleOf = ([a, b]) => (Math.atan2(b, a) + FULL) % FULL;
const half = (F, [a, b]) => (F[0][0] * a * a + 2 * F[0][1] * a * b + F[1][1] * b * b) / 2;

function draw(svg, state, width) {
  const { theta, rho, steps, angle } = state;
  const noise = polar(NOISE, (angle * Math.PI) / 180);
  const value = (delta) => divergence(theta, add(theta, delta), DATA.x);
  const deltas = climb(theta, DATA.x, noise, rho, steps);
  const [last, sam] = [deltas.at(-1), ascent(theta, DATA, rho)];
  const [found, most, quadratic] = [value(last), worst(theta, DATA.x, rho, 360), fisher(theta, DATA.x)];
  const { boxes: [box, side], height } = panels(width, [1, 1], 330);

  const { inside, levels, at, back } = landscape(svg, box);
  levels(onGrid((other) => divergence(theta, other, DATA.x)), found, "line path3");
  mark(inside, "path", { class: "rule", d: `${path(TURN.map((turn) => at(add(theta, polar(rho, turn)))))}Z` });
  const arrow = (delta, name) => {
    mark(inside, "path", { class: name, d: path([theta, add(theta, delta)].map(at)) });
    const [cx, cy] = at(add(theta, delta));
    mark(inside, "circle", { class: `${name} spot`, cx, cy, r: 5 });
  };
  arrow(polar(NOISE * 3, (angle * Math.PI) / 180), "flow");
  arrow(sam, "line sam");
  deltas.forEach((delta, i) => arrow(delta, i + 1 === steps ? "line iamd" : "thin iamd"));

  const ceiling = 1.15 * Math.max(most.value, (rho * rho * top(quadratic)) / 2);
  const u = scale([0, FULL], [side[0], side[2]]);
  const v = scale([0, ceiling], [side[3], side[1]]);
  axes(svg, {
    x: u, y: v, box: side,
    xTicks: [0, 0.5, 1, 1.5, 2].map((turns) => [turns * Math.PI, `${180 * turns}°`]),
    yTicks: [[0, "0"], [most.value, most.value.toPrecision(2)]],
    xLabel: "direction of δ on the circle", yLabel: "KL divergence from the predictions at θ",
  });
  mark(svg, "path", { class: "flow", d: path(TURN.map((turn) => [u(turn), v(half(quadratic, polar(rho, turn)))])) });
  mark(svg, "path", { class: "line path3", d: path(TURN.map((turn) => [u(turn), v(value(polar(rho, turn)))])) });
  const spot = (delta, name, letters) => {
    const [cx, cy] = [u(angleOf(delta)), v(value(delta))];
    mark(svg, "circle", { class: `spot ${name}`, r: 6, cx, cy });
    const end = cx > side[2] - 40;
    mark(svg, "text", { x: cx + (end ? -10 : 10), y: cy + (name === "sam" ? 16 : -6), "text-anchor": end ? "end" : "start" }, letters);
  };
  if (Math.hypot(...sam) > 0) spot(sam, "sam", "SAM");
  deltas.slice(-2).forEach((delta, i, { length }) => spot(delta, "iamd", `δ${"₁₂₃₄₅₆"[steps - length + i]}`));

  const percent = (part) => `${Math.round((100 * part) / most.value)} %`;
  const outward = theta[0] < 2 ? 1 : -1; // with more room
  const grip = add(theta, [outward * rho, 0]);
  const name = (place, letter) => mark(inside, "text", { x: at(place)[0] + 12, y: at(place)[1] - 10 }, letter);
  name(theta, "θ");
  name(grip, "ρ");
  return {
    height,
    said: `δ of Algorithm 1 after K = ${steps} ${steps > 1 ? "steps" : "step"} moves the predictions by ${found.toPrecision(3)}, ${percent(found)} of the most at this radius, SAM's δ ${percent(value(sam))}. ½ρ²λ_max(F) is ${percent((rho * rho * top(quadratic)) / 2)} of it.`,
    points: [
      {
        at: at(theta), label: "weights θ", value: theta[0].toFixed(2),
        text: `a = ${theta[0].toFixed(2)}, b = ${theta[1].toFixed(2)}`,
        move: (pixels) => { state.theta = back(pixels); },
      },
      {
        at: at(grip), along: [outward, 0], label: "radius ρ", value: rho.toFixed(2), text: `ρ = ${rho.toFixed(2)}`,
        move: (pixels) => { state.rho = Math.min(1.5, Math.max(0.15, Math.abs(back(pixels)[0] - theta[0]))); },
      },
    ],
  };
}

figure("ball", {
  label: "Plane of two weights with the circle of radius rho around theta and the perturbations of Algorithm 1 and of SAM, and the divergence along the circle",
  note: "Drag θ, or the circle. Grey: levels of the loss of a network with two weights. Green: the divergence, left its ball through δ, right along the circle; dashed: ½δᵀFδ, and the noise (three times as long). Blue: Algorithm 1, the last step bold. Orange: SAM, which climbs the loss.",
  state: { theta: [0.9, 2.4], rho: 0.7, steps: 1, angle: 200 },
  controls: [
    { key: "steps", label: "steps K", min: 1, max: 6, step: 1, text: ({ steps }) => `${steps}` },
    { key: "angle", label: "direction of the noise δ₀", min: 0, max: 360, text: ({ angle }) => `${Math.round(angle)}°` },
  ],
  draw,
});
