/* The 2-neuron loss landscape to play with: the twin of lotperm.site.landscape.model, and its figure.
 *
 * The functions of the model do the same float64 operations in the same order as the Python module; tests run this file
 * under Node and compare. The figure needs nothing but this file: no library, no server, no network.
 *
 *   lotpermLandscape.mount(element, config)   config: as lotperm.site.landscape.interactive writes it
 */
(function (global) {
  "use strict";

  // The model, documented in lotperm/site/landscape/model.py

  const relu = (z) => Math.max(z, 0);

  function slopes(w) {
    return [relu(w[0]) + relu(w[1]), relu(-w[0]) + relu(-w[1])];
  }

  function output(w, x) {
    return relu(w[0] * x) + relu(w[1] * x);
  }

  function loss(w, teacher) {
    const [p, n] = slopes(w);
    const [a, b] = slopes(teacher);
    return 0.25 * ((p - a) * (p - a) + (n - b) * (n - b));
  }

  function gradient(w, teacher) {
    const [p, n] = slopes(w);
    const [a, b] = slopes(teacher);
    return w.map((v) => (v > 0 ? 0.5 * (p - a) : v < 0 ? 0.5 * (b - n) : 0)); // relu'(0) = 0
  }

  function descend(start, mask, teacher, learningRate, steps) {
    let w = start.map((v, i) => (mask[i] ? v : 0));
    const path = [w];
    for (let step = 0; step < steps; step++) {
      const slope = gradient(w, teacher);
      w = w.map((v, i) => (mask[i] ? v - learningRate * slope[i] : 0));
      path.push(w);
    }
    return path;
  }

  function prune(w) {
    const first = Math.abs(w[0]) >= Math.abs(w[1]);
    return [first, !first];
  }

  function match(a, b) {
    const alike = (i, j) => 0.5 * (relu(b[i]) * relu(a[j]) + relu(-b[i]) * relu(-a[j]));
    const swap = alike(0, 1) + alike(1, 0) > alike(0, 0) + alike(1, 1);
    return swap ? [1, 0] : [0, 1];
  }

  // What each arm starts from; tests compare this table with lotperm.studies.arms.
  const ARMS = {
    lth: { weights: "a", mask: "as found" },
    naive: { weights: "b", mask: "as found" },
    permuted: { weights: "b", mask: "permuted" },
  };

  /** scene: {teacher, init_a, init_b, learning_rate, steps, rewind}, as lotperm.site.landscape.Scene. */
  function simulate(scene) {
    const train = (start, mask) => descend(start, mask, scene.teacher, scene.learning_rate, scene.steps);
    const everything = [true, true];
    const denseA = train(scene.init_a, everything);
    const denseB = train(scene.init_b, everything);
    const endA = denseA[scene.steps];
    const mask = prune(endA);
    const permutation = match(endA, denseB[scene.steps]);
    const permutedMask = permutation.map((from) => mask[from]);
    const paths = { dense_a: denseA, dense_b: denseB };
    const masks = { "as found": mask, permuted: permutedMask };
    for (const [name, arm] of Object.entries(ARMS)) {
      paths[name] = train(paths[`dense_${arm.weights}`][scene.rewind], masks[arm.mask]);
    }
    return {
      paths,
      mask,
      permutation,
      permuted_mask: permutedMask,
      pruned: endA.map((v, i) => (mask[i] ? v : 0)),
    };
  }

  // Small helpers

  const MINUS = "−";

  /** Format a loss in few characters: 1.000, 0.040 or 1.1e−6. */
  function short(value) {
    return value >= 5e-4 || value === 0 ? value.toFixed(3) : value.toExponential(1).replace("-", MINUS);
  }

  function signed(value) {
    return value.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", MINUS);
  }

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // Colours are [r, g, b], 0 to 255. The browser itself parses any colour of a style sheet.
  function rgb(text, context) {
    context.fillStyle = "#000";
    context.fillStyle = text;
    const found = context.fillStyle;
    if (found[0] === "#") return [1, 3, 5].map((i) => parseInt(found.slice(i, i + 2), 16));
    return found.match(/[\d.]+/g).slice(0, 3).map(Number);
  }

  const css = (c) => `rgb(${c.map(Math.round).join(", ")})`;
  const mix = (a, b, share) => a.map((v, i) => v + (b[i] - v) * share);

  function luminance(c) {
    const linear = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  }

  function contrast(a, b) {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  }

  /** Move a colour towards `text` until it stands out from `ground`, in a light or a dark theme. */
  function readable(colour, ground, text, least) {
    let found = colour;
    for (let share = 0; share <= 1 && contrast(found, ground) < least; share += 0.1) found = mix(colour, text, share);
    return found;
  }

  // The figure

  const STYLE = `
  .lotperm-landscape { --ll-text: var(--pst-color-text-base, #222832); --ll-ground: var(--pst-color-background, #fff);
    --ll-edge: var(--pst-color-text-muted, #48566b); color: var(--ll-text); background: var(--ll-ground);
    font-size: .9rem; line-height: 1.4; padding: .25rem; }
  .lotperm-landscape *, .lotperm-landscape *::before { box-sizing: border-box; }
  .lotperm-landscape canvas { display: block; width: 100%; height: 100%; }
  .ll-row { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .4rem 0; }
  .ll-main { display: grid; grid-template-columns: minmax(0, 1.35fr) minmax(0, 1fr); gap: .75rem; }
  .ll-surface { position: relative; aspect-ratio: 1; }
  .ll-side { display: grid; grid-template-rows: 1fr 1fr; gap: .5rem; }
  .ll-side > div { position: relative; min-height: 9rem; }
  .ll-side canvas { position: absolute; inset: 0; }
  @media (max-width: 600px) { .ll-main { grid-template-columns: minmax(0, 1fr); } .ll-side > div { height: 10rem; } }
  .lotperm-landscape button { font: inherit; color: var(--ll-text); background: var(--pst-color-surface, #f3f4f5);
    border: 1px solid var(--ll-edge); border-radius: .3rem; padding: .25rem .6rem; min-height: 2rem; cursor: pointer; }
  .lotperm-landscape button[aria-pressed="true"] { background: var(--ll-text); color: var(--ll-ground); }
  .lotperm-landscape :is(button, input):focus-visible { outline: 3px solid #0072b2; outline-offset: 2px;
    box-shadow: 0 0 0 2px var(--ll-ground); }
  .lotperm-landscape button.ll-handle { position: absolute; width: 1.9rem; height: 1.9rem; min-height: 0; padding: 0;
    margin: -.95rem 0 0 -.95rem; border-radius: 50%; border: 2px solid var(--ll-ground); background: var(--ll-text);
    color: var(--ll-ground); font-weight: bold; cursor: grab; touch-action: none; }
  .ll-handle:active { cursor: grabbing; }
  .ll-key { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; margin: .3rem 0 .6rem; font-size: .7rem; }
  .ll-key span { display: block; border-top: .7rem solid; text-align: right; }
  .lotperm-landscape table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
  .lotperm-landscape :is(th, td) { text-align: right; padding: .15rem .3rem; font-weight: normal;
    border-bottom: 1px solid var(--pst-color-border, #c9c9c9); color: var(--ll-text); background: none; }
  .lotperm-landscape thead th { font-weight: bold; }
  .lotperm-landscape td { white-space: nowrap; font-variant-numeric: tabular-nums; }
  .lotperm-landscape :is(td, th):first-child { text-align: left; }
  .ll-controls { display: grid; gap: .3rem 1.5rem;
    grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
  .ll-controls label { display: grid; grid-template-columns: 7.5rem 1fr 3rem; gap: .4rem; align-items: center; }
  .ll-controls label.ll-number { grid-template-columns: 7.5rem 1fr; }
  .lotperm-landscape input[type="range"] { width: 100%; min-width: 0; min-height: 1.5rem; accent-color: #0072b2; }
  .lotperm-landscape input[type="number"] { font: inherit; width: 100%; min-width: 0; color: var(--ll-text);
    background: var(--ll-ground); border: 1px solid var(--ll-edge); border-radius: .3rem; padding: .1rem .3rem; }
  .ll-time { display: flex; flex: 1 1 12rem; gap: .4rem; align-items: center; white-space: nowrap; }
  .lotperm-landscape input[type="checkbox"] { flex: none; width: 24px; height: 24px; margin: 0;
    accent-color: #0072b2; }
  .ll-path { display: flex; gap: .3rem; align-items: center; min-height: 1.6rem; }
  .ll-path canvas { width: 2.2rem !important; height: 1rem !important; flex: none; }
  .lotperm-landscape output { display: block; margin: .5rem 0; padding: .4rem .6rem;
    border-left: 4px solid var(--ll-edge); }
  @media print { .ll-row, .ll-controls { display: none; } }
  `;

  const CONTROLS = [
    ["init_a", 0, "A: w₀"], ["init_a", 1, "A: w₁"], ["init_b", 0, "B: w₀"], ["init_b", 1, "B: w₁"],
    ["teacher", 0, "teacher, slope 1"], ["teacher", 1, "teacher, slope 2"],
    ["learning_rate", null, "learning rate"], ["steps", null, "steps"], ["rewind", null, "rewind step k"],
  ];
  const RANGES = { teacher: [-2.5, 2.5, 0.1], learning_rate: [0.01, 1.5, 0.01], steps: [10, 400, 1] };
  const DIGITS = { teacher: 1, learning_rate: 2, steps: 0, rewind: 0 };
  const PLAY_SECONDS = 6;
  const FLOOR = 1e-8; // of the axis of the loss curves

  function mount(root, config) {
    const { presets, methods, levels } = config;
    let extent = config.extent;
    const runs = Object.keys(methods);
    const still = global.matchMedia("(prefers-reduced-motion: reduce)");
    let scene = structuredClone(config.scene);
    let shown = new Set(runs);
    let result, time, playing = null, surface = null, colours = null, pressed = "all";

    // Elements
    const ui = { inputs: {}, values: {}, rows: {}, checks: {}, swatches: {}, presets: {}, handles: {} };
    root.replaceChildren(element("style", {}, STYLE));
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Interactive figure: the 2-neuron loss landscape");

    const presetRow = element("div", { class: "ll-row", role: "group", "aria-label": "Figure 3" });
    for (const [name, preset] of [...Object.entries(presets), ["all", { title: "all paths" }]]) {
      const words = name === "all" ? preset.title : `(${name}) ${preset.title}`;
      ui.presets[name] = element("button", { type: "button", "data-preset": name, onclick: () => choose(name) }, words);
      presetRow.append(ui.presets[name]);
    }

    const plane = element("canvas", { role: "img", "aria-label":
      "Loss surface over the weights w₀ and w₁ with contour lines, its mirror line w₀ = w₁, and the paths of the runs",
    });
    const holder = element("div", { class: "ll-surface" }, plane);
    for (const which of ["a", "b"]) {
      ui.handles[which] = element("button", {
        type: "button", class: "ll-handle", "data-handle": which, onkeydown: (event) => nudge(which, event),
        onpointerdown: (event) => grab(which, event),
      }, which.toUpperCase());
      holder.append(ui.handles[which]);
    }
    const key = element("div", { class: "ll-key", role: "img",
      "aria-label": `Shades of the surface: loss up to ${levels.join(", ")} and above` });
    const shades = [...levels, null].map((level) => element("span", {}, level === null ? "loss" : String(level)));
    key.append(...shades);
    const losses = element("canvas", { role: "img", "aria-label": "Loss of each run against the step, logarithmic" });
    const function_ = element("canvas", { role: "img",
      "aria-label": "What each network computes at this step, f of x, against the teacher" });

    ui.play = element("button", { type: "button", "data-do": "play", onclick: () => (playing ? pause() : play()) });
    ui.time = element("input", { type: "range", min: 0, step: 1, "data-name": "time", oninput: () => {
      pause();
      show(Number(ui.time.value));
    } });
    ui.now = element("span", {});
    const timeRow = element("div", { class: "ll-row" }, ui.play,
      element("button", { type: "button", "data-do": "step", onclick: () => { pause(); show(time + 1); } }, "Step"),
      element("button", { type: "button", "data-do": "reset", onclick: () => { pause(); show(0); } }, "Reset"),
      element("label", { class: "ll-time" }, "step", ui.time, ui.now));

    const body = element("tbody");
    for (const run of [...runs, "pruned"]) {
      const words = run === "pruned" ? "pruned A" : methods[run].words;
      ui.swatches[run] = element("canvas", { "aria-hidden": "true" });
      const label = element("label", { class: "ll-path" }, ui.swatches[run], words);
      if (run !== "pruned") {
        ui.checks[run] = element("input", { type: "checkbox", "data-run": run, onchange: () => {
          shown[ui.checks[run].checked ? "add" : "delete"](run);
          press(null);
          draw();
        } });
        label.prepend(ui.checks[run]);
      }
      ui.rows[run] = { weights: element("td"), loss: element("data", { "data-loss": run }) };
      body.append(element("tr", {}, element("th", { scope: "row" }, label), ui.rows[run].weights,
        element("td", {}, ui.rows[run].loss)));
    }
    const heads = ["path", "w₀, w₁", "loss"].map((words) => element("th", { scope: "col" }, words));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body);

    ui.output = element("output", { "aria-live": "polite" });

    const controls = element("div", { class: "ll-controls", role: "group", "aria-label": "Settings" });
    for (const [name, index, words] of CONTROLS) {
      const id = index === null ? name : `${name}.${index}`;
      const range = name.startsWith("init") ? null : RANGES[name] || [0, 0, 1];
      const [min, max, step] = range || [-extent, extent, 0.05];
      const given = index === null ? scene[name] : scene[name][index]; // the page's own value may lie outside
      const input = element("input", { type: range ? "range" : "number", step, "data-name": id,
        min: Math.min(min, given), max: Math.max(max, given), oninput: () => set(name, index, input) });
      // Half-typed numbers are left alone until the reader leaves the field.
      input.addEventListener("change", () => {
        if (fits(input)) return describe();
        ui.output.textContent = `${words}: a number from ${signed(Number(input.min))} to ${signed(Number(input.max))}, please.`;
      });
      ui.inputs[id] = input;
      const label = element("label", { class: range ? "" : "ll-number" }, words, input);
      if (range) label.append((ui.values[id] = element("span")));
      controls.append(label);
    }

    root.append(presetRow, timeRow,
      element("div", { class: "ll-main" }, element("div", {}, holder, key),
        element("div", { class: "ll-side" }, element("div", {}, losses), element("div", {}, function_))),
      ui.output, table, controls);

    // State
    function choose(name) {
      pause();
      if (name !== "all") scene = structuredClone(config.scene);
      shown = new Set(name === "all" ? runs : presets[name].shows);
      compute();
      press(name);
    }

    function press(name) {
      pressed = name;
      for (const [preset, button] of Object.entries(ui.presets)) button.setAttribute("aria-pressed", preset === name);
      describe();
    }

    const fits = ({ valueAsNumber, min, max }) => valueAsNumber >= Number(min) && valueAsNumber <= Number(max);

    function set(name, index, input) {
      const value = input.valueAsNumber;
      if (!fits(input)) return;
      if (index === null) scene[name] = value;
      else scene[name][index] = value;
      if (name === "steps") scene.rewind = Math.min(scene.rewind, value);
      changed(input);
    }

    function changed(typing) {
      pause();
      compute(typing);
      press(pressed === "all" ? "all" : null);
    }

    function compute(typing) {
      result = simulate(scene);
      // As in Python: slopes of one sign can come from one neuron alone, whose weight is then their sum.
      const [first, second] = scene.teacher;
      const reach = first * second > 0 ? Math.abs(first + second) : Math.max(Math.abs(first), Math.abs(second));
      const starts = [...scene.init_a, ...scene.init_b].map(Math.abs);
      extent = Math.max(config.extent, Math.ceil(reach + 0.5), Math.ceil(Math.max(...starts)));
      ui.time.max = scene.steps;
      ui.inputs.rewind.max = scene.steps;
      for (const [name, index] of CONTROLS) {
        const id = index === null ? name : `${name}.${index}`;
        const value = index === null ? scene[name] : scene[name][index];
        if (ui.inputs[id] !== typing) ui.inputs[id].value = value;
        if (ui.values[id]) ui.values[id].textContent = value.toFixed(DIGITS[name]).replace("-", MINUS);
      }
      show(scene.steps);
    }

    function show(step) {
      time = Math.min(Math.max(step, 0), scene.steps);
      ui.time.value = time;
      ui.now.textContent = `${time} of ${scene.steps}`;
      draw();
    }

    function play() {
      if (still.matches) return show(scene.steps); // no motion: straight to the end
      const from = time >= scene.steps ? 0 : time;
      const begin = performance.now();
      ui.play.textContent = "Pause";
      show(from);
      const frame = (now) => {
        if (!playing) return;
        show(from + Math.floor((Math.max(now - begin, 0) / 1000) * (scene.steps / PLAY_SECONDS)));
        if (time >= scene.steps) pause();
        else playing = requestAnimationFrame(frame);
      };
      playing = requestAnimationFrame(frame);
    }

    function pause() {
      if (playing) cancelAnimationFrame(playing);
      playing = null;
      ui.play.textContent = "Play";
    }

    // Moving A and B
    const keep = (value) => Math.round(Math.min(Math.max(value, -extent), extent) * 100) / 100;

    function nudge(which, event) {
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      const init = scene[`init_${which}`];
      init[move[0]] = keep(init[move[0]] + move[1] * (event.shiftKey ? 0.5 : 0.05));
      changed();
    }

    function grab(which, event) {
      const handle = ui.handles[which];
      const follow = (e) => {
        const box = plane.getBoundingClientRect();
        const view = frameOf(plane);
        scene[`init_${which}`] = [keep(view.valueX(e.clientX - box.left)), keep(view.valueY(e.clientY - box.top))];
        changed();
      };
      const release = () => {
        handle.removeEventListener("pointermove", follow);
        handle.removeEventListener("pointerup", release);
        handle.removeEventListener("pointercancel", release);
      };
      handle.setPointerCapture(event.pointerId);
      handle.addEventListener("pointermove", follow);
      handle.addEventListener("pointerup", release);
      handle.addEventListener("pointercancel", release);
    }

    // Words
    function describe() {
      for (const [id, input] of Object.entries(ui.inputs)) {
        if (input.type === "number" && document.activeElement !== input) {
          const [name, index] = id.split(".");
          input.value = scene[name][index];
        }
      }
      const ends = Object.fromEntries(runs.map((run) => [run, loss(result.paths[run][scene.steps], scene.teacher)]));
      ends.pruned = loss(result.pruned, scene.teacher);
      const numbers = [...runs, "pruned"].map((run) =>
        `${run === "pruned" ? "pruned A" : methods[run].words.split(":")[0]} ${short(ends[run])}`);
      const kept = (mask) => (mask[0] ? "w₀" : "w₁");
      const swap = result.permutation[0] === 1;
      ui.output.textContent = `${presets[pressed] ? presets[pressed].text + " " : ""}${story(ends)} Final losses after ` +
        `${scene.steps} steps: ${numbers.join(", ")}. A's mask keeps ${kept(result.mask)}; matching ` +
        `${swap ? "swaps the neurons" : "keeps the order"}, so the permuted mask keeps ${kept(result.permuted_mask)}.`;
      for (const which of ["a", "b"]) {
        const [x, y] = scene[`init_${which}`].map(signed);
        ui.handles[which].setAttribute("aria-label", `${which.toUpperCase()}: initialization w₀ ${x}, w₁ ${y}. ` +
          "Drag it, or move it with the arrow keys (with Shift: farther)");
      }
    }

    /* What happened, in words: a sparse network whose only neuron answers to the wrong side can't get lower. */
    function story(ends) {
      const arms = ["lth", "naive", "permuted"];
      const least = Math.min(...arms.map((run) => ends[run]));
      const stuck = arms.filter((run) => ends[run] > 4 * least + 0.05);
      if (!stuck.length) return "All three sparse networks end about equally low.";
      return stuck.map((run) => {
        const mask = run === "permuted" ? result.permuted_mask : result.mask;
        const kept = mask[0] ? 0 : 1;
        const w = result.paths[run][scene.steps][kept];
        const side = w > 0 ? "positive" : "negative";
        const name = methods[run].words.split(":")[0];
        return `${name[0].toUpperCase()}${name.slice(1)} is stuck: its only neuron, ${kept ? "w₁" : "w₀"} = ${signed(w)}, answers to ${side} x alone.`;
      }).join(" ");
    }

    // Drawing
    function theme() {
      const context = losses.getContext("2d");
      const style = getComputedStyle(root);
      const text = rgb(style.color, context);
      const ground = rgb(style.backgroundColor, context);
      const high = rgb(luminance(ground) > 0.5 ? "#6a51a3" : "#9d8cd6", context);
      colours = { text, ground, bands: shades.map((_, i) => mix(ground, high, (0.4 * i) / levels.length)), runs: {} };
      for (const run of runs) {
        colours.runs[run] = css(readable(rgb(methods[run].colour, context), ground, text, 4.5));
      }
      shades.forEach((shade, i) => { shade.style.borderTopColor = css(colours.bands[i]); });
      surface = null;
      draw();
    }

    /** Convert between pixels of a canvas and values on the plane of the weights. */
    function frameOf(canvas) {
      const size = canvas.clientWidth;
      const [left, top, width] = [30, 4, size - 34];
      return {
        left, top, width, height: width,
        x: (v) => left + ((v + extent) / (2 * extent)) * width,
        y: (v) => top + ((extent - v) / (2 * extent)) * width,
        valueX: (px) => ((px - left) / width) * 2 * extent - extent,
        valueY: (px) => extent - ((px - top) / width) * 2 * extent,
      };
    }

    function prepared(canvas) {
      const scale = global.devicePixelRatio || 1;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
        canvas.width = Math.round(width * scale);
        canvas.height = Math.round(height * scale);
      }
      const context = canvas.getContext("2d");
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.clearRect(0, 0, width, height);
      context.font = "12px sans-serif";
      context.textAlign = "left";
      context.fillStyle = css(colours.text);
      context.strokeStyle = css(colours.text);
      context.lineWidth = 1;
      context.setLineDash([]);
      return context;
    }

    function draw() {
      if (!colours || !result) return;
      if (plane.clientWidth > 60) {
        drawSurface();
        drawLosses();
        drawFunctions();
        for (const run of [...runs, "pruned"]) drawSwatch(run);
      }
      for (const run of [...runs, "pruned"]) {
        const w = run === "pruned" ? result.pruned : result.paths[run][time];
        const value = loss(w, scene.teacher);
        ui.rows[run].weights.textContent = w.map(signed).join(", ");
        ui.rows[run].loss.textContent = short(value);
        ui.rows[run].loss.value = String(value);
        if (run !== "pruned") ui.checks[run].checked = shown.has(run);
      }
    }

    /** Draw the surface in shades, twice as fine as the screen so that contour lines are smooth. */
    function shaded(pixels) {
      const id = [pixels, extent, ...scene.teacher].join();
      if (surface && surface.id === id) return surface.canvas;
      const n = pixels * 2;
      const canvas = element("canvas", { width: n, height: n });
      const context = canvas.getContext("2d");
      const image = context.createImageData(n, n);
      const bands = new Uint8Array(n * n);
      for (let row = 0; row < n; row++) {
        const w1 = extent - ((row + 0.5) / n) * 2 * extent;
        for (let column = 0; column < n; column++) {
          const value = loss([((column + 0.5) / n) * 2 * extent - extent, w1], scene.teacher);
          let band = 0;
          while (band < levels.length && value >= levels[band]) band++;
          bands[row * n + column] = band;
        }
      }
      const line = mix(colours.ground, colours.text, 0.45);
      for (let i = 0; i < n * n; i++) {
        const edge = (i % n < n - 1 && bands[i] !== bands[i + 1]) || (i + n < n * n && bands[i] !== bands[i + n]);
        const colour = edge ? line : colours.bands[bands[i]];
        image.data.set([colour[0], colour[1], colour[2], 255], i * 4);
      }
      context.putImageData(image, 0, 0);
      surface = { id, canvas };
      return canvas;
    }

    function stroke(context, points, colour, width, dash) {
      context.beginPath();
      points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.lineJoin = "round";
      // An edge in the background's colour separates a path from the shades and from other paths.
      context.setLineDash([]);
      context.strokeStyle = css(colours.ground);
      context.lineWidth = width + 2;
      context.stroke();
      context.setLineDash(dash);
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke();
      context.setLineDash([]);
    }

    function dot(context, run, x, y) {
      const shape = { dense_a: "circle", dense_b: "diamond", lth: "square", naive: "cross", permuted: "triangle" }[run];
      const corners = {
        diamond: [[0, -6], [6, 0], [0, 6], [-6, 0]],
        square: [[-5, -5], [5, -5], [5, 5], [-5, 5]],
        triangle: [[0, -6.5], [6, 5], [-6, 5]],
        cross: [[-6, -3], [-3, -6], [0, -3], [3, -6], [6, -3], [3, 0],
          [6, 3], [3, 6], [0, 3], [-3, 6], [-6, 3], [-3, 0]],
        star: [...Array(10).keys()].map((i) => [Math.sin(i * 0.2 * Math.PI), -Math.cos(i * 0.2 * Math.PI)]
          .map((v) => v * (i % 2 ? 3.2 : 8))),
      }[shape || "star"];
      context.beginPath();
      if (corners) for (const [dx, dy] of corners) context.lineTo(x + dx, y + dy);
      else context.arc(x, y, 5, 0, 2 * Math.PI);
      context.closePath();
      context.fillStyle = colours.runs[run] || css(colours.text);
      context.strokeStyle = css(colours.ground);
      context.lineWidth = 1.5;
      context.fill();
      context.stroke();
    }

    const dashOf = (run) => (run === "dense_b" ? [7, 4] : []);

    function drawSurface() {
      const context = prepared(plane);
      const view = frameOf(plane);
      const at = (w) => [view.x(w[0]), view.y(w[1])];
      context.imageSmoothingQuality = "high";
      const picture = shaded(Math.round(view.width * (global.devicePixelRatio || 1)));
      context.drawImage(picture, view.left, view.top, view.width, view.height);
      context.strokeRect(view.left, view.top, view.width, view.height);
      const line = (from, to, dash) => {
        context.setLineDash(dash);
        context.beginPath();
        context.moveTo(...at(from));
        context.lineTo(...at(to));
        context.stroke();
        context.setLineDash([]);
      };
      context.lineWidth = 0.8;
      line([-extent, 0], [extent, 0], []);
      line([0, -extent], [0, extent], []);
      line([-extent, -extent], [extent, extent], [2, 4]);
      context.textAlign = "center";
      for (let tick = -extent + 1; tick < extent; tick++) {
        context.fillText(signedTick(tick), view.x(tick), view.top + view.height + 14);
        context.fillText(signedTick(tick), view.left - 11, view.y(tick) + 4);
      }
      context.fillText("w₀", view.x(extent) - 8, view.top + view.height + 14);
      context.fillText("w₁", view.left - 12, view.top + 12);
      context.save();
      context.translate(...at([-extent * 0.62, -extent * 0.62]));
      context.rotate(-Math.PI / 4);
      context.fillText("mirror line w₀ = w₁", 0, -5);
      context.restore();

      context.save(); // a path may leave the plane
      context.beginPath();
      context.rect(view.left, view.top, view.width, view.height);
      context.clip();
      for (const run of runs.filter((name) => shown.has(name))) {
        const path = result.paths[run].slice(0, time + 1);
        if (ARMS[run]) { // where an arm starts, the mask projects the weights onto an axis
          const start = result.paths[`dense_${ARMS[run].weights}`][scene.rewind];
          stroke(context, [start, path[0]].map(at), colours.runs[run], 1.5, [2, 4]);
        }
        stroke(context, path.map(at), colours.runs[run], 3, dashOf(run));
      }
      context.restore();
      if (shown.has("dense_a") && time === scene.steps) {
        stroke(context, [result.paths.dense_a[time], result.pruned].map(at), css(colours.text), 1.5, [2, 3]);
        dot(context, "pruned", ...at(result.pruned));
      }
      for (const run of runs.filter((name) => shown.has(name))) dot(context, run, ...at(result.paths[run][time]));
      for (const which of ["a", "b"]) {
        const [x, y] = at(scene[`init_${which}`]);
        ui.handles[which].style.left = `${x}px`;
        ui.handles[which].style.top = `${y}px`;
      }
    }

    const signedTick = (v) => String(v).replace("-", MINUS);

    function axes(canvas, title, xLabel) {
      const context = prepared(canvas);
      const view = { left: 38, top: 20, width: canvas.clientWidth - 46, height: canvas.clientHeight - 40 };
      context.fillText(title, 2, 12);
      context.strokeRect(view.left, view.top, view.width, view.height);
      context.textAlign = "right";
      context.fillText(xLabel, view.left + view.width, view.top + view.height + 15);
      return [context, view];
    }

    function drawLosses() {
      const [context, view] = axes(losses, "loss against the step", "");
      const visible = runs.filter((run) => shown.has(run));
      const values = Object.fromEntries(visible.map((run) =>
        [run, result.paths[run].map((w) => Math.max(loss(w, scene.teacher), FLOOR))]));
      const all = Object.values(values).flat();
      const low = Math.floor(Math.log10(Math.min(1, ...all)));
      const high = Math.max(Math.ceil(Math.log10(Math.max(1, ...all))), low + 1);
      const x = (step) => view.left + (step / scene.steps) * view.width;
      const y = (value) => view.top + ((high - Math.log10(value)) / (high - low)) * view.height;
      for (let power = low; power <= high; power += Math.ceil((high - low) / 5)) {
        const words = power < -2 ? `1e${signedTick(power)}` : String(10 ** power);
        context.fillText(words, view.left - 4, y(10 ** power) + 4);
      }
      context.textAlign = "center";
      context.fillText("0", view.left, view.top + view.height + 15);
      context.textAlign = "right";
      context.fillText(String(scene.steps), view.left + view.width, view.top + view.height + 15);
      for (const run of visible) {
        stroke(context, values[run].slice(0, time + 1).map((v, i) => [x(i), y(v)]), colours.runs[run], 2, dashOf(run));
        dot(context, run, x(time), y(values[run][time]));
      }
    }

    function drawFunctions() {
      const [context, view] = axes(function_, "f(x), teacher grey", "x");
      const visible = runs.filter((run) => shown.has(run));
      const half = 2;
      const top = Math.max(1, ...[scene.teacher, ...visible.map((run) => result.paths[run][time])]
        .flatMap((w) => [output(w, half), output(w, -half)])) * 1.05;
      const x = (v) => view.left + ((v + half) / (2 * half)) * view.width;
      const y = (v) => view.top + (1 - v / top) * view.height;
      const graph = (w) => [-half, 0, half].map((v) => [x(v), y(output(w, v))]); // straight on either side of 0
      context.fillText(top.toFixed(1), view.left - 4, view.top + 10);
      context.fillText("0", view.left - 4, view.top + view.height);
      context.textAlign = "center";
      for (const tick of [-2, -1, 0, 1]) context.fillText(signedTick(tick), x(tick), view.top + view.height + 15);
      context.save();
      context.beginPath();
      context.rect(view.left, view.top - 4, view.width + 4, view.height + 8);
      context.clip();
      stroke(context, graph(scene.teacher), css(mix(colours.ground, colours.text, 0.35)), 8, []);
      for (const run of visible) {
        stroke(context, graph(result.paths[run][time]), colours.runs[run], 2, dashOf(run));
        for (const at of [-1.4, 1.4]) dot(context, run, x(at), y(output(result.paths[run][time], at)));
      }
      context.restore();
    }

    function drawSwatch(run) {
      const context = prepared(ui.swatches[run]);
      const [middle, width] = [ui.swatches[run].clientHeight / 2, ui.swatches[run].clientWidth];
      const line = { pruned: [css(colours.text), 1.5, [2, 3]] };
      const [colour, size, dash] = line[run] || [colours.runs[run], 3, dashOf(run)];
      stroke(context, [[0, middle], [width, middle]], colour, size, dash);
      dot(context, run, width / 2, middle);
    }

    // Start
    choose("all");
    theme();
    new ResizeObserver(draw).observe(root);
    const watched = { attributes: true, attributeFilter: ["data-theme"] };
    new MutationObserver(theme).observe(document.documentElement, watched);
    global.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
    root.setAttribute("data-ready", "true");
  }

  const api = { slopes, output, loss, gradient, descend, prune, match, simulate, mount, ARMS };
  if (typeof module === "object" && module.exports) module.exports = api;
  else global.lotpermLandscape = api;
})(typeof window === "object" ? window : globalThis);
