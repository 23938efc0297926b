// The book's promise in ten seconds: two pathways that start almost alike, and a step size to move.
import { axes, mark, path, scale } from "./draw.mjs";
import { balancedSharpness, descend, flowLanding, sharpness } from "./modes.mjs";

const DEPTHS = [20, 20];
const START = [0.011, 0.01];
const STEPS = 10_000;
const WINDOW = [2 / (DEPTHS[0] * 1), 2 / balancedSharpness(DEPTHS[0], 2, 1)]; // 2/S₁, 2/λ_min
const RANGE = [0.03, WINDOW[1]];
const percent = (share) => `${Math.round(100 * share)} %`;

// Steps alike in the logarithm, each with the next one: an oscillation shows both its ends.
const SHOWN = [...new Set(Array.from({ length: 320 }, (_, i) => Math.round(STEPS ** (i / 319)))
  .flatMap((step) => [step, Math.min(step + 1, STEPS)]))].sort((a, b) => a - b);

// A run at step size η, and the means of its last two states: where it ends even if it swings.
export function run(eta) {
  const history = descend(DEPTHS, 1, eta, START, STEPS);
  const [a, b] = history.slice(-2);
  return { history, end: a.map((strength, h) => (strength + b[h]) / 2) };
}

export function sentence(eta, end) {
  const kept = `path 1 ends with ${percent(end[0])} of the signal, path 2 with ${percent(end[1])}`;
  if (eta < WINDOW[0]) return `Small step, η = ${eta.toFixed(3)}: ${kept}. One path wins, as under gradient flow.`;
  if (end[0] - end[1] < 0.2) return `Large step, η = ${eta.toFixed(3)}: ${kept}. They share.`;
  return `η = ${eta.toFixed(3)}: ${kept}. Too sharp to rest: descent swings until the sharpness is below 2/η.`;
}

function draw(svg, eta, width) {
  svg.replaceChildren();
  const narrow = width < 560;
  const height = narrow ? 470 : 330;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const { history, end } = run(eta);
  const box = [44, 34, narrow ? width - 12 : width - 230, narrow ? 270 : height - 46];
  const x = scale([1, STEPS], [box[0], box[2]], true);
  const y = scale([0, 1], [box[3], box[1]]);
  axes(svg, {
    x, y, box,
    xTicks: [[1, "1"], [10, "10"], [100, "100"], [1000, "1,000"], [10_000, narrow ? "" : "10,000"]],
    yTicks: [[0, "0"], [0.5, "½"], [1, "1"]],
    xLabel: "step of gradient descent",
    yLabel: "strength of each path",
  });
  [0, 1].forEach((h) => {
    const points = SHOWN.map((step) => [x(step), y(Math.max(0, Math.min(1.05, history[step][h])))]);
    mark(svg, "path", { class: `line path${h + 1}`, d: path(points) });
  });
  const [left, right] = narrow ? [44, width - 12] : [width - 190, width - 10];
  const [top, bottom] = narrow ? [340, 440] : [34, height - 46];
  mark(svg, "text", { x: left, y: top - 10 }, "where the signal ends");
  const landing = flowLanding(DEPTHS, 1, START);
  [0, 1].forEach((h) => {
    const room = (right - left) / 2;
    const [bar, tall] = [left + h * room + 8, (bottom - top) * Math.max(0, end[h])];
    mark(svg, "rect", { class: `bar path${h + 1}`, x: bar, y: bottom - tall, width: room - 16, height: tall });
    const flow = bottom - (bottom - top) * landing[h];
    mark(svg, "path", { class: "flow", d: `M${bar - 4} ${flow}h${room - 8}` });
    mark(svg, "text", { x: bar + room / 2 - 8, y: bottom + 17, "text-anchor": "middle" }, `path ${h + 1}: ${percent(end[h])}`);
  });
  mark(svg, "path", { class: "frame", d: `M${left} ${bottom}H${right}` });
  if (!narrow) {
    const flat = sharpness(DEPTHS, end);
    mark(svg, "text", { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle" }, `sharpness ${flat.toFixed(1)}, 2/η = ${(2 / eta).toFixed(1)}`);
  }
}

export function mount(holder) {
  const stage = holder.querySelector(".live-stage");
  stage.innerHTML =
    '<svg role="img" aria-label="Strength of two paths over the steps of gradient descent, and where the signal ends"></svg>' +
    '<div class="live-controls"><label>step size η ' +
    `<input type="range" min="${RANGE[0]}" max="${RANGE[1]}" step="any" value="0.05"></label>` +
    '<button type="button">Sweep</button></div><p class="live-said" aria-live="polite"></p>' +
    '<p class="live-note">Dashed: where gradient flow ends. Two paths of 20 layers start at 0.011 and 0.010; computed here, in your browser.</p>';
  const [svg, input, button, said] = ["svg", "input", "button", ".live-said"].map((name) => stage.querySelector(name));
  const show = () => {
    const eta = Number(input.value);
    draw(svg, eta, Math.max(300, stage.clientWidth));
    said.textContent = sentence(eta, run(eta).end);
    input.setAttribute("aria-valuetext", `η = ${eta.toFixed(3)}`);
  };
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let sweeping = 0;
  const stop = () => { cancelAnimationFrame(sweeping); sweeping = 0; button.textContent = "Sweep"; };
  button.addEventListener("click", () => {
    if (sweeping) return stop();
    if (still.matches) { input.value = Number(input.value) < 0.15 ? RANGE[1] : RANGE[0]; return show(); }
    const began = performance.now();
    button.textContent = "Stop";
    const tick = (now) => {
      const share = Math.min(1, (now - began) / 8000);
      input.value = RANGE[0] + share * (RANGE[1] - RANGE[0]);
      show();
      if (share < 1) sweeping = requestAnimationFrame(tick);
      else stop();
    };
    sweeping = requestAnimationFrame(tick);
  });
  input.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    input.value = Number(input.value) + 0.005 * by;
    input.dispatchEvent(new Event("input"));
  });
  input.addEventListener("input", () => { if (sweeping) stop(); show(); });
  new ResizeObserver(show).observe(stage);
  holder.classList.add("is-live");
}

document.querySelectorAll("#live-pathways").forEach(mount);
