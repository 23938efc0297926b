// Controls that screen readers cannot tell apart: a fold of the sidebar gets the name of its pages; a
// search, and a fold of code, are called what stands on them. The bibliography's entries have a role of
// their own, which no list may hold.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("summary:has(.toctree-toggle)").forEach((fold) => {
    fold.setAttribute("aria-label", `Pages of ${fold.closest("li").querySelector("a").textContent.trim()}`);
  });
  const labelled = "button.search-button-field, details.hide > summary";
  document.querySelectorAll(labelled).forEach((control) => control.removeAttribute("aria-label"));
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
});
