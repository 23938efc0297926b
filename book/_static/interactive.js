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

  // Axes and letters in the colour of the page's ink; panels below each other where it is narrow.
  function look(layout, ink, width) {
    const panels = Object.keys(layout).filter((key) => key.startsWith("xaxis"));
    const stacked = width < 520 && panels.length > 1;
    const axis = {
      gridcolor: ink.replace("rgb(", "rgba(").replace(")", ", 0.2)"),
      linecolor: ink,
      tickcolor: ink,
      showline: true,
      zeroline: false,
      ticks: "outside",
      fixedrange: true,
    };
    const themed = {
      height: stacked ? 280 * panels.length : layout.height,
      margin: { l: 62, r: 24, t: 12, b: 48 },
      paper_bgcolor: "rgba(0, 0, 0, 0)",
      plot_bgcolor: "rgba(0, 0, 0, 0)",
      font: { color: ink, size: 13 },
      legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom" },
      hovermode: false,
      dragmode: false,
    };
    const place = (gap, number) => {
      const size = (1 - gap * (panels.length - 1)) / panels.length;
      return [number * (size + gap), number * (size + gap) + size];
    };
    panels.forEach((across, number) => {
      const up = across.replace("x", "y");
      const title = { ...layout[across].title, standoff: 6 };
      themed[across] = { ...layout[across], ...axis, title, domain: stacked ? [0, 1] : place(0.12, number) };
      themed[up] = { ...layout[up], ...axis };
      if (stacked) themed[up].domain = place(0.2, panels.length - 1 - number);
    });
    return themed;
  }

  // Figures are made for white paper. On a dark page black turns to the ink of the page, and
  // colours come a third of the way to white.
  function inked(trace, ink) {
    const levels = trace.line.color.match(/\w\w/g).map((pair) => parseInt(pair, 16));
    const dark = ink.match(/\d+/)[0] > 128;
    const lifted = `rgb(${levels.map((level) => Math.round(dark ? (2 * level + 255) / 3 : level))})`;
    const color = Math.max(...levels) < 64 ? ink : lifted;
    return { ...trace, line: { ...trace.line, color }, marker: { ...trace.marker, color } };
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
      const ink = getComputedStyle(holder).color;
      said.textContent = currentvalue.prefix + steps[step].label;
      input.setAttribute("aria-valuetext", said.textContent);
      const traces = data.map((trace, number) => ({ ...inked(trace, ink), ...frames[step].data[number] }));
      Plotly.react(plot, traces, look(layout, ink, holder.clientWidth), { displayModeBar: false });
    }
    input.addEventListener("input", show);
    let width;
    new ResizeObserver(() => {
      if (holder.clientWidth !== width) show();
      width = holder.clientWidth;
    }).observe(holder);
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
