// The smallest network there is: one hidden unit, two weights θ = (a, b), and one input. It says
// yes with probability p = 1/(1 + e^{−z}), z = b tanh(a x). All that Part I does to networks, for
// this one: divergence, Fisher matrix, Algorithm 1, and steps of SGD, SAM, IAM-S and IAM-D. Data are
// { x, y }: inputs, and how often their label is yes, between 0 and 1.

const sigmoid = (z) => 1 / (1 + Math.exp(-z));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const add = (p, q, factor = 1) => [p[0] + factor * q[0], p[1] + factor * q[1]];

export const logit = ([a, b], x) => b * Math.tanh(a * x);

// ∂z/∂θ
function slope([a, b], x) {
  const t = Math.tanh(a * x);
  return [b * x * (1 - t * t), t];
}

const mean = (xs, value) => xs.reduce((sum, x, i) => sum + value(x, i), 0) / xs.length;
const pulled = (theta, xs, weight) => xs.reduce((sum, x, i) => add(sum, slope(theta, x), weight(x, i) / xs.length), [0, 0]);

export const loss = (theta, { x, y }) => mean(x, (input, i) => softplus(logit(theta, input)) - y[i] * logit(theta, input));

export const lossGradient = (theta, { x, y }) => pulled(theta, x, (input, i) => sigmoid(logit(theta, input)) - y[i]);

// E_x KL( f(x, θ) ‖ f(x, other) ): no label in it.
export const divergence = (theta, other, xs) => mean(xs, (x) => {
  const [z, w] = [logit(theta, x), logit(other, x)];
  return sigmoid(z) * (z - w) + softplus(w) - softplus(z);
});

// Its gradient in the second argument, and in the first.
export const towards = (theta, other, xs) => pulled(other, xs, (x) => sigmoid(logit(other, x)) - sigmoid(logit(theta, x)));
export const from = (theta, other, xs) => pulled(theta, xs, (x) => {
  const p = sigmoid(logit(theta, x));
  return p * (1 - p) * (logit(theta, x) - logit(other, x));
});

// The Fisher matrix E_x p(1 − p) ∂z ∂zᵀ, and the larger eigenvalue of a symmetric matrix.
export const fisher = (theta, xs) => [0, 1].map((i) => pulled(theta, xs, (x) => {
  const p = sigmoid(logit(theta, x));
  return p * (1 - p) * slope(theta, x)[i];
}));
export const top = ([[a, b], [, d]]) => (a + d) / 2 + Math.hypot((a - d) / 2, b);

// To length ρ; what is zero or not finite stays at home.
export function onto(gradient, rho) {
  const norm = Math.hypot(...gradient);
  return norm > 0 && Number.isFinite(norm) ? gradient.map((g) => (rho * g) / norm) : [0, 0];
}

// Algorithm 1: from the noise δ₀, δ ← ρ g/‖g‖ with g the gradient of the divergence. δ₁ … δ_K.
export function climb(theta, xs, noise, rho, steps) {
  const out = [];
  for (let delta = noise; out.length < steps; out.push(delta)) delta = onto(towards(theta, add(theta, delta), xs), rho);
  return out;
}

// SAM's δ goes up the loss.
export const ascent = (theta, data, rho) => onto(lossGradient(theta, data), rho);

// S_ρ, the most that the divergence is on the circle of radius ρ, by trying `count` directions.
export function worst(theta, xs, rho, count) {
  let best = { value: -1, delta: [0, 0] };
  for (let i = 0; i < count; i += 1) {
    const angle = (2 * Math.PI * i) / count;
    const delta = [rho * Math.cos(angle), rho * Math.sin(angle)];
    const value = divergence(theta, add(theta, delta), xs);
    if (value > best.value) best = { value, delta };
  }
  return best;
}

// One step of a method. IAM-D's gradient goes through both sides of the divergence, not through δ.
export function step(method, theta, data, { eta, rho, beta, noise }) {
  let gradient = lossGradient(theta, data);
  if (method === "SAM") gradient = lossGradient(add(theta, ascent(theta, data, rho)), data);
  if (method === "IAM-S" || method === "IAM-D") {
    const there = add(theta, climb(theta, data.x, noise, rho, 1)[0]);
    if (method === "IAM-S") gradient = lossGradient(there, data);
    else gradient = add(gradient, add(towards(theta, there, data.x), from(theta, there, data.x)), beta);
  }
  return add(theta, gradient, -eta);
}

// A walk of `steps` steps through batches, with the noises in turn: θ₀ … θ_steps.
export function walk(method, start, batches, noises, setting, steps) {
  const path = [start];
  for (let time = 0; time < steps; time += 1) {
    const noise = noises[time % noises.length];
    path.push(step(method, path[time], batches[time % batches.length], { ...setting, noise }));
  }
  return path;
}

// The data of the figures. Many pairs (a, b) fit them alike; they form a bent valley, sharp where b
// is large and a small.
export const DATA = { x: [1, 1, -1, -1, 0.5, -0.5], y: [7 / 8, 7 / 8, 1 / 8, 1 / 8, 3 / 4, 1 / 4] };
