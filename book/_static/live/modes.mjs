// Singular modes of a multi-pathway deep linear network, as in lib/flatmin/pathways: gradient
// descent s_h ← s_h − η s_h^{L_h−1} (Σ_k s_k^{L_k} − σ⋆), where its flow lands, and sharpness.

// base ** exponent by repeated squaring, in the order of the Python twin.
export function power(base, exponent) {
  if (exponent === 0) return 1;
  let out = base;
  for (let bit = 30 - Math.clz32(exponent); bit >= 0; bit -= 1) {
    out *= out;
    if ((exponent >> bit) & 1) out *= base;
  }
  return out;
}

// Strengths σ_h = s_h^{L_h} of every path at steps 0 … steps: one array of paths a step.
export function descend(depths, target, step, init, steps) {
  const layers = init.map((strength, h) => strength ** (1 / depths[h]));
  const history = [];
  for (let time = 0; time <= steps; time += 1) {
    const slopes = layers.map((s, h) => power(s, depths[h] - 1));
    const strengths = slopes.map((slope, h) => slope * layers[h]);
    history.push(strengths);
    const residual = strengths.reduce((sum, strength) => sum + strength, 0) - target;
    slopes.forEach((slope, h) => { layers[h] -= slope * (residual * step); });
  }
  return history;
}

// Gradient flow from positive strengths: it adds the same to φ_h = s_h^{2−L_h}/(2−L_h) of every path
// (log s_h at depth 2). The strengths after it has added `shift`.
function flow(depths, init) {
  const potential = init.map((strength, h) => {
    const s = strength ** (1 / depths[h]);
    return depths[h] === 2 ? Math.log(s) : s ** (2 - depths[h]) / (2 - depths[h]);
  });
  return (shift) => potential.map((start, h) => {
    const [L, phi] = [depths[h], start + shift];
    if (L === 2) return Math.exp(phi) ** 2;
    const base = (2 - L) * phi;
    return base <= 0 ? (L > 2 ? Infinity : 0) : base ** (L / (2 - L));
  });
}

// Its way from a start whose sum is below the target to zero loss, as `count` + 1 points, closer
// to each other where it is fast. How far it goes is found by bisection.
export function flowCurve(depths, target, init, count) {
  const at = flow(depths, init);
  const over = (shift) => at(shift).reduce((sum, strength) => sum + strength, 0) > target;
  let [low, high] = [0, 1];
  while (!over(high)) high *= 2;
  for (let halving = 0; halving < 200; halving += 1) {
    const middle = (low + high) / 2;
    if (over(middle)) high = middle;
    else low = middle;
  }
  return Array.from({ length: count + 1 }, (_, i) => at(low * (1 - (1 - i / count) ** 3)));
}

export const flowLanding = (depths, target, init) => flowCurve(depths, target, init, 1)[1];

// Top Hessian eigenvalue of a mode at a balanced zero-loss point: Σ_h L_h σ_h^{2 − 2/L_h}.
export const sharpness = (depths, strengths) =>
  depths.reduce((sum, L, h) => sum + L * Math.abs(strengths[h]) ** (2 - 2 / L), 0);

// Sharpness of the equal split of `paths` paths of one depth: L H^{2/L−1} σ⋆^{2−2/L}.
export const balancedSharpness = (L, paths, target) => L * paths ** (2 / L - 1) * target ** (2 - 2 / L);

// Where a run ends: the mean of its last two states, which is the middle of a swing.
export const ending = (history) => history.at(-1).map((strength, h) => (strength + history.at(-2)[h]) / 2);

// All non-zero Hessian eigenvalues of the matrix network, by pairs of modes; strengths[i][h] is that
// of mode i in path h: Σ_h Σ_ℓ σ_hi^{2(L_h − ℓ)/L_h} σ_hj^{2(ℓ − 1)/L_h}.
export const crossModeSharpness = (depths, strengths) => strengths.map((one) => strengths.map((other) =>
  depths.reduce((sum, L, h) => {
    for (let l = 1; l <= L; l += 1) sum += one[h] ** ((2 * (L - l)) / L) * other[h] ** ((2 * (l - 1)) / L);
    return sum;
  }, 0)));

// The split of least sharpness: at it 2 (L_h − 1) σ_h^{1 − 2/L_h} is the same for all paths. Bisection
// for the logarithm of this price; a path of depth 2 has the price 2, whatever it carries.
export function flattestSplit(depths, target) {
  const carried = (price) => depths.map((L) => (L > 2 ? Math.exp(((price - Math.log(2 * (L - 1))) * L) / (L - 2)) : 0));
  const total = (price) => carried(price).reduce((sum, strength) => sum + strength, 0);
  const shallow = depths.filter((L) => L === 2).length;
  let split;
  if (shallow && total(Math.log(2)) < target) {
    const deep = carried(Math.log(2));
    const rest = (target - total(Math.log(2))) / shallow;
    split = depths.map((L, h) => (L === 2 ? rest : deep[h]));
  } else {
    let [low, high] = [-50, 50];
    for (let halving = 0; halving < 200; halving += 1) {
      const middle = (low + high) / 2;
      if (total(middle) > target) high = middle;
      else low = middle;
    }
    split = carried(low);
  }
  const sum = split.reduce((a, b) => a + b);
  return split.map((strength) => (strength * target) / sum);
}
