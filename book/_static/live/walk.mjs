// Four methods walk together on the landscape of a network with two weights.
import { axes, mark, panels, path, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { landscape } from "./landscape.mjs";
import { DATA, loss, walk, worst } from "./toy.mjs";

const LONG = 400;
const METHODS = ["SGD", "SAM", "IAM-S", "IAM-D"];
const look = (method) => method.toLowerCase().replace("-", "");
// The noises δ₀ of every step, the same at each visit.
const NOISES = [[0.03, 0.02], [-0.01, 0.04], [0.02, -0.05], [-0.04, -0.01], [0.05, 0.03]];
const RADIUS = 0.3;
const measured = (theta) => worst(theta, DATA.x, RADIUS, 48).value;

function draw(svg, state, width) {
  const { start, eta, rho, beta, steps } = state;
  const walks = METHODS.map((method) => walk(method, start, [DATA], NOISES, { eta, rho, beta }, LONG));
  const { boxes: [box, side], height } = panels(width, [1, 1], 340);

  const { inside, at, back } = landscape(svg, box);
  const x = scale([0, LONG], [side[0], side[2]]);
  const y = scale([0.004, 0.2], [side[3], side[1]], true);
  axes(svg, {
    x, y, box: side,
    xTicks: [0, 200, 400].map((time) => [time, `${time}`]),
    yTicks: [0.005, 0.01, 0.02, 0.05, 0.1].map((value) => [value, `${value}`]),
    xLabel: "step", yLabel: `local inconsistency S at ρ = ${RADIUS}`,
  });
  const ends = METHODS.map((method, i) => {
    const seen = walks[i].slice(0, steps + 1);
    mark(inside, "path", { class: `trail ${look(method)}`, d: path(seen.map(at)) });
    const [cx, cy] = at(seen.at(-1));
    mark(inside, "circle", { class: `spot ${look(method)}`, r: 6, cx, cy });
    const height = (theta) => Math.min(side[3], Math.max(side[1], y(measured(theta))));
    const curve = seen.flatMap((theta, time) => (time % 5 === 0 || time === steps ? [[x(time), height(theta)]] : []));
    mark(svg, "path", { class: `line ${look(method)}`, d: path(curve) });
    return { method, loss: loss(seen.at(-1), DATA), value: measured(seen.at(-1)) };
  });
  METHODS.forEach((method, i) => {
    const [left, top] = [side[2] - 76, side[1] + 8 + 18 * i];
    mark(svg, "path", { class: `line ${look(method)}`, d: `M${left} ${top}h24` });
    mark(svg, "text", { x: left + 30, y: top + 4 }, method);
  });

  const told = ends.map((end) => `${end.method} at loss ${end.loss.toFixed(3)}, S ${end.value.toPrecision(2)}`);
  const least = ends.reduce((a, b) => (b.value < a.value ? b : a));
  return {
    height,
    said: `After ${steps} steps ${told.join("; ")}. The least inconsistent is ${least.method}.`,
    points: [{
      at: at(start), label: "common start", value: start[0].toFixed(2),
      text: `a = ${start[0].toFixed(2)}, b = ${start[1].toFixed(2)}`,
      move: (pixels) => { state.start = back(pixels); },
    }],
  };
}

const decimals = (key, digits) => (state) => state[key].toFixed(digits);
figure("walk", {
  label: "Paths of SGD, SAM, IAM-S and IAM-D over the loss of a network with two weights, and their local inconsistency at each step",
  note: "Drag the start. All four take full batches and one step of Algorithm 1 from the same noises; grey: levels of the loss, lowest in the bent valley. Its sharp end is at the upper left.",
  state: { start: [0.35, 3.6], eta: 0.5, rho: 0.3, beta: 2, steps: LONG },
  controls: [
    { key: "steps", label: "steps taken", min: 0, max: LONG, step: 1, text: ({ steps }) => `${steps}`, sweep: { label: "Walk", seconds: 6 } },
    { key: "rho", label: "radius ρ", min: 0.02, max: 1, text: decimals("rho", 2) },
    { key: "beta", label: "weight β of IAM-D", min: 0, max: 10, text: decimals("beta", 1) },
    { key: "eta", label: "step size η", min: 0.05, max: 1, text: decimals("eta", 2) },
  ],
  draw,
});
