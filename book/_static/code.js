/* Code is out of sight until asked for: one button for a page, in place of one for every cell. */
(function () {
  "use strict";
  document.addEventListener("DOMContentLoaded", () => {
    const [root, title] = [document.documentElement, document.querySelector("article h1")];
    const cells = document.querySelectorAll(".cell.tag_hide-input:not(.tag_parameters) > details.hide.above-input");
    if (!title || !cells.length) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "show-code";

    function show(visible) {
      root.dataset.code = visible ? "shown" : "hidden";
      button.setAttribute("aria-pressed", String(visible));
      button.textContent = visible ? "Hide the code of this page" : "Show the code of this page";
      for (const cell of cells) cell.open = visible;
    }

    button.addEventListener("click", () => show(root.dataset.code === "hidden"));
    show(false);
    title.after(button);
  });
})();
