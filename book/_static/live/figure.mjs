// The frame of a live figure: a picture with points to drag, sliders and buttons under it, and a
// sentence that says what is seen. All of it moves by mouse, finger and keyboard.
import { mark } from "./draw.mjs";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const ARROWS = { ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowDown: [0, 1] };
const NUDGE = 2; // pixels that an arrow key moves a point

function element(parent, name, attributes = {}, text = "") {
  const node = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  node.textContent = text;
  parent.append(node);
  return node;
}

// Fill each holder with id `live-${name}`.
//   label     what the picture shows, for a reader who cannot see it
//   note      a line under it: what is drawn
//   state     what can be moved
//   controls  sliders { key, label, min, max, step, text, sweep } and buttons { label, press }
//   draw      (group, state, width) => { height, said, points }; a point to drag has its place
//             `at` in pixels, `label`, `text`, `value`, and `move(pixels)`, which changes the state;
//             one that moves on a line has the way `along` that ArrowUp and ArrowRight take it
export function figure(name, spec) {
  document.querySelectorAll(`#live-${name}`).forEach((holder) => mount(holder, spec));
}

function mount(holder, { label, note, state: first, controls, draw }) {
  const state = structuredClone(first);
  const stage = holder.querySelector(".live-stage");
  const svg = mark(stage, "svg", { role: "group", "aria-label": label });
  const [plot, handles] = ["plot", "handles"].map((part) => mark(svg, "g", { class: part }));
  const bar = element(stage, "div", { class: "live-controls" });
  const said = element(stage, "p", { class: "live-said", "aria-live": "polite" });
  element(stage, "p", { class: "live-note" }, note);
  let points = [];

  function show() {
    const width = Math.max(300, stage.clientWidth);
    plot.replaceChildren();
    const drawn = draw(plot, state, width);
    svg.setAttribute("viewBox", `0 0 ${width} ${drawn.height}`);
    points = drawn.points ?? [];
    while (handles.children.length < points.length) handle(handles.children.length);
    points.forEach(({ at: [x, y], label: what, text, value }, i) => {
      const node = handles.children[i];
      node.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      node.setAttribute("aria-label", what);
      node.setAttribute("aria-valuetext", text);
      node.setAttribute("aria-valuenow", value);
    });
    said.textContent = drawn.said;
    shown.forEach((update) => update());
  }

  function handle(i) {
    const node = mark(handles, "g", { class: "handle", role: "slider", tabindex: 0 });
    mark(node, "circle", { class: "reach", r: 22 });
    mark(node, "circle", { class: "thumb", r: 8 });
    const to = (x, y) => { points[i].move([x, y]); show(); };
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      node.focus({ preventScroll: true });
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!node.hasPointerCapture(event.pointerId)) return;
      const [box, view] = [svg.getBoundingClientRect(), svg.viewBox.baseVal];
      to(((event.clientX - box.x) * view.width) / box.width, ((event.clientY - box.y) * view.height) / box.height);
    });
    node.addEventListener("keydown", (event) => {
      let by = ARROWS[event.key];
      if (!by) return;
      event.preventDefault();
      const { at: [x, y], along } = points[i];
      if (along) by = [along[0] * (by[0] - by[1]), along[1] * (by[0] - by[1])];
      to(x + NUDGE * by[0], y + NUDGE * by[1]);
    });
  }

  const shown = controls.map((control) => (control.press ? button(control) : slider(control)));

  function button({ label: name, press }) {
    element(bar, "button", { type: "button" }, name).addEventListener("click", () => { press(state); show(); });
    return () => {};
  }

  function slider({ key, label: name, min, max, step = "any", text, sweep }) {
    const room = element(bar, "div", { class: "live-slider" });
    const around = element(room, "label");
    const letters = element(around, "span");
    const input = element(around, "input", { type: "range", min, max, step });
    input.value = state[key];
    const set = (value) => { state[key] = Math.min(max, Math.max(min, value)); input.value = state[key]; show(); };
    const stop = sweep ? sweeper(room, sweep, { min, max, get: () => state[key], set }) : () => {};
    input.addEventListener("input", () => { stop(); set(Number(input.value)); });
    input.addEventListener("keydown", (event) => {
      const [across, up] = ARROWS[event.key] ?? [0, 0];
      if (step !== "any" || !(across || up)) return;
      event.preventDefault();
      stop();
      set(state[key] + ((across - up) * (max - min)) / 100);
    });
    return () => {
      const value = text(state);
      letters.textContent = `${name}: ${value}`;
      input.value = state[key];
      input.setAttribute("aria-valuetext", value);
    };
  }

  // A button that takes the slider from one end to the other; without motion, at once.
  function sweeper(room, { label: name, seconds }, { min, max, get, set }) {
    let running = 0;
    const go = element(room, "button", { type: "button" }, name);
    const stop = () => { cancelAnimationFrame(running); running = 0; go.textContent = name; };
    go.addEventListener("click", () => {
      if (running) return stop();
      if (still.matches) return set(get() < (min + max) / 2 ? max : min);
      const began = performance.now();
      go.textContent = "Stop";
      const tick = (now) => {
        const share = Math.min(1, Math.max(0, now - began) / (1000 * seconds));
        set(min + share * (max - min));
        if (share < 1) running = requestAnimationFrame(tick);
        else stop();
      };
      running = requestAnimationFrame(tick);
    });
    return stop;
  }

  new ResizeObserver(show).observe(stage);
  holder.classList.add("is-live");
}
