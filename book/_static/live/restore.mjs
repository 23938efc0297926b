// Two pathways from the same start, under plain descent and under IAM-D: what inconsistency does to
// their split at steps that leave plain descent with one winner.
import { train } from "./chained.mjs";
import { axes, clipped, mark, panels, path, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";

const [DEPTH, STEPS, EVERY] = [6, 2000, 20];
const FIRST = 0.05; // where path 1 starts
const pair = (split) => (split.every((s) => Number.isFinite(s) && Math.abs(s) < 10) ? `(${split.map((s) => s.toFixed(2)).join(", ")})` : "no finite value");

function draw(svg, { eta, rho, beta, second }, width) {
  const { boxes, height } = panels(width, [1, 1]);
  const ends = [0, rho].map((radius, i) => {
    const run = train([FIRST, second], DEPTH, { eta, beta, rho: radius }, STEPS, EVERY);
    const [left, top, right, bottom] = boxes[i];
    const x = scale([0, STEPS], [left, right]);
    const y = scale([0, 1.2], [bottom, top]);
    axes(svg, {
      x, y, box: boxes[i],
      xTicks: [0, 1000, 2000].map((time) => [time, time.toLocaleString("en")]), yTicks: [[0, "0"], [0.5, "½"], [1, "1"]],
      xLabel: "step", yLabel: i ? "strengths under IAM-D" : "strengths under plain descent",
    });
    const inside = clipped(svg, boxes[i]);
    [0, 1].forEach((h) => mark(inside, "path", { class: `line path${h + 1}`, d: path(run.map((split, k) => [x((k + 0.5) * EVERY), y(split[h])])) }));
    return run.at(-1);
  });
  const side = eta < 2 / DEPTH ? "below" : "above";
  return { height, said: `η = ${eta.toFixed(3)}, ${side} 2/S₁ = ${(2 / DEPTH).toFixed(3)}: plain descent ends at ${pair(ends[0])}, IAM-D at ${pair(ends[1])}.` };
}

figure("restore", {
  label: "Strengths of two paths over the steps of plain descent and of IAM-D",
  note: "Blue: path 1, from 0.05; orange: path 2. Six layers each, means over 20 steps. With ρ = 0 or β = 0 both panels are plain descent.",
  state: { eta: 0.12, rho: 0.1, beta: 1, second: 0.02 },
  controls: [
    { key: "eta", label: "step size η", min: 0.04, max: 0.52, text: ({ eta }) => eta.toFixed(3), sweep: { label: "Sweep", seconds: 8 } },
    { key: "rho", label: "radius ρ", min: 0, max: 0.2, text: ({ rho }) => rho.toFixed(3) },
    { key: "beta", label: "weight β", min: 0, max: 3, text: ({ beta }) => beta.toFixed(2) },
    { key: "second", label: "start of path 2", min: 0.001, max: 0.05, text: ({ second }) => second.toFixed(4) },
  ],
  draw,
});
