// The map of a layer, for the chapter on the worst-case return.
import { cobweb } from "./cobweb.mjs";
import { layer } from "./map.mjs";

cobweb("overshoot", {
  map: layer,
  letter: "x",
  what: "layer over its fixed point",
  view: [-0.4, 1.4],
  depths: [3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50],
  first: { start: 0.8, index: 2 },
});
