// The scoreboard's filters: buttons by verdict, part and scale; a claim's own link shows it always.
document.addEventListener("DOMContentLoaded", () => {
  const holder = document.querySelector(".board-filters");
  if (!holder) return;
  const rows = [...document.querySelectorAll("table.scoreboard tbody tr")];
  const of = (row, kind) => [...row.classList].find((name) => name.startsWith(`${kind}-is-`)).slice(kind.length + 4);
  const NAMES = { iam: "Part I", pathways: "Part II", beyond: "Part III" };
  const chosen = {};

  function show() {
    rows.forEach((row) => { row.hidden = Object.entries(chosen).some(([kind, value]) => value && of(row, kind) !== value); });
    document.querySelectorAll(".board-group").forEach((group) => {
      group.hidden = !group.querySelector("tbody tr:not([hidden])");
    });
    const left = rows.filter((row) => !row.hidden).length;
    holder.querySelector("output").textContent = `${left} of ${rows.length} claims`;
    holder.querySelectorAll("button").forEach((button) => {
      button.setAttribute("aria-pressed", String((chosen[button.dataset.kind] ?? "") === button.dataset.value));
    });
  }

  for (const kind of ["verdict", "part", "scale"]) {
    const group = document.createElement("div");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `Filter by ${kind}`);
    for (const value of ["", ...new Set(rows.map((row) => of(row, kind)))]) {
      const button = document.createElement("button");
      button.type = "button";
      Object.assign(button.dataset, { kind, value });
      button.textContent = value ? NAMES[value] ?? value.replaceAll("-", " ") : `any ${kind}`;
      button.addEventListener("click", () => { chosen[kind] = value; show(); });
      group.append(button);
    }
    holder.append(group);
  }
  holder.append(document.createElement("output"));
  holder.querySelector("output").setAttribute("aria-live", "polite");
  holder.hidden = false;
  show();

  function arrive() {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row?.matches("table.scoreboard tr")) return;
    if (row.hidden) { Object.keys(chosen).forEach((kind) => delete chosen[kind]); show(); }
    row.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", arrive);
  addEventListener("load", arrive);
});
