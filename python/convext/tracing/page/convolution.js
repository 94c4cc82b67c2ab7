// Values: the operands of a setting, and what the convolution and its gradients make of them.
// Operands are {input: [C][H][W], weight: [K][C / groups][R][S], bias: [K] or null}.

function filled(sizes, value, at = []) {
  if (at.length === sizes.length) return value(...at);
  return Array.from({ length: sizes[at.length] }, (_, i) => filled(sizes, value, [...at, i]));
}

// Small integers, by the rule of small_integers in setting.py: sums are exact.
function smallIntegers(s) {
  return {
    input: filled([s.C, s.H, s.W], (c, h, w) => (7 * h + 3 * w + 5 * c + h * w) % 10),
    weight: filled([s.K, s.C / s.groups, s.R, s.S],
      (k, c, r, t) => (2 * r + t + 3 * c + k + r * t) % 5 - 2),
    bias: null,
  };
}

function padInput(s, input) {
  const from = sources(s);
  return input.map(plane => from.rows.map(row => from.columns.map(
    column => (row < 0 || column < 0 ? 0 : plane[row][column]))));
}

// The first input channel that an output channel sees.
function firstChannel(s, k) {
  return Math.floor(k / (s.K / s.groups)) * (s.C / s.groups);
}

// Rows and columns of the padded input under the window of output pixel (p, q).
function windowAt(s, p, q) {
  return {
    rows: Array.from({ length: s.R }, (_, r) => p * s.stride[0] + r * s.dilation[0]),
    columns: Array.from({ length: s.S }, (_, t) => q * s.stride[1] + t * s.dilation[1]),
  };
}

// [C / groups][R][S] {value, weight, product} under one window.
function productsAt(s, operands, padded, k, p, q) {
  const { rows, columns } = windowAt(s, p, q);
  const first = firstChannel(s, k);
  return operands.weight[k].map((kernel, c) => kernel.map((taps, r) => taps.map((weight, t) => {
    const value = padded[first + c][rows[r]][columns[t]];
    return { value, weight, product: value * weight };
  })));
}

function sumAt(s, operands, padded, k, p, q) {
  let sum = operands.bias ? operands.bias[k] : 0;
  for (const item of productsAt(s, operands, padded, k, p, q).flat(2)) sum += item.product;
  return sum;
}

function forward(s, operands) {
  const padded = padInput(s, operands.input);
  return filled([s.K, ...outputSize(s)], (k, p, q) => sumAt(s, operands, padded, k, p, q));
}

// Which outputs one input pixel touches: one entry for each window and tap that reads it, from its
// own place or from where the padding repeats it.
function touches(s, h, w) {
  const [P, Q] = outputSize(s), from = sources(s);
  const found = [];
  for (let p = 0; p < P; p++) {
    for (let q = 0; q < Q; q++) {
      const { rows, columns } = windowAt(s, p, q);
      rows.forEach((row, r) => columns.forEach((column, t) => {
        if (from.rows[row] === h && from.columns[column] === w) {
          found.push({ p, q, r, s: t, row, column });
        }
      }));
    }
  }
  return found;
}

// The gradients of the sum of all outputs: every output's gradient is 1.
function inputGradient(s, operands, c, h, w) {
  const perGroup = s.C / s.groups, outputs = s.K / s.groups;
  const first = Math.floor(c / perGroup) * outputs;
  let sum = 0;
  for (const touch of touches(s, h, w)) {
    for (let k = first; k < first + outputs; k++) {
      sum += operands.weight[k][c % perGroup][touch.r][touch.s];
    }
  }
  return sum;
}

// Which input and output pixels one weight connects: one pair for each output pixel.
function pairsOf(s, r, t) {
  const [P, Q] = outputSize(s), from = sources(s);
  return filled([P, Q], (p, q) => {
    const row = p * s.stride[0] + r * s.dilation[0];
    const column = q * s.stride[1] + t * s.dilation[1];
    return { p, q, row, column, h: from.rows[row], w: from.columns[column] };
  }).flat();
}

function weightGradient(s, padded, k, c, r, t) {
  const plane = padded[firstChannel(s, k) + c];
  return pairsOf(s, r, t).reduce((sum, pair) => sum + plane[pair.row][pair.column], 0);
}

// A value in up to four digits, or as many as asked for.
function shown(value, digits = 4) {
  if (Number.isInteger(value)) return String(value + 0 === 0 ? 0 : value);
  return String(Number(value.toPrecision(digits)));
}
