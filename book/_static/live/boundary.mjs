// What one step of Algorithm 1 does to the decisions of a network, and what a random direction does.
import { axes, clipped, contour, dots, mark, panels, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { divergence, firstStep, logits, moved, normals } from "./mlp.mjs";
import { onto } from "./toy.mjs";
import network from "./boundary-data.mjs"; // weights, points and labels, trained when the site is built

const { widths, theta, points, labels } = network;
const GRID = Array.from({ length: 57 }, (_, i) => -2.8 + i / 10);
const SIGMA = 0.05; // ‖δ₀‖, about
const MARKS = [1, 2, 3]; // of the three classes
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// By how much each class is ahead of the others, and which one is, over the grid.
function decisions(weights) {
  const z = GRID.map((x) => GRID.map((y) => logits(widths, weights, [x, y])));
  const margin = (c) => z.map((row) => row.map((values) => values[c] - Math.max(...values.filter((_, k) => k !== c))));
  return { margins: [margin(0), margin(1), margin(2)], classes: z.flat().map((values) => values.indexOf(Math.max(...values))) };
}
const HOME = decisions(theta);

const kept = new Map();
// The two directions of length 1 of a draw: δ₁ and a random one.
function directions(draw) {
  if (!kept.has(draw)) {
    const noise = normals(draw, theta.length).map((value) => (SIGMA * value) / Math.sqrt(theta.length));
    kept.set(draw, [firstStep(widths, theta, points, noise, 1), onto(normals(draw + 1000, theta.length), 1)]);
  }
  return kept.get(draw);
}

function draw(svg, { along, draw: number }, width) {
  const { boxes, height } = panels(width, [1, 1], 340);
  const ticks = [-2, 0, 2].map((value) => [value, `${value}`]);
  const found = directions(number).map((delta, i) => {
    const [left, top, right, bottom] = boxes[i];
    const edge = Math.min(right - left, bottom - top);
    const box = [left, bottom - edge, left + edge, bottom];
    const x = scale([-2.8, 2.8], [box[0], box[2]]);
    const y = scale([-2.8, 2.8], [box[3], box[1]]);
    axes(svg, { x, y, box, xTicks: ticks, yTicks: ticks, xLabel: "x₁", yLabel: `x₂; θ moves ${i ? "in a random direction" : "along δ₁"}` });
    const inside = clipped(svg, box);
    MARKS.forEach((name, c) => mark(inside, "path", { class: `dots class${name}`, d: dots(points.filter((_, k) => labels[k] === c).map((p) => [x(p[0]), y(p[1])])) }));
    const pixels = { x: GRID.map(x), y: GRID.map(y) };
    const there = moved(theta, delta, along);
    const after = decisions(there);
    const lines = (margins) => margins.map((values) => contour(values, 0, pixels)).join("");
    mark(inside, "path", { class: "trail", d: lines(HOME.margins) });
    mark(inside, "path", { class: `line ${i ? "random" : "iamd"}`, d: lines(after.margins) });
    return {
      changed: after.classes.filter((c, k) => c !== HOME.classes[k]).length / after.classes.length,
      value: divergence(widths, theta, there, points),
    };
  });
  const told = found.map(({ changed, value }) => `${percent(changed)} of the plane change class, KL ${value.toPrecision(2)}`);
  return { height, said: `θ + ${along.toFixed(2)} δ. Along δ₁: ${told[0]}. In a random direction: ${told[1]}.` };
}

figure("boundary", {
  label: "Decision boundaries of a network between three clouds of points, before and after its weights move along delta one and in a random direction",
  note: "Thin: the boundaries at θ. Both directions have length 1 in a network of 371 weights; δ₁ is computed here from new noise each time.",
  state: { along: 0.5, draw: 1 },
  controls: [
    { key: "along", label: "distance along δ", min: -1, max: 1, text: ({ along }) => along.toFixed(2), sweep: { label: "Sweep", seconds: 8 } },
    { label: "New noise", press: (state) => { state.draw += 1; } },
  ],
  draw,
});
