// One path and a step too large: the staircase of its map from a start to drag, and where runs end
// up for every step size. For a layer, or for the signal that all layers carry.
import { axes, clipped, dots, mark, panels, path, scale } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { orbit, period, wcrRatio } from "./map.mjs";

const SPAN = [1, 8]; // of γ
const [SETTLE, KEEP, STAIRS] = [400, 100, 40];
const number = (value) => value.toFixed(2);
const layers = (depth) => (depth === Infinity ? "∞" : `${depth}`);

function sentence({ gamma, start }, depth, states, wcr, letter) {
  const border = wcr === Infinity ? "With infinitely many layers no sign ever changes" : `γ_WCR = ${wcr.toFixed(3)}`;
  const side = wcr === Infinity ? "" : gamma < wcr ? ", above γ: no start below 1 can change sign" : ", below γ: some starts below 1 change sign";
  const flip = states.findIndex((state) => !(state > 0));
  const cycle = period(states);
  let end = `wanders, without a period, up to ${letter} = ${number(Math.max(...states.slice(-KEEP)))}`;
  if (cycle === 1) end = `settles at ${letter} = ${number(states.at(-1))}`;
  if (cycle > 1) end = `ends in a cycle of period ${cycle}`;
  if (cycle === 1 && states.at(-1) < 0.01) end = `is thrown back to almost nothing after ${letter} = ${number(Math.max(...states))}`;
  if (flip > 0) end = `changes sign at step ${flip}`;
  return `L = ${layers(depth)}, γ = ${number(gamma)}, start ${number(start)}: the path ${end}. ${border}${side}.`;
}

// Where runs end up from `start`: pixels, each once, a column for every second pixel of γ.
function attractor(map, depth, start, u, y, [left, top, right, bottom]) {
  const points = [];
  for (let px = left; px <= right; px += 2) {
    const late = orbit(map, start, depth, u.invert(px), SETTLE + KEEP).slice(-KEEP);
    new Set(late.map((state) => Math.round(y(state)))).forEach((py) => py >= top && py <= bottom && points.push([px, py]));
  }
  return dots(points);
}

// name: of the figure; map; letter: what it maps; view: the range shown; depths to choose from.
export function cobweb(name, { map, letter, view, depths, first, what }) {
  let known = { key: "", d: "" };

  function draw(svg, state, width) {
    const { start, gamma } = state;
    const depth = depths[state.index];
    const states = orbit(map, start, depth, gamma, SETTLE + KEEP);
    const { boxes: [box, side], height } = panels(width, [1, 1]);
    const wcr = wcrRatio(depth);

    const x = scale(view, [box[0], box[2]]);
    const y = scale(view, [box[3], box[1]]);
    const ticks = [0, 0.5, 1, 2, 3].filter((value) => value < view[1]).map((value) => [value, `${value}`]);
    axes(svg, { x, y, box, xTicks: ticks, yTicks: ticks, xLabel: `${what}, ${letter}`, yLabel: `next ${letter}` });
    const inside = clipped(svg, box);
    const grid = Array.from({ length: 301 }, (_, i) => view[0] + ((view[1] - view[0]) * i) / 300);
    const curve = grid.map((value) => [value, map(value, depth, gamma)]).filter((point) => !Number.isNaN(point[1]));
    const stairs = states.slice(0, STAIRS).flatMap((value, i) => [[value, i ? value : 0], [value, states[i + 1]]]);
    const drawn = stairs.filter((point) => !point.some(Number.isNaN));
    const pixels = ([a, b]) => [x(a), y(b)];
    mark(inside, "path", { class: "rule", d: path([[view[0], view[0]], [view[1], view[1]]].map(pixels)) });
    mark(inside, "path", { class: "flow", d: `M${box[0]} ${y(0)}H${box[2]}` });
    mark(inside, "path", { class: "line path1", d: path(curve.map(pixels)) });
    mark(inside, "path", { class: "trail path2", d: path(drawn.map(pixels)) });

    const u = scale(SPAN, [side[0], side[2]]);
    const v = scale(view, [side[3], side[1]]);
    axes(svg, { x: u, y: v, box: side, xTicks: [1, 2, 3, 4, 5, 6, 7, 8].map((value) => [value, `${value}`]), yTicks: ticks, xLabel: "γ = η S", yLabel: `${letter} after ${SETTLE} steps` });
    const key = [start, depth, width].join();
    if (known.key !== key) known = { key, d: attractor(map, depth, start, u, v, side) };
    mark(svg, "path", { class: "fine path1", d: known.d });
    const border = (value, letters) => {
      if (value > SPAN[1]) return;
      mark(svg, "path", { class: "limit", d: `M${u(value)} ${side[3]}V${side[1]}` });
      mark(svg, "text", { x: u(value) + 5, y: side[1] + 12 }, letters);
    };
    border(2, "2");
    border(wcr, "γ_WCR");
    mark(svg, "path", { class: "line path2", d: `M${u(gamma)} ${side[3]}V${side[1]}` });

    return {
      height,
      said: sentence(state, depth, states, wcr, letter),
      points: [
        {
          at: [x(start), y(0)], along: [1, 0], label: `start ${letter}`, value: number(start), text: `${letter} = ${number(start)}`,
          move: ([px]) => { state.start = Math.min(0.99, Math.max(0.01, x.invert(px))); },
        },
        {
          at: [u(gamma), side[3] - 36], along: [1, 0], label: "step size γ", value: number(gamma), text: `γ = ${number(gamma)}`,
          move: ([px]) => { state.gamma = u.invert(px); },
        },
      ],
    };
  }

  figure(name, {
    label: "Staircase of the map of one path, and the states it ends up in over the step size",
    note: `Drag the start on the left, γ on the right. Orange: ${STAIRS} steps on the map (blue). Right: states after ${SETTLE} steps from the same start, for every γ; dashed: where the solution stops being stable, and the worst-case return.`,
    state: { gamma: 3, ...first },
    controls: [
      { key: "gamma", label: "step size γ", min: SPAN[0], max: SPAN[1], text: ({ gamma }) => number(gamma), sweep: { label: "Sweep", seconds: 12 } },
      { key: "index", label: "layers L", min: 0, max: depths.length - 1, step: 1, text: ({ index }) => layers(depths[index]) },
    ],
    draw,
  });
}
