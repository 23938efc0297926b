// Two pathways under inconsistency: balanced layers s_h of paths with L of them, one mode, target 1.
// The worst direction of the network f = Σ_h s_h^L is δ = ±ρ ∇f/‖∇f‖, and IAM-D descends
// ½ (f − 1)² + β ½ (f(θ + δ) − f)², through both values of f.
import { normals } from "./mlp.mjs";
import { power } from "./modes.mjs";

export function move(layers, depth, { eta, rho, beta }, sign) {
  const value = (s) => s.reduce((sum, layer) => sum + power(layer, depth), 0);
  const slopes = (s) => s.map((layer) => power(layer, depth - 1));
  const [slope, f] = [slopes(layers), value(layers)];
  const length = Math.sqrt(depth * slope.reduce((sum, part) => sum + part * part, 0));
  const there = layers.map((layer, h) => layer + (sign * rho * slope[h]) / length);
  const [far, g] = [slopes(there), value(there)];
  return layers.map((layer, h) => layer - eta * ((f - 1) * slope[h] + beta * (g - f) * (far[h] - slope[h])));
}

// Strengths of both paths, means over windows of `every` steps; the signs of δ are drawn once.
export function train(start, depth, setting, steps, every) {
  const signs = normals(1, steps).map(Math.sign);
  let layers = start.map((strength) => strength ** (1 / depth));
  const record = [];
  for (let from = 0; from < steps; from += every) {
    const sum = layers.map(() => 0);
    for (let time = from; time < from + every; time += 1) {
      layers = move(layers, depth, setting, signs[time]);
      layers.forEach((layer, h) => { sum[h] += power(layer, depth) / every; });
    }
    record.push(sum);
  }
  return record;
}
