// The theme's controls that screen readers cannot tell: which pages a fold of the sidebar holds, and
// a search whose name is what stands on it.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("summary:has(.toctree-toggle)").forEach((fold) => {
    fold.setAttribute("aria-label", `Pages of ${fold.closest("li").querySelector("a").textContent.trim()}`);
  });
  document.querySelectorAll("button.search-button-field").forEach((button) => button.removeAttribute("aria-label"));
});
