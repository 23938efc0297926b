// The map of the signal, for the chapter on infinite depth.
import { cobweb } from "./cobweb.mjs";
import { signal } from "./map.mjs";

cobweb("chain", {
  map: signal,
  letter: "y",
  what: "part of the signal that is fitted",
  view: [0, 3.2],
  depths: [3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 1000, Infinity],
  first: { start: 0.2, index: 12 },
});
