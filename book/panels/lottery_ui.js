/* The panel of lottery.html: reads the parameters, runs lottery.js in a Web Worker, draws what it reports.

   The worker is made of the text of the script beside the panel, because a browser refuses to start one from a file.
   Attributes for tests: data-ready once it works; data-state is ready, running, done, stopped or error. */
(function () {
  "use strict";
  const panel = document.getElementById("lottery-panel");
  const engine = window.lottery;
  const source = document.getElementById("lottery-engine").textContent;
  const find = (selector) => panel.querySelector(selector);
  const form = find("form");
  const [field, output, bar] = [form.elements, find("output"), find("progress")];
  const [chart, results] = [find(".lottery-chart"), find(".lottery-results")];
  const svg = find(".lottery-chart svg");

  const WORDS = {
    dense_a: "dense A", dense_b: "dense B", imp: "IMP (A)", lth: "LTH: A, mask", permuted: "permuted: B, π(mask)",
    naive: "naive: B, mask",
  };
  // Each curve has its own colour and pattern, for readers who can't tell the colours apart.
  const DASHES = { dense_a: "2 4", dense_b: "7 4", lth: "", permuted: "10 3", naive: "10 3 2 3" };
  const PERCENT = ["sparsity", "prune_fraction"];
  const OWN = ["rewind_epoch", "epochs", "lr", "sparse_lr", "finetune_epochs", "finetune_lr"];

  // The means of the recorded run with the initial parameters, where the page carries them.
  const carried = document.getElementById("lottery-recorded");
  const recorded = carried ? JSON.parse(carried.textContent) : null;
  const KEPT = 5; // runs that stay to be compared

  let [worker, shown, asked] = [null, null, false];
  const runs = [];

  // Parameters

  function reset() {
    const d = engine.DEFAULTS;
    field.count.value = d.seeds.length;
    field.first.value = d.seeds[0];
    for (const name of OWN) field[name].value = d[name];
    for (const name of PERCENT) field[name].value = Number((100 * d[name]).toPrecision(12));
  }

  const label = (name) => field[name].parentElement.textContent.trim();

  /* The form's values, checked; throws an Error that says what is wrong. */
  function parameters() {
    const number = (name) => {
      const text = field[name].value.trim();
      const value = text === "" ? NaN : Number(text);
      const { rangeUnderflow, rangeOverflow } = field[name].validity;
      const broken = ["count", "first"].includes(name) && !field[name].checkValidity();
      const wrong = Number.isNaN(value) || rangeUnderflow || rangeOverflow || broken;
      field[name].setAttribute("aria-invalid", String(wrong));
      if (wrong) throw new Error(`${label(name)}: a number from ${field[name].min} to ${field[name].max || "…"}, please.`);
      return value;
    };
    const chosen = { seeds: Array.from({ length: number("count") }, (_, i) => number("first") + i) };
    for (const name of OWN) chosen[name] = number(name);
    for (const name of PERCENT) chosen[name] = Number((number(name) / 100).toPrecision(12));
    try {
      return engine.checked(chosen);
    } catch (error) {
      const wrong = Object.keys(chosen).find((name) => error.message.startsWith(`${name} is`));
      if (!field[wrong]) throw error;
      field[wrong].setAttribute("aria-invalid", "true");
      // The field's own words, in place of the package's name for it.
      throw new Error(label(wrong) + error.message.slice(wrong.length));
    }
  }

  // Running

  function state(name, words) {
    panel.dataset.state = name;
    output.dataset.state = name;
    if (words !== undefined && output.textContent !== words) output.textContent = words;
    const running = name === "running";
    field.stop.disabled = !running;
    form.querySelector("[type=submit]").disabled = running;
    field.csv.disabled = running || !shown || shown.rows.length === 0;
    // The worker keeps the networks of a run that has come to its end.
    field.scramble.disabled = name !== "done";
  }

  function stop() {
    if (!worker) return;
    worker.terminate();
    worker = null;
  }

  function fail(message) {
    stop();
    state("error", message);
  }

  function start() {
    let chosen;
    try {
      chosen = parameters();
    } catch (error) {
      return fail(error.message);
    }
    shown = {
      parameters: chosen, rows: [], curves: {}, finished: [], matched: [], began: performance.now(),
      rounds: engine.roundSparsities(chosen.sparsity, chosen.prune_fraction), round: 0, doses: {},
    };
    stop();
    setDose(0);
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    try {
      worker = new Worker(url);
    } catch (error) {
      return fail(`This browser starts no worker: ${error.message}`);
    }
    worker.onmessage = (message) => {
      if (message.data.kind === "start") URL.revokeObjectURL(url);
      take(message.data);
    };
    worker.onerror = (event) => fail(`The run broke off: ${event.message || "the worker didn't start"}.`);
    worker.postMessage({ parameters: chosen });
    chart.hidden = false;
    results.hidden = true;
    bar.value = 0;
    state("running", "Making the data set…");
    draw();
    if (window.matchMedia("(max-width: 40rem)").matches) chart.scrollIntoView({ block: "nearest" });
  }

  function take(event) {
    if (event.kind === "error") return fail(event.message);
    if (event.kind === "start") shown.kernels = event.kernels;
    if (event.kind === "matched") shown.matched.push(event);
    if (event.kind === "epoch") {
      bar.value = event.done;
      const { seed, network, epoch, loss, test } = event;
      const offset = network in engine.ARMS ? shown.parameters.rewind_epoch : 0;
      if (network === "imp" && epoch === 0) shown.round++;
      if (network === "dense_a") shown.round = 0;
      if (loss !== null || test) {
        shown.rows.push({
          seed, network, round: network === "imp" ? shown.round : "", epoch: epoch + offset,
          train_loss: loss, test_accuracy: test && test.accuracy, test_loss: test && test.loss,
        });
      }
      if (test && network !== "imp") {
        const bySeed = (shown.curves[network] ??= {});
        (bySeed[seed] ??= []).push([epoch + offset, test.accuracy]);
      }
      const place = `Seed ${shown.parameters.seeds.indexOf(seed) + 1} of ${shown.parameters.seeds.length}: `;
      state("running", place + stage(network));
      draw();
    }
    if (event.kind === "seed") {
      shown.finished.push(event);
      table();
    }
    if (event.kind === "dose") {
      (shown.doses[event.share] ??= {})[event.seed] = event.accuracy;
      bar.value = Object.keys(shown.doses[event.share]).length / shown.finished.length;
    }
    if (event.kind === "dosed") {
      table();
      const means = Object.entries(shown.doses)
        .sort(([a], [b]) => a - b)
        .map(([share, bySeed]) => `${percent(engine.interval(Object.values(bySeed))[0])} % at ${100 * share} %`);
      state("done", `Permuted, with π scrambled: ${means.join(", ")}. ${verdict()}`);
      field.scramble.focus();
    }
    if (event.kind === "end") {
      bar.value = 1;
      shown.seconds = event.seconds;
      table();
      remember();
      state("done", `Done in ${event.seconds.toFixed(1)} s (${shown.kernels}). ${verdict()}`);
    }
  }

  // Dose: the permuted arm again, with a part of π spoiled

  function setDose(percentage) {
    field.scramble.value = percentage;
    find(".lottery-dose span").textContent = field.scramble.value;
  }

  function dose() {
    const share = Number(field.scramble.value) / 100;
    bar.value = 0;
    shown.doses[share] = {};
    state("running", `Training permuted with ${field.scramble.value} % of π scrambled`);
    worker.postMessage({ scramble: share });
  }

  function stage(network) {
    if (network !== "imp") return `training ${WORDS[network]}`;
    const kept = 100 * (1 - shown.rounds[shown.round - 1]);
    return `pruning A, round ${shown.round} of ${shown.rounds.length}: ${kept.toFixed(1)} % of the weights are left`;
  }

  const values = (network) => shown.finished.map((event) => event.accuracies[network]);
  const percent = (x) => (100 * x).toFixed(1);

  const means = () => ["naive", "permuted", "lth"].map((arm) => engine.interval(values(arm))[0]);

  function verdict() {
    const [naive, permuted, lth] = means();
    return `Naive ${percent(naive)} %, permuted ${percent(permuted)} %, LTH ${percent(lth)} %. ${meaning()}`;
  }

  /* What the three numbers say, in words. */
  function meaning() {
    const [naive, permuted, lth] = means().map((mean) => 100 * mean);
    const [gap, gain] = [lth - naive, permuted - naive];
    const points = (x) => `${x.toFixed(1)} points`;
    if (gap < 0.5) return `Naive is about as good as LTH here (${points(gap)} apart): there is no gap to close.`;
    if (gain <= 0) return `A's mask as it stands costs B ${points(gap)}; renaming the units brought nothing back.`;
    const share = Math.round((100 * gain) / gap);
    return `A's mask as it stands costs B ${points(gap)}; renaming the units brought back ${points(gain)} (${share} %).`;
  }

  /* Keep the run beside the last ones: what was asked, and what came of it. */
  function remember() {
    const { parameters: p } = shown;
    const what = `S = ${percent(p.sparsity)} %, k = ${p.rewind_epoch} of ${p.epochs}, ${p.seeds.length} seed${p.seeds.length > 1 ? "s" : ""}`;
    const [naive, permuted, lth] = means();
    runs.unshift([what, naive, permuted, lth].map((x) => (typeof x === "number" ? percent(x) : x)));
    runs.length = Math.min(runs.length, KEPT);
    const box = find(".lottery-runs");
    const rows = runs.map(([name, ...rest]) =>
      `<tr><th scope="row">${name}</th>${rest.map((x) => `<td>${x}</td>`).join("")}</tr>`);
    box.innerHTML = `<table><caption>Your last runs (%)</caption><thead><tr><th scope="col">run</th><th scope="col">naive</th>
      <th scope="col">permuted</th><th scope="col">LTH</th></tr></thead><tbody>${rows.join("")}</tbody></table>`;
    box.hidden = runs.length < 2;
  }

  // Table

  function table() {
    const seeds = shown.finished.map((event) => event.seed);
    const several = seeds.length > 1;
    const cells = (list) => list.map((text) => `<td>${text}</td>`).join("");
    const pair = (list) => {
      const [mean, half] = engine.interval(list);
      return half === null ? percent(mean) : `${percent(mean)} ± ${percent(half)}`;
    };
    const rows = Object.keys(shown.finished[0].accuracies).map((network) => {
      const list = values(network);
      const each = several ? cells(list.map(percent)) : "";
      const name = `<th scope="row">${WORDS[network]}</th>`;
      return `<tr data-network="${network}">${name}${cells([pair(list)])}${each}</tr>`;
    });
    for (const [share, bySeed] of Object.entries(shown.doses).sort(([a], [b]) => a - b)) {
      const list = seeds.map((seed) => bySeed[seed]);
      // Stopped before its end, a dose has no number for every seed.
      if (list.includes(undefined)) continue;
      const words = `permuted, π ${100 * share} % scrambled`;
      const each = several ? cells(list.map(percent)) : "";
      rows.push(`<tr data-dose="${share}"><th scope="row">${words}</th>${cells([pair(list)])}${each}</tr>`);
    }
    // As in Python: where LTH isn't above naive there is no gap to close.
    const gaps = shown.finished.map(({ accuracies: a }) =>
      a.lth > a.naive ? (a.permuted - a.naive) / (a.lth - a.naive) : null);
    const defined = gaps.filter((gap) => gap !== null);
    if (defined.length) {
      const each = several ? cells(gaps.map((gap) => (gap === null ? "–" : percent(gap)))) : "";
      const words = defined.length < gaps.length ? `, ${defined.length} of ${gaps.length} seeds` : "";
      rows.push(
        `<tr data-network="gap"><th scope="row">gap closed (%)${words}</th>${cells([pair(defined)])}${each}</tr>`);
    }
    const heads = ["", several ? "mean" : `seed ${seeds[0]}`, ...(several ? seeds.map((s) => `seed ${s}`) : [])];
    const layers = (list) => list.map((x) => x.toFixed(2)).join(" and ");
    const average = (name) => {
      const first = shown.matched[0][name];
      return first.map((_, l) => shown.matched.reduce((sum, m) => sum + m[name][l], 0) / shown.matched.length);
    };
    const spread = several ? ` Mean ± half width of the 95 % interval over ${seeds.length} seeds.` : "";
    results.innerHTML = `<table><thead><tr>${heads.map((h) => `<th scope="col">${h}</th>`).join("")}</tr></thead>
      <tbody>${rows.join("")}</tbody></table>
      <p class="lottery-note"><strong>live</strong>: final test accuracy in percent.${spread} The units of A and B
      correlate by ${layers(average("scores"))} in the hidden layers after matching, by
      ${layers(average("identity"))} as they stand.</p>`;
    results.hidden = false;
  }

  function download() {
    const names = Object.keys(shown.rows[0]);
    const lines = shown.rows.map((row) => names.map((name) => row[name] ?? "").join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([[names.join(","), ...lines].join("\n") + "\n"], { type: "text/csv" }));
    link.download = "lottery.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // Chart

  function element(name, attributes, text) {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /* Draw at most once per frame: a run reports faster than a screen is refreshed. */
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      if (shown) paint();
    });
  }

  function paint() {
    const [width, height, left, right, top, bottom] = [svg.clientWidth || 320, 300, 38, 8, 18, 38];
    const epochs = shown.parameters.epochs;
    const x = (epoch) => left + (epoch / epochs) * (width - left - right);
    const seen = Object.values(shown.curves).flatMap((bySeed) => Object.values(bySeed).flat());
    const best = Math.max(0.4, ...seen.map(([, accuracy]) => accuracy));
    const most = Math.ceil(best * 10) / 10;
    const y = (accuracy) => height - bottom - (accuracy / most) * (height - top - bottom);
    const parts = [];
    for (let tenths = 0; tenths <= Math.round(most * 10); tenths++) {
      const at = y(tenths / 10);
      parts.push(element("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
      parts.push(element("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, String(10 * tenths)));
    }
    const step = Math.max(1, Math.ceil(epochs / 8));
    for (let epoch = 0; epoch <= epochs; epoch += step) {
      parts.push(element("text", { x: x(epoch), y: height - bottom + 16, "text-anchor": "middle" }, String(epoch)));
    }
    parts.push(element("text", { x: left - 30, y: 11 }, "test accuracy (%), live"));
    parts.push(element("text", { x: width - right, y: height - 6, "text-anchor": "end" }, "epoch of training"));
    const place = ([epoch, accuracy], i) => `${i ? "L" : "M"}${x(epoch).toFixed(1)} ${y(accuracy).toFixed(1)}`;
    const line = (points) => points.map(place).join("");
    for (const [network, bySeed] of Object.entries(shown.curves)) {
      const group = element("g", { "data-arm": network });
      const runs = Object.values(bySeed);
      const attributes = { "stroke-dasharray": DASHES[network] };
      if (runs.length > 1) for (const run of runs) group.append(element("path", { class: "seed", d: line(run) }));
      // The mean over the seeds that have got as far as the first one.
      const whole = runs.filter((run) => run.length === runs[0].length);
      const average = runs[0].map(([epoch], i) => {
        return [epoch, whole.reduce((sum, run) => sum + run[i][1], 0) / whole.length];
      });
      group.append(element("path", { ...attributes, d: line(average) }));
      parts.push(group);
    }
    if (recorded && asRecorded()) {
      for (const [arm, mean] of Object.entries(recorded)) {
        const [at, group] = [y(mean / 100), element("g", { "data-arm": arm })];
        group.append(element("line", { class: "recorded", x1: width - right - 12, x2: width - right, y1: at, y2: at }));
        parts.push(group);
      }
    }
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(...parts);
  }

  /* Whether the run has the recorded parameters; its seeds may be others. */
  function asRecorded() {
    const names = [...OWN, ...PERCENT];
    return names.every((name) => shown.parameters[name] === engine.DEFAULTS[name]);
  }

  function legend() {
    find(".lottery-legend").innerHTML = Object.keys(DASHES)
      .map((network) => {
        const dashes = DASHES[network];
        const path = `<path d="M0 6H32" stroke-dasharray="${dashes}"/>`;
        const swatch = `<svg viewBox="0 0 32 12" aria-hidden="true">${path}</svg>`;
        return `<li data-arm="${network}">${swatch}${WORDS[network]}</li>`;
      })
      .join("");
  }

  // Start

  reset();
  legend();
  form.noValidate = true;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  field.stop.addEventListener("click", () => {
    stop();
    state("stopped", "Stopped. What was drawn stays.");
    form.querySelector("[type=submit]").focus();
  });
  field.reset.addEventListener("click", () => {
    reset();
    for (const input of form.querySelectorAll("input")) input.removeAttribute("aria-invalid");
  });
  field.csv.addEventListener("click", download);
  field.scramble.addEventListener("input", () => setDose(field.scramble.value));
  field.scramble.addEventListener("change", dose);
  for (const button of panel.querySelectorAll("button[data-set]")) {
    button.addEventListener("click", () => {
      const [name, value] = button.dataset.set.split("=");
      stop();
      reset();
      field.count.value = 1;
      field[name].value = value;
      start();
    });
  }
  new ResizeObserver(draw).observe(svg);
  panel.hidden = false;
  state("ready", "Press Run: A and B are trained, A is pruned and matched to B, then three sparse networks are trained.");
  panel.dataset.ready = "";
})();
