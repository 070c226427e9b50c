/* Answers to exercises: compared with what the page carries, and told in words. */
(function () {
  "use strict";

  /* A number as people write it: "0,5", "1 024", "50 %" or "1/6". */
  function parsed(text) {
    const plain = text.trim().replace(/[\s%]/g, "").replace("−", "-").replace(",", ".");
    const [above, below] = plain.split("/");
    if (below !== undefined) return Number(above) / Number(below);
    return plain === "" ? NaN : Number(plain);
  }

  function number(form) {
    const given = parsed(form.elements.answer.value);
    if (Number.isNaN(given)) return [false, "A number, please."];
    const { answer, within, hint } = form.dataset;
    // A last digit that was rounded is no mistake.
    const right = Math.abs(given - Number(answer)) <= Number(within) + 1e-9 * Math.abs(answer);
    return [right, right ? "Right." : hint];
  }

  function choice(form) {
    const chosen = form.querySelector("input:checked");
    if (!chosen) return [false, "Choose one first."];
    return ["right" in chosen.dataset, chosen.dataset.said];
  }

  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form.check");
    if (!form) return;
    event.preventDefault();
    const [right, words] = "answer" in form.dataset ? number(form) : choice(form);
    const output = form.querySelector("output");
    output.textContent = `${right ? "✓" : "✗"} ${words}`;
    form.dataset.state = right ? "right" : "wrong";
  });
})();
