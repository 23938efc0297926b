// Two pathways in the plane of their strengths: every step of descent from a start to drag, and the
// splits on which a step of this size can rest.
import { axes, clipped, dots, mark, panels, path, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { balancedSharpness, descend, ending, flowCurve, sharpness } from "./modes.mjs";

const STEPS = 3000;
const SHARES = Array.from({ length: 401 }, (_, i) => i / 400); // of path 1
const TICKS = [[0, "0"], [0.5, "½"], [1, "1"]];
const pair = ([a, b]) => `(${a.toFixed(2)}, ${b.toFixed(2)})`;

function sentence(eta, pace, depths, end, total, landing) {
  const here = `η = ${eta.toFixed(3)}, ${pace.toFixed(2)} times 2/S₁`;
  if (!Number.isFinite(total) || Math.abs(total) > 10) return `${here}: descent diverges.`;
  const flattest = balancedSharpness(depths[0], 2, 1);
  if (2 / eta < flattest) return `${here}: even the equal split is too sharp, ${flattest.toFixed(2)} against 2/η = ${(2 / eta).toFixed(2)}. The loss goes on swinging around ${pair(end)}.`;
  if (Math.abs(total - 1) > 0.01) return `${here}: after ${STEPS.toLocaleString("en")} steps descent has not come to rest, around ${pair(end)}.`;
  const found = `descent ends at ${pair(end)}, where the sharpness is ${sharpness(depths, end).toFixed(2)} and 2/η = ${(2 / eta).toFixed(2)}`;
  if (!landing) return `${here}: ${found}.`;
  if (Math.abs(end[0] - landing[0]) < 0.02) return `${here}: ${found}. Gradient flow ends there too: ${pair(landing)} is flat enough.`;
  const sharp = sharpness(depths, landing) > 2 / eta ? ", too sharp for this step" : "";
  return `${here}: ${found}. Gradient flow would end at ${pair(landing)}${sharp}.`;
}

function draw(svg, state, width) {
  const { depth, pace, start } = state;
  const depths = [depth, depth];
  const single = balancedSharpness(depth, 1, 1);
  const eta = (pace * 2) / single;
  const history = descend(depths, 1, eta, start, STEPS);
  const end = ending(history);
  const curve = start[0] + start[1] < 0.99 ? flowCurve(depths, 1, start, 60) : [];
  const { boxes: [box, side], height } = panels(width, [1, 1]);

  const x = scale([0, 1.2], [box[0], box[2]]);
  const y = scale([0, 1.2], [box[3], box[1]]);
  const at = ([a, b]) => [x(a), y(b)];
  axes(svg, { x, y, box, xTicks: TICKS, yTicks: TICKS, xLabel: "strength of path 1, σ₁", yLabel: "strength of path 2, σ₂" });
  const rest = SHARES.filter((share) => sharpness(depths, [share, 1 - share]) < 2 / eta);
  const inside = clipped(svg, box);
  mark(inside, "path", { class: "rule", d: path([[0, 1], [1, 0]].map(at)) });
  mark(inside, "path", { class: "rest", d: path(rest.map((share) => at([share, 1 - share]))) });
  mark(inside, "path", { class: "flow", d: path(curve.map(at)) });
  mark(inside, "path", { class: "thin path1", d: path(history.map(at)) });
  mark(inside, "path", { class: "dots path1", d: dots(history.map(at)) });

  const u = scale([0, 1], [side[0], side[2]]);
  const v = scale([0, 1.15 * single], [side[3], side[1]]);
  const ticks = [0, 0.5, 1].map((share) => [share * single, (share * single).toFixed(single < 10 ? 1 : 0)]);
  axes(svg, { x: u, y: v, box: side, xTicks: TICKS, yTicks: ticks, xLabel: "share of path 1, at zero loss", yLabel: "sharpness of the split" });
  const panel = clipped(svg, side);
  const level = (share) => [u(share), v(sharpness(depths, [share, 1 - share]))];
  mark(panel, "path", { class: "rule", d: path(SHARES.map(level)) });
  mark(panel, "path", { class: "rest", d: path(rest.map(level)) });
  mark(panel, "path", { class: "limit", d: `M${side[0]} ${v(2 / eta)}H${side[2]}` });
  mark(panel, "text", { x: side[0] + 6, y: Math.max(side[1] + 14, v(2 / eta) - 6) }, 2 / eta > 1.15 * single ? "2/η lies above ↑" : "2/η");
  const landing = curve.at(-1);
  if (landing) mark(panel, "circle", { class: "open", r: 5, cx: level(landing[0])[0], cy: level(landing[0])[1] });
  const total = end[0] + end[1];
  if (total > 0.1) mark(panel, "circle", { class: "spot path1", r: 6, cx: level(end[0] / total)[0], cy: level(end[0] / total)[1] });

  return {
    height,
    said: sentence(eta, pace, depths, end, history.at(-1)[0] + history.at(-1)[1], landing),
    points: [{
      at: at(start),
      label: "start of descent, the strengths of both paths",
      value: start[0].toFixed(3),
      text: `σ₁ = ${start[0].toFixed(3)}, σ₂ = ${start[1].toFixed(3)}`,
      move: ([px, py]) => { state.start = [x.invert(px), y.invert(py)].map((strength) => Math.max(0.003, strength)); },
    }],
  };
}

figure("plane", {
  label: "Steps of gradient descent in the plane of two path strengths, and the sharpness of each split at zero loss",
  note: "Drag the start. Dots: every step of descent. Falling line: zero loss, thick where the sharpness is below 2/η. Dashed, and the ring: gradient flow; its end.",
  state: { start: [0.05, 0.04], pace: 1.5, depth: 20 },
  controls: [
    { key: "pace", label: "step size η", min: 0.2, max: 2, text: ({ pace, depth }) => `${((2 * pace) / depth).toFixed(3)} = ${pace.toFixed(2)} × 2/S₁`, sweep: { label: "Sweep", seconds: 8 } },
    { key: "depth", label: "layers L", min: 3, max: 40, step: 1, text: ({ depth }) => `${depth}` },
  ],
  draw,
});
