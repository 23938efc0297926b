// MathJax, 1.2 MB, is asked for once the page stands, and sets a few formulas at a time: nothing that
// a reader does waits for it. The promise `typeset` is kept when all formulas are set.
window.typeset = new Promise((done) => {
  const from = new URL("../mathjax/tex-mml-chtml.js", document.currentScript.src);

  async function inTurn() {
    const formulas = [...document.querySelectorAll(".math, .output_area")];
    for (let [i, many] = [0, 4]; i < formulas.length;) {
      const start = performance.now();
      await MathJax.typesetPromise(formulas.slice(i, i + many));
      i += many;
      many = performance.now() - start < 25 ? many + 4 : Math.ceil(many / 2);
      await new Promise((resume) => { setTimeout(resume); });
    }
    done();
  }

  addEventListener("load", () => {
    if (!document.querySelector(".math, .output_area")) { done(); return; }
    window.MathJax = { ...window.MathJax, startup: { pageReady: inTurn } };
    document.head.append(Object.assign(document.createElement("script"), { src: from }));
  });
});
