/* Lottery tickets on MNIST-1D: the experiment of the Python package `lotperm`, in one file for browsers and Node.

   The same numbers as Python's: mt19937 and what PyTorch and NumPy draw from it (initial weights, the order of the
   examples, the data set itself), seeds by SHA-256, SGD, iterative magnitude pruning, matching of the units by
   correlation, and the three sparse arms. tests/site/test_lottery_script.py compares every piece with Python.

   An MLP's parameters are one flat array in PyTorch's order: weight, bias, weight, bias, ... A weight's (n_out, n_in)
   are stored row by row. Examples go through the network in panels of 32: an activation is (n, 32), so that each
   kept weight is one multiplication of 32 numbers, and a pruned weight costs nothing.

   In a Web Worker, the message {parameters} starts `run`, and afterwards {scramble} starts `dose` with what it found;
   what they report is posted back. */
(function (root, make) {
  "use strict";
  const api = make();
  if (typeof module === "object" && module.exports) module.exports = api;
  else root.lottery = api;
  if (typeof WorkerGlobalScope !== "undefined" && root instanceof WorkerGlobalScope) {
    let last = null;
    const report = (event) => root.postMessage(event);
    root.onmessage = ({ data: { parameters, scramble } }) => {
      try {
        if (parameters) last = { parameters, found: api.run(parameters, report) };
        else api.dose(last.parameters, last.found, scramble, report);
      } catch (error) {
        root.postMessage({ kind: "error", message: error.message });
      }
    };
  }
})(typeof self !== "undefined" ? self : globalThis, function () {
  "use strict";

  // Random numbers

  /* Mersenne Twister (Matsumoto and Nishimura 1998), seeded by one number as in PyTorch and numpy.random.seed. */
  class Twister {
    constructor(seed) {
      const state = (this.state = new Uint32Array(624));
      state[0] = Number(BigInt(seed) & 0xffffffffn);
      for (let i = 1; i < 624; i++) {
        const last = state[i - 1] ^ (state[i - 1] >>> 30);
        state[i] = Math.imul(1812433253, last) + i;
      }
      this.next = 624;
      this.spare = null;
    }

    /* 32 random bits, as a non-negative number. */
    bits() {
      const s = this.state;
      if (this.next === 624) {
        for (let i = 0; i < 624; i++) {
          const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
          s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
        }
        this.next = 0;
      }
      let y = s[this.next++];
      y ^= y >>> 11;
      y ^= (y << 7) & 0x9d2c5680;
      y ^= (y << 15) & 0xefc60000;
      return (y ^ (y >>> 18)) >>> 0;
    }

    /* NumPy's random_sample: [0, 1) with 53 bits. */
    double() {
      const a = this.bits() >>> 5;
      return (a * 67108864 + (this.bits() >>> 6)) / 9007199254740992;
    }

    /* NumPy's legacy normal: Marsaglia's polar method; the second number of a pair is kept. */
    normal() {
      if (this.spare !== null) {
        const spare = this.spare;
        this.spare = null;
        return spare;
      }
      let x, y, r;
      do {
        x = 2 * this.double() - 1;
        y = 2 * this.double() - 1;
        r = x * x + y * y;
      } while (r >= 1 || r === 0);
      const f = Math.sqrt((-2 * Math.log(r)) / r);
      this.spare = f * x;
      return f * y;
    }

    /* NumPy's legacy integer in 0..most: masked bits are drawn until a number fits. */
    upTo(most) {
      if (most === 0) return 0;
      const mask = 0xffffffff >>> Math.clz32(most);
      let value;
      do value = (this.bits() & mask) >>> 0;
      while (value > most);
      return value;
    }
  }

  /* torch.randperm(size) of a CPU generator with this seed. */
  function randperm(size, seed) {
    return shuffled(size, new Twister(seed));
  }

  /* torch.randperm(size) of a CPU generator, which goes on from here. */
  function shuffled(size, twister) {
    const order = Int32Array.from({ length: size }, (_, i) => i);
    for (let i = 0; i < size - 1; i++) {
      const j = i + (twister.bits() % (size - i));
      const kept = order[i];
      order[i] = order[j];
      order[j] = kept;
    }
    return order;
  }

  /* SHA-256 (FIPS 180-4) of ASCII text: 32 bytes. */
  function sha256(text) {
    const primes = [];
    for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
    // Fractional parts of roots, exact to 32 bits, from roots of integers.
    const fraction = (prime, degree) => {
      const wanted = BigInt(prime) << BigInt(32 * degree);
      let root = BigInt(Math.floor(Math.pow(prime, 1 / degree) * 4294967296));
      while (root ** BigInt(degree) > wanted) root--;
      while ((root + 1n) ** BigInt(degree) <= wanted) root++;
      return Number(root & 0xffffffffn);
    };
    const constants = primes.map((p) => fraction(p, 3));
    const hash = primes.slice(0, 8).map((p) => fraction(p, 2));
    const bytes = [...text].map((c) => c.charCodeAt(0));
    const bits = 8 * bytes.length;
    bytes.push(0x80);
    while (bytes.length % 64 !== 56) bytes.push(0);
    for (let shift = 56; shift >= 0; shift -= 8) bytes.push(shift >= 32 ? 0 : (bits >>> shift) & 255);
    const turn = (x, n) => (x >>> n) | (x << (32 - n));
    const w = new Int32Array(64);
    for (let start = 0; start < bytes.length; start += 64) {
      for (let t = 0; t < 64; t++) {
        if (t < 16) {
          const at = start + 4 * t;
          w[t] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
        } else {
          const [p, q] = [w[t - 15], w[t - 2]];
          const first = turn(p, 7) ^ turn(p, 18) ^ (p >>> 3);
          w[t] = w[t - 16] + first + w[t - 7] + (turn(q, 17) ^ turn(q, 19) ^ (q >>> 10));
        }
      }
      let [a, b, c, d, e, f, g, h] = hash;
      for (let t = 0; t < 64; t++) {
        const choice = (e & f) ^ (~e & g);
        const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + choice + constants[t] + w[t]) | 0;
        const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        [a, b, c, d, e, f, g, h] = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
      }
      [a, b, c, d, e, f, g, h].forEach((value, i) => (hash[i] = (hash[i] + value) | 0));
    }
    return Uint8Array.from(hash.flatMap((x) => [x >>> 24, (x >>> 16) & 255, (x >>> 8) & 255, x & 255]));
  }

  /* lotperm.config.seeds.derive_seed: a BigInt in [0, 2**63) from names and numbers. */
  function deriveSeed(...parts) {
    const bytes = sha256(JSON.stringify(parts)).slice(0, 8);
    return bytes.reduce((seed, byte) => (seed << 8n) | BigInt(byte), 0n) >> 1n;
  }

  /* lotperm.engine.schedule.draw_order: the order of the training examples in an epoch. */
  function drawOrder(size, seed, epoch) {
    return randperm(size, (seed + BigInt(epoch) * 0x9e3779b97f4a7c15n) % 2n ** 63n);
  }

  // MNIST-1D (Greydanus and Kobak), made as the Python package mnist1d makes it, with its default arguments

  const TEMPLATES = [
    [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
    [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
    [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
    [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
    [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
    [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
    [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
    [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
    [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
    [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
  ];

  const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;
  const deviation = (values) => {
    const m = mean(values);
    return Math.sqrt(values.reduce((sum, x) => sum + (x - m) * (x - m), 0) / values.length);
  };

  /* The signal at n evenly spaced points, linear in between. */
  function resample(x, n) {
    const last = x.length - 1;
    return Float64Array.from({ length: n }, (_, i) => {
      const at = (i / (n - 1)) * last;
      const low = Math.min(Math.max(Math.ceil(at) - 1, 0), last - 1);
      return x[low] + (x[low + 1] - x[low]) * (at - low);
    });
  }

  /* Gaussian filter with sigma = 2, truncated at 8 points, reflected at the ends: scipy's gaussian_filter. */
  function smooth(x) {
    const radius = 8;
    const weights = Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp((-0.5 / 4) * (i - radius) ** 2));
    const total = weights.reduce((a, b) => a + b, 0);
    const n = x.length;
    return x.map((_, i) => {
      let sum = 0;
      for (let j = -radius; j <= radius; j++) {
        let at = i + j;
        if (at < 0) at = -1 - at;
        if (at >= n) at = 2 * n - 1 - at;
        sum += (weights[j + radius] / total) * x[at];
      }
      return sum;
    });
  }

  /* {train, test}: each {inputs: Float32Array (N * 40), targets: Uint8Array (N)}; N = 4000 and 1000. */
  function makeData() {
    const random = new Twister(42);
    const count = 5000;
    const length = 40;
    const templates = TEMPLATES.map((raw) => {
      const [m, s] = [mean(raw), deviation(raw)];
      return raw.map((x) => ((x - m) / s - (raw[0] - m) / s) / 6);
    });
    const signals = [];
    for (let i = 0; i < count; i++) {
      const template = templates[Math.floor((10 * i) / count)];
      const padding = 36 + Math.floor(random.double() * 25);
      let x = resample([...template.map((v) => v + 1e-8), ...new Array(padding).fill(0)], 72);
      const scale = 1 + 0.4 * (random.double() - 0.5);
      const by = random.upTo(47); // x[-0:] is all of x, and x[:-0] nothing: no special case
      x = x.map((_, j) => x[(j + 72 - by) % 72] * scale);
      const correlated = smooth(Float64Array.from({ length: 72 }, () => 0.25 * random.normal()));
      x = x.map((v, j) => (v !== 0 ? v : correlated[j]));
      x = x.map((v) => v + 0.02 * random.normal());
      const shear = 0.75 * (random.double() - 0.5);
      signals.push(resample(x.map((v, j) => v - shear * (j / 71 - 0.5)), length));
    }
    const order = Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = random.upTo(i);
      [order[i], order[j]] = [order[j], order[i]];
    }
    const all = Float64Array.from({ length: count * length }, (_, i) => {
      return signals[order[Math.floor(i / length)]][i % length];
    });
    const [m, s] = [mean(all), deviation(all)];
    const inputs = Float32Array.from(all, (x) => (x - m) / s);
    const targets = Uint8Array.from(order, (i) => Math.floor((10 * i) / count));
    const split = (from, to) => ({
      inputs: inputs.slice(from * length, to * length),
      targets: targets.slice(from, to),
    });
    return { train: split(0, 4000), test: split(4000, 5000), features: length, classes: 10 };
  }

  // The network: layout of its parameters, initialization, masks

  /* The positions of an MLP's parameters in the flat array, for these layer sizes. */
  function layout(sizes) {
    const layers = [];
    let at = 0;
    for (let l = 0; l + 1 < sizes.length; l++) {
      const [inputs, outputs] = [sizes[l], sizes[l + 1]];
      layers.push({ inputs, outputs, weight: at, bias: at + inputs * outputs });
      at += (inputs + 1) * outputs;
    }
    return { layers, length: at };
  }

  /* PyTorch's default initialization of linear layers: all uniform in +-1/sqrt(n_in). Float32Array. */
  function initialize(sizes, seed) {
    const { layers, length } = layout(sizes);
    const twister = new Twister(seed);
    const flat = new Float32Array(length);
    const fround = Math.fround;
    for (const { inputs, outputs, weight, bias } of layers) {
      // Both bounds as PyTorch computes them; they differ in the last digit of a double.
      const bounds = [Math.sqrt(3) * (Math.sqrt(2 / 6) / Math.sqrt(inputs)), 1 / Math.sqrt(inputs)];
      for (const [start, n, bound] of [
        [weight, inputs * outputs, bounds[0]],
        [bias, outputs, bounds[1]],
      ]) {
        const low = fround(-bound);
        const width = fround(fround(bound) - low);
        for (let i = 0; i < n; i++) flat[start + i] = ((twister.bits() & 0xffffff) / 16777216) * width + low;
      }
    }
    return flat;
  }

  /* A mask is a Uint8Array beside the flat parameters: 1 where kept. Biases are always kept. */
  function fullMask(sizes) {
    return new Uint8Array(layout(sizes).length).fill(1);
  }

  /* Python's round: halves are rounded to even. */
  function roundHalfEven(x) {
    const below = Math.floor(x);
    if (x - below !== 0.5) return Math.round(x);
    return below % 2 === 0 ? below : below + 1;
  }

  /* lotperm.science.sparsity.magnitude_prune, global: keep the largest weights, among equals the earlier. */
  function magnitudePrune(weights, mask, sizes, sparsity) {
    const places = [];
    for (const { weight, bias } of layout(sizes).layers) for (let i = weight; i < bias; i++) places.push(i);
    const magnitudes = new Float64Array(places.length);
    places.forEach((at, i) => (magnitudes[i] = mask[at] ? Math.abs(weights[at]) : -1));
    const target = places.length - roundHalfEven(sparsity * places.length);
    const pruned = mask.slice();
    for (const at of places) pruned[at] = 0;
    if (target === 0) return pruned;
    const threshold = magnitudes.slice().sort()[places.length - target];
    if (threshold < 0) throw new Error(`sparsity ${sparsity} keeps more weights than are left. Raise it.`);
    let left = target;
    magnitudes.forEach((m, i) => {
      if (m > threshold) {
        pruned[places[i]] = 1;
        left--;
      }
    });
    for (let i = 0; left > 0; i++) {
      if (magnitudes[i] === threshold) {
        pruned[places[i]] = 1;
        left--;
      }
    }
    return pruned;
  }

  /* lotperm.science.sparsity.round_sparsities: after each round of pruning, the last one cut to the target. */
  function roundSparsities(target, fraction) {
    const sparsities = [];
    for (let rounds = 1; 1 - (1 - fraction) ** rounds < target - 1e-9; rounds++) {
      sparsities.push(1 - (1 - fraction) ** rounds);
    }
    return target > 0 ? [...sparsities, target] : [];
  }

  /* Move the units of every hidden layer: position i gets unit permutations[l][i]. Works on masks and weights. */
  function permute(flat, sizes, permutations) {
    const moved = flat.slice();
    layout(sizes).layers.forEach(({ inputs, outputs, weight, bias }, l) => {
      const rows = permutations[l];
      const columns = permutations[l - 1];
      for (let o = 0; o < outputs; o++) {
        const from = rows ? rows[o] : o;
        moved[bias + o] = flat[bias + from];
        for (let i = 0; i < inputs; i++) {
          moved[weight + o * inputs + i] = flat[weight + from * inputs + (columns ? columns[i] : i)];
        }
      }
    });
    return moved;
  }

  // Kernels: a panel is (n, 32), row by row

  const PANEL = 32;

  /* In plain JavaScript, for Float32Array or Float64Array: the reference for WebAssembly, and its fallback. */
  function plainKernels(FloatArray) {
    return {
      name: FloatArray === Float64Array ? "javascript, float64" : "javascript, float32",
      floats: (n) => new FloatArray(n),
      ints: (n) => new Int32Array(n),
      /* y[r] = sum over k of w[position[k]] * x[row[k]], k in pointer[r]..pointer[r + 1]; then mode 1: relu(y);
         mode 2: y where gate > 0, else 0. */
      multiply(rows, pointer, position, row, w, x, y, gate, mode) {
        for (let r = 0; r < rows; r++) {
          const at = r * PANEL;
          for (let b = at; b < at + PANEL; b++) y[b] = 0;
          for (let k = pointer[r]; k < pointer[r + 1]; k++) {
            const weight = w[position[k]];
            const from = row[k] * PANEL;
            for (let b = 0; b < PANEL; b++) y[at + b] += weight * x[from + b];
          }
          if (mode === 1) {
            for (let b = at; b < at + PANEL; b++) if (y[b] < 0) y[b] = 0;
          } else if (mode === 2) {
            for (let b = at; b < at + PANEL; b++) if (!(gate[b] > 0)) y[b] = 0;
          }
        }
      },
      /* g[position[k]] += d[r] . x[row[k]] */
      outer(rows, pointer, position, row, d, x, g) {
        for (let r = 0; r < rows; r++) {
          const at = r * PANEL;
          for (let k = pointer[r]; k < pointer[r + 1]; k++) {
            const from = row[k] * PANEL;
            let sum = 0;
            for (let b = 0; b < PANEL; b++) sum += d[at + b] * x[from + b];
            g[position[k]] += sum;
          }
        }
      },
      /* v = momentum * v + (g + decay * w);  w -= rate * v;  g = 0 */
      descend(n, w, v, g, rate, momentum, decay) {
        for (let i = 0; i < n; i++) {
          v[i] = momentum * v[i] + (g[i] + decay * w[i]);
          w[i] -= rate * v[i];
          g[i] = 0;
        }
      },
    };
  }

  /* The same in WebAssembly, four float32 at a time, assembled here; null where it isn't supported. */
  function wasmKernels(bytes) {
    if (typeof WebAssembly === "undefined") return null;
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
    const binary = assemble(Math.ceil(bytes / 65536));
    if (!WebAssembly.validate(binary)) return null; // before 2021 to 2023, without SIMD
    const code = new WebAssembly.Instance(new WebAssembly.Module(binary), { m: { m: memory } }).exports;
    let free = 0;
    const place = (ArrayType, n) => {
      const array = new ArrayType(memory.buffer, free, n);
      free += 16 * Math.ceil((4 * n) / 16); // v128 loads are fastest at multiples of 16
      return array;
    };
    const at = (array) => (array ? array.byteOffset : 0);
    const end = (pointer, rows) => pointer.byteOffset + 4 * rows;
    return {
      name: "WebAssembly, float32",
      floats: (n) => place(Float32Array, n),
      ints: (n) => place(Int32Array, n),
      multiply(rows, pointer, position, row, w, x, y, gate, mode) {
        code.multiply(end(pointer, rows), at(pointer), at(position), at(row), at(w), at(x), at(y), at(gate), mode);
      },
      outer(rows, pointer, position, row, d, x, g) {
        code.outer(end(pointer, rows), at(pointer), at(position), at(row), at(d), at(x), at(g));
      },
      descend(n, w, v, g, rate, momentum, decay) {
        code.descend(at(w) + 4 * n, at(w), at(v), at(g), rate, momentum, decay); // n: a multiple of 4
      },
    };
  }

  /* The module's bytes: multiply, outer and descend as in `plainKernels`, on addresses of an imported memory. */
  function assemble(pages) {
    const unsigned = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...unsigned(n >>> 7)]);
    const signed = (n) => (n >= -64 && n < 64 ? [n & 127] : [(n & 127) | 128, ...signed(n >> 7)]);
    const flat = (code) => (Array.isArray(code) ? code.flatMap(flat) : [code]);
    const vector = (items) => flat([unsigned(items.length), items]);
    const sized = (code) => flat([unsigned(flat(code).length), code]);
    const [I32, F32, V128] = [0x7f, 0x7d, 0x7b];

    // Instructions (WebAssembly core specification, chapter 5.4). All locals are named by their number.
    const get = (i) => [0x20, unsigned(i)];
    const set = (i) => [0x21, unsigned(i)];
    const constant = (n) => [0x41, signed(n)];
    const [ADD, SHIFT, LESS, EQUAL] = [0x6a, 0x74, 0x48, 0x46];
    const simd = (code, ...rest) => [0xfd, unsigned(code), rest];
    const vload = (offset) => simd(0x00, 4, unsigned(offset));
    const vstore = (offset) => simd(0x0b, 4, unsigned(offset));
    const ZERO = simd(0x0c, new Array(16).fill(0));
    const [LOAD_SPLAT, SPLAT, FIRST] = [simd(0x09, 2, 0), simd(0x13), simd(0x1f, 0)];
    const [GREATER, AND, VADD, VSUB, VMUL, PMAX] = [0x44, 0x4e, 0xe4, 0xe5, 0xe6, 0xeb].map((c) => simd(c));
    const shuffle = (lanes) => simd(0x0d, lanes.map((l) => [4 * l, 4 * l + 1, 4 * l + 2, 4 * l + 3]));
    const [FLOAT_LOAD, FLOAT_STORE, FLOAT_ADD] = [[0x2a, 2, 0], [0x38, 2, 0], 0x92];
    const advance = (local, by) => [get(local), constant(by), ADD, set(local)];
    // The int32 at local a + local b + offset, times 2**shift.
    const index = (a, b, offset, shift) => {
      const address = b === null ? get(a) : [get(a), get(b), ADD];
      return [address, 0x28, 2, unsigned(offset), constant(shift), SHIFT];
    };
    const whileLess = (a, b, body) => {
      return [0x02, 0x40, 0x03, 0x40, get(a), get(b), LESS, 0x45, 0x0d, 1, body, 0x0c, 0, 0x0b, 0x0b];
    };
    const whenMode = (local, mode, body) => [get(local), constant(mode), EQUAL, 0x04, 0x40, body, 0x0b];
    const eight = (make) => [0, 1, 2, 3, 4, 5, 6, 7].map(make);

    // 0 end of pointer, 1 pointer, 2 position, 3 row, 4 w, 5 x, 6 y, 7 gate, 8 mode | 9 k, 10 its end, 11 from |
    // 12..19 the sums, 20 the weight
    const multiply = [
      [index(1, null, 0, 2), set(9)],
      whileLess(1, 0, [
        eight((j) => [ZERO, set(12 + j)]),
        [index(1, null, 4, 2), set(10)],
        whileLess(9, 10, [
          [get(4), index(2, 9, 0, 2), ADD, LOAD_SPLAT, set(20)],
          [get(5), index(3, 9, 0, 7), ADD, set(11)],
          eight((j) => [get(12 + j), get(20), get(11), vload(16 * j), VMUL, VADD, set(12 + j)]),
          advance(9, 4),
        ]),
        whenMode(8, 1, eight((j) => [get(12 + j), ZERO, PMAX, set(12 + j)])),
        whenMode(8, 2, eight((j) => [get(12 + j), get(7), vload(16 * j), ZERO, GREATER, AND, set(12 + j)])),
        eight((j) => [get(6), get(12 + j), vstore(16 * j)]),
        [advance(6, 128), advance(7, 128), advance(1, 4)],
      ]),
    ];
    // 0 end of pointer, 1 pointer, 2 position, 3 row, 4 d, 5 x, 6 g | 7 k, 8 its end, 9 from, 10 to | 11..18 d, 19 sum
    const product = (j) => [get(11 + j), get(9), vload(16 * j), VMUL];
    const outer = [
      [index(1, null, 0, 2), set(7)],
      whileLess(1, 0, [
        eight((j) => [get(4), vload(16 * j), set(11 + j)]),
        [index(1, null, 4, 2), set(8)],
        whileLess(7, 8, [
          [get(5), index(3, 7, 0, 7), ADD, set(9)],
          [product(0), product(1), VADD, product(2), product(3), VADD, VADD],
          [product(4), product(5), VADD, product(6), product(7), VADD, VADD, VADD, set(19)],
          [get(19), get(19), get(19), shuffle([2, 3, 0, 1]), VADD, set(19)],
          [get(6), index(2, 7, 0, 2), ADD, set(10), get(10), get(10), FLOAT_LOAD],
          [get(19), get(19), get(19), shuffle([1, 0, 3, 2]), VADD, FIRST, FLOAT_ADD, FLOAT_STORE],
          advance(7, 4),
        ]),
        [advance(4, 128), advance(1, 4)],
      ]),
    ];
    // 0 end of w, 1 w, 2 v, 3 g, 4 rate, 5 momentum, 6 decay | 7..9 these three, four times each, 10 the new v
    const descend = [
      [4, 5, 6].map((i) => [get(i), SPLAT, set(i + 3)]),
      whileLess(1, 0, [
        [get(8), get(2), vload(0), VMUL, get(3), vload(0), get(9), get(1), vload(0), VMUL, VADD, VADD, set(10)],
        [get(2), get(10), vstore(0), get(3), ZERO, vstore(0)],
        [get(1), get(1), vload(0), get(7), get(10), VMUL, VSUB, vstore(0)],
        [1, 2, 3].map((i) => advance(i, 16)),
      ]),
    ];
    const section = (id, content) => [id, sized(content)];
    const signature = (...types) => [0x60, vector(types), 0];
    const ints = (n) => new Array(n).fill(I32);
    const code = (locals, body) => sized([vector(locals), body, 0x0b]);
    const names = ["multiply", "outer", "descend"];
    const text = (name) => vector([...name].map((c) => c.charCodeAt(0)));
    return Uint8Array.from(
      flat([
        [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
        section(1, [3, signature(...ints(9)), signature(...ints(7)), signature(...ints(4), F32, F32, F32)]),
        section(2, [1, text("m"), text("m"), 2, 0, unsigned(pages)]),
        section(3, [3, 0, 1, 2]),
        section(7, [3, names.map((name, i) => [text(name), 0, i])]),
        section(10, [
          3,
          code([[3, I32], [9, V128]], multiply),
          code([[4, I32], [9, V128]], outer),
          code([[4, V128]], descend),
        ]),
      ])
    );
  }

  // Training

  /* One masked network and its workspace. `arithmetic`: "fastest" (WebAssembly where it is supported), "float32" or
     "float64" (plain JavaScript). */
  class Network {
    constructor(sizes, arithmetic = "fastest") {
      this.sizes = sizes;
      const { layers, length } = layout(sizes);
      this.layers = layers;
      this.length = length;
      const padded = 4 * Math.ceil(length / 4);
      const panels = sizes.reduce((sum, n) => sum + 2 * (n + 1) * PANEL, 0);
      const bytes = 4 * (8 * padded + panels) + 65536;
      const plain = plainKernels(arithmetic === "float64" ? Float64Array : Float32Array);
      const kernels = (this.kernels = (arithmetic === "fastest" && wasmKernels(bytes)) || plain);
      [this.w, this.v, this.g] = [1, 2, 3].map(() => kernels.floats(padded));
      // activations[l]: what layer l reads, with a last row of ones for its bias; the last one: logits.
      this.activations = sizes.map((n) => kernels.floats((n + 1) * PANEL).fill(1));
      this.deltas = sizes.map((n) => kernels.floats(n * PANEL));
      const lists = (rows, entries) => ({
        pointer: kernels.ints(rows + 1), position: kernels.ints(entries), row: kernels.ints(entries),
      });
      this.forwards = layers.map(({ inputs, outputs }) => lists(outputs, (inputs + 1) * outputs));
      this.backwards = layers.map(({ inputs, outputs }) => lists(inputs, inputs * outputs));
    }

    /* Load these weights under this mask; the velocity starts at zero. */
    load(weights, mask) {
      for (let i = 0; i < this.length; i++) this.w[i] = mask[i] ? weights[i] : 0;
      this.v.fill(0);
      this.g.fill(0);
      this.layers.forEach(({ inputs, outputs, weight, bias }, l) => {
        const [forward, backward] = [this.forwards[l], this.backwards[l]];
        let n = 0;
        const add = (list, at, row) => {
          list.position[n] = at;
          list.row[n++] = row;
        };
        for (let o = 0; o < outputs; o++) {
          forward.pointer[o] = n;
          for (let i = 0, at = weight + o * inputs; i < inputs; i++, at++) if (mask[at]) add(forward, at, i);
          add(forward, bias + o, inputs);
        }
        forward.pointer[outputs] = n;
        n = 0;
        for (let i = 0; i < inputs; i++) {
          backward.pointer[i] = n;
          for (let o = 0, at = weight + i; o < outputs; o++, at += inputs) if (mask[at]) add(backward, at, o);
        }
        backward.pointer[inputs] = n;
      });
    }

    weights() {
      return this.w.slice(0, this.length);
    }

    /* Logits of up to 32 examples: rows order[start..start + n] of inputs (N, features); the rest is zeros. */
    forward(inputs, order, start, n) {
      const features = this.sizes[0];
      const x = this.activations[0];
      for (let b = 0; b < PANEL; b++) {
        const from = b < n ? (order ? order[start + b] : start + b) * features : -1;
        for (let i = 0; i < features; i++) x[i * PANEL + b] = from < 0 ? 0 : inputs[from + i];
      }
      const last = this.layers.length - 1;
      this.layers.forEach(({ outputs }, l) => {
        const { pointer, position, row } = this.forwards[l];
        const [from, to] = [this.activations[l], this.activations[l + 1]];
        this.kernels.multiply(outputs, pointer, position, row, this.w, from, to, null, l < last ? 1 : 0);
      });
    }

    /* Cross-entropy of the logits of `forward`: {loss: sum of nats, hits}; also its gradient in logits, times scale. */
    loss(targets, order, start, n, scale) {
      const classes = this.sizes[this.sizes.length - 1];
      const logits = this.activations[this.sizes.length - 1];
      const delta = this.deltas[this.sizes.length - 1];
      let [loss, hits] = [0, 0];
      for (let b = 0; b < PANEL; b++) {
        if (b >= n) {
          for (let c = 0; c < classes; c++) delta[c * PANEL + b] = 0;
          continue;
        }
        const target = targets[order ? order[start + b] : start + b];
        let best = 0;
        for (let c = 1; c < classes; c++) if (logits[c * PANEL + b] > logits[best * PANEL + b]) best = c;
        const top = logits[best * PANEL + b];
        let sum = 0;
        for (let c = 0; c < classes; c++) sum += Math.exp(logits[c * PANEL + b] - top);
        const log = Math.log(sum) + top;
        loss += log - logits[target * PANEL + b];
        if (best === target) hits++;
        for (let c = 0; c < classes; c++) {
          delta[c * PANEL + b] = scale * (Math.exp(logits[c * PANEL + b] - log) - (c === target ? 1 : 0));
        }
      }
      return { loss, hits };
    }

    /* Add the gradient of the last `loss` to g. */
    backward() {
      for (let l = this.layers.length - 1; l >= 0; l--) {
        const { inputs, outputs } = this.layers[l];
        const [f, b] = [this.forwards[l], this.backwards[l]];
        const [x, d] = [this.activations[l], this.deltas[l + 1]];
        this.kernels.outer(outputs, f.pointer, f.position, f.row, d, x, this.g);
        if (l > 0) {
          this.kernels.multiply(inputs, b.pointer, b.position, b.row, this.w, d, this.deltas[l], x, 2);
        }
      }
    }

    /* One epoch of SGD on every full batch; the mean loss. */
    epoch({ inputs, targets }, order, recipe, epoch) {
      const { batch_size: batch, momentum, weight_decay: decay } = recipe;
      const rate = (recipe.lr * (1 + Math.cos((Math.PI * epoch) / recipe.epochs))) / 2;
      const steps = Math.floor(targets.length / batch);
      let total = 0;
      for (let step = 0; step < steps; step++) {
        for (let start = step * batch; start < (step + 1) * batch; start += PANEL) {
          const n = Math.min(PANEL, (step + 1) * batch - start);
          this.forward(inputs, order, start, n);
          total += this.loss(targets, order, start, n, 1 / batch).loss / batch;
          this.backward();
        }
        this.kernels.descend(this.w.length, this.w, this.v, this.g, rate, momentum, decay);
        if (!Number.isFinite(total)) {
          throw new Error(`loss is not finite in epoch ${epoch + 1}, at learning rate ${rate}. Lower it.`);
        }
      }
      return total / steps;
    }

    /* {accuracy, loss} on a split. */
    evaluate({ inputs, targets }) {
      let [loss, hits] = [0, 0];
      for (let start = 0; start < targets.length; start += PANEL) {
        const n = Math.min(PANEL, targets.length - start);
        this.forward(inputs, null, start, n);
        const seen = this.loss(targets, null, start, n, 0);
        loss += seen.loss;
        hits += seen.hits;
      }
      return { accuracy: hits / targets.length, loss: loss / targets.length };
    }
  }

  /* lotperm.engine.training.train for one network.

     seed: of the order of the examples. saveAt, evaluateAt: epochs. onEpoch(epochs done, loss, test or null).
     Returns {weights, saved: {epoch: weights}, loss: [], test: {epoch: {accuracy, loss}}}. */
  function train(network, start, mask, data, recipe, seed, options = {}) {
    const { saveAt = [], evaluateAt = [recipe.epochs], onEpoch = () => {} } = options;
    network.load(start, mask);
    const found = { saved: {}, loss: [], test: {} };
    const note = (epoch) => {
      if (saveAt.includes(epoch)) found.saved[epoch] = network.weights();
      if (evaluateAt.includes(epoch)) found.test[epoch] = network.evaluate(data.test);
      onEpoch(epoch, epoch ? found.loss[epoch - 1] : null, found.test[epoch] || null);
    };
    note(0);
    for (let epoch = 0; epoch < recipe.epochs; epoch++) {
      const order = drawOrder(data.train.targets.length, seed, epoch);
      found.loss.push(network.epoch(data.train, order, recipe, epoch));
      note(epoch + 1);
    }
    found.weights = network.weights();
    return found;
  }

  // Matching

  /* Pearson correlations of the hidden units of B (rows) with those of A (columns), one Float64Array (n * n) a
     hidden layer, over inputs (N, features). Units that are constant have correlation 0. */
  function correlate(networkA, networkB, inputs) {
    const sizes = networkA.sizes;
    const count = inputs.length / sizes[0];
    const eps = networkA.w instanceof Float64Array ? 2 ** -52 : 2 ** -23;
    const sums = sizes.slice(1, -1).map((n) => ({
      n, a: new Float64Array(n), b: new Float64Array(n), aa: new Float64Array(n), bb: new Float64Array(n),
      cross: new Float64Array(n * n), shiftA: null, shiftB: null, x: new Float64Array(n * PANEL),
      y: new Float64Array(n * PANEL),
    }));
    const rowMeans = (panel, n, size) => {
      return Float64Array.from({ length: n }, (_, i) => mean(panel.slice(i * PANEL, i * PANEL + size)));
    };
    // A mean of the first examples is subtracted: without that, a large mean costs digits.
    const take = (panel, shift, shifted, sum, square, n, size) => {
      for (let i = 0; i < n; i++) {
        for (let b = 0; b < PANEL; b++) {
          const value = b < size ? panel[i * PANEL + b] - shift[i] : 0;
          shifted[i * PANEL + b] = value;
          sum[i] += value;
          square[i] += value * value;
        }
      }
    };
    for (let start = 0; start < count; start += PANEL) {
      const size = Math.min(PANEL, count - start);
      networkA.forward(inputs, null, start, size);
      networkB.forward(inputs, null, start, size);
      sums.forEach((s, l) => {
        const { n, x, y, cross } = s;
        const [a, b] = [networkA.activations[l + 1], networkB.activations[l + 1]];
        s.shiftA ??= rowMeans(a, n, size);
        s.shiftB ??= rowMeans(b, n, size);
        take(a, s.shiftA, x, s.a, s.aa, n, size);
        take(b, s.shiftB, y, s.b, s.bb, n, size);
        for (let i = 0; i < n; i++) {
          for (let j = 0; j < n; j++) {
            let sum = 0;
            for (let k = 0, p = i * PANEL, q = j * PANEL; k < PANEL; k++) sum += y[p + k] * x[q + k];
            cross[i * n + j] += sum;
          }
        }
      });
    }
    return sums.map(({ n, a, b, aa, bb, cross, shiftA, shiftB }) => {
      const inverse = (sum, square, shift) => {
        return sum.map((total, i) => {
          const m = total / count;
          const variance = square[i] / count - m * m;
          const rounding = 4 * eps * Math.abs(shift[i] + m);
          return variance <= rounding * rounding ? 0 : 1 / Math.sqrt(variance);
        });
      };
      const [scaleA, scaleB] = [inverse(a, aa, shiftA), inverse(b, bb, shiftB)];
      return cross.map((sum, at) => {
        const [i, j] = [Math.floor(at / n), at % n];
        const covariance = sum / count - (b[i] / count) * (a[j] / count);
        return Math.min(1, Math.max(-1, scaleB[i] * covariance * scaleA[j]));
      });
    });
  }

  /* lotperm.science.assignment.assign: p that maximizes the sum of matrix[i * n + p[i]], exactly, in O(n^3).

     Shortest augmenting paths with potentials (Jonker and Volgenant 1987). Where rows or columns are equal number by
     number, units keep their order. */
  function assign(matrix, n) {
    const rowPotential = new Float64Array(n + 1);
    const columnPotential = new Float64Array(n + 1);
    const rowOf = new Int32Array(n + 1); // of each column, counted from 1; 0: none
    const before = new Int32Array(n + 1);
    for (let row = 1; row <= n; row++) {
      const distance = new Float64Array(n + 1).fill(Infinity);
      const done = new Uint8Array(n + 1);
      rowOf[0] = row;
      let column = 0;
      do {
        done[column] = 1;
        const current = rowOf[column];
        let [delta, next] = [Infinity, 0];
        for (let j = 1; j <= n; j++) {
          if (done[j]) continue;
          const cost = -matrix[(current - 1) * n + j - 1] - rowPotential[current] - columnPotential[j];
          if (cost < distance[j]) {
            distance[j] = cost;
            before[j] = column;
          }
          if (distance[j] < delta) [delta, next] = [distance[j], j];
        }
        for (let j = 0; j <= n; j++) {
          if (done[j]) {
            rowPotential[rowOf[j]] += delta;
            columnPotential[j] -= delta;
          } else distance[j] -= delta;
        }
        column = next;
      } while (rowOf[column] !== 0);
      while (column) {
        rowOf[column] = rowOf[before[column]];
        column = before[column];
      }
    }
    const p = new Int32Array(n);
    for (let j = 1; j <= n; j++) p[rowOf[j] - 1] = j - 1;

    const equal = (value) => {
      const same = new Map();
      for (let i = 0; i < n; i++) {
        const key = Array.from({ length: n }, (_, j) => value(i, j)).join();
        same.set(key, [...(same.get(key) || []), i]);
      }
      return [...same.values()].filter((members) => members.length > 1);
    };
    const [rows, columns] = [equal((i, j) => matrix[i * n + j]), equal((i, j) => matrix[j * n + i])];
    for (let changed = rows.length + columns.length > 0; changed; ) {
      const old = p.slice();
      for (const same of rows) {
        const sorted = same.map((i) => p[i]).sort((a, b) => a - b);
        same.forEach((i, at) => (p[i] = sorted[at]));
      }
      const where = new Int32Array(n);
      p.forEach((j, i) => (where[j] = i));
      for (const same of columns) {
        const sorted = same.map((j) => where[j]).sort((a, b) => a - b);
        same.forEach((j, at) => (p[sorted[at]] = j));
      }
      changed = old.some((j, i) => j !== p[i]);
    }
    return p;
  }

  /* lotperm.science.scrambling.scramble: permutations of which a share of the units has changed places, none of them
     where it was. The units that a smaller share moves are among those that a larger one moves. */
  function scramble(permutations, share, seed) {
    const twister = new Twister(seed);
    return permutations.map((p) => {
      const chosen = shuffled(p.length, twister).slice(0, roundHalfEven(share * p.length));
      const moved = p.slice();
      chosen.forEach((at, i) => (moved[at] = p[chosen[(i + chosen.length - 1) % chosen.length]]));
      return moved;
    });
  }

  // The experiment

  /* Parameters by the names of the Python package, with the values of its profile `laptop`. */
  const DEFAULTS = {
    seeds: [0, 1, 2], sparsity: 0.9, rewind_epoch: 8, epochs: 40, lr: 0.08, sparse_lr: 0.02, prune_fraction: 0.2,
    finetune_epochs: 10, finetune_lr: 0.01, hidden: [128, 128], momentum: 0.9, weight_decay: 5e-4, batch_size: 128,
    arithmetic: "fastest",
  };
  // What each arm starts from, and whose order of the examples it sees; tests compare this table with
  // lotperm.studies.arms.
  const ARMS = {
    lth: { weights: "a", mask: "as found", stream: "sparse_a" },
    permuted: { weights: "b", mask: "permuted", stream: "sparse_b" },
    naive: { weights: "b", mask: "as found", stream: "sparse_b" },
  };

  /* All parameters, checked; throws an Error that says which one is wrong, and why. */
  function checked(parameters) {
    const p = { ...DEFAULTS, ...parameters };
    const check = (ok, name, expected) => {
      if (!ok) throw new Error(`${name} is ${JSON.stringify(p[name])}; expected ${expected}.`);
    };
    for (const name of Object.keys(p)) check(name in DEFAULTS, name, "no such parameter");
    const whole = (x, low) => Number.isSafeInteger(x) && x >= low;
    check(p.seeds.length > 0 && p.seeds.every((s) => whole(s, 0)), "seeds", "whole numbers of 0 or more");
    check(new Set(p.seeds).size === p.seeds.length, "seeds", "no number twice");
    check(p.sparsity > 0 && p.sparsity < 1, "sparsity", "a fraction above 0 and below 1");
    check(p.prune_fraction >= 0.01 && p.prune_fraction < 1, "prune_fraction", "a fraction from 0.01 on and below 1");
    check(whole(p.epochs, 1), "epochs", "a whole number, 1 or more");
    check(whole(p.finetune_epochs, 0), "finetune_epochs", "a whole number, 0 or more");
    check(whole(p.rewind_epoch, 0) && p.rewind_epoch < p.epochs, "rewind_epoch", `0 to ${p.epochs - 1}`);
    for (const name of ["lr", "sparse_lr", "finetune_lr"]) {
      check(Number.isFinite(p[name]) && p[name] > 0, name, "a number above 0");
    }
    check(p.momentum >= 0 && p.momentum < 1, "momentum", "0 or more, below 1");
    check(p.weight_decay >= 0 && Number.isFinite(p.weight_decay), "weight_decay", "0 or more");
    check(p.hidden.length > 0 && p.hidden.every((h) => whole(h, 1)), "hidden", "whole numbers of 1 or more");
    check(whole(p.batch_size, 1) && p.batch_size <= 4000, "batch_size", "a whole number, 1 to 4000");
    return p;
  }

  /* Mean and half width of the 95 % interval of the mean (Student's t); the half width of one value is null. */
  function interval(values) {
    const n = values.length;
    const m = mean(values);
    if (n < 2) return [m, null];
    // P(|T| < t) for n - 1 degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
    const degrees = n - 1;
    const within = (t) => {
      const angle = Math.atan(t / Math.sqrt(degrees));
      const [sine, cosine] = [Math.sin(angle), Math.cos(angle)];
      const odd = degrees % 2;
      let [term, sum] = [odd ? cosine : 1, 0];
      for (let i = 0; i < Math.floor(degrees / 2); i++) {
        const k = 2 * i + (odd ? 3 : 2);
        sum += term;
        term *= (cosine * cosine * (k - 1)) / k;
      }
      return odd ? (2 / Math.PI) * (angle + sine * sum) : sine * sum;
    };
    let [low, high] = [0, 1000];
    for (let i = 0; i < 100; i++) {
      const middle = (low + high) / 2;
      if (within(middle) < 0.95) low = middle;
      else high = middle;
    }
    const spread = Math.sqrt(values.reduce((sum, x) => sum + (x - m) ** 2, 0) / degrees);
    return [m, (high * spread) / Math.sqrt(n)];
  }

  /* Epochs to evaluate at: about 20, the first and the last among them. */
  function some(epochs, most = 20) {
    const step = Math.max(1, Math.ceil(epochs / most));
    const chosen = [];
    for (let epoch = 0; epoch < epochs; epoch += step) chosen.push(epoch);
    return [...chosen, epochs];
  }

  /* Train dense A and B, prune A, match A to B, train the three sparse arms: for each seed.

     report(event) is called with
     {kind: "start", kernels, parameters}
     {kind: "epoch", seed, network, epoch, loss, test: {accuracy, loss} or null, done: share of all the work}
     {kind: "matched", seed, scores, identity}: mean correlation of the matched units in each hidden layer, and of
         the units as they stand
     {kind: "seed", seed, accuracies: {dense_a, dense_b, imp, lth, permuted, naive}}
     {kind: "end", seconds}
     Returns for each seed {seed, accuracies, mask, permutations, scores, identity, runs}. */
  function run(parameters, report = () => {}) {
    const p = checked(parameters);
    const began = Date.now();
    const data = makeData();
    const sizes = [data.features, ...p.hidden, data.classes];
    const [network, other] = [new Network(sizes, p.arithmetic), new Network(sizes, p.arithmetic)];
    const { arithmetic, ...shown } = p;
    report({ kind: "start", kernels: network.kernels.name, parameters: shown });
    const sparse = { ...p, epochs: p.epochs - p.rewind_epoch, lr: p.sparse_lr };
    const finetune = { ...p, epochs: p.finetune_epochs, lr: p.finetune_lr, momentum: 0, weight_decay: 0 };
    const rounds = roundSparsities(p.sparsity, p.prune_fraction);
    // The work, in epochs of a dense network, only for the progress bar: 1/8 of it doesn't depend on the mask.
    const cost = (density) => 0.125 + 0.875 * density;
    const perSeed =
      2 * p.epochs + rounds.reduce((sum, s) => sum + cost(1 - s) * p.finetune_epochs, 0) +
      3 * sparse.epochs * cost(1 - p.sparsity);
    let done = 0;

    const replicate = (seed) => {
      const runs = {};
      const go = (name, seedName, start, mask, recipe, density, options = {}) => {
        let last = -1;
        runs[name] = train(network, start, mask, data, recipe, deriveSeed(seedName, seed, "order"), {
          evaluateAt: some(recipe.epochs),
          ...options,
          onEpoch(epoch, loss, test) {
            if (epoch > Math.max(last, 0)) done += cost(density);
            last = epoch;
            const share = Math.min(1, done / (perSeed * p.seeds.length));
            report({ kind: "epoch", seed, network: name, epoch, loss, test, done: share });
          },
        });
        return runs[name];
      };
      const full = fullMask(sizes);
      const saveAt = [p.rewind_epoch];
      const init = (name) => initialize(sizes, deriveSeed(name, seed, "init"));
      const a = go("dense_a", "dense_a", init("dense_a"), full, p, 1, { saveAt });
      const b = go("dense_b", "dense_b", init("dense_b"), full, p, 1, { saveAt });

      let [weights, mask] = [a.weights, full];
      rounds.forEach((sparsity, i) => {
        mask = magnitudePrune(weights, mask, sizes, sparsity);
        weights = go("imp", `imp_${i + 1}`, weights, mask, finetune, 1 - sparsity).weights;
      });

      network.load(a.weights, full);
      other.load(b.weights, full);
      const correlations = correlate(network, other, data.train.inputs);
      const permutations = correlations.map((matrix, l) => assign(matrix, p.hidden[l]));
      const along = (order, l) => mean(Array.from(order, (j, i) => correlations[l][i * p.hidden[l] + j]));
      const scores = permutations.map(along);
      const identity = permutations.map((order, l) => along(order.map((_, i) => i), l));
      report({ kind: "matched", seed, scores, identity });

      const density = 1 - p.sparsity;
      const starts = { a: a.saved[p.rewind_epoch], b: b.saved[p.rewind_epoch] };
      const masks = { "as found": mask, permuted: permute(mask, sizes, permutations) };
      for (const [name, arm] of Object.entries(ARMS)) {
        go(name, arm.stream, starts[arm.weights], masks[arm.mask], sparse, density);
      }
      const accuracies = {};
      for (const [name, { test, loss }] of Object.entries(runs)) accuracies[name] = test[loss.length].accuracy;
      report({ kind: "seed", seed, accuracies });
      return { seed, accuracies, mask, permutations, correlations, scores, identity, runs };
    };
    const found = p.seeds.map(replicate);
    report({ kind: "end", seconds: (Date.now() - began) / 1000 });
    return found;
  }

  /* Train the permuted arm of every seed once more, with a share of π's units scrambled; all else as in `run`.

     parameters, found: those of a run, and what it returned. report(event) is called with
     {kind: "dose", seed, share, accuracy, scores}, the mean correlation of the units that are matched now, and
     {kind: "dosed", share, seconds} at the end. */
  function dose(parameters, found, share, report = () => {}) {
    const p = checked(parameters);
    if (!(share >= 0 && share <= 1)) throw new Error(`scramble is ${JSON.stringify(share)}; expected 0 to 1.`);
    const began = Date.now();
    const data = makeData();
    const sizes = [data.features, ...p.hidden, data.classes];
    const network = new Network(sizes, p.arithmetic);
    const recipe = { ...p, epochs: p.epochs - p.rewind_epoch, lr: p.sparse_lr };
    const arm = ARMS.permuted;
    const accuracies = found.map(({ seed, mask, permutations, correlations, runs }) => {
      const moved = scramble(permutations, share, deriveSeed("scramble", seed));
      const start = runs[`dense_${arm.weights}`].saved[p.rewind_epoch];
      const order = deriveSeed(arm.stream, seed, "order");
      const { test } = train(network, start, permute(mask, sizes, moved), data, recipe, order);
      const scores = moved.map((to, l) => mean(Array.from(to, (j, i) => correlations[l][i * p.hidden[l] + j])));
      const accuracy = test[recipe.epochs].accuracy;
      report({ kind: "dose", seed, share, accuracy, scores });
      return accuracy;
    });
    report({ kind: "dosed", share, seconds: (Date.now() - began) / 1000 });
    return accuracies;
  }

  return {
    Twister, randperm, sha256, deriveSeed, drawOrder, makeData, layout, initialize, fullMask, magnitudePrune,
    roundSparsities, permute, Network, train, correlate, assign, checked, interval, some,
    scramble, run, dose, DEFAULTS, ARMS,
  };
});
