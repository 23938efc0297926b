// Figures with a slider. Beside the picture the page holds the curves of every value as JSON in
// plotly's format; where script runs, they take the picture's place as it comes into view, under a
// slider of the browser's own, which fingers, keys and screen readers know how to move.
(() => {
  const here = document.currentScript.src;
  let library;

  function plotly() {
    library ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = new URL("../plotly/plotly.min.js", here);
      script.onload = () => done(window.Plotly);
      script.onerror = failed;
      document.head.append(script);
    });
    return library;
  }

  // Axes and letters in the colours of the page; panels below each other where it is narrow.
  function look(layout, colour, width) {
    const panels = Object.keys(layout).filter((key) => key.startsWith("xaxis"));
    const stacked = width < 520 && panels.length > 1;
    const faint = colour.replace("rgb(", "rgba(").replace(")", ", 0.2)");
    const themed = {
      height: stacked ? 260 * panels.length + 40 : layout.height,
      margin: { l: 62, r: 12, t: 12, b: 48 },
      paper_bgcolor: "rgba(0, 0, 0, 0)",
      plot_bgcolor: "rgba(0, 0, 0, 0)",
      font: { color: colour, size: 13, family: "inherit" },
      legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom" },
      hovermode: false,
      dragmode: false,
    };
    panels.forEach((name, number) => {
      const axis = { gridcolor: faint, linecolor: colour, zeroline: false, showline: true, ticks: "outside", tickcolor: colour, fixedrange: true };
      const across = { ...layout[name], ...axis };
      const up = { ...layout[name.replace("x", "y")], ...axis };
      if (stacked) {
        const share = 1 / panels.length;
        across.domain = [0, 1];
        up.domain = [1 - (number + 1) * share + 0.1, 1 - number * share];
      }
      themed[name] = across;
      themed[name.replace("x", "y")] = up;
    });
    return themed;
  }

  // Dark lines are black ink on white paper: in the dark they take the page's.
  function inked(trace, colour) {
    const dark = /^#([0-3].){3}$/.test(trace.line.color);
    const paint = dark ? { color: colour } : {};
    return { ...trace, line: { ...trace.line, ...paint }, marker: { ...trace.marker, ...paint } };
  }

  async function enliven(source) {
    const { data, layout, frames } = JSON.parse(source.textContent);
    const [{ active, currentvalue, steps }] = layout.sliders;
    const picture = source.closest("figure").querySelector("img");
    const Plotly = await plotly();

    const holder = document.createElement("div");
    holder.className = "interactive";
    holder.innerHTML =
      `<label><output></output><input type="range" min="0" max="${steps.length - 1}" value="${active}"></label>` +
      `<div role="img"></div>`;
    const [said, input, plot] = ["output", "input", "div"].map((tag) => holder.querySelector(tag));
    plot.setAttribute("aria-label", picture.alt);
    picture.before(holder);
    picture.hidden = true;

    function show() {
      const step = Number(input.value);
      const colour = getComputedStyle(holder).color;
      said.textContent = currentvalue.prefix + steps[step].label;
      input.setAttribute("aria-valuetext", said.textContent);
      const traces = data.map((trace, number) => ({ ...inked(trace, colour), ...frames[step].data[number] }));
      Plotly.react(plot, traces, look(layout, colour, holder.clientWidth), { displayModeBar: false });
    }
    input.addEventListener("input", show);
    let width;
    new ResizeObserver(() => holder.clientWidth !== width && ((width = holder.clientWidth), show())).observe(holder);
    new MutationObserver(show).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  document.addEventListener("DOMContentLoaded", () => {
    const near = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
        near.unobserve(target);
        enliven(target.querySelector("script[type='application/json']"));
      }),
      { rootMargin: "600px" },
    );
    document.querySelectorAll("script.interactive").forEach((source) => near.observe(source.closest("figure")));
  });
})();
