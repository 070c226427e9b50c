/* A small ReLU network whose hidden units the reader reorders by clicking on them.
 *
 * The upper half computes and runs under Node too (module.exports); tests compare it with lotperm.permute. The lower
 * half draws. A network is a list of layers {weight: n_out rows of n_in numbers, bias: n_out numbers}. Its
 * arrangement is a state {incoming, outgoing}. For each place of each hidden layer, the state has the original unit
 * whose incoming weights (and bias) are there, and the one whose outgoing weights are there. Where both lists are
 * equal, whole units have moved. Everything shown is computed from the original weights and the state, so nothing
 * drifts.
 */
(function () {
  "use strict";

  // Computing

  /** Compute the outputs for one input. Each sum runs over the places from first to last, then adds the bias. */
  function forward(layers, input) {
    let values = input;
    layers.forEach((layer, l) => {
      values = layer.weight.map((row, i) => {
        let sum = 0;
        for (let j = 0; j < row.length; j++) sum += row[j] * values[j];
        sum += layer.bias[i];
        return l < layers.length - 1 ? Math.max(sum, 0) : sum;
      });
    });
    return values;
  }

  /** Return the state in which no unit has moved. */
  function start(layers) {
    const orders = () => layers.slice(0, -1).map((layer) => layer.bias.map((_, i) => i));
    return { incoming: orders(), outgoing: orders() };
  }

  /** Reorder hidden layer `l`: the unit at place order[i] moves to place i. */
  function reorder(state, l, order, incomingOnly) {
    const move = (lists) => lists.map((list, k) => (k === l ? order.map((i) => list[i]) : list));
    return { incoming: move(state.incoming), outgoing: incomingOnly ? state.outgoing : move(state.outgoing) };
  }

  /** Exchange places i and j of hidden layer `l`. */
  function swap(state, l, i, j, incomingOnly) {
    const order = state.incoming[l].map((_, k) => (k === i ? j : k === j ? i : k));
    return reorder(state, l, order, incomingOnly);
  }

  /** Shuffle every hidden layer (Fisher and Yates); `random` gives numbers in [0, 1). */
  function shuffle(state, random, incomingOnly) {
    return state.incoming.reduce((now, list, l) => {
      const order = list.map((_, i) => i);
      for (let i = order.length - 1; i > 0; i--) {
        const j = Math.floor(random() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
      return reorder(now, l, order, incomingOnly);
    }, state);
  }

  /** Make a generator of numbers in [0, 1) from a seed (mulberry32). */
  function generator(seed) {
    let a = seed >>> 0;
    return () => {
      a = (a + 0x6d2b79f5) >>> 0;
      let t = Math.imul(a ^ (a >>> 15), a | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /** Arrange one matrix for each layer, rows and columns in the order of the state. */
  function arrangeMatrices(matrices, state) {
    return matrices.map((matrix, l) => {
      const rows = state.incoming[l] || matrix.map((_, i) => i);
      const columns = l > 0 ? state.outgoing[l - 1] : matrix[0].map((_, j) => j);
      return rows.map((r) => columns.map((c) => matrix[r][c]));
    });
  }

  /** Arrange the network in the order of the state. */
  function arrange(layers, state) {
    const weights = arrangeMatrices(layers.map((layer) => layer.weight), state);
    return layers.map((layer, l) => ({
      weight: weights[l],
      bias: state.incoming[l] ? state.incoming[l].map((r) => layer.bias[r]) : layer.bias,
    }));
  }

  /** Say whether whole units moved, so that the network is a copy of the original one. */
  function isCopy(state) {
    return JSON.stringify(state.incoming) === JSON.stringify(state.outgoing);
  }

  /** Count the orders of the hidden units: the product of n! over the hidden layers. */
  function copies(layers) {
    let product = 1;
    for (const layer of layers.slice(0, -1)) for (let n = 2; n <= layer.bias.length; n++) product *= n;
    return product;
  }

  function roundHalfEven(x) {
    const below = Math.floor(x);
    return x - below === 0.5 ? below + (below % 2) : Math.round(x);
  }

  /** Prune the weights of smallest magnitude in the whole network; among equals the earlier is kept. */
  function magnitudeMask(layers, sparsity) {
    const all = layers.flatMap((layer) => layer.weight.flat()).map(Math.abs);
    const kept = all.length - roundHalfEven(sparsity * all.length);
    const ranked = all.map((_, i) => i).sort((a, b) => all[b] - all[a] || a - b);
    const keep = new Set(ranked.slice(0, kept));
    let index = 0;
    return layers.map((layer) => layer.weight.map((row) => row.map(() => keep.has(index++))));
  }

  /** Set the pruned weights to zero; a mask of null keeps all. */
  function applyMask(layers, mask) {
    if (!mask) return layers;
    return layers.map((layer, l) => ({
      weight: layer.weight.map((row, i) => row.map((w, j) => (mask[l][i][j] ? w : 0))),
      bias: layer.bias,
    }));
  }

  /** Compute the Euclidean distance between two networks, over weights and biases. */
  function distance(a, b) {
    let sum = 0;
    a.forEach((layer, l) => {
      const other = b[l];
      layer.weight.forEach((row, i) => row.forEach((w, j) => (sum += (w - other.weight[i][j]) ** 2)));
      layer.bias.forEach((w, i) => (sum += (w - other.bias[i]) ** 2));
    });
    return Math.sqrt(sum);
  }

  /** Compute the distance of a positive float64 to the next larger one: its unit in the last place. */
  function ulp(x) {
    if (x < 2 ** -1022) return 2 ** -1074;
    let exponent = Math.floor(Math.log2(x));
    if (2 ** exponent > x) exponent -= 1; // log2 rounds
    if (2 ** (exponent + 1) <= x) exponent += 1;
    return Math.max(2 ** (exponent - 52), 2 ** -1074);
  }

  function accuracy(layers, inputs, targets) {
    const correct = inputs.filter((x, n) => forward(layers, x)[0] > 0 === targets[n] > 0.5);
    return correct.length / inputs.length;
  }

  /** Return the masks of the original and of the current order: masking is "none", "stays" or "moves". */
  function masks(layers, state, masking, sparsity) {
    if (masking === "none") return { original: null, present: null };
    const original = magnitudeMask(layers, sparsity);
    return { original, present: masking === "moves" ? arrangeMatrices(original, state) : original };
  }

  /** Compute all numbers of the figure for a state. Differences are to the original network under its own mask. */
  function measure(data, state, masking, sparsity) {
    const mask = masks(data.layers, state, masking, sparsity);
    const dense = arrange(data.layers, state);
    const original = applyMask(data.layers, mask.original);
    const network = applyMask(dense, mask.present);
    let difference = 0;
    let largest = 0;
    for (const x of data.inputs) {
      const before = forward(original, x)[0];
      difference = Math.max(difference, Math.abs(forward(network, x)[0] - before));
      largest = Math.max(largest, Math.abs(before));
    }
    return {
      difference,
      ulps: difference / ulp(largest),
      distance: distance(dense, data.layers),
      accuracy: accuracy(network, data.inputs, data.targets),
      originalAccuracy: accuracy(original, data.inputs, data.targets),
      copy: isCopy(state),
      copies: copies(data.layers),
      network,
      mask: mask.present,
    };
  }

  const api = {
    forward, start, swap, shuffle, generator, arrange, arrangeMatrices, isCopy, copies, magnitudeMask, applyMask,
    distance, ulp, accuracy, measure,
  };
  if (typeof module !== "undefined" && module.exports) {
    module.exports = api;
    return;
  }

  // Drawing

  const POSITIVE = [0, 114, 178];
  const NEGATIVE = [213, 94, 0];
  // Okabe and Ito's colours, which colour-blind readers can tell apart; the letters say the same.
  const UNITS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#bbbbbb"];
  const WIDTH = 320;
  const HEIGHT = 230;
  const RADIUS = 16;

  const STYLE = `
.lp-sym { --lp-pos: rgb(94 60 153); --lp-neg: rgb(166 97 26); color: var(--pst-color-text-base, #222);
  border: 1px solid var(--pst-color-border, #ccc); border-radius: .4rem; padding: .75rem; font-size: .9rem; }
html[data-theme="dark"] .lp-sym { --lp-pos: rgb(190 165 232); --lp-neg: rgb(230 165 95); }
.lp-sym-row { display: flex; flex-wrap: wrap; gap: .75rem 1.25rem; align-items: flex-start; }
.lp-sym-row > * { min-width: 0; }
.lp-sym-net { flex: 2 1 17rem; max-width: 26rem; }
.lp-sym-map { flex: 1 1 9rem; max-width: 12rem; }
.lp-sym svg, .lp-sym canvas { display: block; width: 100%; height: auto; }
.lp-sym canvas { border: 1px solid var(--pst-color-border, #ccc); }
.lp-sym text { fill: currentColor; font-size: 11px; text-anchor: middle; }
.lp-sym .lp-letter { fill: #111; font-size: 15px; font-weight: bold; pointer-events: none; }
.lp-sym .lp-unit { cursor: pointer; outline: none; }
.lp-sym .lp-ring { fill: transparent; stroke: none; }
.lp-sym .lp-unit:hover .lp-ring { stroke: currentColor; stroke-width: 1.5; }
.lp-sym .lp-unit[aria-pressed="true"] .lp-ring { stroke: currentColor; stroke-width: 3; }
.lp-sym .lp-unit:focus-visible .lp-ring { stroke: currentColor; stroke-width: 2; stroke-dasharray: 4 3; }
.lp-sym-caption { margin: 0 0 .25rem; font-weight: 600; }
.lp-sym-note { margin: .25rem 0 0; font-size: .8rem; color: var(--pst-color-text-muted, #555); }
.lp-sym-bar { display: flex; flex-wrap: wrap; gap: .4rem .6rem; align-items: center; margin: .6rem 0; }
.lp-sym button { font: inherit; padding: .3rem .8rem; border-radius: .3rem; cursor: pointer; color: inherit;
  border: 1px solid var(--pst-color-text-muted, #555); background: var(--pst-color-surface, #eee); }
.lp-sym button:disabled { cursor: default; border-style: dashed; color: var(--pst-color-text-muted, #555); }
.lp-sym label { display: inline-flex; align-items: center; gap: .35rem; min-height: 1.75rem; }
.lp-sym fieldset { border: 1px solid var(--pst-color-border, #ccc); border-radius: .3rem; margin: .6rem 0;
  padding: .2rem .6rem .4rem; min-width: 0; }
.lp-sym legend { float: none; width: auto; font-size: inherit; font-weight: 600; margin: 0; padding: 0 .3rem; }
.lp-sym input[type="range"] { width: 8rem; }
.lp-sym-choices { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: center; }
.lp-sym-read { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .5rem 1rem; margin: .6rem 0; }
.lp-sym-read > div { border-left: 3px solid var(--pst-color-border, #ccc); padding-left: .5rem; }
.lp-sym-read output { display: block; font-size: 1.05rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.lp-sym-read output[data-out="accuracy"] { font-size: 1.7rem; line-height: 1.2; }
.lp-sym-read .lp-bad { border-left-color: var(--lp-neg); }
.lp-sym-read .lp-good { border-left-color: #009e73; }
.lp-sym-status { display: block; min-height: 1.5em; margin: .4rem 0; }
.lp-sym .lp-sym-matrix { border-collapse: collapse; width: auto; margin: 0; font-size: .75rem; display: table;
  font-variant-numeric: tabular-nums; }
.lp-sym .lp-sym-matrix caption { caption-side: top; color: inherit; padding: 0 0 .2rem; text-align: left; font-weight: 600; }
.lp-sym .lp-sym-matrix th, .lp-sym .lp-sym-matrix td { border: 1px solid var(--pst-color-border, #ccc); color: inherit;
  padding: .15rem .2rem; min-width: 2.9em; text-align: center; line-height: 1.4; }
.lp-sym .lp-sym-matrix th { font-weight: 600; border-color: transparent; min-width: 1.4em; }
.lp-sym .lp-sym-matrix td.lp-off { text-decoration: line-through; color: var(--pst-color-text-muted, #555); }
.lp-sym .lp-sym-matrix td.lp-moved { box-shadow: inset 0 0 0 2px currentColor; }
.lp-chip { display: inline-block; min-width: 1.5em; border-radius: .8em; color: #111; }
`;

  let mounted = 0;

  const signed = (w) => (w < 0 ? "\u2212" : "") + Math.abs(w).toFixed(2);
  const percent = (share) => `${(100 * share).toFixed(0)} %`;

  /** Format a small number as plain text: 0, 0.35 or 2.2e-16. */
  function small(x) {
    if (x === 0) return "0";
    return x >= 0.001 ? x.toPrecision(3) : x.toExponential(1).replace("-", "\u2212");
  }

  function inverse(order) {
    const result = [];
    order.forEach((unit, place) => (result[unit] = place));
    return result;
  }

  /** Draw the figure into an element and make it work. `data`: layers, inputs, targets, otherDistance, sparsity. */
  function mount(element, data) {
    const id = `lp-sym-${mounted++}`;
    const { layers } = data;
    const sizes = [layers[0].weight[0].length, ...layers.map((layer) => layer.bias.length)];
    const hidden = sizes.length - 2;
    // Units are named through all hidden layers: a, b, c in the first, d, e, f in the next.
    const letter = (l, unit) => {
      const before = sizes.slice(1, l + 1).reduce((sum, n) => sum + n, 0);
      return "abcdefghijklmnopqrstuvwxyz"[before + unit];
    };
    const strongest = Math.max(...layers.flatMap((layer) => layer.weight.flat()).map(Math.abs));
    const random = generator(1);

    const x = (l) => 30 + (l * (WIDTH - 60)) / (sizes.length - 1);
    const y = (l, place) => 22 + ((place + 0.5) * (HEIGHT - 22)) / sizes[l];
    const isHidden = (l) => l > 0 && l <= hidden;
    const places = sizes.map((n) => Array.from({ length: n }, (_, i) => i));

    element.classList.add("lp-sym");
    element.innerHTML = `<style>${STYLE}</style>
<div class="lp-sym-row">
 <div class="lp-sym-net"><p class="lp-sym-caption" id="${id}-net">The network</p>
  <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="group" aria-labelledby="${id}-net">
   <g class="lp-edges" aria-hidden="true"></g><g class="lp-bodies" aria-hidden="true"></g><g class="lp-units"></g>
  </svg>
  <p class="lp-sym-note">Lines: purple positive, brown negative, the wider the larger; dotted where the mask is 0.</p></div>
 <div class="lp-sym-map"><p class="lp-sym-caption">What it computes</p>
  <canvas width="160" height="160" role="img"></canvas>
  <p class="lp-sym-note">Blue: output above 0. Circles and squares: the two classes.</p></div>
</div>
<div class="lp-sym-bar">
 <button type="button" data-do="shuffle">Shuffle all</button><button type="button" data-do="undo">Undo</button>
 <button type="button" data-do="reset">Reset</button>
 <label><input type="checkbox" data-set="incoming"> move only the incoming weights</label>
</div>
<fieldset><legend>Mask</legend><div class="lp-sym-choices">
 <label><input type="radio" name="${id}-mask" value="none" checked> none</label>
 <label><input type="radio" name="${id}-mask" value="stays"> stays in the old order</label>
 <label><input type="radio" name="${id}-mask" value="moves"> moves along</label>
 <label>sparsity <input type="range" data-set="sparsity" min="0" max="0.9" step="0.05"> <output data-out="sparsity" aria-live="off"></output></label>
</div></fieldset>
<output class="lp-sym-status" aria-live="polite" data-out="status"></output>
<div class="lp-sym-read">
 <div><span id="${id}-1">largest change of the output</span><output data-out="difference" aria-live="off" aria-labelledby="${id}-1"></output><span data-out="ulps"></span></div>
 <div><span id="${id}-2">distance in weight space from the start</span><output data-out="distance" aria-live="off" aria-labelledby="${id}-2"></output><span data-out="other"></span></div>
 <div><span id="${id}-3">right answers</span><output data-out="accuracy" aria-live="off" aria-labelledby="${id}-3"></output><span data-out="original"></span></div>
 <div><span id="${id}-4">copies seen</span><output data-out="copies" aria-live="off" aria-labelledby="${id}-4"></output><span data-out="total"></span></div>
</div>
<div class="lp-sym-row lp-sym-matrices"></div>`;

    const find = (selector) => element.querySelector(selector);
    const out = (name) => find(`[data-out="${name}"]`);
    const svg = find("svg");
    // The namespace is taken from the element that the parser made.
    const draw = (parent, tag, attributes) => {
      const node = document.createElementNS(svg.namespaceURI, tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      parent.appendChild(node);
      return node;
    };

    // Lines and discs belong to units and move with them; click targets belong to places and stay.
    const edges = layers.map((layer, l) =>
      layer.weight.map((row, r) =>
        row.map((w, c) => ({
          l, r, c, w,
          line: draw(find(".lp-edges"), "line", { "stroke-width": 0.5 + (5 * Math.abs(w)) / strongest }),
        })),
      ),
    );
    const bodies = sizes.map((n, l) =>
      places[l].map((unit) => {
        const body = draw(find(".lp-bodies"), "g", {});
        const fill = isHidden(l) ? UNITS[unit % UNITS.length] : "#dddddd";
        draw(body, "circle", { r: RADIUS - 2, fill, stroke: "#555555" });
        const name = isHidden(l) ? letter(l - 1, unit) : l === 0 ? `x${unit + 1}` : "y";
        draw(body, "text", { class: "lp-letter", y: 5 }).textContent = name;
        return body;
      }),
    );
    sizes.forEach((_, l) => {
      const words = l === 0 ? "input" : l > hidden ? "output" : `hidden ${l}`;
      draw(svg, "text", { x: x(l), y: 11 }).textContent = words;
    });

    let state = start(layers);
    let past = [];
    let visited = new Set([JSON.stringify(state.incoming)]);
    let selected = null;
    let frame = null;
    let shown = null; // the places that are drawn, numbers between them while units travel

    const masking = () => find(`input[name="${id}-mask"]:checked`).value;
    const sparsity = () => Number(find('[data-set="sparsity"]').value);
    const incomingOnly = () => find('[data-set="incoming"]').checked;

    const units = [];
    for (let l = 1; l <= hidden; l++) {
      for (const place of places[l]) {
        const unit = draw(find(".lp-units"), "g", {
          class: "lp-unit", role: "button", tabindex: 0, "aria-pressed": "false", "data-layer": l - 1,
          "data-place": place, transform: `translate(${x(l)} ${y(l, place)})`,
        });
        draw(unit, "circle", { class: "lp-ring", r: RADIUS });
        unit.addEventListener("click", () => choose(l - 1, place));
        unit.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          choose(l - 1, place);
        });
        units.push({ unit, l: l - 1, place });
      }
    }

    function say(words) {
      out("status").textContent = words;
    }

    function choose(l, place) {
      const name = letter(l, state.incoming[l][place]);
      if (!selected || selected.l !== l) {
        selected = { l, place };
        render();
        say(`${name} chosen. Now choose the unit of hidden layer ${l + 1} to swap it with.`);
      } else if (selected.place === place) {
        selected = null;
        render();
        say(`${name} is no longer chosen.`);
      } else {
        const other = letter(l, state.incoming[l][selected.place]);
        const from = selected.place;
        selected = null;
        const half = incomingOnly();
        go(swap(state, l, from, place, half));
        say(half ? `Only the incoming weights of ${other} and ${name} swapped.` : `${other} and ${name} swapped.`);
      }
    }

    function go(next) {
      past.push(state);
      state = next;
      if (isCopy(state)) visited.add(JSON.stringify(state.incoming));
      selected = null;
      render(true);
    }

    const actions = {
      shuffle() {
        go(shuffle(state, random, incomingOnly()));
        say(incomingOnly() ? "The incoming weights of all hidden units shuffled." : "All hidden units shuffled.");
      },
      undo() {
        state = past.pop();
        selected = null;
        render(true);
        say("Undone.");
      },
      reset() {
        state = start(layers);
        past = [];
        visited = new Set([JSON.stringify(state.incoming)]);
        selected = null;
        render(true);
        say("Back at the start.");
      },
    };
    for (const [name, action] of Object.entries(actions)) find(`[data-do="${name}"]`).addEventListener("click", action);
    element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && selected) {
        selected = null;
        render();
        say("Nothing is chosen.");
      }
    });
    find('[data-set="sparsity"]').value = data.sparsity;
    for (const input of element.querySelectorAll("input")) {
      input.addEventListener("input", () => {
        if (input.dataset.set !== "incoming") render(false, true);
      });
    }

    function target() {
      return {
        incoming: sizes.map((n, l) => (isHidden(l) ? inverse(state.incoming[l - 1]) : places[l])),
        outgoing: sizes.map((n, l) => (isHidden(l) ? inverse(state.outgoing[l - 1]) : places[l])),
      };
    }

    function place(now) {
      shown = now;
      for (const edge of edges.flat(2)) {
        edge.line.setAttribute("x1", x(edge.l));
        edge.line.setAttribute("y1", y(edge.l, now.outgoing[edge.l][edge.c]));
        edge.line.setAttribute("x2", x(edge.l + 1));
        edge.line.setAttribute("y2", y(edge.l + 1, now.incoming[edge.l + 1][edge.r]));
      }
      bodies.forEach((column, l) =>
        column.forEach((body, unit) =>
          body.setAttribute("transform", `translate(${x(l)} ${y(l, now.incoming[l][unit])})`),
        ),
      );
    }

    function travel(moving) {
      if (frame !== null) cancelAnimationFrame(frame);
      frame = null;
      const from = shown;
      const to = target();
      if (!moving || !from || matchMedia("(prefers-reduced-motion: reduce)").matches) return place(to);
      const begin = performance.now();
      const between = (a, b, t) => a.map((column, l) => column.map((p, unit) => p + t * (b[l][unit] - p)));
      const step = (time) => {
        const s = Math.min(Math.max((time - begin) / 350, 0), 1);
        const t = s * s * (3 - 2 * s);
        place(s < 1 ? { incoming: between(from.incoming, to.incoming, t), outgoing: between(from.outgoing, to.outgoing, t) } : to);
        frame = s < 1 ? requestAnimationFrame(step) : null;
      };
      frame = requestAnimationFrame(step);
      return undefined;
    }

    function chip(l, unit) {
      if (!isHidden(l)) return l === 0 ? `x${unit + 1}` : "y";
      return `<span class="lp-chip" style="background:${UNITS[unit % UNITS.length]}">${letter(l - 1, unit)}</span>`;
    }

    let cells = null;
    function tables(network, mask) {
      const dense = arrange(layers, state);
      const next = [];
      find(".lp-sym-matrices").innerHTML = network
        .map((layer, l) => {
          const columns = l > 0 ? state.outgoing[l - 1] : places[0];
          const rows = state.incoming[l] || places[l + 1];
          const cell = (w, kept, key) => {
            next.push(w);
            const moved = cells && cells[next.length - 1] !== w ? " lp-moved" : "";
            const tint = kept ? `background:rgb(${(w < 0 ? NEGATIVE : POSITIVE).join(" ")} / ${((35 * Math.abs(w)) / strongest).toFixed(1)}%)` : "";
            return `<td class="${kept ? "" : "lp-off"}${moved}" style="${tint}" data-cell="${key}">${signed(w)}</td>`;
          };
          const body = rows
            .map((r, i) => {
              const line = dense[l].weight[i].map((w, j) => cell(w, !mask || mask[l][i][j], `${l} ${i} ${j}`)).join("");
              return `<tr><th scope="row">${chip(l + 1, r)}</th>${line}${cell(layer.bias[i], true, `${l} ${i} bias`)}</tr>`;
            })
            .join("");
          const head = columns.map((c) => `<th scope="col">${chip(l, c)}</th>`).join("");
          const name = l < hidden ? `into hidden ${l + 1}` : "into the output";
          return `<table class="lp-sym-matrix"><caption>${name}</caption><thead><tr><td style="border:0"></td>${head}<th scope="col">bias</th></tr></thead><tbody>${body}</tbody></table>`;
        })
        .join("");
      cells = next;
    }

    function map(network, words) {
      const canvas = find("canvas");
      const context = canvas.getContext("2d");
      const n = 40;
      const size = canvas.width / n;
      const at = (value) => ((value + data.range) / (2 * data.range)) * canvas.width;
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) {
          const point = [(2 * (i + 0.5) / n - 1) * data.range, (1 - (2 * (j + 0.5)) / n) * data.range];
          const p = 1 / (1 + Math.exp(-forward(network, point)[0]));
          const colour = [0, 1, 2].map((k) => Math.round(255 - (255 - (p > 0.5 ? POSITIVE : NEGATIVE)[k]) * Math.abs(2 * p - 1) * 0.75));
          context.fillStyle = `rgb(${colour.join(",")})`;
          context.fillRect(i * size, j * size, size, size);
        }
      }
      data.inputs.forEach(([a, b], k) => {
        context.beginPath();
        if (data.targets[k] > 0.5) context.arc(at(a), at(-b), 2.5, 0, 7);
        else context.rect(at(a) - 2, at(-b) - 2, 4, 4);
        context.fillStyle = data.targets[k] > 0.5 ? "#003a5c" : "#6b2f00";
        context.fill();
      });
      canvas.setAttribute("aria-label", words);
    }

    function readout(name, words, value, good) {
      out(name).textContent = words;
      out(name).dataset.value = value;
      out(name).parentElement.className = good === null ? "" : good ? "lp-good" : "lp-bad";
    }

    function render(moving, masked) {
      const now = measure(data, state, masking(), sparsity());
      for (const { unit, l, place: at } of units) {
        const name = letter(l, state.incoming[l][at]);
        unit.setAttribute("aria-label", `hidden layer ${l + 1}, place ${at + 1}: unit ${name}`);
        unit.setAttribute("aria-pressed", String(Boolean(selected && selected.l === l && selected.place === at)));
      }
      const after = target();
      for (const { l, r, c, w, line } of edges.flat(2)) {
        const kept = !now.mask || now.mask[l][after.incoming[l + 1][r]][after.outgoing[l][c]];
        line.setAttribute("style", kept ? `stroke: var(--lp-${w < 0 ? "neg" : "pos"})` : "stroke: var(--pst-color-text-muted, #777); stroke-width: 1; stroke-dasharray: 1 5");
      }
      travel(moving);
      if (moving || masked || !cells) tables(now.network, now.mask);
      map(now.network, `The output over the input plane, with ${data.inputs.length} points: ${percent(now.accuracy)} are on the right side.`);

      const same = now.ulps <= 16;
      readout("difference", small(now.difference), now.difference, same);
      out("ulps").textContent =
        now.difference === 0 ? "the same to the last bit" : same ? `rounding: ${now.ulps.toFixed(now.ulps < 10 ? 1 : 0)} ulp of the largest output` : "another function";
      readout("distance", now.distance.toFixed(2), now.distance, null);
      out("other").textContent = `a network trained from other initial weights: ${data.otherDistance.toFixed(2)}`;
      readout("accuracy", percent(now.accuracy), now.accuracy, now.accuracy >= now.originalAccuracy);
      out("original").textContent = `at the start${now.mask ? ", with this mask" : ""}: ${percent(now.originalAccuracy)}`;
      readout("copies", now.copy ? `${visited.size}` : "not a copy", visited.size, now.copy);
      out("total").textContent = `of ${now.copies} with the same function, unmasked`;
      out("sparsity").textContent = percent(sparsity());
      find('[data-set="sparsity"]').disabled = masking() === "none";
      find('[data-do="undo"]').disabled = past.length === 0;
      element.dataset.state = JSON.stringify(state);
    }

    render();
    say("Choose two hidden units of one layer: click on them, or use Tab and Enter.");
    element.dataset.ready = "true";
  }

  globalThis.lotperm = Object.assign(globalThis.lotperm || {}, { symmetry: { ...api, mount } });
})();
