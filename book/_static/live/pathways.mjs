// The book's promise in ten seconds: two pathways that start almost alike, and a step size to move.
import { axes, mark, panels, path, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { balancedSharpness, descend, ending, flowLanding, sharpness } from "./modes.mjs";

const DEPTHS = [20, 20];
const START = [0.011, 0.01];
const STEPS = 10_000;
const WINDOW = [2 / (DEPTHS[0] * 1), 2 / balancedSharpness(DEPTHS[0], 2, 1)]; // 2/S₁, 2/λ_min
const LANDING = flowLanding(DEPTHS, 1, START);
const percent = (share) => `${Math.round(100 * share)} %`;

// Steps alike in the logarithm, each with the next one: an oscillation shows both its ends.
const SHOWN = [...new Set(Array.from({ length: 320 }, (_, i) => Math.round(STEPS ** (i / 319)))
  .flatMap((step) => [step, Math.min(step + 1, STEPS)]))].sort((a, b) => a - b);

function sentence(eta, end) {
  const kept = `path 1 ends with ${percent(end[0])} of the signal, path 2 with ${percent(end[1])}`;
  if (eta < WINDOW[0]) return `Small step, η = ${eta.toFixed(3)}: ${kept}. One path wins, as under gradient flow.`;
  if (end[0] - end[1] < 0.2) return `Large step, η = ${eta.toFixed(3)}: ${kept}. They share.`;
  return `η = ${eta.toFixed(3)}: ${kept}. Too sharp to rest: descent swings until the sharpness is below 2/η.`;
}

function draw(svg, { eta }, width) {
  const history = descend(DEPTHS, 1, eta, START, STEPS);
  const end = ending(history);
  const { boxes: [box, [left, top, right, foot]] } = panels(width, [3, 1], 250);
  const bottom = width < 560 ? top + 100 : foot;
  const x = scale([1, STEPS], [box[0], box[2]], true);
  const y = scale([0, 1], [box[3], box[1]]);
  axes(svg, {
    x, y, box,
    xTicks: [[1, "1"], [10, "10"], [100, "100"], [1000, "1,000"], [10_000, "10⁴"]],
    yTicks: [[0, "0"], [0.5, "½"], [1, "1"]],
    xLabel: "step of gradient descent",
    yLabel: "strength of each path",
  });
  [0, 1].forEach((h) => {
    const points = SHOWN.map((step) => [x(step), y(Math.max(0, Math.min(1.05, history[step][h])))]);
    mark(svg, "path", { class: `line path${h + 1}`, d: path(points) });
  });
  mark(svg, "text", { x: left, y: top - 10 }, "where the signal ends");
  const room = (right - left) / 2;
  [0, 1].forEach((h) => {
    const [bar, tall] = [left + h * room + 8, (bottom - top) * Math.max(0, end[h])];
    mark(svg, "rect", { class: `bar path${h + 1}`, x: bar, y: bottom - tall, width: room - 16, height: tall });
    const flow = bottom - (bottom - top) * LANDING[h];
    mark(svg, "path", { class: "flow", d: `M${bar - 4} ${flow}h${room - 8}` });
    const middle = { x: bar + room / 2 - 8, "text-anchor": "middle" };
    mark(svg, "text", { ...middle, y: bottom + 17 }, `path ${h + 1}`);
    mark(svg, "text", { ...middle, y: Math.min(bottom - tall, flow) - 8 }, percent(end[h]));
  });
  mark(svg, "path", { class: "frame", d: `M${left} ${bottom}H${right}` });
  mark(svg, "text", { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle" }, `sharpness ${sharpness(DEPTHS, end).toFixed(1)}, 2/η = ${(2 / eta).toFixed(1)}`);
  return { height: bottom + 46, said: sentence(eta, end) };
}

figure("pathways", {
  label: "Strength of two paths over the steps of gradient descent, and where the signal ends",
  note: "Dashed: where gradient flow ends. Two paths of 20 layers start at 0.011 and 0.010; computed here, in your browser.",
  state: { eta: 0.05 },
  controls: [
    { key: "eta", label: "step size η", min: 0.03, max: WINDOW[1], text: ({ eta }) => eta.toFixed(3), sweep: { label: "Sweep", seconds: 8 } },
  ],
  draw,
});
