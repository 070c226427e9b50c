/* A mask that can be looked at: units of A, in A's order or where π puts them, and who plays whom.

   `mount(element, data)` makes the figure; what it computes is `places` and `words`, which tests run under Node.
   data: rows and columns (each: permutation, the unit of A at each place of B; correlations by place), mask (a text of
   0 and 1, row by row), correlation (B's units × A's, in hundredths, row by row), layer (its name). */
(function (root, factory) {
  if (typeof module === "object" && module.exports) module.exports = factory();
  else (root.lotperm = root.lotperm || {}).explorer = factory();
})(typeof self !== "undefined" ? self : this, function () {
  "use strict";

  const inverse = (permutation) => permutation.reduce((found, unit, place) => ((found[unit] = place), found), []);

  /* The place of every unit of A: its own, or that of the unit of B that it plays; or by how much the mask keeps. */
  function places(side, inB, kept) {
    if (kept) {
      const ranked = [...kept.keys()].sort((a, b) => kept[b] - kept[a] || a - b);
      return inverse(ranked);
    }
    return inB ? inverse(side.permutation) : side.permutation.map((_, unit) => unit);
  }

  /* How many weights the mask keeps in each row and in each column. */
  function counts(data) {
    const [n, m] = [data.rows.permutation.length, data.columns.permutation.length];
    const [rows, columns] = [new Array(n).fill(0), new Array(m).fill(0)];
    for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) {
      const one = data.mask[i * m + j] === "1" ? 1 : 0;
      rows[i] += one;
      columns[j] += one;
    }
    return { rows, columns };
  }

  /* Who plays whom, in words. */
  function words(data, unit) {
    const place = inverse(data.rows.permutation)[unit];
    const total = data.columns.permutation.length;
    return `Unit ${unit} of A plays unit ${place} of B: their activations correlate by ${data.rows.correlations[place].toFixed(2)}. `
      + `The mask keeps ${counts(data).rows[unit]} of its ${total} weights.`;
  }

  const STYLE = `
.lp-mask { border: 1px solid var(--pst-color-border, #ccc); border-radius: .5rem; padding: .75rem; color: var(--pst-color-text-base, #222); }
.lp-mask-pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
.lp-mask canvas { width: 100%; image-rendering: pixelated; border: 1px solid var(--pst-color-border, #ccc); display: block; touch-action: pan-y; }
.lp-mask fieldset { border: 0; padding: 0; margin: 0 0 .5rem; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.lp-mask legend { float: none; font-size: inherit; font-weight: 600; margin: 0; width: auto; }
.lp-mask label { min-height: 1.75rem; }
.lp-mask input[type="range"] { width: 12rem; max-width: 100%; vertical-align: middle; }
.lp-mask output { display: block; font-weight: 600; min-height: 3em; margin-top: .5rem; }
.lp-mask p { font-size: .85rem; margin: .2rem 0 0; }
@media print { .lp-mask { display: none; } }`;

  function mount(element, data) {
    const [n, m] = [data.rows.permutation.length, data.columns.permutation.length];
    const kept = counts(data);
    const id = `lp-mask-${document.querySelectorAll(".lp-mask").length}`;
    element.innerHTML = `<style>${STYLE}</style>
<fieldset><legend>Order of the units</legend>
<label><input type="radio" name="${id}" value="a" checked> A's own</label>
<label><input type="radio" name="${id}" value="b"> B's, by π</label>
<label><input type="radio" name="${id}" value="kept"> most weights first</label></fieldset>
<label>Unit of A <input type="range" min="0" max="${n - 1}" step="1" value="0"></label>
<output aria-live="polite"></output>
<div class="lp-mask-pictures"><div><canvas data-what="mask" width="${m}" height="${n}" role="img" aria-label="The mask of ${data.layer}, a row for each unit; the marked row is the chosen unit"></canvas>
<p>The mask of ${data.layer}: a row for each unit, a column for each unit before it; dark is kept.</p></div>
<div><canvas data-what="correlation" width="${n}" height="${n}" role="img" aria-label="Correlation of every unit of B with every unit of A; after π the diagonal stands out"></canvas>
<p>Correlation of B's units (rows) with A's (columns): blue is alike, red opposite.</p></div></div>`;
    element.classList.add("lp-mask");
    const find = (selector) => element.querySelector(selector);
    const [slider, output] = [find("input[type=range]"), find("output")];
    const canvases = { mask: find("[data-what=mask]"), correlation: find("[data-what=correlation]") };
    const quiet = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    let now = wanted();
    let frame = 0;

    function wanted() {
      const order = find(`input[name="${id}"]:checked`).value;
      const by = (side) => places(data[side], order === "b", order === "kept" ? kept[side] : null);
      return { rows: by("rows"), columns: by("columns"), correlation: places(data.rows, order !== "a", null) };
    }

    /* Draw with every unit at its place, which may lie between two while it moves. */
    function draw(at) {
      const unit = Number(slider.value);
      const mask = canvases.mask.getContext("2d");
      mask.fillStyle = "#fff";
      mask.fillRect(0, 0, m, n);
      mask.fillStyle = "#222";
      for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) {
        if (data.mask[i * m + j] === "1") mask.fillRect(at.columns[j], at.rows[i], 1, 1);
      }
      mask.fillStyle = "rgba(213, 94, 0, 0.45)";
      mask.fillRect(0, at.rows[unit], m, 1);
      const plane = canvases.correlation.getContext("2d");
      for (let j = 0; j < n; j++) for (let i = 0; i < n; i++) {
        const r = data.correlation[i * n + j] / 100;
        const pale = Math.round(255 * (1 - Math.abs(r)));
        plane.fillStyle = r > 0 ? `rgb(${pale}, ${pale}, 255)` : `rgb(255, ${pale}, ${pale})`;
        plane.fillRect(at.correlation[j], i, 1, 1);
      }
      plane.fillStyle = "rgba(213, 94, 0, 0.45)";
      plane.fillRect(at.correlation[unit], 0, 1, n);
    }

    function move() {
      cancelAnimationFrame(frame);
      const [from, to, began] = [now, wanted(), performance.now()];
      now = to;
      const step = (time) => {
        const t = quiet ? 1 : Math.min(1, (time - began) / 900);
        const eased = t * t * (3 - 2 * t);
        const between = (a, b) => a.map((x, i) => x + eased * (b[i] - x));
        draw({
          rows: between(from.rows, to.rows), columns: between(from.columns, to.columns),
          correlation: between(from.correlation, to.correlation),
        });
        if (t < 1) frame = requestAnimationFrame(step);
        else element.dataset.order = find(`input[name="${id}"]:checked`).value;
      };
      step(began);
    }

    function tell() {
      output.textContent = words(data, Number(slider.value));
      draw(now);
    }

    for (const radio of element.querySelectorAll("input[type=radio]")) radio.addEventListener("change", move);
    slider.addEventListener("input", tell);
    // The row, or the column, under the pointer is the unit.
    canvases.mask.addEventListener("pointermove", (event) => {
      const box = canvases.mask.getBoundingClientRect();
      const place = Math.floor(((event.clientY - box.top) / box.height) * n);
      const unit = now.rows.indexOf(Math.max(0, Math.min(n - 1, place)));
      if (unit >= 0 && unit !== Number(slider.value)) { slider.value = unit; tell(); }
    });
    canvases.correlation.addEventListener("pointermove", (event) => {
      const box = canvases.correlation.getBoundingClientRect();
      const place = Math.floor(((event.clientX - box.left) / box.width) * n);
      const unit = now.correlation.indexOf(Math.max(0, Math.min(n - 1, place)));
      if (unit >= 0 && unit !== Number(slider.value)) { slider.value = unit; tell(); }
    });
    tell();
    move();
    element.dataset.ready = "";
  }

  return { places, counts, words, mount };
});
