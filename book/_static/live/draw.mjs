// The few marks that a live figure needs, as SVG: axes, lines, dots, level sets and letters.
const SPACE = "http://www.w3.org/2000/svg";

export function mark(parent, name, attributes, text) {
  const node = document.createElementNS(SPACE, name);
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// A map from numbers to pixels, linear or logarithmic, and the way back, kept within the range.
export function scale([low, high], [from, to], log = false) {
  const [f, back] = log ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const ratio = (to - from) / (f(high) - f(low));
  const map = (x) => from + (f(x) - f(low)) * ratio;
  map.invert = (pixel) => Math.min(high, Math.max(low, back(f(low) + (pixel - from) / ratio)));
  return map;
}

const fixed = (x) => (Number.isNaN(x) ? 1e4 : Math.max(-1e4, Math.min(1e4, x))).toFixed(1); // far outside is far enough
const corner = ([x, y], i) => `${i ? "L" : "M"}${fixed(x)} ${fixed(y)}`;
export const path = (points) => points.map(corner).join("");

// Many dots as one path: lines without length, with round ends.
export const dots = (points) => points.map(([x, y]) => `M${fixed(x)} ${fixed(y)}h0`).join("");

// Where a function of two numbers has the value `level`: marching squares over a grid of pixels.
export function contour(values, level, { x, y }) {
  let out = "";
  for (let i = 1; i < x.length; i += 1) {
    for (let j = 1; j < y.length; j += 1) {
      const [a, b, c, d] = [values[i - 1][j - 1], values[i][j - 1], values[i][j], values[i - 1][j]];
      const above = (a >= level) + (b >= level) + (c >= level) + (d >= level);
      if (above === 0 || above === 4) continue;
      const between = (p, q, from, to) => from + ((to - from) * (level - p)) / (q - p);
      const ends = [];
      if (a >= level !== b >= level) ends.push([between(a, b, x[i - 1], x[i]), y[j - 1]]);
      if (b >= level !== c >= level) ends.push([x[i], between(b, c, y[j - 1], y[j])]);
      if (c >= level !== d >= level) ends.push([between(c, d, x[i], x[i - 1]), y[j]]);
      if (d >= level !== a >= level) ends.push([x[i - 1], between(d, a, y[j], y[j - 1])]);
      out += path(ends.slice(0, 2)) + path(ends.slice(2));
    }
  }
  return out;
}

// The boxes [left, top, right, bottom] of panels side by side, below each other where it is
// narrow, and the height of the whole picture.
export function panels(width, shares, tall = 290) {
  const [left, gap, top, foot, right] = [46, 64, 34, 46, 22];
  if (width < 560) {
    const each = Math.min(tall, width - left - right) + top + foot;
    const boxes = shares.map((_, i) => [left, i * each + top, width - right, (i + 1) * each - foot]);
    return { boxes, height: each * shares.length };
  }
  const room = (width - left - right - gap * (shares.length - 1)) / shares.reduce((a, b) => a + b);
  let start = left;
  const boxes = shares.map((share) => {
    const box = [start, top, start + share * room, top + tall];
    start = box[2] + gap;
    return box;
  });
  return { boxes, height: top + tall + foot };
}

let clips = 0;
// A group whose marks end at an outline, or at a box.
export function within(parent, outline) {
  const id = `live-clip-${(clips += 1)}`;
  mark(mark(parent, "clipPath", { id }), "path", { d: outline });
  return mark(parent, "g", { "clip-path": `url(#${id})` });
}
export const clipped = (parent, [left, top, right, bottom]) => within(parent, `M${left} ${top}H${right}V${bottom}H${left}Z`);

// Axes of one panel with ticks as [value, letters], and what they show.
export function axes(parent, { x, y, box: [left, top, right, bottom], xTicks, yTicks, xLabel, yLabel }) {
  mark(parent, "path", { class: "frame", d: `M${left} ${top}V${bottom}H${right}` });
  for (const [value, letters] of xTicks) {
    mark(parent, "path", { class: "grid", d: `M${x(value)} ${bottom}V${top}` });
    mark(parent, "text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, letters);
  }
  for (const [value, letters] of yTicks) {
    mark(parent, "path", { class: "grid", d: `M${left} ${y(value)}H${right}` });
    mark(parent, "text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, letters);
  }
  mark(parent, "text", { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle" }, xLabel);
  mark(parent, "text", { x: left, y: top - 10 }, yLabel);
}
