// A multilayer perceptron with tanh units, its weights θ in one flat array in PyTorch's order: for
// every layer the matrix, row by row, then the biases. What Algorithm 1 needs of it.
import { onto } from "./toy.mjs";

// Values of all units, layer by layer; the last are the logits.
export function activations(widths, theta, x) {
  const out = [x];
  let at = 0;
  for (let layer = 1; layer < widths.length; layer += 1) {
    const [from, to] = [widths[layer - 1], widths[layer]];
    const [before, now] = [out[layer - 1], new Array(to)];
    for (let i = 0; i < to; i += 1) {
      let sum = theta[at + from * to + i];
      for (let j = 0; j < from; j += 1) sum += theta[at + from * i + j] * before[j];
      now[i] = layer === widths.length - 1 ? sum : Math.tanh(sum);
    }
    out.push(now);
    at += (from + 1) * to;
  }
  return out;
}

export const logits = (widths, theta, x) => activations(widths, theta, x).at(-1);

// Jᵀ u for one x, given its activations, added to `sum`.
function pull(widths, theta, values, u, sum) {
  let [end, slope] = [theta.length, u];
  for (let layer = widths.length - 1; layer > 0; layer -= 1) {
    const [from, to] = [widths[layer - 1], widths[layer]];
    const start = end - (from + 1) * to;
    const below = new Array(from).fill(0);
    for (let i = 0; i < to; i += 1) {
      sum[start + from * to + i] += slope[i];
      for (let j = 0; j < from; j += 1) {
        sum[start + from * i + j] += slope[i] * values[layer - 1][j];
        below[j] += slope[i] * theta[start + from * i + j];
      }
    }
    slope = below.map((value, j) => value * (1 - values[layer - 1][j] ** 2));
    end = start;
  }
}

function logSoftmax(z) {
  const top = Math.max(...z);
  const log = top + Math.log(z.reduce((sum, value) => sum + Math.exp(value - top), 0));
  return z.map((value) => value - log);
}

// E_x KL( f(x, θ) ‖ f(x, other) ), and its gradient in `other`.
export function divergence(widths, theta, other, xs) {
  const of = (x) => {
    const [p, q] = [theta, other].map((weights) => logSoftmax(logits(widths, weights, x)));
    return p.reduce((sum, log, c) => sum + Math.exp(log) * (log - q[c]), 0);
  };
  return xs.reduce((sum, x) => sum + of(x), 0) / xs.length;
}

export function towards(widths, theta, other, xs) {
  const sum = new Array(theta.length).fill(0);
  for (const x of xs) {
    const p = logSoftmax(logits(widths, theta, x));
    const values = activations(widths, other, x);
    const q = logSoftmax(values.at(-1));
    pull(widths, other, values, q.map((log, c) => (Math.exp(log) - Math.exp(p[c])) / xs.length), sum);
  }
  return sum;
}

export const moved = (theta, delta, factor = 1) => theta.map((weight, i) => weight + factor * delta[i]);

// δ₁ of Algorithm 1, of length ρ, from the noise δ₀.
export const firstStep = (widths, theta, xs, noise, rho) => onto(towards(widths, theta, moved(theta, noise), xs), rho);

// Standard normal numbers from a seed: mulberry32 and Box–Muller.
export function normals(seed, count) {
  let state = seed | 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}
