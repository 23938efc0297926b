// The plane of the two weights of the smallest network, with the levels of its loss.
import { axes, clipped, contour, mark, scale } from "./draw.mjs";
import { DATA, loss } from "./toy.mjs";

export const RANGE = [0, 4];
const GRID = Array.from({ length: 61 }, (_, i) => (RANGE[1] * i) / 60);
const LEVELS = [0.44, 0.443, 0.45, 0.46, 0.48, 0.51, 0.56, 0.62, 0.75, 1];
export const onGrid = (value) => GRID.map((a) => GRID.map((b) => value([a, b])));
const LOSSES = onGrid((theta) => loss(theta, DATA));
const drawn = new Map(); // the levels of the loss, by the size of the box

// Draw it in the square that the box has room for: the group for what lies in it, a way to draw
// other level sets, and the ways between weights and pixels.
export function landscape(svg, [left, top, right, bottom]) {
  const edge = Math.min(right - left, bottom - top);
  const box = [left, bottom - edge, left + edge, bottom];
  const x = scale(RANGE, [box[0], box[2]]);
  const y = scale(RANGE, [box[3], box[1]]);
  const ticks = [0, 1, 2, 3, 4].map((value) => [value, `${value}`]);
  axes(svg, { x, y, box, xTicks: ticks, yTicks: ticks, xLabel: "weight a of the hidden unit", yLabel: "weight b of the output" });
  const inside = clipped(svg, box);
  const pixels = { x: GRID.map(x), y: GRID.map(y) };
  const levels = (values, level, name) => mark(inside, "path", { class: name, d: contour(values, level, pixels) });
  const size = box.join();
  if (!drawn.has(size)) drawn.set(size, LEVELS.map((level) => contour(LOSSES, level, pixels)).join(""));
  mark(inside, "path", { class: "level", d: drawn.get(size) });
  return { inside, levels, at: ([a, b]) => [x(a), y(b)], back: ([px, py]) => [x.invert(px), y.invert(py)] };
}
