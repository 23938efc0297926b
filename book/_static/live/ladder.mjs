// Four modes and one step size: the singular values of the target as bars to drag, their sharpness
// against 2/η, and how descent leaves each of them split between two paths.
import { axes, mark, panels, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { balancedSharpness, descend, ending, flowLanding, sharpness } from "./modes.mjs";

const START = [0.02, 0.005];
const STEPS = 4000;
const SUB = ["₁", "₂", "₃", "₄"];
const [LEAST, MOST] = [0.1, 1.2]; // of the singular values

function fate(target, depth, eta) {
  const depths = [depth, depth];
  const history = descend(depths, target, eta, START, STEPS);
  const end = ending(history);
  const weak = (split) => Math.min(...split) / (split[0] + split[1]);
  const rests = Math.abs(history.at(-1)[0] + history.at(-1)[1] - target) < 0.01;
  const moved = weak(end) > weak(flowLanding(depths, target, START)) + 0.01;
  return { target, end, rests, moved, single: balancedSharpness(depth, 1, target), sharp: sharpness(depths, end) };
}

function sentence(eta, modes) {
  const list = (kept) => {
    const named = modes.flatMap((mode, i) => (kept(mode) ? [i + 1] : []));
    return named.length ? `mode${named.length > 1 ? "s" : ""} ${named.join(", ")}` : "";
  };
  const parts = [`η = ${eta.toFixed(4)}, 2/η = ${(2 / eta).toFixed(2)}`];
  const [beyond, shared, restless] = [list((m) => m.single > 2 / eta), list((m) => m.rests && m.moved), list((m) => !m.rests)];
  parts.push(beyond ? `a single path is too sharp for ${beyond}` : "a single path is flat enough for every mode");
  if (shared) parts.push(`spread over both paths: ${shared}`);
  if (restless) parts.push(`not at rest: ${restless}`);
  const kept = list((m) => m.rests && !m.moved);
  if (kept) parts.push(`as gradient flow would leave it: ${kept}`);
  return `${parts.join("; ")}.`;
}

function draw(svg, state, width) {
  const { depth, eta } = state;
  const modes = [1, 2, 3, 4].map((i) => fate(state.targets[i - 1], depth, eta));
  const { boxes: [box, side], height } = panels(width, [1, 1]);
  const places = ([left, , right]) => {
    const room = (right - left) / 4;
    return [(i) => left + (i + 0.5) * room, (i) => left + i * room + 8, room - 16];
  };
  const ticks = modes.map((_, i) => [i, `mode ${i + 1}`]);

  const ceiling = 1.25 * depth;
  const y = scale([0, ceiling], [box[3], box[1]]);
  const [x, left, wide] = places(box);
  axes(svg, { x, y, box, xTicks: ticks, yTicks: [0, depth / 2, depth].map((value) => [value, `${value}`]), xLabel: "", yLabel: "sharpness: of a single path (outline), at the end (filled)" });
  modes.forEach(({ single, sharp, rests }, i) => {
    const bar = (value, name) => mark(svg, "rect", { class: name, x: left(i), y: Math.max(box[1], y(value)), width: wide, height: box[3] - Math.max(box[1], y(value)) });
    if (rests) bar(sharp, "bar path1");
    bar(single, "open");
  });
  const level = Math.max(box[1], y(2 / eta));
  mark(svg, "path", { class: "limit", d: `M${box[0]} ${level}H${box[2]}` });
  mark(svg, "text", { x: box[2], y: level - 8, "text-anchor": "end" }, "2/η");

  const v = scale([0, 1.25], [side[3], side[1]]);
  const [u, from, across] = places(side);
  axes(svg, { x: u, y: v, box: side, xTicks: ticks, yTicks: [[0, "0"], [0.5, "½"], [1, "1"]], xLabel: "", yLabel: "signal, in path 1 (blue) and path 2 (orange)" });
  modes.forEach(({ end, target }, i) => {
    const [first, both] = [Math.max(0, end[0]), Math.min(1.25, Math.max(0, end[0]) + Math.max(0, end[1]))];
    mark(svg, "rect", { class: "bar path1", x: from(i), y: v(first), width: across, height: side[3] - v(first) });
    mark(svg, "rect", { class: "bar path2", x: from(i), y: v(both), width: across, height: Math.max(0, v(first) - v(both)) });
    mark(svg, "path", { class: "limit", d: `M${from(i) - 4} ${v(target)}h${across + 8}` });
  });

  const spectrum = modes.map(({ target }, i) => ({
    at: [u(i), v(target)], along: [0, -1], label: `singular value of mode ${i + 1}`, value: target.toFixed(2), text: `σ⋆${SUB[i]} = ${target.toFixed(2)}`,
    move: ([, py]) => { state.targets[i] = Math.min(MOST, Math.max(LEAST, v.invert(py))); },
  }));
  return {
    height,
    said: sentence(eta, modes),
    points: [
      {
        at: [box[0] + 14, level], along: [0, -1], label: "2/η", value: (2 / eta).toFixed(2), text: `2/η = ${(2 / eta).toFixed(2)}`,
        move: ([, py]) => { state.eta = Math.min(0.25, Math.max(0.04, 2 / Math.max(0.1, y.invert(py)))); },
      },
      ...spectrum,
    ],
  };
}

figure("ladder", {
  label: "Sharpness of four modes against two over the step size, and how each is split between two paths",
  note: "Drag 2/η, or the top of a bar of the signal, a singular value of the target. Two paths from 0.02 and 0.005 in every mode, 4,000 steps. Where 2/η cuts an outline, one path cannot keep that mode.",
  state: { targets: [1, 0.9, 0.8, 0.5], eta: 0.14, depth: 20 },
  controls: [
    { key: "eta", label: "step size η", min: 0.04, max: 0.25, text: ({ eta }) => eta.toFixed(4), sweep: { label: "Sweep", seconds: 10 } },
    { key: "depth", label: "layers L", min: 10, max: 30, step: 1, text: ({ depth }) => `${depth}` },
  ],
  draw,
});
