// Three pathways share a signal: the split as a point in a triangle, with levels of the sharpness, and
// the eigenvalues of the Hessian there.
import { axes, contour, mark, panels, scale, within } from "./draw.mjs";
import { figure } from "./figure.mjs";
import { crossModeSharpness, flattestSplit, sharpness } from "./modes.mjs";

const VALUES = [1, 0.5]; // singular values of the target, both split alike
const UNIT = 1000; // of the triangle's own coordinates
const GRID = Array.from({ length: 51 }, (_, i) => i / 50);
const triple = (split) => `(${split.map((share) => share.toFixed(2)).join(", ")})`;
const inside = ([p, q]) => {
  const kept = [Math.max(0, p), Math.max(0, q)];
  const sum = Math.max(1, kept[0] + kept[1]);
  return [kept[0] / sum, kept[1] / sum, Math.max(0, 1 - (kept[0] + kept[1]) / sum)];
};

function sentence({ depths, split }, here, flattest, least) {
  const at = `Split ${triple(split)} of the depths ${depths.join(", ")}: sharpness ${here.toFixed(3)}`;
  if (depths.every((depth) => depth === 2)) return `${at}. With two layers every split is equally sharp.`;
  if (here < least * 1.0005) return `${at}. This is the flattest.`;
  return `${at}, ${(here / least).toFixed(2)} times the least; the least is ${least.toFixed(3)} at ${triple(flattest)}.`;
}

function draw(svg, state, width) {
  const depths = [1, 2, 3].map((h) => state[`depth${h}`]);
  const { split } = state;
  const flattest = flattestSplit(depths, 1);
  const [here, least] = [sharpness(depths, split), sharpness(depths, flattest)];
  const { boxes: [box, side], height } = panels(width, [1, 1]);

  // Corners of paths 1, 2 (below) and 3 (above); strengths are coordinates in this triangle.
  const edge = Math.min(box[2] - box[0] - 20, (box[3] - box[1] - 30) / 0.866);
  const [middle, foot] = [(box[0] + box[2]) / 2, box[3]];
  const corners = [[middle - edge / 2, foot], [middle + edge / 2, foot], [middle, foot - 0.866 * edge]];
  const at = (strengths) => [0, 1].map((axis) => strengths.reduce((sum, s, h) => sum + s * corners[h][axis], 0));
  const [[ax, ay], [bx, by], [cx, cy]] = corners;
  const matrix = [ax - cx, ay - cy, bx - cx, by - cy].map((part) => part / UNIT);
  const back = ([px, py]) => {
    const third = (foot - py) / (0.866 * edge);
    const second = (px - corners[0][0]) / edge - third / 2;
    return inside([1 - second - third, second]);
  };
  const outline = `M${corners.map((corner) => corner.join(" ")).join("L")}Z`;
  const group = mark(within(svg, outline), "g", { transform: `matrix(${matrix.join(" ")} ${cx} ${cy})`, class: "steady" });
  const values = GRID.map((p) => GRID.map((q) => sharpness(depths, [p, q, 1 - p - q])));
  const pixels = GRID.map((share) => UNIT * share);
  const top = Math.max(...[[1, 0, 0], [0, 1, 0], [0, 0, 1]].map((corner) => sharpness(depths, corner)));
  for (let k = 1; k <= 9; k += 1) {
    mark(group, "path", { class: "level", d: contour(values, least + (top - least) * (k / 9) ** 2, { x: pixels, y: pixels }) });
  }
  mark(group, "path", { class: "line path1", d: contour(values, here, { x: pixels, y: pixels }) });
  mark(svg, "path", { class: "rule", d: outline });
  corners.forEach(([x, y], h) => mark(svg, "text", { x, y: h < 2 ? y + 18 : y - 10, "text-anchor": "middle" }, `path ${h + 1}`));
  const [fx, fy] = at(flattest);
  mark(svg, "circle", { class: "spot path3", r: 7, cx: fx, cy: fy });

  const spectrum = (shares) => {
    const all = crossModeSharpness(depths, VALUES.map((value) => shares.map((share) => share * value)));
    return [all[0][0], all[0][1], all[1][1]];
  };
  const y = scale([0, 1.1 * top], [side[3], side[1]]);
  const room = (side[2] - side[0]) / 3;
  const names = ["mode 1", "between, twice", "mode 2"];
  axes(svg, {
    x: (i) => side[0] + (i + 0.5) * room, y, box: side,
    xTicks: names.map((name, i) => [i, name]), yTicks: [0, least, top].map((value) => [value, value.toFixed(value < 10 ? 1 : 0)]),
    xLabel: "", yLabel: "eigenvalues of the Hessian",
  });
  const best = spectrum(flattest);
  spectrum(split).forEach((value, i) => {
    const left = side[0] + i * room + 12;
    mark(svg, "rect", { class: "bar path1", x: left, y: y(value), width: room - 24, height: side[3] - y(value) });
    mark(svg, "path", { class: "flow", d: `M${left - 6} ${y(best[i])}h${room - 12}` });
  });

  return {
    height,
    said: sentence({ depths, split }, here, flattest, least),
    points: [{
      at: at(split), label: "split between three paths", value: split[0].toFixed(2), text: triple(split),
      move: (place) => { state.split = back(place); },
    }],
  };
}

const layers = (h) => ({ key: `depth${h}`, label: `layers L${"₁₂₃"[h - 1]}`, min: 2, max: 20, step: 1, text: (state) => `${state[`depth${h}`]}` });
figure("split", {
  label: "Triangle of the splits between three paths with levels of their sharpness, and the eigenvalues of the Hessian",
  note: "Drag the split; in a corner one path has all. Blue level: all splits as sharp as yours. Green: the flattest, and its eigenvalues (dashed). A target with singular values 1 and ½, both split alike; eigenvalues that are zero are left out.",
  state: { split: [0.7, 0.2, 0.1], depth1: 5, depth2: 5, depth3: 5 },
  controls: [
    layers(1), layers(2), layers(3),
    { label: "Go to the flattest", press: (state) => { state.split = flattestSplit([state.depth1, state.depth2, state.depth3], 1); } },
  ],
  draw,
});
