// One path of depth L that carries all of the signal: gradient descent as a map of one number, with
// the step in units of the sharpness, γ = η S.

// Of a layer in units of its fixed point: x ← x − (γ/L) x^{L−1} (x^L − 1).
export const layer = (x, depth, ratio) => x - (ratio / depth) * x ** (depth - 1) * (x ** depth - 1);

// Of the fitted part of the signal, y = x^L, also for L = ∞. NaN once the layers have changed sign.
export function signal(y, depth, ratio) {
  if (depth === Infinity) return y * Math.exp(ratio * y * (1 - y));
  const grown = 1 + (ratio / depth) * y ** (1 - 2 / depth) * (1 - y);
  return grown > 0 ? y * grown ** depth : NaN;
}

// start, map(start), …: `steps` + 1 numbers.
export function orbit(map, start, depth, ratio, steps) {
  const out = [start];
  while (out.length <= steps) out.push(map(out.at(-1), depth, ratio));
  return out;
}

// The period of the end of an orbit, if it is at most `longest`; 0 if it has none.
export function period(states, longest = 16) {
  for (let p = 1; p <= longest; p += 1) {
    const tail = states.slice(-longest);
    if (tail.every((state, i) => Math.abs(state - states.at(i - longest - p)) < 1e-4)) return p;
  }
  return 0;
}

// γ_WCR, the largest step from which no start below the fixed point changes sign: the γ whose highest
// overshoot is sent to zero, by bisection in u = x^L of the start that overshoots most.
export function wcrRatio(depth) {
  if (depth === Infinity) return Infinity;
  const [c, most, bottom] = [1 - 2 / depth, 2 - 1 / depth, 1 - 1 / depth];
  const ratio = (u) => 1 / (u ** c * (most * u - bottom));
  const excess = (u) => {
    const log = Math.log(u);
    const y = log + depth * Math.log1p((ratio(u) / depth) * u ** c * (1 - u));
    return Math.log(ratio(u) / depth) + c * y + y + Math.log(-Math.expm1(-y));
  };
  let [low, high] = [bottom / most + 1e-9, 1 - 1e-3];
  const sign = Math.sign(excess(low));
  for (let halving = 0; halving < 100; halving += 1) {
    const middle = (low + high) / 2;
    if (Math.sign(excess(middle)) === sign) low = middle;
    else high = middle;
  }
  return ratio(low);
}
