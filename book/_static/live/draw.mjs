// The few marks that a live figure needs, as SVG: axes, lines, dots and letters.
const SPACE = "http://www.w3.org/2000/svg";

export function mark(parent, name, attributes, text) {
  const node = document.createElementNS(SPACE, name);
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// A map from numbers to pixels, linear or logarithmic.
export function scale([low, high], [from, to], log = false) {
  const f = log ? Math.log : (x) => x;
  const ratio = (to - from) / (f(high) - f(low));
  return (x) => from + (f(x) - f(low)) * ratio;
}

export const path = (points) =>
  points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

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
