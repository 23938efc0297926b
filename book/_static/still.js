// A page that is opened from a folder has no modules: its live figures stay pictures and need less room.
if (location.protocol === "file:") document.documentElement.dataset.still = "";
