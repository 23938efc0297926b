// No equation is cut: one that is wider than its column breaks before a relation or a sum, after a
// comma or a wide space; what is still too wide becomes smaller.
(() => {
  const BREAKS = /^[=≈≤≥<>≲≳→←⟹⇒∝+−±]$/;
  const row = (node) => {
    let inner = node.querySelector("mjx-math");
    while (inner?.children.length === 1 && inner.matches("mjx-math, mjx-mrow, mjx-texatom, mjx-mstyle")) {
      inner = inner.firstElementChild;
    }
    return inner;
  };
  const glyph = (atom) => {
    const c = atom.querySelector("mjx-c");
    const code = c && [...c.classList].find((name) => name.startsWith("mjx-c"))?.slice(5);
    return code ? String.fromCodePoint(parseInt(code, 16)) : "";
  };

  function fit(equation) {
    equation.dataset.size ??= equation.style.fontSize; // MathJax's own
    equation.style.fontSize = equation.dataset.size;
    equation.querySelectorAll("br").forEach((line) => line.remove());
    const room = equation.clientWidth;
    if (!room || equation.scrollWidth <= room) return;
    const atoms = [...(row(equation)?.children ?? [])];
    const widths = atoms.map((atom) => atom.getBoundingClientRect().width + 2);
    let [start, chance, used] = [0, 0, 0];
    atoms.forEach((atom, i) => {
      const before = i && atoms[i - 1];
      const may = atom.matches("mjx-mo") && BREAKS.test(glyph(atom));
      if (may || (before && before.matches("mjx-mo, mjx-mstyle, mjx-mspace") && /^[,;]?$/.test(glyph(before)))) chance = i;
      used += widths[i];
      if (used > room && chance > start) {
        atoms[chance].before(document.createElement("br"));
        start = chance;
        used = widths.slice(chance, i + 1).reduce((sum, width) => sum + width, 0);
      }
    });
    for (let tries = 0; tries < 3 && equation.scrollWidth > room; tries += 1) {
      const size = parseFloat(getComputedStyle(equation).fontSize);
      equation.style.fontSize = `${(0.98 * size * room) / equation.scrollWidth}px`;
    }
  }

  const all = () => document.querySelectorAll("article mjx-container[display=true]");
  let width;
  addEventListener("load", async () => {
    await window.typeset;
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width !== width) all().forEach(fit);
      width = contentRect.width;
    }).observe(document.querySelector("article") ?? document.body); // the search has no article
    document.documentElement.dataset.fitted = "";
    // A folded solution has no width until it is opened.
    document.addEventListener("toggle", () => all().forEach(fit), true);
  });
})();
