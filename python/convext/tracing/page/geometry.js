// The geometry of one convolution. A setting is
//   {C, H, W, K, R, S, stride: [h, w], padding: [left, right, top, bottom], same: bool,
//    dilation: [h, w], groups, mode}
// `same` says that the padding was asked for as padding='same'; `padding` then holds the numbers.

function effectiveKernel(s) {
  return [s.dilation[0] * (s.R - 1) + 1, s.dilation[1] * (s.S - 1) + 1];
}

function paddedSize(s) {
  const [left, right, top, bottom] = s.padding;
  return [s.H + top + bottom, s.W + left + right];
}

function outputSize(s) {
  const padded = paddedSize(s), span = effectiveKernel(s);
  return [0, 1].map(axis => Math.floor((padded[axis] - span[axis]) / s.stride[axis]) + 1);
}

function isSymmetric(s) {
  const [left, right, top, bottom] = s.padding;
  return left === right && top === bottom;
}

// As nn.Conv2d does it: the odd pixel goes to the right and to the bottom.
function samePadding(s) {
  const [rows, columns] = effectiveKernel(s).map(span => span - 1);
  const left = Math.floor(columns / 2), top = Math.floor(rows / 2);
  return [left, columns - left, top, rows - top];
}

function formulas(s) {
  const [left, right, top, bottom] = s.padding;
  const size = outputSize(s);
  const line = (axis, name, extent, before, after, kernel) =>
    `${name} = floor((${extent} + ${before} + ${after} - ${s.dilation[axis]} * (${kernel} - 1) - 1)` +
    ` / ${s.stride[axis]}) + 1 = ${size[axis]}`;
  return [line(0, "P", s.H, top, bottom, s.R), line(1, "Q", s.W, left, right, s.S)];
}

// Rows and columns of the padded input that floor drops.
function dropped(s) {
  const padded = paddedSize(s), span = effectiveKernel(s), size = outputSize(s);
  return [0, 1].map(axis => {
    const end = (size[axis] - 1) * s.stride[axis] + span[axis];
    return Array.from({ length: padded[axis] - end }, (_, i) => end + i);
  });
}

// What torch says to a setting, word for word and in the order in which it looks; null if it takes
// it. `by` is "ConvExt2d" where torch would crop and ConvExt2d refuses.
function refusal(s) {
  const torch = text => ({ by: "torch", text });
  if (s.groups <= 0) return torch("groups must be a positive integer");
  if (s.C % s.groups) return torch("in_channels must be divisible by groups");
  if (s.K % s.groups) return torch("out_channels must be divisible by groups");
  if (s.same && s.stride.some(step => step !== 1)) {
    return torch("padding='same' is not supported for strided convolutions");
  }
  const [left, right, top, bottom] = s.padding;
  if (Math.min(...s.padding) < 0) {
    if (s.mode === "zeros" && isSymmetric(s)) return torch("negative padding is not supported");
    const written = isSymmetric(s) ? [top, left] : s.padding;
    return { by: "ConvExt2d", text: `padding must be at least 0, but got (${written.join(", ")})` };
  }
  const wrong = paddingRefusal(s, left, right, top, bottom);
  if (wrong) return torch(wrong);
  if (Math.min(...s.stride) <= 0) return torch("non-positive stride is not supported");
  const padded = paddedSize(s), span = effectiveKernel(s);
  if (padded[0] < span[0] || padded[1] < span[1]) {
    return torch(
      `Calculated padded input size per channel: (${padded.join(" x ")}). Kernel size: ` +
      `(${span.join(" x ")}). Kernel size can't be greater than actual input size`);
  }
  return null;
}

function paddingRefusal(s, left, right, top, bottom) {
  if (s.mode === "circular" && (Math.max(left, right) > s.W || Math.max(top, bottom) > s.H)) {
    return "Padding value causes wrapping around more than once.";
  }
  if (s.mode !== "reflect") return null;
  const axes = [[4, left, right, 3, s.W], [6, top, bottom, 2, s.H]];
  for (const [argument, before, after, dimension, size] of axes) {
    if (before >= size || after >= size) {
      return `Argument #${argument}: Padding size should be less than the corresponding input ` +
        `dimension, but got: padding (${before}, ${after}) at dimension ${dimension} of input ` +
        `[1, ${s.C}, ${s.H}, ${s.W}]`;
    }
  }
  return null;
}

// From which index of the input an index of the padded axis comes; -1 for a zero of the padding.
function sourceIndex(padded, before, size, mode) {
  const i = padded - before;
  if (i >= 0 && i < size) return i;
  if (mode === "replicate") return i < 0 ? 0 : size - 1;
  if (mode === "reflect") return i < 0 ? -i : 2 * (size - 1) - i;
  if (mode === "circular") return (i + size) % size;
  return -1;
}

// The same for all rows and columns of the padded input.
function sources(s) {
  const [height, width] = paddedSize(s);
  const [left, , top] = s.padding;
  return {
    rows: Array.from({ length: height }, (_, i) => sourceIndex(i, top, s.H, s.mode)),
    columns: Array.from({ length: width }, (_, i) => sourceIndex(i, left, s.W, s.mode)),
  };
}

function isPadding(s, row, column) {
  const [left, , top] = s.padding;
  return row < top || row >= top + s.H || column < left || column >= left + s.W;
}

function sameSetting(a, b) {
  const key = s => JSON.stringify(
    [s.C, s.H, s.W, s.K, s.R, s.S, s.stride, s.padding, s.dilation, s.groups, s.mode]);
  return key(a) === key(b);
}
