/* Words of the text that set a panel: see book/_extensions/sets.py. */
(function () {
  "use strict";

  /* Do to a control what a hand would: press it, choose it, or move it to a value. */
  function set(control, value) {
    if (control.matches("input[type=checkbox], input[type=radio]")) {
      if (!control.checked) control.click();
    } else if (value === undefined) {
      control.click();
    } else {
      control.value = value;
      for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind, { bubbles: true }));
    }
  }

  function run(button) {
    let last = null;
    for (const part of button.dataset.sets.split(";")) {
      const [selector, value] = part.split("->").map((text) => text.trim());
      const control = document.querySelector(`article ${selector}`);
      if (!control) return;
      set(control, value);
      last = control;
    }
    const quiet = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const panel = last.closest(".lp-sym, .lotperm-landscape, .lp-mask, .lottery") ?? last;
    panel.scrollIntoView({ block: "nearest", behavior: quiet ? "auto" : "smooth" });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const words of document.querySelectorAll("span[data-sets]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sets";
      button.dataset.sets = words.dataset.sets;
      button.append(...words.childNodes);
      button.addEventListener("click", () => run(button));
      words.replaceWith(button);
    }
  });
})();
