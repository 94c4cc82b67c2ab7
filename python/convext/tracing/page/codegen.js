// A setting as PyTorch code, and as the command that asks for its plan.

const PAD_MODULES = {
  zeros: "ZeroPad2d",
  reflect: "ReflectionPad2d",
  replicate: "ReplicationPad2d",
  circular: "CircularPad2d",
};

function pythonPair([a, b]) {
  return a === b ? String(a) : `(${a}, ${b})`;
}

function layerArguments(s, padding, mode) {
  const parts = [s.C, s.K, pythonPair([s.R, s.S])];
  if (s.stride.some(step => step !== 1)) parts.push(`stride=${pythonPair(s.stride)}`);
  if (padding !== "0") parts.push(`padding=${padding}`);
  if (s.dilation.some(step => step !== 1)) parts.push(`dilation=${pythonPair(s.dilation)}`);
  if (s.groups !== 1) parts.push(`groups=${s.groups}`);
  if (mode !== "zeros") parts.push(`padding_mode="${mode}"`);
  return parts.join(", ");
}

// A layer; one that is long has its arguments on a line of their own.
function layerCall(name, s, padding, mode) {
  const written = layerArguments(s, padding, mode);
  const line = `${name}(${written})`;
  return line.length > 76 ? `${name}(\n    ${written},\n)` : line;
}

function writtenPadding(s) {
  const [left, right, top, bottom] = s.padding;
  if (s.same) return '"same"';
  return isSymmetric(s) ? pythonPair([top, left]) : `(${left}, ${right}, ${top}, ${bottom})`;
}

function torchCode(s) {
  const image = `image = torch.randn(1, ${s.C}, ${s.H}, ${s.W})\nprint(layer(image).shape)`;
  const head = "import torch\nfrom torch import nn\n\n";
  if (s.same || isSymmetric(s)) {
    return `${head}layer = ${layerCall("nn.Conv2d", s, writtenPadding(s), s.mode)}\n${image}`;
  }
  // nn.Conv2d pads by the same on opposite sides; another module has to do the rest.
  return `${head}layer = nn.Sequential(\n    nn.${PAD_MODULES[s.mode]}((${s.padding.join(", ")})),` +
    `\n    nn.Conv2d(${layerArguments(s, "0", "zeros")}),\n)\n${image}`;
}

function convextCode(s) {
  return "import torch\nfrom convext import ConvExt2d\n\n" +
    `layer = ${layerCall("ConvExt2d", s, writtenPadding(s), s.mode)}\n` +
    `image = torch.randn(1, ${s.C}, ${s.H}, ${s.W})\nprint(layer(image).shape)`;
}

// Commands leave out what is usual.
function traceCommand(s) {
  const start = `convext trace --in ${commaPair([s.H, s.W])} --channels ${commaPair([s.C, s.K])} ` +
    `--kernel ${commaPair([s.R, s.S])} --stride ${commaPair(s.stride)}`;
  const [left, right, top, bottom] = s.padding;
  const padding = s.same ? "same" : isSymmetric(s) ? commaPair([top, left]) : [left, right, top, bottom];
  const parts = [`--padding ${padding}`];
  if (s.dilation.some(step => step !== 1)) parts.push(`--dilation ${commaPair(s.dilation)}`);
  if (s.groups !== 1) parts.push(`--groups ${s.groups}`);
  if (s.mode !== "zeros") parts.push(`--padding-mode ${s.mode}`);
  const end = parts.join(" ");
  return start.length + end.length > 88 ? `${start} \\\n    ${end}` : `${start} ${end}`;
}

function commaPair([a, b]) {
  return a === b ? String(a) : `${a},${b}`;
}

function explainCommand(s) {
  const [left, right, top, bottom] = s.padding;
  const parts = [s.K, `${s.R}x${s.S}`];
  if (s.stride.some(step => step !== 1)) parts.push(`s${s.stride.join("x")}`);
  if (s.same) parts.push("psame");
  else if (!isSymmetric(s)) parts.push(`p${[left, right, top, bottom].join("x")}`);
  else if (top || left) parts.push(`p${top}x${left}`);
  if (s.dilation.some(step => step !== 1)) parts.push(`d${s.dilation.join("x")}`);
  if (s.groups !== 1) parts.push(`g${s.groups}`);
  if (s.mode !== "zeros") parts.push(s.mode);
  return `convext explain --in 1,${s.C},${s.H},${s.W} --conv ${parts.join(",")}`;
}
